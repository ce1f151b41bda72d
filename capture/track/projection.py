"""Heads before pinhole cameras: poses, projection and its derivatives, robust costs.

Camera frame: OpenCV (x right, y down, z forward), metres; pixels as in ``avatar.types``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from avatar.rotations import rotvec_to_matrix


@dataclass(frozen=True)
class Pose:
    """Head to camera, one for each of F pictures: frames of one camera, or of several."""

    R: Tensor
    """[F, 3, 3]."""
    t: Tensor
    """[F, 3] metres."""
    camera_of: Tensor | None = None
    """[F] long: which camera took the picture; None where there is but one."""

    def __getitem__(self, index: Any) -> Pose:
        """Select pictures."""
        cameras = None if self.camera_of is None else self.camera_of[index]
        return Pose(self.R[index], self.t[index], cameras)

    @property
    def free(self) -> int:
        """How many poses can move by themselves: F, where each picture has its own."""
        return len(self.t)

    def moved(self, step: Tensor) -> Pose:
        """Apply steps [F, 6]: a rotation vector and a shift, both in the camera frame."""
        return Pose(rotvec_to_matrix(step[:, :3]) @ self.R, self.t + step[:, 3:], self.camera_of)

    def regauged(self, factor: Tensor | float, turn: Tensor, shift: Tensor) -> Pose:
        """Return the same poses of a head whose points x are now ``factor turn x + shift``."""
        R = self.R @ turn.T
        return replace(self, R=R, t=self.t * factor - R @ shift)


@dataclass(frozen=True)
class Pinhole:
    """One focal length for both axes; no distortion. One camera, or C of them."""

    focal: float | Tensor
    """Pixels; [C]."""
    centre: tuple[float, float] | Tensor
    """Principal point, pixels; [C, 2]."""

    def of(self, pose: Pose, like: Tensor) -> tuple[float | Tensor, Tensor]:
        """Return focal length and centre so that they broadcast over pixels [F, L, 2] of poses."""
        if pose.camera_of is None:
            return self.focal, torch.as_tensor(self.centre, dtype=like.dtype)
        focal, centre = torch.as_tensor(self.focal), torch.as_tensor(self.centre)
        chosen = pose.camera_of
        return focal[chosen].to(like.dtype)[:, None, None], centre[chosen].to(like.dtype)[:, None]


@dataclass(frozen=True)
class Observations:
    """Where points were seen."""

    points: Tensor
    """[F, L, 2] pixels."""
    weight: Tensor
    """[F, L] inverse variance, 1 / px^2; 0 where a point was not seen."""

    def __getitem__(self, index: Any) -> Observations:
        """Select pictures."""
        return Observations(self.points[index], self.weight[index])


def project(points: Tensor, pose: Pose, camera: Pinhole) -> Tensor:
    """Project head-frame points [F, L, 3] (or [L, 3]) to pixels [F, L, 2]."""
    p = points @ pose.R.transpose(-1, -2) + pose.t[:, None]
    depth = p[..., 2:].clamp_min(1e-3)
    focal, centre = camera.of(pose, p)
    return focal * p[..., :2] / depth + centre


def projection_jacobian(
    points: Tensor, pose: Pose, camera: Pinhole
) -> tuple[Tensor, Tensor, Tensor]:
    """Project and differentiate.

    Args:
        points: [F, L, 3] head frame.
        pose: of F pictures.
        camera: or cameras that took them.

    Returns:
        Pixels [F, L, 2], their derivative by the pose step of ``Pose.moved`` [F, L, 2, 6], and by the
        head-frame point [F, L, 2, 3].
    """
    turned = points @ pose.R.transpose(-1, -2)
    p = turned + pose.t[:, None]
    inverse = 1 / p[..., 2].clamp_min(1e-3)
    image = p[..., :2] * inverse[..., None]
    focal, centre = camera.of(pose, p)
    by_camera = points.new_zeros(*p.shape[:2], 2, 3)
    by_camera[..., 0, 0] = by_camera[..., 1, 1] = (focal * inverse[..., None])[..., 0]
    by_camera[..., 2] = -focal * image * inverse[..., None]
    # d(omega x turned) = -[turned]_x omega, so each row g of by_camera becomes turned x g.
    by_turn = torch.linalg.cross(turned[..., None, :].expand_as(by_camera), by_camera)
    by_pose = torch.cat([by_turn, by_camera], -1)
    return (
        focal * image + centre,
        by_pose,
        by_camera @ pose.R[:, None],
    )


def robust(squared: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Cauchy cost and its reweighting of squared residuals [...] in units of their sigma."""
    s2 = scale * scale
    return 0.5 * s2 * torch.log1p(squared / s2), 1 / (1 + squared / s2)
