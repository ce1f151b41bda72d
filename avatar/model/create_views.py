"""A few frames of a capture, looked at while the first Gaussians are laid out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Capture
from avatar.rotations import transform_points

VIEW_SIDE = 512
"""Longer side, pixels, at which frames are looked at: a voxel is several pixels wide even so, and the
many frames of a 4K clip take 60 MB, not 1.6 GB."""


class Views:
    """A few frames in memory, ``VIEW_SIDE`` pixels at most, and where head or torso points fall in them."""

    def __init__(self, capture: Capture, frames: Tensor) -> None:
        track = capture.track
        self.frames = frames
        size = capture.size_within(VIEW_SIDE)
        self.camera = capture.camera().scaled(*size)
        self.T_cam_head = self.camera.T_cam_world @ track.T_world_head[frames]
        self.T_cam_torso = self.camera.T_cam_world @ track.T_world_torso[frames]
        self.pictures = np.stack([capture.frame(int(f), size=size) for f in frames])
        self.masks = np.stack([capture.mask(int(f), size=size) for f in frames])

    def project(self, points: Tensor, T_cam: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixels [n, 2] and depth [n] of points [n, 3] under one transform [4, 4]."""
        p = transform_points(T_cam, points)
        z = p[:, 2].clamp(min=1e-3)
        uv = p[:, :2] / z[:, None] * torch.stack([self.camera.K[0, 0], self.camera.K[1, 1]])
        return uv + self.camera.K[:2, 2], p[:, 2]

    def sample(self, view: int, uv: Tensor) -> Tensor:
        """Return the colours [n, 3] in [0, 1] of a view at pixels [n, 2] (bilinear)."""
        height, width = self.masks.shape[1:]
        picture = torch.from_numpy(self.pictures[view]).permute(2, 0, 1)[None].float() / 255
        grid = uv / torch.tensor([width, height]) * 2 - 1
        found = torch.nn.functional.grid_sample(
            picture, grid[None, None], padding_mode="border", align_corners=False
        )
        return found[0, :, 0].T

    def colours(self, points: Tensor) -> Tensor:
        """Return the colours [n, 3] that the first view has at points [n, 3] of the head."""
        return self.sample(0, self.project(points, self.T_cam_head[0])[0])

    def covered(self, view: int, uv: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether pixels [n, 2] lie in the picture, and whether on the person there."""
        height, width = self.masks.shape[1:]
        column, row = uv.floor().long().T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        mask = torch.from_numpy(self.masks[view])
        person = mask[row.clamp(0, height - 1), column.clamp(0, width - 1)] > 127
        return inside, inside & person


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
