"""Nothing learned: Gaussians move, turn and grow with the triangle of the lattice that they hang on.

As in GaussianAvatars (Qian et al. 2024, section 3.2): the frame of a triangle carries its Gaussians, and
its size scales them. The fit still learns the Gaussians at rest; their surroundings are kept in shape
by the connectivity terms of ExAvatar (Moon et al. 2024), see ``avatar.train.deformer_step``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avatar.model.binding import Binding
from avatar.model.deform import Deformer, Setup
from avatar.rotations import matrix_to_quat

GROWTH = 1.5
"""A triangle scales its Gaussians by this factor at most, and by its inverse at least: the long thin
triangles between closed lips open manifold."""


class RigidDeformer(Deformer):
    """Turn and scale Gaussians with their triangle, as the 52 ARKit shapes move it."""

    kind = "rigid"
    gaussian_dims: Mapping[str, int] = {"arm": 0}
    turns = True
    neighbours = 6

    neutral: Tensor
    basis: Tensor
    triangles: Tensor
    triangle: Tensor
    follow: Tensor
    arm: Tensor

    def __init__(self, setup: Setup, settings: Mapping[str, Any] | None = None) -> None:
        """Create; there is nothing to draw and nothing to learn."""
        super().__init__(setup, settings)
        for name, value in (
            ("neutral", setup.lattice),
            ("basis", setup.basis),
            ("triangles", setup.triangles),
        ):
            self.register_buffer(name, value.detach().clone(), persistent=False)
        self.set_binding(setup.binding)
        corners = setup.lattice[setup.triangles[setup.binding.triangle]]
        nearest = (corners * setup.binding.barycentric[..., None]).sum(1)
        # [N, 3] metres, from the nearest point of the triangle, about which a Gaussian turns.
        self.register_buffer("arm", setup.means.detach() - nearest)

    def set_binding(self, binding: Binding) -> None:
        """Take note of triangle and share of its motion; the file has them as the avatar's own."""
        self.register_buffer("triangle", binding.triangle.long(), persistent=False)
        self.register_buffer("follow", binding.follow.float(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return offsets [N, 13] in units of ``unit`` for features [D], or [B, N, 13] for [B, D]."""
        coefficients = features[..., : len(self.basis)]
        moved = self.neutral + torch.einsum("...e,evc->...vc", coefficients, self.basis)
        before, size_before = _frames(self.neutral[self.triangles])
        after, size = _frames(moved[..., self.triangles, :])
        quats = matrix_to_quat(after @ before.mT)
        quats = torch.where(quats[..., :1] < 0, -quats, quats)[..., self.triangle, :]
        growth = (size / size_before).clamp(1 / GROWTH, GROWTH).log()[..., self.triangle]
        identity = torch.nn.functional.pad(quats.new_ones(1), (0, 3))  # nothing comes from the host
        share = self.follow[:, None]
        turn = torch.nn.functional.normalize(torch.lerp(identity, quats, share), dim=-1)
        swing = _rotate(turn, self.arm) - self.arm
        log_scale = (growth * self.follow)[..., None].expand(*growth.shape, 3)
        return (
            torch.cat([swing, turn - identity, log_scale, torch.zeros_like(swing)], -1) / self.unit
        )


def _rotate(quats: Tensor, vectors: Tensor) -> Tensor:
    """Rotate vectors [N, 3] by unit quaternions [..., N, 4]."""
    axis = quats[..., 1:]
    twice = 2 * torch.linalg.cross(axis, vectors.expand(axis.shape))
    return vectors + quats[..., :1] * twice + torch.linalg.cross(axis, twice)


def _frames(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Return the frames [..., T, 3, 3] of triangles [..., T, 3, 3] (axes in columns) and their sizes [..., T].

    The size is the mean of the first edge and the height over it, metres.
    """
    a, b, c = corners.unbind(-2)
    edge = b - a
    cross = torch.linalg.cross(edge, c - a)
    length = torch.linalg.norm(edge, dim=-1).clamp(min=1e-6)
    height = torch.linalg.norm(cross, dim=-1) / length
    x = edge / length[..., None]
    z = torch.nn.functional.normalize(cross, dim=-1, eps=1e-12)
    return torch.stack([x, torch.linalg.cross(z, x), z], -1), (length + height) / 2
