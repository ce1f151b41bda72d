"""What ``avatar export`` does for each format, and the list of them.

A format is one entry of ``FORMATS``: what it is, its suffixes, and a function that takes an
``Export`` and returns what to tell the user. Part of the command line, in a file of its own for its
length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from avatar.checks import InputError
from avatar.cli_common import CameraName, driving_source
from avatar.cli_export_capture import captured_motion, data_set
from avatar.cli_film import film, pictures_of
from avatar.types import Gaussians, HeadState

if TYPE_CHECKING:
    from avatar.drive.source import Source
    from avatar.export.signature import Signature
    from avatar.model.avatar import Avatar

Axes = Literal["opengl", "opencv"]


@dataclass(frozen=True)
class Format:
    """A format that avatars are exported in."""

    name: str
    suffixes: tuple[str, ...]
    """How its files' names end, the usual one first; () for a folder of files."""
    what: str
    """What it is, in one line."""
    opens: str
    """What opens it."""
    write: Callable[[Export], str]
    """Does it; returns one line on what was written."""


@dataclass(frozen=True)
class Export:
    """One call of the command, its options checked."""

    path: Path
    output: Path
    drive: str | None
    frame: int | None
    frames: int | None
    fps: float | None
    expression: dict[str, float]
    camera: CameraName
    size: tuple[int, int] | None
    background: tuple[float, float, float] | None
    """None is transparent."""
    background_named: bool
    """Whether the user chose it."""
    axes: Axes
    overwrite: bool
    watermark: bool
    report: Any
    head_fixed: bool | None = None
    """Of data sets; None leaves it to the number of cameras."""
    link: bool = False


@dataclass(frozen=True)
class Motion:
    """The states of an export, one after the other."""

    states: HeadState
    """A batch."""
    fps: float
    source: Source


def _opened(job: Export) -> tuple[Avatar, Path]:
    """The avatar; a capture, which has none yet, is told from it."""
    if (job.path / "capture.json").is_file():
        raise InputError(
            f"{job.path} is a capture, of which the motion (--format arkit-csv) and pictures with cameras "
            "(--format nerfstudio, vhap-like) can be exported. "
            f"Train first: avatar train {job.path} -o ME.run"
        )
    from avatar.train.restore import find_avatar

    return find_avatar(job.path)


def _with_expression(model: Avatar, states: HeadState, values: dict[str, float]) -> HeadState:
    """Return a batch of states with coefficients held at ``values``; eyeLook turns the eyes too."""
    import torch

    from avatar.rig.gaze import gaze_of

    if not values:
        return states
    expression = states.expression.clone()
    for name, value in values.items():
        expression[:, model.expression_names.index(name)] = value
    looks = any(name.startswith("eyeLook") for name in values)
    gaze = states.gaze
    if looks:
        gaze = model.rest.gaze + torch.stack([gaze_of(weights) for weights in expression])
    return replace(states, expression=expression, gaze=gaze)


def _motion(job: Export, model: Avatar, home: Path) -> Motion:
    """Open what drives, at the rate and of the length asked for."""
    from avatar.export.sequence import at_rate

    wanted = job.frames
    if job.frame is not None:
        wanted = job.frame + 1
    elif job.frames is not None and job.fps is not None:
        wanted = None  # counted after the rate has changed
    source = driving_source(job.drive or "self", model, home, job.output, wanted, job.report)
    if job.frame is not None and job.frame >= len(source):
        raise InputError(
            f"--frame {job.frame} lies behind the end of {job.drive or 'the capture'}, which has "
            f"{len(source)} frames. Give one from 0 to {len(source) - 1}."
        )
    states = HeadState.stacked(list(source.states()))
    if job.frame is not None:
        states = states[job.frame : job.frame + 1]
    elif job.fps is not None:
        states = at_rate(states, source.fps, job.fps)[: job.frames]
    return Motion(_with_expression(model, states, job.expression), job.fps or source.fps, source)


def _single(job: Export, model: Avatar, home: Path) -> HeadState:
    """The one state of an export that does not move: at rest, or a frame of the motion."""
    from avatar.model.views import slider_state

    if job.frame is not None:
        return _motion(job, model, home).states[0]
    return slider_state(model, job.expression)


