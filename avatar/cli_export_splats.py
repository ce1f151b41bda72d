"""What ``avatar export`` does for formats of Gaussians: one file, or a numbered one for each moment.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from avatar.checks import InputError
from avatar.cli_export_job import Export, motion_of, need_file, opened, single
from avatar.types import Gaussians, HeadState


def splats(
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
        model, home = opened(job)

        def write_one(path: Path, state: HeadState) -> None:
            with torch.no_grad():
                gaussians = model.pose(state)
            write_gaussians(path, half_turned(gaussians) if job.axes == "opencv" else gaussians)

        if job.drive is None or job.frame is not None:
            need_file(job.output)
            write_one(job.output, single(job, model, home))
            size = job.output.stat().st_size / 1e6
            turned = "" if y_up or job.axes == "opencv" else "; y is up (--axes opencv turns it)"
            return f"{len(model)} Gaussians, {size:.2f} MB{turned}"
        motion = motion_of(job, model, home)
        with new_folder(job.output, overwrite=job.overwrite) as folder:
            for i, state in enumerate(motion.states):
                write_one(folder / numbered(i, suffix), state)
                job.report(Progress("export", i + 1, len(motion.states)))
        return (
            f"{len(motion.states)} files of {len(model)} Gaussians, {motion.fps:g} a second "
            f"({numbered(0, suffix)} and on)"
        )

    return write


def load_ply() -> Callable[[Path, Gaussians], None]:
    """Import and return what writes PLY, as 3D Gaussian Splatting writes it."""
    from avatar.export.ply import write_ply

    return write_ply


def load_compressed_ply() -> Callable[[Path, Gaussians], None]:
    """Import and return what writes PlayCanvas's compressed PLY."""
    from avatar.export.compressed_ply import write_compressed_ply

    return write_compressed_ply


def load_spz() -> Callable[[Path, Gaussians], None]:
    """Import and return what writes Niantic's SPZ."""
    from avatar.export.spz import write_spz

    return write_spz


def load_splat() -> Callable[[Path, Gaussians], None]:
    """Import and return what writes the 32-byte splat."""
    from avatar.export.splat import write_splat

    return write_splat


def load_glb() -> Callable[[Path, Gaussians], None]:
    """Import and return what writes glTF."""
    from avatar.export.gltf import write_glb

    return write_glb
