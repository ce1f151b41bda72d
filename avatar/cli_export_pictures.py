"""What ``avatar export`` does for formats of pictures: png, and videos with and without transparency.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from avatar.checks import InputError
from avatar.cli_export_job import Export, motion_of, need_file, opened, single
from avatar.cli_film import film, pictures_of
from avatar.types import HeadState

if TYPE_CHECKING:
    from avatar.export.signature import Signature
    from avatar.model.avatar import Avatar


def write_pngs(job: Export) -> str:
    """One picture, or a folder of numbered ones."""
    from avatar.export.sequence import new_folder, numbered, write_png

    model, home = opened(job)
    signature = _signature(job, model)
    if job.output.suffix.lower() == ".png" and not job.output.is_dir():
        if job.drive is not None and job.frame is None:
            raise InputError(
                f"{job.output} is one picture, but --drive gives many. Name a folder, or choose one "
                "picture with --frame."
            )
        (picture,) = _pictures(job, model, HeadState.stacked([single(job, model, home)]))
        made = signature.manifest("image/png", job.output.name)
        write_png(job.output, signature.marked(picture), made)
        return f"{picture.shape[1]} x {picture.shape[0]} pixels"
    motion = motion_of(job, model, home)
    with new_folder(job.output, overwrite=job.overwrite) as folder:
        for i, picture in enumerate(_pictures(job, model, motion.states)):
            name = numbered(i, ".png")
            write_png(
                folder / name, signature.marked(picture), signature.manifest("image/png", name)
            )
    return f"{len(motion.states)} pictures, {motion.fps:g} a second ({numbered(0, '.png')} and on)"


def write_mp4(job: Export) -> str:
    """A video on a background of one colour."""
    if job.background is None and job.background_named:
        raise InputError(
            "--background transparent: an mp4 (H.264) has no transparency. Export as webm or mov, or "
            "as a folder of png."
        )
    return _video(replace(job, background=job.background or (1.0, 1.0, 1.0)))


def write_alpha_video(job: Export) -> str:
    """A video with transparency."""
    from avatar.export.alpha_video import alpha_codec

    if job.background is not None:
        raise InputError(
            f"{job.output.suffix} is exported for its transparency; for a background of one colour "
            "export as mp4."
        )
    alpha_codec(job.output)  # said before the motion is opened
    return f"{_video(job)}, with transparency"


def _video(job: Export) -> str:
    need_file(job.output)
    model, home = opened(job)
    motion = motion_of(job, model, home)
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


def _signature(job: Export, model: Avatar) -> Signature:
    from avatar.export.signature import Signature

    return Signature(model, watermark=job.watermark)
