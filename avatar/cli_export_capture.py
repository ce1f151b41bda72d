"""What ``avatar export`` makes of a capture, which has no Gaussians yet: its motion, and data sets.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from avatar.checks import InputError

if TYPE_CHECKING:
    from avatar.capture_data import Capture
    from avatar.cli_export_job import Export
    from avatar.drive.motion import FaceMotion


def captured_motion(job: Export, captured: Capture) -> tuple[FaceMotion, float]:
    """A capture's own motion, relative to its usual pose as an avatar of it would be at rest."""
    from avatar.drive.motion import motion_from_states
    from avatar.drive.source import track_states
    from avatar.export.sequence import at_rate
    from avatar.model.create import describe_person

    if job.drive not in (None, "self") or job.expression:
        raise InputError(
            f"{job.path} is a capture: its own motion is exported, so --drive and --expression have "
            "nothing to act on. Leave them out, or name an avatar."
        )
    track = captured.track
    states, fps = track_states(track), captured.fps
    if job.frame is not None:
        if job.frame >= len(states):
            raise InputError(
                f"--frame {job.frame} lies behind the end of {job.path}, which has {len(states)} frames."
            )
        states = states[job.frame : job.frame + 1]
    elif job.fps is not None:
        states, fps = at_rate(states, fps, job.fps), job.fps
    # The training frames alone, from which an avatar takes its rest too.
    used = track.valid.bool().clone()
    begin, end = captured.splits.train
    used[:begin], used[end:] = False, False
    seen = used if used.any() else track.valid.bool()
    rest = describe_person(captured, seen.nonzero()[:, 0]).rest
    return motion_from_states(states[: job.frames], rest, fps), fps


def data_set(layout: Literal["nerfstudio", "vhap-like"]) -> Callable[[Export], str]:
    """Make the function of a format that captures are exported in."""

    def write(job: Export) -> str:
        from avatar.capture_data import Capture
        from avatar.export.capture_dataset import (
            DatasetOptions,
            export_nerfstudio,
            export_vhap_like,
        )

        _need_capture(job, layout)
        background = job.background or "transparent" if job.background_named else "as filmed"
        options = DatasetOptions(
            head_fixed=job.head_fixed,
            link=job.link,
            background=background,
            frames=job.frames,
            overwrite=job.overwrite,
        )
        kind = export_nerfstudio if layout == "nerfstudio" else export_vhap_like
        done = kind(Capture(job.path), job.output, options, job.report)
        world = "the head is the world" if done.head_fixed else "cameras in the world"
        said = (
            f"{done.pictures} pictures of {done.steps} time steps, {done.cameras} cameras; {world}"
        )
        if layout == "nerfstudio":
            return said
        return f"{said}; {'FLAME' if done.flame else 'lattice (no FLAME)'} parameters"

    return write


def _need_capture(job: Export, layout: str) -> None:
    """Refuse what is no capture, and options that a data set of one has no use for."""
    if not (job.path / "capture.json").is_file():
        raise InputError(
            f"{job.path} is no capture, of which alone there are pictures for a {layout} data set. Give a "
            "folder that avatar capture made (the me.capture beside an avatar)."
        )
    own = layout == "nerfstudio"
    given = {
        "--drive": job.drive not in (None, "self"),
        "--expression": bool(job.expression),
        "--frame": job.frame is not None,
        "--fps": job.fps is not None,
        "--size": job.size is not None,
        "--axes": job.axes != "opengl",
        "--background": job.background_named and not own,
        "--head-fixed": job.head_fixed is True and not own,
        "--cameras-fixed": job.head_fixed is False and not own,
    }
    for name, there in given.items():
        if there:
            raise InputError(f"{name} has nothing to act on in a {layout} data set. Leave it out.")
    if job.link and job.background_named:
        raise InputError("--link leaves pictures as they are, --background changes them: give one.")
