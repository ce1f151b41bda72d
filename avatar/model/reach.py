"""How far a person was filmed to turn head and eyes: measured once, carried in the avatar's header."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from avatar.capture_data import Track
from avatar.rotations import head_angles
from avatar.types import HeadState

HEADER_KEY = "reach"
"""Header field of a .avatar file: an object with the fields of ``Reach`` as lists of radians. Files
from before it have none."""
_QUANTILES = (0.02, 0.98)


@dataclass(frozen=True)
class Reach:
    """How far a person was filmed to turn head and eyes, from the pose and gaze at rest."""

    head_low: tuple[float, float, float] = (-0.60, -0.40, -0.35)
    """Yaw, pitch, roll in radians. The defaults are what a usual clip shows."""
    head_high: tuple[float, float, float] = (0.60, 0.40, 0.35)
    """As ``head_low``, to the other side."""
    gaze_low: tuple[float, float] = (-0.45, -0.35)
    """Yaw and pitch of the eyes, radians."""
    gaze_high: tuple[float, float] = (0.45, 0.35)
    """As ``gaze_low``, to the other side."""


def reach_of(track: Track, rest: HeadState, frames: Tensor | None = None) -> Reach:
    """Measure how far the person of a track turned head and eyes from ``rest``.

    The 2nd and 98th percentiles over the frames with a face, and never less than a tenth of a radian:
    who was filmed stock-still is still to nod.

    Args:
        track: the person's.
        rest: the avatar's single rest state.
        frames: [n] indices of the frames to look at; None for all. Those without a face do not count.

    Raises:
        ValueError: none of the frames shows a face.
    """
    if frames is None:
        frames = torch.arange(len(track))
    frames = frames[track.valid[frames].bool()]
    if len(frames) == 0:
        raise ValueError("reach needs at least one frame with a face.")
    R = rest.T_world_head[:3, :3].T @ track.T_world_head[frames, :3, :3]
    angles, gaze = head_angles(R), (track.gaze[frames] - rest.gaze).mean(1)

    def ends(values: Tensor) -> tuple[list[float], list[float]]:
        low, high = (torch.quantile(values.double(), q, dim=0) for q in _QUANTILES)
        return low.clamp(max=-0.1).tolist(), high.clamp(min=0.1).tolist()

    (a, b, c), (d, e, f) = ends(angles)
    (g, h), (i, j) = ends(gaze)
    return Reach((a, b, c), (d, e, f), (g, h), (i, j))


def reach_header(reach: Reach) -> dict[str, dict[str, list[float]]]:
    """Return the header field that carries a reach."""
    return {HEADER_KEY: {name: list(ends) for name, ends in asdict(reach).items()}}


def reach_in(header: Mapping[str, Any]) -> Reach | None:
    """Read the reach of an avatar's header; None where it carries none.

    Raises:
        ValueError: the field is damaged.
    """
    stored = header.get(HEADER_KEY)
    if stored is None:
        return None
    ends: dict[str, tuple[float, ...]] = {}
    for field in fields(Reach):
        values = stored.get(field.name) if isinstance(stored, Mapping) else None
        size = 3 if field.name.startswith("head") else 2
        low = field.name.endswith("low")
        if (
            not isinstance(values, list | tuple)
            or len(values) != size
            or not all(
                isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
                for v in values
            )
            or any(v > 0 if low else v < 0 for v in values)
        ):
            raise ValueError(
                f"'{HEADER_KEY}.{field.name}' must be {size} angles in radians, "
                f"{'none above' if low else 'none below'} 0"
            )
        ends[field.name] = tuple(float(v) for v in values)
    return Reach(**ends)  # type: ignore[arg-type]
