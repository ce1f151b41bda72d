"""What several commands share: kinds of options, and how paths and settings become what they name.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from avatar.checks import InputError

if TYPE_CHECKING:
    from avatar.capture_data import Capture
    from avatar.drive.source import Source
    from avatar.model.avatar import Avatar
    from avatar.train.config import TrainConfig

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
OptionalOutput = Annotated[Path | None, tyro.conf.arg(aliases=["-o"])]
Preset = Literal["smoke", "draft", "standard", "overnight"]
Device = Literal["auto", "cpu", "cuda"]
CameraName = Literal["front", "orbit", "turntable", "capture"]
Deformer = Literal["blendshapes", "rigid", "latent", "branches", "uvmap"]


class UsageError(Exception):
    """The options do not go together in a way that tyro cannot see; ends with exit code 2."""


def camera_indices(text: str) -> tuple[int, ...]:
    """Return the camera indices of a list with commas, ascending, each once; none for an empty text.

    Raises:
        InputError: something between the commas is no index.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) < 6):
            raise InputError(
                f"--hold-cameras: '{part}' is no camera. Give indices with commas between them, counted "
                "from 0, for example 2,5."
            )
    return tuple(sorted({int(part) for part in parts}))


def train_config(
    preset: Preset, steps: int | None, seed: int, deformer: Deformer, hold_cameras: str = ""
) -> TrainConfig:
    """Return a preset's settings with what was given instead; raises InputError for no steps."""
    from configs import PRESETS

    if steps is not None and steps < 1:
        raise InputError(f"--steps must be at least 1; got {steps}.")
    config = replace(PRESETS[preset], seed=seed, hold_cameras=camera_indices(hold_cameras))
    config = replace(config, create=replace(config.create, deformer=deformer))
    return config if steps is None else replace(config, steps=steps)


def need_device(device: Device) -> None:
    """Refuse a device that was asked for by name and does not work; never take another instead."""
    if device == "cuda":
        from avatar.train.device import compute_device

        compute_device(device)


def own_capture(drive: str, model: Avatar, home: Path) -> Capture | None:
    """The avatar's own capture, where driving needs it: to play it, or for how far its person turned.

    Only ``self`` cannot do without: another drive takes what the avatar carries, and where an old one
    carries nothing, a capture beside it that is its own and can be read.
    """
    from avatar.model.reach import reach_in
    from avatar.train.restore import find_capture

    if drive != "self" and reach_in(model.header) is not None:
        return None
    own, trouble = find_capture(home, model)
    if drive == "self":
        if trouble:
            raise InputError(f"There is no captured motion to play. {trouble}")
        return own
    try:
        return own if own is not None and bool(own.track.valid.any()) else None
    except InputError:
        # A usual person's limits then; what is wrong with the capture is not in question.
        return None


def driving_source(
    drive: str,
    model: Avatar,
    home: Path,
    output: Path,
    frames: int | None,
    report: Any,
    voice: Path | None = None,
) -> Source:
    """Open what drives a rendering; a clip is captured first, beside the output.

    Speech is spoken as ``voice`` says, by default as the me.voice in ``home``.
    """
    from avatar.drive.source import VIDEO_SUFFIXES, open_source
    from capture.pipeline import capture_video

    own = own_capture(drive, model, home)
    path = Path(drive)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        folder = output.with_name(f"{path.stem}.capture")
        drive = str(capture_video([path], folder, report=report).path)
    voice = voice or find_voice(home)
    source = open_source(
        drive,
        model,
        track=own.track if own else None,
        audio=own.audio if own else None,
        voice=voice,
    )
    if frames is None or frames >= len(source):
        return source
    return open_source(
        drive,
        model,
        track=own.track if own else None,
        audio=own.audio if own else None,
        frames=(0, frames),
        voice=voice,
    )


def find_voice(home: Path) -> Path | None:
    """The voice model beside an avatar; None where there is none."""
    path = home / "me.voice"
    return path if path.is_file() else None


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, atomically."""
    import shutil

    from avatar.tensorfile import atomic_path

    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