def _splats(
    writer: Callable[[], Callable[[Path, Gaussians], None]], suffix: str, *, y_up: str = ""
) -> Callable[[Export], str]:
    """Make a format's function of a function that writes Gaussians.

    Args:
        writer: imports and returns it.
        suffix: of numbered files, where there is motion.
        y_up: who says that the format's axes are fixed; "" where they are not.
    """

    def write(job: Export) -> str:
        import torch

        from avatar.export.sequence import new_folder, numbered
        from avatar.export.splat_common import half_turned
        from avatar.types import Progress

        if y_up and job.axes != "opengl":
            raise InputError(f"--axes {job.axes}: {y_up} fixes the axes, y up. Leave --axes out.")
        write_gaussians = writer()
        model, home = _opened(job)

        def write_one(path: Path, state: HeadState) -> None:
            with torch.no_grad():
                gaussians = model.pose(state)
            write_gaussians(path, half_turned(gaussians) if job.axes == "opencv" else gaussians)

        if job.drive is None or job.frame is not None:
            _need_file(job.output)
            write_one(job.output, _single(job, model, home))
            size = job.output.stat().st_size / 1e6
            turned = "" if y_up or job.axes == "opencv" else "; y is up (--axes opencv turns it)"
            return f"{len(model)} Gaussians, {size:.2f} MB{turned}"
        motion = _motion(job, model, home)
        with new_folder(job.output, overwrite=job.overwrite) as folder:
            for i, state in enumerate(motion.states):
                write_one(folder / numbered(i, suffix), state)
                job.report(Progress("export", i + 1, len(motion.states)))
        return (
            f"{len(motion.states)} files of {len(model)} Gaussians, {motion.fps:g} a second "
            f"({numbered(0, suffix)} and on)"
        )

    return write


def _need_file(output: Path) -> None:
    if output.is_dir():
        raise InputError(
            f"{output} is a folder; this export is one file (a sequence of them with --drive). Name a "
            "file with -o."
        )


def _pictures(job: Export, model: Avatar, states: HeadState) -> Iterator[Any]:
    return pictures_of(
        model,
        iter(states),
        camera=job.camera,
        size=job.size,
        background=job.background,
        total=len(states),
        report=job.report,
    )


def _png(job: Export) -> str:
    from avatar.export.sequence import new_folder, numbered, write_png

    model, home = _opened(job)
    signature = _signature(job, model)
    if job.output.suffix.lower() == ".png" and not job.output.is_dir():
        if job.drive is not None and job.frame is None:
            raise InputError(
                f"{job.output} is one picture, but --drive gives many. Name a folder, or choose one "
                "picture with --frame."
            )
        (picture,) = _pictures(job, model, HeadState.stacked([_single(job, model, home)]))
        made = signature.manifest("image/png", job.output.name)
        write_png(job.output, signature.marked(picture), made)
        return f"{picture.shape[1]} x {picture.shape[0]} pixels"
    motion = _motion(job, model, home)
    with new_folder(job.output, overwrite=job.overwrite) as folder:
        for i, picture in enumerate(_pictures(job, model, motion.states)):
            name = numbered(i, ".png")
            write_png(
                folder / name, signature.marked(picture), signature.manifest("image/png", name)
            )
    return f"{len(motion.states)} pictures, {motion.fps:g} a second ({numbered(0, '.png')} and on)"


def _mp4(job: Export) -> str:
    if job.background is None and job.background_named:
        raise InputError(
            "--background transparent: an mp4 (H.264) has no transparency. Export as webm or mov, or "
            "as a folder of png."
        )
    return _video(replace(job, background=job.background or (1.0, 1.0, 1.0)))


def _alpha_video(job: Export) -> str:
    from avatar.export.alpha_video import alpha_codec

    if job.background is not None:
        raise InputError(
            f"{job.output.suffix} is exported for its transparency; for a background of one colour "
            "export as mp4."
        )
    alpha_codec(job.output)  # said before the motion is opened
    return f"{_video(job)}, with transparency"


def _video(job: Export) -> str:
    _need_file(job.output)
    model, home = _opened(job)
    motion = _motion(job, model, home)
    pictures = _pictures(job, model, motion.states)
    frames = film(
        job.output,
        pictures,
        motion.fps,
        motion.source,
        _signature(job, model),
        transparent=job.background is None,
    )
    return f"{frames} frames at {motion.fps:g} frames/s"


def _signature(job: Export, model: Avatar) -> Signature:
    from avatar.export.signature import Signature

    return Signature(model, watermark=job.watermark)


def _html(job: Export) -> str:
    from avatar.export.web import PageClip, write_page
    from avatar.train.restore import find_capture

    _need_file(job.output)
    model, home = _opened(job)
    clips = []
    captured, trouble = find_capture(home, model)
    if job.drive is not None or captured is not None:
        motion = _motion(job, model, home)
        name = "captured" if job.drive in (None, "self") else Path(job.drive).stem
        sound = motion.source.audio
        clips.append(PageClip(name, motion.states, motion.fps, sound, motion.source.audio_start_s))
    page = write_page(job.output, model, clips, title=str(model.header.get("who") or "Avatar"))
    missing = f"; its own motion is not in it: {trouble}" if trouble and not clips else ""
    return f"{page.gaussians} Gaussians, {page.clips} motions, {page.bytes / 1e6:.1f} MB{missing}"


def _arkit(job: Export) -> str:
    from avatar.capture_data import Capture
    from avatar.drive.arkit_csv import write_arkit_csv
    from avatar.drive.motion import motion_from_states

    _need_file(job.output)
    if (job.path / "capture.json").is_file():
        motion, fps = captured_motion(job, Capture(job.path))
    else:
        model, home = _opened(job)
        driven = _motion(job, model, home)
        motion, fps = motion_from_states(driven.states, model.rest, driven.fps), driven.fps
    write_arkit_csv(job.output, motion)
    return f"{len(motion)} frames at {fps:g} frames/s, 52 coefficients, head and eyes"


