"""Numbers in fewer bytes, for files: what a picture does not show is not kept.

Every form is idempotent: what was read and is written again is read as before. NaN and infinity, which
the small forms cannot say, stay or become NaN or infinity in a floating-point tensor, so that a reader
finds them.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127
"""Largest magnitude of a companded number."""
UNIT_LEVELS = 32767
"""Stands for 1 in ``to_unit``."""
HALF_LIMIT = 60_000.0
"""Larger numbers are not held in half precision, which ends at 65504."""


def compand(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return a byte for each number, and the scale of each column.

    The byte is q = sign(x) sqrt(|x| / m) 127 with m the column's largest magnitude: offsets crowd around
    zero, and the root gives the small ones finer steps than the few large (the error at x is at most
    sqrt(|x| m) / 127, to first order).

    Args:
        values: [K, N, C] float; N may be 0.

    Returns:
        int8 [K, N, C], and float32 [K, C] of largest magnitudes.
    """
    if values.shape[1] == 0:
        return values.to(torch.int8), values.new_zeros(values.shape[0], values.shape[2])
    scale = values.abs().amax(1)
    share = values.abs() / scale.clamp(min=torch.finfo(values.dtype).tiny)[:, None]
    return (values.sign() * share.sqrt() * LEVELS).nan_to_num().round().to(torch.int8), scale


def expand(companded: Tensor, scale: Tensor) -> Tensor:
    """Return the numbers [K, N, C], float32, that ``compand`` made bytes of."""
    root = companded.float() / LEVELS
    return root * root.abs() * scale[:, None]


def to_half(values: Tensor) -> Tensor:
    """Return the numbers in half precision (relative error 5e-4), or as they are where one is too large."""
    return values.half() if (values.abs() < HALF_LIMIT).all() else values


def to_unit(values: Tensor) -> Tensor:
    """Return shares in [0, 1] as int16 (error 1.6e-5), or numbers as they are where one is none."""
    if ((values >= 0) & (values <= 1)).all():
        return (values * UNIT_LEVELS).round().to(torch.int16)
    return values


def from_unit(values: Tensor) -> Tensor:
    """Undo ``to_unit``."""
    return values.float() / UNIT_LEVELS if values.dtype == torch.int16 else values


def to_index(values: Tensor) -> Tensor:
    """Return integers as int16 where all fit, else as int32."""
    small = torch.iinfo(torch.int16)
    fits = ((values >= small.min) & (values <= small.max)).all()
    return values.to(torch.int16 if fits else torch.int32)
