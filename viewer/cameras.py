"""Between the browser's camera and ours, and the viewpoints of the buttons."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from avatar.export.render import front_camera
from avatar.model.avatar import Avatar
from avatar.rotations import (
    invert_rigid,
    quat_multiply,
    quat_to_matrix,
    rigid,
    rotvec_to_matrix,
)
from avatar.types import Camera

VIEWPOINTS: dict[str, tuple[float, float] | None] = {
    "as filmed": None,
    "front": (0.0, 0.0),
    "left 40°": (40.0, 0.0),
    "right 40°": (-40.0, 0.0),
    "three-quarter": (25.0, 12.0),
}
"""Button to the camera's way round the head, degrees to the subject's left and up; None is the capture's."""

WIDEST = 2.0
"""Aspect ratio beyond which a picture is limited by its area rather than its height."""


@dataclass(frozen=True)
class ClientView:
    """What a browser shows."""

    wxyz: tuple[float, float, float, float]
    """Rotation of T_world_cam, camera as OpenCV."""
    position: tuple[float, float, float]
    """Camera centre in the world, metres."""
    fov: float
    """Vertical field of view, radians."""
    width: int
    """Width of the browser's canvas, pixels."""
    height: int
    """Height of the browser's canvas, pixels."""


@dataclass(frozen=True)
class Viewpoint:
    """Where a camera stands and what it looks at; the world's y axis is up."""

    position: tuple[float, float, float]
    """Camera centre in the world, metres."""
    look_at: tuple[float, float, float]
    """What stands in the middle of the picture, about which the mouse turns the view; world, metres."""
    fov: float
    """Vertical field of view, radians."""


def viewpoint(avatar: Avatar, name: str) -> Viewpoint:
    """Return one of ``VIEWPOINTS`` for an avatar at rest; raises KeyError for another name."""
    filmed = avatar.camera
    filmed_from = invert_rigid(filmed.T_cam_world)[:3, 3]
    T_world_head = avatar.rest.T_world_head
    distance = torch.linalg.norm(filmed_from - T_world_head[:3, 3])
    front = front_camera(avatar, (512, 512))
    T_world_front = invert_rigid(front.T_cam_world)
    target = T_world_front[:3, 3] + distance * T_world_front[:3, 2]
    angles = VIEWPOINTS[name]
    if angles is None:
        return Viewpoint(_triple(filmed_from), _triple(target), _fov(filmed))
    yaw, pitch = (math.radians(angle) for angle in angles)
    outward = T_world_head.new_tensor(
        [math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)]
    )
    position = target + distance * (T_world_head[:3, :3] @ outward)
    return Viewpoint(_triple(position), _triple(target), _fov(front))


def picture_size(view: ClientView, resolution: int) -> tuple[int, int]:
    """Return width and height of the picture for a canvas: its shape, no larger than it, at most
    ``resolution`` pixels high (and less for a canvas more than twice as wide as high)."""
    scale = min(
        1.0,
        resolution / view.height,
        resolution * math.sqrt(WIDEST / (view.width * view.height)),
    )
    return max(1, round(view.width * scale)), max(1, round(view.height * scale))


def camera_of(view: ClientView, resolution: int) -> Camera:
    """Return the camera that draws what a browser shows, at most ``resolution`` pixels high."""
    width, height = picture_size(view, resolution)
    focal = 0.5 / math.tan(view.fov / 2)
    # Width and height are rounded separately; either axis keeps the browser's own field of view.
    fx, fy = focal * width * view.height / view.width, focal * height
    K = torch.tensor([[fx, 0, width / 2], [0, fy, height / 2], [0, 0, 1]])
    wxyz = torch.tensor(view.wxyz, dtype=torch.float32)
    position = torch.tensor(view.position, dtype=torch.float32)
    return Camera(K, invert_rigid(rigid(quat_to_matrix(wxyz), position)), width, height)


def _fov(camera: Camera) -> float:
    return 2 * math.atan(camera.height / (2 * float(camera.K[1, 1])))


def _triple(point: Tensor) -> tuple[float, float, float]:
    return float(point[0]), float(point[1]), float(point[2])


class Turned(Protocol):
    """What tells how far a turntable has turned, and about whom."""

    @property
    def avatar(self) -> Avatar:
        """Who stands on it."""
        ...

    @property
    def turn_rad(self) -> float:
        """How far the camera has gone round, radians to the subject's left."""
        ...


def turned(view: ClientView, moment: Turned) -> ClientView:
    """Return a browser's view with its camera gone round the head's middle by the turntable's angle."""
    if moment.turn_rad == 0:
        return view
    centre = moment.avatar.rest.T_world_head[:3, 3].double()
    up = torch.tensor([0.0, moment.turn_rad, 0.0], dtype=torch.float64)
    R = rotvec_to_matrix(up)
    position = centre + R @ (torch.tensor(view.position, dtype=torch.float64) - centre)
    half = moment.turn_rad / 2
    spin = torch.tensor([math.cos(half), 0.0, math.sin(half), 0.0], dtype=torch.float64)
    wxyz = quat_multiply(spin, torch.tensor(view.wxyz, dtype=torch.float64))
    w, x, y, z = (float(v) for v in wxyz)
    return replace(view, wxyz=(w, x, y, z), position=_triple(position))
