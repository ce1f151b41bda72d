"""``avatar bench``: what this machine does in how much time, and how right the tracking is.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from avatar.checks import InputError
from avatar.console import ProgressDisplay, console

if TYPE_CHECKING:
    import numpy as np

    from avatar.train.novel_views import NovelView

JsonFile = Annotated[Path | None, tyro.conf.arg(name="json")]
"""The option ``--json`` of every command that reports."""


@dataclass(frozen=True)
class RasterizerBench:
    """How fast the kernels are on this machine."""

    gpu: bool = False
    """Measure the GPU instead, beside gsplat where it is installed."""
    json_file: JsonFile = None
    """Also write the table to this file; - prints it as JSON."""
    plot: Path | None = None
    """Also draw the table into this picture (png, svg or pdf)."""


@dataclass(frozen=True)
class TrackBench:
    """How fast, how steady and, with a known truth, how right the tracking is."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Capture folders, or clips: a clip is captured for it, in a process whose memory is measured."""
    truth: Path | None = None
    """The true motion of a rendered head (truth.npz): adds errors in degrees and millimetres."""
    camera: int = 0
    """Which of the truth's cameras filmed the clip."""
    cameras: tuple[int, ...] | None = None
    """Of a capture of several cameras: the truth's camera of each, where some were left out."""
    json_file: JsonFile = None
    """Write the numbers to this file instead of tables; - prints them as JSON."""


@dataclass(frozen=True)
class AvatarBench:
    """How good avatars are: every deformer fitted to every capture, measured on held-out frames."""

    captures: tyro.conf.Positional[tuple[Path, ...]]
    """Capture folders."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out/bench-avatar")
    """Folder for runs and contact sheets; finished runs in it are measured, not fitted again."""
    preset: Literal["smoke", "draft", "standard", "overnight"] = "draft"
    """What each fit may cost."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to fit, and to time frames a second; auto takes an NVIDIA GPU where its kernels run."""
    deformers: str = "all"
    """Kinds with commas between them, or all."""
    steps: int | None = None
    """Optimisation steps, instead of the preset's."""
    seed: int = 0
    """Seed of all randomness."""
    hold_cameras: str = ""
    """Cameras of captures of several that the fits must not see, as 2,5: measured are they too."""
    novel_truth: Path | None = None
    """True cameras (truth.npz) of a rendered clip of several cameras, one of which filmed a capture, or all."""
    novel_view: tuple[str, ...] = ()
    """Other cameras of that clip, each as CLIP:CAMERA:MASKCLIP: the avatar is rendered there too."""
    json_file: JsonFile = None
    """Write the numbers to this file instead of a table; - prints them as JSON."""


@dataclass(frozen=True)
class LiveBench:
    """How many live updates a second, and how late."""

    avatar: tyro.conf.Positional[Path]
    """A .avatar file, a run folder, or a folder that `avatar create` made."""
    video: Path | None = None
    """A clip to play as a webcam."""
    seconds: float = 10.0
    """How long each part runs."""
    rate: float = 60.0
    """Packets, and pictures, a second."""
    json_file: JsonFile = None
    """Write the numbers to this file instead of a table; - prints them as JSON."""


@dataclass(frozen=True)
class ViewBench:
    """What the viewer delivers (frames a second, delay of a slider, memory), and the web page in Chromium."""

    path: tyro.conf.Positional[Path]
    """A run, or a folder that `avatar create` made, with its capture: its motion plays."""
    seconds: float = 6.0
    """Length of each measurement of frames a second."""
    moves: int = 40
    """Moves of the slider."""
    cycles: int = 100
    """Openings and closings of a client between two readings of memory."""
    page: bool = True
    """Measure the web page too: its likeness to our rasterizer and its speed, in headless Chromium."""
    json_file: JsonFile = None
    """Write the numbers to this file instead of a table; - prints them as JSON."""


@dataclass(frozen=True)
class SayBench:
    """How long a film of a spoken sentence takes, and whether m, b and p close on it."""

    avatar: tyro.conf.Positional[Path]
    """A .avatar file, a run folder, or a folder that `avatar create` made."""
    text: str | None = None
    """What to say instead of the usual ten seconds."""
    voice: str | None = None
    """Voice of espeak-ng."""
    emotion: str = "neutral"
    """How it is said, NAME or NAME:INTENSITY."""
    film: Path | None = None
    """Keep the film here."""
    sheet: Path | None = None
    """Draw the measured mouths into this picture."""
    json_file: JsonFile = None
    """Write the numbers to this file instead of a line; - prints them as JSON."""


