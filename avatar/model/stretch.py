"""How much skin stretches: Gaussians grow with the triangle that carries them, or the skin tears."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST = 2.0
"""No triangle makes its Gaussians grow further than this: slivers between lips open manifold."""


class Stretch:
    """Growth of triangles of one lattice."""

    def __init__(self, lattice: Tensor, triangles: Tensor) -> None:
        """Take the lattice at rest [V, 3] and its triangles [T, 3]."""
        self._lattice, self._triangles = lattice, triangles.T.contiguous().flatten()
        # A sliver without area at rest says nothing: let it count as a square millimetre's hundredth.
        self._rest = self._areas(torch.zeros_like(lattice)).clamp(min=1e-8)

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move or convert all tensors, as ``torch.nn.Module`` does with its own."""
        self._lattice, self._triangles = fn(self._lattice), fn(self._triangles)
        self._rest = fn(self._rest)

    def _areas(self, displacement: Tensor) -> Tensor:
        corners = (self._lattice + displacement)[self._triangles]
        a, b, c = corners.reshape(3, -1, 3).unbind(0)
        return torch.linalg.cross(b - a, c - a).norm(dim=1)

    def log_growth(self, displacement: Tensor) -> Tensor:
        """Return the log [T] of each triangle's growth in length, from 0 to log ``MOST``.

        It is the root of the area's, as GaussianAvatars (Qian et al. 2024, section 3.2) scale by a triangle's
        size; but what shrinks folds, and its Gaussians keep their size.

        Args:
            displacement: [V, 3] of the lattice from rest, metres.
        """
        ratio = self._areas(displacement) / self._rest
        return ratio.clamp(1.0, MOST**2).log() / 2
