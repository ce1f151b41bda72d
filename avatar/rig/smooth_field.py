"""Spread a few prescribed displacements smoothly over the lattice's skin."""

from __future__ import annotations

import torch
from torch import Tensor


def graph_laplacian(points: Tensor, triangles: Tensor) -> Tensor:
    """Return the mean-value graph Laplacian [N, N] of a mesh: d_i minus the weighted mean of its neighbours.

    Weights are inverse edge lengths. Points of no triangle have zero rows.
    """
    count = points.shape[0]
    weight = points.new_zeros(count, count)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        a, b = triangles[:, i], triangles[:, j]
        inverse = 1 / (points[a] - points[b]).norm(dim=-1)
        weight[a, b] = inverse
        weight[b, a] = inverse
    total = weight.sum(1, keepdim=True)
    identity = torch.diag((total[:, 0] > 0).to(points.dtype))
    return identity - weight / total.clamp_min(1e-12)


def smooth_field(
    points: Tensor, triangles: Tensor, handles: Tensor, values: Tensor, decay: float = 0.02
) -> Tensor:
    """Interpolate displacements given at handles, as a thin plate would bend.

    Minimises the squared graph Laplacian of the field plus ``decay`` squared times the field itself,
    so that it is smooth, is free along the borders of mouth and eyes, and fades far from the handles
    (Botsch and Sorkine, On Linear Variational Surface Deformation Methods, 2008).

    Args:
        points: [N, 3] mesh at rest; any unit.
        triangles: [T, 3] long.
        handles: [H] long, distinct points whose displacement is prescribed.
        values: [H, C] their displacements; zeros hold points still.
        decay: how fast the field fades, per edge; 0 lets it extrapolate linearly.

    Returns:
        [N, C] the field; exactly ``values`` at the handles, and 0 at points of no triangle.
    """
    dtype = points.dtype
    points = points.double()
    L = graph_laplacian(points, triangles)
    on_mesh = L.diagonal() > 0
    A = L.T @ L + decay**2 * torch.diag(on_mesh.double()) + torch.diag((~on_mesh).double())
    field = points.new_zeros(points.shape[0], values.shape[1])
    field[handles] = values.double()
    free = torch.ones(points.shape[0], dtype=torch.bool)
    free[handles] = False
    right = -A[free][:, ~free] @ field[~free]
    field[free] = torch.linalg.solve(A[free][:, free], right)
    return field.to(dtype)
