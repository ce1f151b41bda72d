"""From states to pictures: cameras that stand before or circle the avatar, and the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.raster import rasterize
from avatar.rotations import rotvec_to_matrix
from avatar.types import Camera, HeadState, Progress, Reporter, ignore_progress, look_at

CameraPath = Callable[[int, int], Camera]
"""Takes a frame's index and the number of frames (0 if unknown), returns the frame's camera."""

TOP_M = 0.17
"""What the front view shows above the ears: crown and hair of a large head."""
BOTTOM_M = -0.38
"""What it shows below them: neck and shoulders."""
SHORTEST_M = 0.24
"""Height that it shows at least, even if less was filmed."""
NARROWEST_M = 0.36
"""Width that it shows at least, for upright formats."""
MARGIN_M = 0.015
"""How far it ends above the filmed picture's lower edge, so that a little sway shows no cut."""

ORBIT_DEG = 35.0
"""How far the orbit goes to either side; one camera saw little of what lies beyond."""
ORBIT_PERIOD_S = 8.0


def camera_path(
    name: Literal["capture", "front", "orbit"], avatar: Avatar, size: tuple[int, int] | None = None
) -> CameraPath:
    """Return a camera path by its name.

    ``capture`` is the capture's own view; ``front`` stands square before the head at rest;
    ``orbit`` swings about it from side to side.

    Args:
        name: which path.
        avatar: who is looked at.
        size: width and height of the picture in pixels; None for the capture's.
    """
    if name == "orbit":
        return orbit_path(avatar, size)
    camera = fitted(avatar.camera, size) if name == "capture" else front_camera(avatar, size)

    def still(frame: int, total: int) -> Camera:
        return camera

    return still


def fitted(camera: Camera, size: tuple[int, int] | None) -> Camera:
    """Return the view in a picture of ``size`` (width, height): whole, centred, not stretched."""
    if size is None:
        return camera
    width, height = size
    scale = min(width / camera.width, height / camera.height)
    K = camera.K.clone()
    K[:2] *= scale
    K[0, 2] += (width - scale * camera.width) / 2
    K[1, 2] += (height - scale * camera.height) / 2
    return Camera(K, camera.T_cam_world, width, height)


def front_camera(avatar: Avatar, size: tuple[int, int] | None = None, yaw: float = 0.0) -> Camera:
    """Return a camera that the head at rest looks straight into, showing head and shoulders.

    It stands as far away as the capture's camera stood, so that the perspective is the one that was
    filmed, and as upright. The picture ends just above where the filmed one ended, as below that
    there is nothing of the person; what an upright format has to spare is above the head.

    Args:
        avatar: who is looked at.
        size: width and height of the picture in pixels; None for the capture's.
        yaw: angle by which the camera goes round the head to the subject's left, radians.
    """
    filmed = avatar.camera
    width, height = size or (filmed.width, filmed.height)
    T_world_head = avatar.rest.T_world_head
    centre, upright = T_world_head[:3, 3], -filmed.T_cam_world[1, :3]
    x, y, depth = (filmed.T_cam_world[:3, :3] @ centre + filmed.T_cam_world[:3, 3]).tolist()
    distance = math.hypot(x, y, depth)
    # Edges of the filmed picture in metres above the head's origin, at its depth.
    row = float(filmed.K[1, 1]) * y / depth + float(filmed.K[1, 2])
    metres = depth / float(filmed.K[1, 1])
    top = min(TOP_M, row * metres)
    bottom = max(BOTTOM_M, (row - filmed.height) * metres + MARGIN_M)
    shown = max(SHORTEST_M, top - bottom)
    focal = min(height * distance / shown, width * distance / NARROWEST_M)
    turn = rotvec_to_matrix(T_world_head.new_tensor([0.0, yaw, 0.0]))
    outward = T_world_head[:3, :3] @ turn[:, 2]
    # The lens is shifted, not tilted, to put ``bottom`` on the lower edge: verticals stay vertical.
    centre_row = height + focal * bottom / distance
    K = T_world_head.new_tensor([[focal, 0, width / 2], [0, focal, centre_row], [0, 0, 1]])
    return Camera(K, look_at(centre + distance * outward, centre, upright), width, height)


def orbit_path(
    avatar: Avatar,
    size: tuple[int, int] | None = None,
    *,
    period_s: float = ORBIT_PERIOD_S,
    swing_deg: float = ORBIT_DEG,
) -> CameraPath:
    """Return a turntable: from the front to the subject's left, to the right and back, and again.

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


def _to_bytes(picture: Tensor) -> np.ndarray:
    """Return a picture [H, W, 3] in [0, 1] as uint8, rounded."""
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
