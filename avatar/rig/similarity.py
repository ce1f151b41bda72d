"""The similarity that lays one set of points on another."""

from __future__ import annotations

import torch
from torch import Tensor


def similarity(
    source: Tensor, target: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, float, Tensor]:
    """Fit ``target = scale * R @ source + shift`` in the least-squares sense (Umeyama, Least-squares
    estimation of transformation parameters between two point patterns, 1991).

    Args:
        source: [N, 3].
        target: [N, 3].
        weight: [N], not negative; all alike where None.

    Returns:
        R [3, 3] (a rotation, never a mirror), scale, shift [3].
    """
    w = source.new_ones(len(source)) if weight is None else weight
    w = (w / w.sum())[:, None]
    middle, to = (w * source).sum(0), (w * target).sum(0)
    a, b = source - middle, target - to
    U, S, Vt = torch.linalg.svd(b.T @ (w * a))
    sign = torch.ones_like(S)
    sign[2] = torch.linalg.det(U @ Vt)
    R = (U * sign) @ Vt
    scale = (S * sign).sum() / (w * a**2).sum()
    return R, float(scale), to - scale * (R @ middle)
