"""A few frames of a capture, looked at while the first Gaussians are laid out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.rotations import transform_points

VIEW_SIDE = 512
"""Longer side, pixels, at which frames are looked at: a voxel is several pixels wide even so, and the
many frames of a 4K clip take 60 MB, not 1.6 GB."""


class Views:
    """A few frames in memory, ``VIEW_SIDE`` pixels at most, and where head or torso points fall in them."""

    def __init__(self, capture: Capture, frames: Tensor, cameras: Tensor | None = None) -> None:
        """Read the pictures of ``frames`` [n] from ``cameras`` [n], indices; the main one where None."""
        track = capture.track
        if cameras is None:
            cameras = torch.full_like(frames, capture.main)
        self.frames = frames
        self.camera_of = cameras
        """[n] index of each view's camera."""
        rows = list(zip(frames.tolist(), cameras.tolist(), strict=True))
        sizes = [capture.size_within(VIEW_SIDE, k) for _, k in rows]
        self.cameras = [
            capture.camera(k).scaled(*size) for (_, k), size in zip(rows, sizes, strict=True)
        ]
        """Of each view, at the size at which it is looked at."""
        one = bool((cameras == cameras[0]).all())
        T_cam_world = track.T_cam_world[cameras[0] if one else cameras]
        self.T_cam_head = T_cam_world @ track.T_world_head[frames]
        self.T_cam_torso = T_cam_world @ track.T_world_torso[frames]
        read = zip(rows, sizes, strict=True)
        self.pictures = [capture.frame(f, k, size=size) for (f, k), size in read]
        read = zip(rows, sizes, strict=True)
        self.masks = [capture.mask(f, k, size=size) for (f, k), size in read]

    def __len__(self) -> int:
        return len(self.frames)

    def project(self, view: int, points: Tensor, T_cam: Tensor) -> tuple[Tensor, Tensor]:
        """Return a view's pixels [n, 2] and depth [n] of points [n, 3] under one transform [4, 4]."""
        K = self.cameras[view].K
        p = transform_points(T_cam, points)
        z = p[:, 2].clamp(min=1e-3)
        uv = p[:, :2] / z[:, None] * torch.stack([K[0, 0], K[1, 1]])
        return uv + K[:2, 2], p[:, 2]

    def sample(self, view: int, uv: Tensor) -> Tensor:
        """Return the colours [n, 3] in [0, 1] of a view at pixels [n, 2] (bilinear)."""
        height, width = self.masks[view].shape
        picture = torch.from_numpy(self.pictures[view]).permute(2, 0, 1)[None].float() / 255
        grid = uv / torch.tensor([width, height]) * 2 - 1
        found = torch.nn.functional.grid_sample(
            picture, grid[None, None], padding_mode="border", align_corners=False
        )
        return found[0, :, 0].T

    def sample_best(self, view_of: Tensor, points: Tensor, T_cam: Tensor) -> Tensor:
        """Return the colours [n, 3] of points [n, 3], each in the view [n] that ``view_of`` says.

        ``T_cam`` [views, 4, 4] are the transforms from the points' frame.
        """
        found = torch.zeros(len(points), 3)
        for view in range(len(self)):
            rows = view_of == view
            uv, _ = self.project(view, points[rows], T_cam[view])
            found[rows] = self.sample(view, uv)
        return found

    def colours(self, points: Tensor) -> Tensor:
        """Return the colours [n, 3] that the first view has at points [n, 3] of the head."""
        return self.sample(0, self.project(0, points, self.T_cam_head[0])[0])

    def covered(self, view: int, uv: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether pixels [n, 2] lie in the picture, and whether on the person there."""
        height, width = self.masks[view].shape
        column, row = uv.floor().long().T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        mask = torch.from_numpy(self.masks[view])
        person = mask[row.clamp(0, height - 1), column.clamp(0, width - 1)] > 127
        return inside, inside & person


def frontal_camera(capture: Capture, frames: Tensor, cameras: Sequence[int]) -> int:
    """Return the one of the cameras that the face is turned to most: the main one where it is among them.

    Args:
        capture: whose cameras.
        frames: [n] valid frames, by whose head poses that is judged.
        cameras: indices of those to choose from.

    Raises:
        InputError: none of them has a picture of any of the frames.
    """
    having = [k for k in cameras if any(int(f) not in capture.cameras[k].missing for f in frames)]
    if not having:
        raise InputError(
            f"{capture.path}: none of the cameras that are fitted to has a training picture with the face. "
            "Hold fewer cameras, or give a longer clip."
        )
    if capture.main in having:
        return capture.main
    track = capture.track
    forward = track.T_world_head[frames][:, :3, 2]
    facing = [float((forward @ -track.T_cam_world[k, 2, :3]).median()) for k in having]
    return having[int(np.argmax(facing))]


def grid_pixels(free: np.ndarray, step: float, generator: torch.Generator) -> Tensor:
    """Jittered grid of pixel positions [n, 2] (x, y) with spacing ``step`` where ``free`` holds."""
    height, width = free.shape
    y, x = torch.meshgrid(
        torch.arange(0, height, step), torch.arange(0, width, step), indexing="ij"
    )
    uv = torch.stack([x, y], -1).reshape(-1, 2)
    uv = uv + torch.rand(uv.shape, generator=generator) * step
    column = uv[:, 0].long().clamp(0, width - 1)
    row = uv[:, 1].long().clamp(0, height - 1)
    return uv[torch.from_numpy(free)[row, column]]
