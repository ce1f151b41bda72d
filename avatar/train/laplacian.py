"""How far Gaussians are from the mean of their neighbours: the connectivity of points without a mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.spatial import KDTree
from torch import Tensor

from avatar.raster import cuda


def nearest_neighbours(means: Tensor, count: int) -> Tensor:
    """Return the ``count`` nearest others [N, count] int64 of points [N, 3], fewer where N is smaller.

    Which of several at the same place count as nearest is arbitrary, but the same in every run.
    """
    points = means.detach().cpu().double().numpy()
    count = min(count, len(points) - 1)
    if count < 1:
        return torch.zeros(len(points), 0, dtype=torch.long)
    found = np.asarray(KDTree(points).query(points, count + 1)[1])
    # A point is its own nearest, but not always the first, or found at all, where others lie on it.
    itself = found == np.arange(len(points))[:, None]
    itself[~itself.any(1), -1] = True
    return torch.from_numpy(found[~itself].reshape(len(points), count)).long()


class Laplacian:
    """The linear map from values of N Gaussians to value minus mean of the neighbours' values.

    Differentiable. On the CPU as a sparse matrix, for there the gradient of indexing takes ten times as long.
    """

    def __init__(self, neighbours: Tensor) -> None:
        """Create for neighbours [N, k] int64, k >= 1."""
        self.neighbours = neighbours
        count, k = neighbours.shape
        self._on_cpu = not cuda.on_gpu(neighbours)
        if not self._on_cpu:
            return
        columns = torch.cat([torch.arange(count)[:, None], neighbours], 1).reshape(-1)
        values = torch.tensor([1.0] + [-1.0 / k] * k).repeat(count)
        begins = torch.arange(count + 1) * (k + 1)
        self._matrix = csr_array(
            (values.numpy(), columns.int().numpy(), begins.int().numpy()), shape=(count, count)
        )
        self._transposed = csr_array(self._matrix.T)

    def __call__(self, values: Tensor) -> Tensor:
        """Map values [N, C] float32 to [N, C]."""
        if not self._on_cpu:
            return values - values[self.neighbours].mean(1)
        return _Apply.apply(values, self._matrix, self._transposed)


class _Apply(torch.autograd.Function):
    """A sparse matrix times a tensor."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, matrix: csr_array, transposed: csr_array) -> Tensor:
        """Return matrix @ values."""
        ctx.transposed = transposed
        return torch.from_numpy(matrix @ values.detach().contiguous().numpy())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return transposed @ gradient."""
        (gradient,) = gradients
        return torch.from_numpy(ctx.transposed @ gradient.contiguous().numpy()), None, None
