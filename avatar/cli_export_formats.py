"""The formats that ``avatar export`` knows.

A format is one entry of ``FORMATS``: what it is, its suffixes, and a function that takes an
``Export`` and returns what to tell the user. Part of the command line, in a file of its own for its
length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avatar.cli_export_capture import captured_motion, data_set
from avatar.cli_export_job import Export, motion_of, need_file, opened
from avatar.cli_export_pictures import write_alpha_video, write_mp4, write_pngs
from avatar.cli_export_splats import (
    load_compressed_ply,
    load_glb,
    load_ply,
    load_splat,
    load_spz,
    splats,
)
from avatar.types import Gaussians, HeadState

if TYPE_CHECKING:
    from avatar.model.avatar import Avatar


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


def _html(job: Export) -> str:
    from avatar.export.web import PageClip, write_page
    from avatar.train.restore import find_capture

    need_file(job.output)
    model, home = opened(job)
    clips = []
    captured, trouble = find_capture(home, model)
    if job.drive is not None or captured is not None:
        motion = motion_of(job, model, home)
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

    need_file(job.output)
    if (job.path / "capture.json").is_file():
        motion, fps = captured_motion(job, Capture(job.path))
    else:
        model, home = opened(job)
        driven = motion_of(job, model, home)
        motion, fps = motion_from_states(driven.states, model.rest, driven.fps), driven.fps
    write_arkit_csv(job.output, motion)
    return f"{len(motion)} frames at {fps:g} frames/s, 52 coefficients, head and eyes"


FORMATS: dict[str, Format] = {
    kind.name: kind
    for kind in (
        Format(
            "ply",
            (".ply",),
            "posed Gaussians in the layout of 3D Gaussian Splatting, nothing lost",
            "SuperSplat, PlayCanvas, gsplat, viser, nerfstudio, splat add-ons of Blender and Unity",
            splats(load_ply, ".ply"),
        ),
        Format(
            "compressed-ply",
            (".compressed.ply",),
            "the same in PlayCanvas's chunks, a quarter of the size",
            "SuperSplat, PlayCanvas, Babylon.js, splat-transform, gsply",
            splats(load_compressed_ply, ".compressed.ply"),
        ),
        Format(
            "spz",
            (".spz",),
            "the same in Niantic's compressed form, a quarter of the size",
            "Scaniverse, Spark (three.js), Babylon.js, splat-transform, gsply",
            splats(load_spz, ".spz", y_up="SPZ"),
        ),
        Format(
            "splat",
            (".splat",),
            "the same in 32 bytes a Gaussian",
            "antimatter15's web viewer, Spark (three.js), Babylon.js, splat-transform",
            splats(load_splat, ".splat"),
        ),
        Format(
            "glb",
            (".glb",),
            "the same in glTF 2.0 with KHR_gaussian_splatting; coloured points where unknown",
            "three.js (GLTFGaussianSplatLoaderExtension), Babylon.js, PlayCanvas",
            splats(load_glb, ".glb", y_up="glTF"),
        ),
        Format(
            "png",
            (".png",),
            "one picture, or a folder of numbered ones, with transparency",
            "everything",
            write_pngs,
        ),
        Format(
            "html",
            (".html",),
            "one web page that poses and draws the avatar itself, with its motion and sound",
            "every browser with WebGL2, from disk, offline",
            _html,
        ),
        Format("mp4", (".mp4",), "a video, H.264, with sound", "everything", write_mp4),
        Format(
            "webm",
            (".webm",),
            "a video with transparency, VP9, with sound",
            "web pages in Chrome, Edge and Firefox; OBS; FFmpeg by its libvpx-vp9 decoder",
            write_alpha_video,
        ),
        Format(
            "mov",
            (".mov",),
            "a video with transparency, ProRes 4444, with sound; large",
            "Final Cut, Premiere, After Effects, DaVinci Resolve, Blender",
            write_alpha_video,
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
        "ply": load_ply,
        "compressed-ply": load_compressed_ply,
        "spz": load_spz,
        "splat": load_splat,
        "glb": load_glb,
    }
    known = {name: (FORMATS[name].suffixes[0], of(load)) for name, load in loaders.items()}
    return known | {"html (web page)": (".html", page)}
