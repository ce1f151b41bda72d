"""What a voice model learns from: sound and faces side by side, the mouth's geometry, augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Track
from avatar.drive.audio_features import FEATURE_FPS, FLOOR, LEVEL, MELS
from avatar.drive.voice import SPOKEN
from avatar.rig.arkit import ARKIT_NAMES

LIPS = ((13, 14), (82, 87), (312, 317))
"""Points of the upper and lower inner lip, one above the other: the middle, and to either side."""


@dataclass(frozen=True)
class Lesson:
    """One version of the clip: what is heard, and what the face does."""

    features: Tensor
    """[N, inputs]."""
    faces: Tensor
    """[N, 41] spoken coefficients, at the frames of the features."""


@dataclass(frozen=True)
class MouthGeometry:
    """The person's mouth as a linear function of the spoken coefficients."""

    points: Tensor
    """[41, 41] a root of the Gram matrix of the mouth points' displacements: ``|x @ points|`` is the length
    of the way, in millimetres, by which coefficients x move all mouth points."""
    gap: Tensor
    """[41] change of the gap between the inner lips, millimetres."""
    gap_at_zero: float

    @staticmethod
    def of(track: Track) -> MouthGeometry:
        """Take it from a track's lattice and basis."""
        basis = track.basis[list(SPOKEN)].float() * 1e3
        moving = track.basis[[i for i in SPOKEN if ARKIT_NAMES[i].startswith(("jaw", "mouth"))]]
        reach = moving.norm(dim=-1).sum(0)
        # The points that the mouth's shapes move most: lips, chin, the folds beside the nose.
        chosen = reach.topk(min(120, len(reach))).indices
        up, down = (torch.tensor(side) for side in zip(*LIPS, strict=True))
        moved = basis[:, chosen].flatten(1).double()
        gram = moved @ moved.T + 1e-6 * torch.eye(len(moved), dtype=moved.dtype)
        return MouthGeometry(
            torch.linalg.cholesky(gram).float(),
            (basis[:, up, 1] - basis[:, down, 1]).mean(-1),
            float(1e3 * (track.lattice[up, 1] - track.lattice[down, 1]).mean()),
        )


def lip_gap(track: Track, expression: Tensor) -> Tensor:
    """Return the gap between the inner lips [F] in millimetres, of coefficients [F, E'] (the first E')."""
    up, down = (torch.tensor(side) for side in zip(*LIPS, strict=True))
    count = expression.shape[-1]
    rows = track.lattice[up, 1] - track.lattice[down, 1]
    change = track.basis[:count, up, 1] - track.basis[:count, down, 1]
    return 1e3 * (rows + expression.to(change) @ change).mean(-1)


def at_feature_times(values: Tensor, fps: float, frames: int, speed: float = 1.0) -> Tensor:
    """Return values [F, D] of video frames at the times of so many feature frames, [frames, D].

    Linear in between; a frame of video shows what was when its time came.
    """
    time = np.arange(frames) / FEATURE_FPS * speed
    known = np.arange(len(values)) / fps
    columns = [np.interp(time, known, column) for column in values.numpy().T]
    return torch.from_numpy(np.stack(columns, -1)).float()


def filled(values: Tensor, valid: Tensor) -> Tensor:
    """Return values [F, D], those of frames without a face taken from their neighbours."""
    known = torch.nonzero(valid)[:, 0].numpy()
    at = np.arange(len(values))
    columns = [np.interp(at, known, column[known]) for column in values.numpy().T]
    return torch.from_numpy(np.stack(columns, -1)).float()


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Play features [B, T, 43] louder or softer, in noise, over a telephone, with bands missing."""
    batch = len(x)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    x = x.clone()
    floor = float(np.log(FLOOR))
    # Level: +-3 dB about what the level follower leaves.
    x[..., : LEVEL + 1] += 1.4 * (uniform(batch, 1, 1) - 0.5)
    # Noise: 10 to 50 dB below the loudest frame, of a random slope.
    loudest = x[..., :MELS].amax((1, 2), keepdim=True)
    slope = (uniform(batch, 1, 1) - 0.7) * torch.linspace(0, 6, MELS)
    noise = loudest - 2.3 - 9.2 * uniform(batch, 1, 1) + slope
    noise = noise + 0.3 * torch.randn(*x.shape[:2], MELS, generator=generator)
    noisy = torch.logaddexp(x[..., :MELS], noise)
    x[..., :MELS] = torch.where(uniform(batch, 1, 1) < 0.5, noisy, x[..., :MELS])
    # Tilt: another microphone, another room.
    x[..., :MELS] += 1.5 * (uniform(batch, 1, 1) - 0.5) * torch.linspace(-1, 1, MELS)
    # A telephone's band ends at 3.4 to 4 kHz: the mels above hold nothing.
    bands = torch.arange(MELS)
    phone = (uniform(batch, 1, 1) < 0.1) & (bands >= 28)
    x[..., :MELS] = torch.where(phone, torch.tensor(floor), x[..., :MELS])
    # SpecAugment (Park et al. 2019): a few bands at their mean.
    width = 1 + (uniform(batch, 1, 1) * 5).floor()
    begin = (uniform(batch, 1, 1) * (MELS - 6)).floor()
    masked = (bands >= begin) & (bands < begin + width) & (uniform(batch, 1, 1) < 0.5)
    x[..., :MELS] = torch.where(masked, x[..., :MELS].mean(1, keepdim=True), x[..., :MELS])
    x[..., : LEVEL + 1] = x[..., : LEVEL + 1].clamp(min=floor)
    return x
