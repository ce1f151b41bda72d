"""One call of ``avatar export``: its options, the avatar that they name, and how that moves.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from avatar.checks import InputError
from avatar.cli_common import CameraName, driving_source
from avatar.types import HeadState

if TYPE_CHECKING:
    from avatar.drive.source import Source
    from avatar.model.avatar import Avatar

Axes = Literal["opengl", "opencv"]


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


def opened(job: Export) -> tuple[Avatar, Path]:
    """The avatar; a capture, which has none yet, is told from it."""
    if (job.path / "capture.json").is_file():
        raise InputError(
            f"{job.path} is a capture, of which the motion (--format arkit-csv) and pictures with cameras "
            "(--format nerfstudio, vhap-like) can be exported. "
            f"Train first: avatar train {job.path} -o ME.run"
        )
    from avatar.train.restore import find_avatar

    return find_avatar(job.path)


def motion_of(job: Export, model: Avatar, home: Path) -> Motion:
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


def single(job: Export, model: Avatar, home: Path) -> HeadState:
    """The one state of an export that does not move: at rest, or a frame of the motion."""
    from avatar.model.views import slider_state

    if job.frame is not None:
        return motion_of(job, model, home).states[0]
    return slider_state(model, job.expression)


def need_file(output: Path) -> None:
    """Refuse a folder where one file is written."""
    if output.is_dir():
        raise InputError(
            f"{output} is a folder; this export is one file (a sequence of them with --drive). Name a "
            "file with -o."
        )


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