def _write_ply() -> Callable[[Path, Gaussians], None]:
    from avatar.export.ply import write_ply

    return write_ply


def _write_compressed_ply() -> Callable[[Path, Gaussians], None]:
    from avatar.export.compressed_ply import write_compressed_ply

    return write_compressed_ply


def _write_spz() -> Callable[[Path, Gaussians], None]:
    from avatar.export.spz import write_spz

    return write_spz


def _write_splat() -> Callable[[Path, Gaussians], None]:
    from avatar.export.splat import write_splat

    return write_splat


def _write_glb() -> Callable[[Path, Gaussians], None]:
    from avatar.export.gltf import write_glb

    return write_glb


FORMATS: dict[str, Format] = {
    kind.name: kind
    for kind in (
        Format(
            "ply",
            (".ply",),
            "posed Gaussians in the layout of 3D Gaussian Splatting, nothing lost",
            "SuperSplat, PlayCanvas, gsplat, viser, nerfstudio, splat add-ons of Blender and Unity",
            _splats(_write_ply, ".ply"),
        ),
        Format(
            "compressed-ply",
            (".compressed.ply",),
            "the same in PlayCanvas's chunks, a quarter of the size",
            "SuperSplat, PlayCanvas, Babylon.js, splat-transform, gsply",
            _splats(_write_compressed_ply, ".compressed.ply"),
        ),
        Format(
            "spz",
            (".spz",),
            "the same in Niantic's compressed form, a quarter of the size",
            "Scaniverse, Spark (three.js), Babylon.js, splat-transform, gsply",
            _splats(_write_spz, ".spz", y_up="SPZ"),
        ),
        Format(
            "splat",
            (".splat",),
            "the same in 32 bytes a Gaussian",
            "antimatter15's web viewer, Spark (three.js), Babylon.js, splat-transform",
            _splats(_write_splat, ".splat"),
        ),
        Format(
            "glb",
            (".glb",),
            "the same in glTF 2.0 with KHR_gaussian_splatting; coloured points where unknown",
            "three.js (GLTFGaussianSplatLoaderExtension), Babylon.js, PlayCanvas",
            _splats(_write_glb, ".glb", y_up="glTF"),
        ),
        Format(
            "png",
            (".png",),
            "one picture, or a folder of numbered ones, with transparency",
            "everything",
            _png,
        ),
        Format(
            "html",
            (".html",),
            "one web page that poses and draws the avatar itself, with its motion and sound",
            "every browser with WebGL2, from disk, offline",
            _html,
        ),
        Format("mp4", (".mp4",), "a video, H.264, with sound", "everything", _mp4),
        Format(
            "webm",
            (".webm",),
            "a video with transparency, VP9, with sound",
            "web pages in Chrome, Edge and Firefox; OBS; FFmpeg by its libvpx-vp9 decoder",
            _alpha_video,
        ),
        Format(
            "mov",
            (".mov",),
            "a video with transparency, ProRes 4444, with sound; large",
            "Final Cut, Premiere, After Effects, DaVinci Resolve, Blender",
            _alpha_video,
        ),
        Format(
            "arkit-csv",
            (".csv",),
            "the motion: 52 ARKit coefficients, head and eyes, as Live Link Face records them",
            "Unreal's Live Link, Blender add-ons, avatar render --drive",
            _arkit,
        ),
        Format(
            "nerfstudio",
            (),
            "of a capture: pictures, masks, cameras (transforms.json) and points to start from",
            "nerfstudio (ns-train splatfacto), instant-ngp, Brush, gsplat's trainers",
            data_set("nerfstudio"),
        ),
        Format(
            "vhap-like",
            (),
            "of a capture: VHAP's layout; FLAME parameters where its data set had them",
            "trainers that read VHAP's exports",
            data_set("vhap-like"),
        ),
    )
}
"""All formats by name, in the order in which they are listed."""


def posed_exports() -> dict[str, tuple[str, Callable[[Path, Avatar, HeadState], object]]]:
    """Return what the viewer's export panel offers: label to suffix and function, Gaussians as they show."""

    def of(
        load: Callable[[], Callable[[Path, Gaussians], None]],
    ) -> Callable[[Path, Avatar, HeadState], object]:
        def write(path: Path, model: Avatar, state: HeadState) -> None:
            import torch

            with torch.no_grad():
                load()(path, model.pose(state))

        return write

    def page(path: Path, model: Avatar, state: HeadState) -> None:
        from avatar.export.web import write_page

        write_page(path, model, title=str(model.header.get("who") or "Avatar"))

    loaders = {
        "ply": _write_ply,
        "compressed-ply": _write_compressed_ply,
        "spz": _write_spz,
        "splat": _write_splat,
        "glb": _write_glb,
    }
    known = {name: (FORMATS[name].suffixes[0], of(load)) for name, load in loaders.items()}
    return known | {"html (web page)": (".html", page)}
