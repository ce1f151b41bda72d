"""Live sources for the viewer, and ``avatar send``: a file sent as a phone would.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from avatar.checks import InputError
from avatar.cli_bench import JsonFile, write_json_file
from avatar.console import console

if TYPE_CHECKING:
    from avatar.capture_data import Track
    from avatar.drive.live import LiveConfig, LiveDriver
    from avatar.model.avatar import Avatar


@dataclass(frozen=True)
class LiveOptions:
    """Live sources that the viewer offers."""

    livelink_port: int = 11111
    """UDP port for the Live Link Face app."""
    osc_port: int = 39539
    """UDP port for OSC and VMC senders."""
    webcam: str = "0"
    """Number of the camera, or a video to play as one."""
    listen: str = "127.0.0.1"
    """Address for both ports. The default hears this machine only; 0.0.0.0 hears a phone in the same
    network (and everybody else in it)."""
    microphone: str = ""
    """Number or name of the microphone, as `python -m sounddevice` lists them; the usual one where not
    given."""
    voice: Path | None = None
    """How the person speaks, a .voice file of `avatar train-voice`, for the microphone; the me.voice
    beside the avatar where not given, and a fallback without training where there is none."""
    record: Path | None = None
    """Write what arrives to this .jsonl file, which --drive plays again."""


def live_sources(
    avatar: Avatar, options: LiveOptions, track: Track | None = None
) -> Mapping[str, Callable[[], LiveDriver]]:
    """Return the live sources by the label under which a viewer offers them; opening is the caller's.

    Args:
        avatar: who is driven.
        options: ports, camera, address.
        track: the avatar's own track, which says how far its head may turn; None takes a usual reach.

    Raises:
        InputError: a port or the address is none.
    """
    for name, port in (
        ("--livelink-port", options.livelink_port),
        ("--osc-port", options.osc_port),
    ):
        if not 1 <= port <= 65535:
            raise InputError(f"{name} must lie between 1 and 65535; got {port}.")
    try:
        ipaddress.ip_address(options.listen)
    except ValueError as error:
        raise InputError(
            f"--listen {options.listen} is no address; expected for example 127.0.0.1 (this machine) or "
            "0.0.0.0 (the network)."
        ) from error

    def config() -> LiveConfig:
        from avatar.drive.live import LiveConfig
        from avatar.drive.retarget import RetargetConfig, reach_of

        if track is None:
            return LiveConfig()
        return LiveConfig(retarget=RetargetConfig(reach=reach_of(track, avatar.rest)))

    def livelink() -> LiveDriver:
        from avatar.drive.livelink import open_livelink

        return open_livelink(
            avatar,
            port=options.livelink_port,
            listen=options.listen,
            config=config(),
            record=options.record,
        )

    def osc() -> LiveDriver:
        from avatar.drive.osc import open_osc

        return open_osc(
            avatar,
            port=options.osc_port,
            listen=options.listen,
            config=config(),
            record=options.record,
        )

    def webcam() -> LiveDriver:
        from capture.live import WebcamDriver, open_camera

        return WebcamDriver(
            avatar,
            lambda: open_camera(options.webcam),
            config=config(),
            record=options.record,
        )

    def microphone() -> LiveDriver:
        from avatar.drive.audio_live import MicrophoneDriver
        from avatar.drive.voice import VoiceModel

        voice = None if options.voice is None else VoiceModel.load(options.voice)
        name = options.microphone
        return MicrophoneDriver(avatar, voice, device=int(name) if name.isdigit() else name or None)

    return {
        f"Live Link Face (UDP {options.livelink_port})": livelink,
        f"OSC / VMC (UDP {options.osc_port})": osc,
        "webcam" if options.webcam.isdigit() else f"webcam ({Path(options.webcam).name})": webcam,
        "microphone": microphone,
    }


def send(
    file: tyro.conf.Positional[Path],
    /,
    to: str = "127.0.0.1:11111",
    protocol: Literal["livelink", "osc"] = "livelink",
    fps: float = 60.0,
    repeats: int = 1,
    json_file: JsonFile = None,
) -> None:
    """Send an ARKit file over UDP in real time, as a phone would: to try live driving without one.

    Args:
        file: a .csv or .json file of ARKit coefficients.
        to: where to, as HOST:PORT.
        protocol: packets of the Live Link Face app, or OSC messages of VMC.
        fps: samples a second where the file states neither times nor a rate.
        repeats: how many times to send it.
        json_file: write the counters to this file; - prints them.
    """
    from avatar.drive.arkit_csv import read_arkit
    from avatar.drive.live_send import send_motion

    host, _, port = to.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise InputError(f"--to {to}: expected HOST:PORT, for example 127.0.0.1:11111.")
    if repeats < 1:
        raise InputError(f"--repeats must be at least 1; got {repeats}.")
    if not 1 <= fps <= 1000:
        raise InputError(f"--fps must lie between 1 and 1000; got {fps:g}.")
    motion = read_arkit(file, fps=fps)
    console.print(
        f"Sending {len(motion)} samples, {float(motion.time_s[-1]):.1f} s, to {to} as {protocol} "
        "(Ctrl-C ends it)."
    )
    sent = send_motion(motion, (host.strip("[]"), int(port)), protocol=protocol, repeats=repeats)
    console.print(
        f"{sent.packets} packets sent in {sent.seconds:.1f} s, {sent.refused} refused, "
        f"at most {1e3 * sent.late_s:.1f} ms late."
    )
    write_json_file(json_file, asdict(sent))
