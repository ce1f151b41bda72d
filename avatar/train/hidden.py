"""Hidden Gaussians: those that no training picture shows, so that the loss says nothing true of them."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.capture_data import Track
from avatar.model.avatar import Avatar
from avatar.model.create import spread_frames
from avatar.train.config import TrainConfig
from avatar.train.densify import shown_share
from avatar.train.frames import FrameStore


def witnesses(track: Track, store: FrameStore, count: int) -> Tensor:
    """Return the training rows, ``count`` at most, in which hidden Gaussians are looked for.

    Head pose alone decides: with the many coefficients of expression beside it, whole stretches
    of turned heads had no witness, and what only they show was held still.
    """
    chosen = spread_frames(track, store.frames, count)
    return torch.searchsorted(store.frames.contiguous(), chosen)


def look_steps(config: TrainConfig) -> set[int]:
    """Return the steps before which hidden Gaussians are looked for."""
    if config.hidden_share <= 0:
        return set()
    return {turn * config.steps // config.hidden_rounds for turn in range(config.hidden_rounds)}


def find_hidden(avatar: Avatar, store: FrameStore, rows: Tensor, share: float) -> Tensor:
    """Return which Gaussians [N], bool, each of the training rows shows less than ``share`` of."""
    camera = store.camera.scaled(store.width // 2, store.height // 2)
    return shown_share(avatar, (store.states[int(row)] for row in rows), camera) < share
