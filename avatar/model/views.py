"""Where to look at an avatar from, and the states in which sliders are looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.rig.gaze import gaze_of
from avatar.rotations import rotvec_to_matrix
from avatar.types import Camera, HeadState, look_at

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

HEAD_M = 0.31
"""Height that ``head_camera`` shows: a large head and the neck's beginning."""
HEAD_TOP_M = 0.178
"""What of it lies above the ears."""


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


def front_camera(
    avatar: Avatar, size: tuple[int, int] | None = None, yaw: float = 0.0, pitch: float = 0.0
) -> Camera:
    """Return a camera that the head at rest looks straight into, showing head and shoulders.

    It stands as far away as the capture's camera stood, so that the perspective is the one that was
    filmed, and as upright. The picture ends just above where the filmed one ended, as below that
    there is nothing of the person; what an upright format has to spare is above the head.

    Args:
        avatar: who is looked at.
        size: width and height of the picture in pixels; None for the capture's.
        yaw: angle by which the camera goes round the head to the subject's left, radians.
        pitch: angle by which it goes up from there and looks down, radians.
    """
    filmed = avatar.camera
    width, height = size or (filmed.width, filmed.height)
    T_world_head = avatar.rest.T_world_head
    centre = T_world_head[:3, 3]
    x, y, depth = (filmed.T_cam_world[:3, :3] @ centre + filmed.T_cam_world[:3, 3]).tolist()
    distance = math.hypot(x, y, depth)
    # Edges of the filmed picture in metres above the head's origin, at its depth.
    row = float(filmed.K[1, 1]) * y / depth + float(filmed.K[1, 2])
    metres = depth / float(filmed.K[1, 1])
    top = min(TOP_M, row * metres)
    bottom = max(BOTTOM_M, (row - filmed.height) * metres + MARGIN_M)
    shown = max(SHORTEST_M, top - bottom)
    focal = min(height * distance / shown, width * distance / NARROWEST_M)
    # The lens is shifted, not tilted, to put ``bottom`` on the lower edge: verticals stay vertical.
    centre_row = height + focal * bottom / distance
    K = T_world_head.new_tensor([[focal, 0, width / 2], [0, focal, centre_row], [0, 0, 1]])
    return Camera(K, _around(avatar, distance, yaw, pitch), width, height)


def head_camera(avatar: Avatar, side: int, yaw: float = 0.0, pitch: float = 0.0) -> Camera:
    """Return a camera as ``front_camera`` that shows the head alone in a square of ``side`` pixels."""
    T = avatar.camera.T_cam_world
    centre = T[:3, :3] @ avatar.rest.T_world_head[:3, 3] + T[:3, 3]
    distance = float(torch.linalg.norm(centre))
    focal = side * distance / HEAD_M
    row = side * (HEAD_TOP_M / HEAD_M)
    K = T.new_tensor([[focal, 0, side / 2], [0, focal, row], [0, 0, 1]])
    return Camera(K, _around(avatar, distance, yaw, pitch), side, side)


def _around(avatar: Avatar, distance: float, yaw: float, pitch: float) -> Tensor:
    """T_cam_world [4, 4] of a camera ``distance`` metres from the head at rest that looks at it."""
    T_world_head = avatar.rest.T_world_head
    centre, upright = T_world_head[:3, 3], -avatar.camera.T_cam_world[1, :3]
    turn = rotvec_to_matrix(T_world_head.new_tensor([[0.0, yaw, 0.0], [-pitch, 0.0, 0.0]]))
    outward = T_world_head[:3, :3] @ turn[0] @ turn[1][:, 2]
    return look_at(centre + distance * outward, centre, upright)


def slider_state(avatar: Avatar, values: Mapping[str, float]) -> HeadState:
    """Return the avatar at rest but for the coefficients named; eyeLook turns the eyeballs too.

    Raises:
        KeyError: none of the avatar's expressions has that name.
    """
    expression = torch.zeros_like(avatar.rest.expression)
    for name, value in values.items():
        if name not in avatar.expression_names:
            raise KeyError(f"{name} is none of the avatar's {len(expression)} expressions.")
        expression[avatar.expression_names.index(name)] = value
    gaze = avatar.rest.gaze + gaze_of(expression)
    return replace(avatar.rest, expression=expression, gaze=gaze)