@dataclass(frozen=True)
class VoiceBench:
    """How right speech-driven faces are on held-out frames: personal model, fallback, control."""

    capture: tyro.conf.Positional[Path]
    """A capture of a clip in which the person speaks."""
    seed: int = 0
    """Seed of the training."""
    steps: int | None = None
    """Most steps of the training, instead of the usual number."""
    json_file: JsonFile = None
    """Write the numbers to this file instead of a table; - prints them as JSON."""


def bench(
    what: tyro.conf.OmitArgPrefixes[
        Annotated[RasterizerBench, tyro.conf.subcommand("rasterizer", prefix_name=False)]
        | Annotated[TrackBench, tyro.conf.subcommand("track", prefix_name=False)]
        | Annotated[AvatarBench, tyro.conf.subcommand("avatar", prefix_name=False)]
        | Annotated[LiveBench, tyro.conf.subcommand("live", prefix_name=False)]
        | Annotated[ViewBench, tyro.conf.subcommand("view", prefix_name=False)]
        | Annotated[SayBench, tyro.conf.subcommand("say", prefix_name=False)]
        | Annotated[VoiceBench, tyro.conf.subcommand("voice", prefix_name=False)]
    ] = RasterizerBench(),
) -> None:
    """Measure on this machine: rasterizer (the kernels; the default), track (time and accuracy), avatar (quality), live (driving), view (what browsers get), say (talking), voice (speech-driven faces).

    Args:
        what: which part.
    """
    if isinstance(what, TrackBench):
        _bench_track(what)
    elif isinstance(what, AvatarBench):
        _bench_avatar(what)
    elif isinstance(what, LiveBench):
        _bench_live(what)
    elif isinstance(what, ViewBench):
        _bench_view(what)
    elif isinstance(what, SayBench):
        _bench_say(what)
    elif isinstance(what, VoiceBench):
        from avatar.cli_voice import bench_voice

        bench_voice(what.capture, what.seed, what.steps, what.json_file)
    else:
        _bench_rasterizer(what)


