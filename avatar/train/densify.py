"""Densification: split the Gaussians that the loss keeps pulling at, drop the faint ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.rotations import quat_to_matrix
from avatar.train.config import DensifyConfig

SPLIT_SHRINK = 1.6
"""A split's halves are this much smaller (Kerbl et al. 2023, section 5.2)."""


@dataclass(frozen=True)
class Plan:
    """What becomes of the rows: new row i is a copy of old row ``source[i]``."""

    source: Tensor
    """[M] int64 old rows; kept ones first, in order."""
    fresh: Tensor
    """[M] bool: the row is half of a split and starts without optimiser state."""
    shift: Tensor
    """[M, 3] metres added to the mean."""
    shrink: Tensor
    """[M] taken from the log scales."""


def plan_densification(
    avatar: Avatar, pull: Tensor, config: DensifyConfig, generator: torch.Generator
) -> Plan:
    """Decide which Gaussians split and which go.

    Args:
        avatar: the avatar; not changed.
        pull: [N] mean magnitude of the loss's gradient with respect to the picture position.
        config: budget and thresholds.
        generator: source of randomness.
    """
    count = len(avatar)
    opacity = torch.sigmoid(avatar.logit_opacities.detach())
    keep = opacity >= config.prune_opacity
    room = max(0, config.maximum - int(keep.sum()))
    number = min(int(config.growth * count), room, int(keep.sum()))
    score = torch.where(keep, pull, torch.full_like(pull, -1.0))
    split = torch.zeros(count, dtype=torch.bool)
    split[score.topk(number).indices] = True
    kept = torch.nonzero(keep)[:, 0]
    halves = torch.nonzero(split)[:, 0]
    source = torch.cat([kept, halves])
    is_half = torch.cat([split[kept], torch.ones(len(halves), dtype=torch.bool)])
    # The two halves stand on either side of the middle along a draw from the Gaussian itself.
    draw = torch.randn(count, 3, generator=generator) * avatar.log_scales.detach().exp() * 0.7
    shift = torch.einsum("nij,nj->ni", quat_to_matrix(avatar.quats.detach()), draw)
    sign = torch.cat([torch.ones(len(kept)), -torch.ones(len(halves))])
    shift = shift[source] * sign[:, None] * is_half[:, None]
    shrink = is_half.float() * torch.log(torch.tensor(SPLIT_SHRINK))
    return Plan(source, is_half, shift, shrink)
