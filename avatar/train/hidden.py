"""Hidden Gaussians: those that no training picture shows, so that the loss says nothing true of them."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.capture_data import Track
from avatar.model.avatar import Avatar
from avatar.model.create import spread_frames, spread_views
from avatar.train.config import TrainConfig
from avatar.train.densify import shown_share
from avatar.train.frames import FrameStore

MORE_WITNESSES = 2
"""With several cameras so many times the rows are looked at: each sees a side of its own."""


def witnesses(track: Track, store: FrameStore, count: int) -> Tensor:
    """Return the training rows in which hidden Gaussians are looked for: ``count``, or twice that, at most.

    Head pose alone decides, as the camera sees it: with the many coefficients of expression beside it,
    whole stretches of turned heads had no witness, and what only they show was held still.
    """
    if len(store.cameras.unique()) > 1:
        return spread_views(track, store.frames, store.cameras, MORE_WITNESSES * count)
    chosen = spread_frames(track, store.frames, count)
    return torch.searchsorted(store.frames.contiguous(), chosen)


def look_steps(config: TrainConfig) -> set[int]:
    """Return the steps before which hidden Gaussians are looked for."""
    if config.hidden_share <= 0:
        return set()
    return {turn * config.steps // config.hidden_rounds for turn in range(config.hidden_rounds)}


def find_hidden(avatar: Avatar, store: FrameStore, rows: Tensor, share: float) -> Tensor:
    """Return which Gaussians [N], bool, each of the training rows shows less than ``share`` of."""
    several = len(store.cameras.unique()) > 1
    best = torch.zeros(len(avatar), device=avatar.means.device)
    for row in rows.tolist():
        half = store.camera(row, half=True)
        best = torch.maximum(best, shown_share(avatar, [store.states[row]], half, framed=several))
    return best < share