def _bench_live(what: LiveBench) -> None:
    from avatar.train.restore import find_avatar
    from capture.live_bench import bench_live

    if not 1 <= what.seconds <= 600 or not 1 <= what.rate <= 1000:
        raise InputError("--seconds must lie between 1 and 600, --rate between 1 and 1000.")
    avatar, _ = find_avatar(what.avatar)
    with ProgressDisplay() as report:
        result = bench_live(
            avatar, seconds=what.seconds, rate=what.rate, video=what.video, report=report
        )
    if what.json_file is None:
        for row in result["rows"]:
            cells = (f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
            print("  ".join(cells))
        lags = ", ".join(f"{ms:.0f} ms {name}" for name, ms in result["filter_ms"].items())
        print(f"Filter and interpolation add to the latency: {lags}.")
    write_json_file(what.json_file, result)


def _bench_track(what: TrackBench) -> None:
    from capture.bench_track import bench_track, print_rows

    with ProgressDisplay() as report:
        result = bench_track(
            what.paths,
            truth=what.truth,
            camera=what.camera,
            cameras=what.cameras,
            report=report,
        )
    if what.json_file is None:
        print_rows(result, Console(highlight=False))
    write_json_file(what.json_file, result)


def _bench_view(what: ViewBench) -> None:
    from avatar.export.web_bench import bench_web, print_page
    from viewer.bench import ViewBenchConfig, bench_view, print_table
    from viewer.opening import open_subject

    if what.seconds < 1 or what.moves < 1 or what.cycles < 1:
        raise InputError("--seconds, --moves and --cycles must be at least 1.")
    avatar, track = open_subject(what.path)
    config = ViewBenchConfig(seconds=what.seconds, moves=what.moves, cycles=what.cycles)
    with ProgressDisplay() as report:
        result = bench_view(avatar, track, config, report=report)
    if what.json_file is None:
        print_table(result)
    page = None
    if what.page:
        try:
            page = bench_web(avatar)
        except InputError as error:  # no Chromium: what was measured so far is not lost for it
            console.print(escape(f"The web page is not measured. {error}"))
    if what.json_file is None and page is not None:
        print_page(page)
    result["page"] = None if page is None else page.as_json()
    write_json_file(what.json_file, result)


def _bench_say(what: SayBench) -> None:
    from avatar.drive.emotion import emotion_named
    from avatar.train.restore import find_avatar, find_capture
    from capture.say_bench import SENTENCE, bench_say

    emotion = emotion_named(what.emotion)
    avatar, home = find_avatar(what.avatar)
    capture, _ = find_capture(home, avatar)
    with ProgressDisplay() as report:
        result = bench_say(
            avatar,
            text=SENTENCE if what.text is None else what.text,
            voice=what.voice,
            emotion=emotion,
            track=None if capture is None else capture.track,
            film=what.film,
            sheet=what.sheet,
            report=report,
        )
    if what.json_file is None:
        print(
            f"{result['seconds']:.1f} s of film in {result['seconds_taken']:.1f} s; "
            f"{result['closed']} of {result['bilabials']} bilabials closed (gap under 15 % of the range "
            f"{result['range']:.3f} of {result['range_of']}, in eye distances; widest {result['widest']:.3f})"
        )
    write_json_file(what.json_file, result)


def _bench_avatar(what: AvatarBench) -> None:
    from avatar.cli_common import camera_indices, need_device
    from avatar.export.report import write_picture
    from avatar.export.video import contact_sheet
    from avatar.train.bench_avatar import Sheet, bench_avatars, deformer_kinds, print_table
    from avatar.train.novel_views import CameraRig
    from capture.landmarks import FaceDetector
    from configs import PRESETS

    if what.steps is not None and what.steps < 1:
        raise InputError(f"--steps must be at least 1; got {what.steps}.")
    config = replace(PRESETS[what.preset], seed=what.seed)
    config = replace(config, hold_cameras=camera_indices(what.hold_cameras))
    config = config if what.steps is None else replace(config, steps=what.steps)
    need_device(what.device)
    kinds = deformer_kinds(what.deformers)
    rig = None if what.novel_truth is None else CameraRig.load(what.novel_truth)
    views = [_novel_view(text) for text in what.novel_view]

    def write_sheet(sheet: Sheet) -> None:
        frames = sorted(sheet.rows["truth"])
        rows = [[row[frame] for frame in frames] for row in sheet.rows.values()]
        picture = contact_sheet(rows, list(sheet.rows), [f"frame {frame}" for frame in frames])
        write_picture(what.output / f"{sheet.name}.jpg", picture)

    with ProgressDisplay() as report, FaceDetector() as detector:
        result = bench_avatars(
            what.captures,
            config,
            kinds,
            what.output,
            detect=detector.detect,
            rig=rig,
            views=views,
            sheet=write_sheet,
            report=report,
            device=what.device,
        )
    if what.json_file is None:
        console = Console(highlight=False, emoji=False)
        # A pipe has no width; half of the columns would fold into dots.
        print_table(result, console if console.is_terminal else Console(highlight=False, width=130))
        print(f"Contact sheets and runs are in {what.output}.")
    write_json_file(what.json_file, result | {"preset": what.preset, "seed": what.seed})


def _novel_view(text: str) -> NovelView:
    """Open CLIP:CAMERA:MASKCLIP; raises InputError saying what is wrong."""
    from avatar.train.novel_views import NovelView
    from capture.ingest import probe, read_frames

    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not parts[1].isdigit():
        raise InputError(
            f"--novel-view {text}: expected CLIP:CAMERA:MASKCLIP, for example cam4.mp4:4:cam4_mask.mp4."
        )
    clip, mask = probe(Path(parts[0])), probe(Path(parts[2]))

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for picture, alpha in zip(read_frames(clip), read_frames(mask), strict=False):
            yield picture, alpha[..., 1]

    return NovelView(clip.path.stem, int(parts[1]), pairs)


def _bench_rasterizer(what: RasterizerBench) -> None:
    from avatar.raster.bench import bench_rasterizer, plot_rows

    plot, json_file = what.plot, what.json_file
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot {plot} must end in .png, .svg or .pdf.")
    with ProgressDisplay() as report:
        if what.gpu:
            from avatar.raster.bench_gpu import bench_gpu

            result = bench_gpu(report=report)
        else:
            from avatar.train.bench import avatar_step

            result = bench_rasterizer(avatar_step=avatar_step, report=report)
    if json_file is None or str(json_file) != "-":
        names = [
            *("backend", "n", "size", "threads", "forward_ms", "backward_ms", "loss_ms", "adam_ms"),
            *("step_ms", "graph_step_ms", "avatar_step_ms", "lanes_per_pair"),
            *("forward_fma_share", "backward_fma_share", "times_cpu"),
        ]
        shown = [name for name in names if any(name in row for row in result["rows"])]
        print("  ".join(f"{name.removesuffix('_ms'):>9}" for name in shown))
        for row in result["rows"]:
            values = (row.get(name, "") for name in shown)
            texts = (f"{v:.2f}" if isinstance(v, float) else str(v) for v in values)
            print(
                "  ".join(
                    f"{t:>{max(9, len(n.removesuffix('_ms')))}}"
                    for t, n in zip(texts, shown, strict=True)
                )
            )
        print("Times are medians in milliseconds.")
    if plot is not None:
        plot_rows(result["rows"], plot)
    write_json_file(json_file, result)


def write_json_file(path: Path | None, value: Any) -> None:
    """Write a report where ``--json`` asks for it; - is the standard output."""
    from avatar.tensorfile import write_json

    if path is None:
        return
    if str(path) == "-":
        print(json.dumps(value, indent=1))
    else:
        write_json(path, value)
