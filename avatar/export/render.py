"""From states to pictures: cameras that stand before or circle the avatar, and the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.model.views import MARGIN_M as MARGIN_M  # handed on with the cameras
from avatar.model.views import fitted, front_camera
from avatar.raster import rasterize
from avatar.types import Camera, HeadState, Progress, Reporter, ignore_progress

CameraPath = Callable[[int, int], Camera]
"""Takes a frame's index and the number of frames (0 if unknown), returns the frame's camera."""

CameraName = Literal["capture", "front", "orbit", "turntable"]

ORBIT_DEG = 35.0
"""How far the orbit goes to either side; one camera saw little of what lies beyond."""
ORBIT_PERIOD_S = 8.0


def camera_path(
    name: CameraName, avatar: Avatar, size: tuple[int, int] | None = None
) -> CameraPath:
    """Return a camera path by its name.

    ``capture`` is the capture's own view; ``front`` stands square before the head at rest;
    ``orbit`` swings about it from side to side; ``turntable`` goes all the way round, once in the
    same time.

    Args:
        name: which path.
        avatar: who is looked at.
        size: width and height of the picture in pixels; None for the capture's.
    """
    if name == "orbit":
        return orbit_path(avatar, size)
    if name == "turntable":
        return turntable_path(avatar, size)
    camera = fitted(avatar.camera, size) if name == "capture" else front_camera(avatar, size)

    def still(frame: int, total: int) -> Camera:
        return camera

    return still


def orbit_path(
    avatar: Avatar,
    size: tuple[int, int] | None = None,
    *,
    period_s: float = ORBIT_PERIOD_S,
    swing_deg: float = ORBIT_DEG,
) -> CameraPath:
    """Return a swing: from the front to the subject's left, to the right and back, and again.

    Args:
        avatar: who is looked at.
        size: width and height of the picture in pixels; None for the capture's.
        period_s: seconds for all of it, at the avatar's frame rate.
        swing_deg: largest angle to either side, degrees.
    """

    def camera_at(frame: int, total: int) -> Camera:
        phase = 2 * math.pi * frame / (period_s * avatar.fps)
        return front_camera(avatar, size, math.radians(swing_deg) * math.sin(phase))

    return camera_at


def turntable_path(
    avatar: Avatar, size: tuple[int, int] | None = None, *, period_s: float = ORBIT_PERIOD_S
) -> CameraPath:
    """Return a full turn about the head, beginning in front and going to the subject's left.

    What one camera never saw, such as the back of the head, is as the avatar has it.

    Args:
        avatar: who is looked at.
        size: width and height of the picture in pixels; None for the capture's.
        period_s: seconds for one turn, at the avatar's frame rate.
    """

    def camera_at(frame: int, total: int) -> Camera:
        return front_camera(avatar, size, 2 * math.pi * frame / (period_s * avatar.fps))

    return camera_at


def render_states(
    avatar: Avatar,
    states: Iterable[HeadState],
    path: CameraPath,
    *,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    total: int | None = None,
    report: Reporter = ignore_progress,
) -> Iterator[np.ndarray]:
    """Yield one picture a state, uint8 [H, W, 3] sRGB.

    Args:
        avatar: who is drawn.
        states: single states; a batch of states or ``Driver.states()`` will do.
        path: the camera of each frame.
        background: red, green and blue in [0, 1].
        total: number of states for progress and path; by default ``len(states)``, 0 where that is
            unknown.
        report: listener of progress, stage ``"render"``.
    """
    count = total if total is not None else len(states) if isinstance(states, Sized) else 0
    colour = torch.tensor(background, dtype=torch.float32)
    for frame, state in enumerate(states):
        # Inside the loop: a generator must not change its caller's gradient mode between pictures.
        with torch.no_grad():
            picture = rasterize(avatar.pose(state), path(frame, count), background=colour).rgb
            shown = _to_bytes(picture)
        report(Progress("render", frame + 1, count))
        yield shown


def render_cutouts(
    avatar: Avatar,
    states: Iterable[HeadState],
    path: CameraPath,
    *,
    total: int | None = None,
    report: Reporter = ignore_progress,
) -> Iterator[np.ndarray]:
    """Yield one picture a state as ``render_states`` does, but before nothing: uint8 [H, W, 4].

    Alpha is straight: a colour over any background B is alpha * rgb + (1 - alpha) * B. Where alpha is
    0 the colour is black.
    """
    count = total if total is not None else len(states) if isinstance(states, Sized) else 0
    for frame, state in enumerate(states):
        with torch.no_grad():
            drawn = rasterize(avatar.pose(state), path(frame, count))
            alpha = drawn.alpha[..., None].clamp(0, 1)
            # What is drawn over nothing holds the colours times alpha.
            straight = drawn.rgb / alpha.clamp_min(1e-6)
            shown = _to_bytes(torch.cat([torch.where(alpha > 0.5 / 255, straight, 0.0), alpha], 2))
        report(Progress("render", frame + 1, count))
        yield shown


def _to_bytes(picture: Tensor) -> np.ndarray:
    """Return a picture [H, W, 3] in [0, 1] as uint8, rounded."""
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
