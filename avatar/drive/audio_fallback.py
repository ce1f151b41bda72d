"""Mouth motion from sound without any training: the fallback where no voice model is at hand.

Works for every avatar, speaker and language at once, and knows little: how loud, voiced or not, how open
and how rounded the vowel, hiss or closure. It follows from acoustics (Fant 1960, Acoustic Theory of Speech
Production): a jaw that opens raises the first formant, lips that round lower the second, nasals leave a
low murmur, fricatives noise above 4 kHz. Every measure is compared with what it was lately, so that
neither the microphone nor the length of a vocal tract has to be known.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from avatar.drive.audio_features import (
    FLOOR,
    HIGHEST_HZ,
    LEVEL,
    LOWEST_HZ,
    MELS,
    PITCH,
    VOICING,
    SpeechLevel,
)
from avatar.drive.motion import ARKIT_COUNT
from avatar.rig.arkit import ARKIT_INDEX

FALLBACK_NOTE = "fallback without training: the mouth follows loudness and rough sound classes"
"""What the user is told wherever this path moves an avatar."""

LOOK_AHEAD = 4
"""Frames of 20 ms that the smoothing sees of what comes: lips are ready before their sound."""
SMOOTHING = np.array([1.0, 2.0, 3.0, 3.0, 3.0, 2.0, 1.0]) / 15
"""Over the frames from 2 before to ``LOOK_AHEAD`` after."""
HEARD = 5.0
"""From so far below the level of speech (natural logarithm of power; 22 dB) up, sound counts as speech."""
MEMORY_S = 20.0
"""How long the usual range of a measure is remembered."""

OPEN = "jawOpen"
REACH: dict[str, float] = {
    OPEN: 0.6,
    "mouthFunnel": 0.35,
    "mouthPucker": 0.45,
    "mouthStretchLeft": 0.2,
    "mouthStretchRight": 0.2,
    "mouthLowerDownLeft": 0.3,
    "mouthLowerDownRight": 0.3,
    "mouthUpperUpLeft": 0.2,
    "mouthUpperUpRight": 0.2,
    "mouthClose": 0.1,
    "mouthPressLeft": 0.3,
    "mouthPressRight": 0.3,
    "mouthRollLower": 0.15,
    "mouthRollUpper": 0.1,
    "mouthShrugLower": 0.1,
    "browInnerUp": 0.25,
    "browOuterUpLeft": 0.15,
    "browOuterUpRight": 0.15,
}
"""How far the rules move each coefficient."""
CLOSED = ("mouthClose", "mouthPressLeft", "mouthPressRight", "mouthRollLower", "mouthRollUpper")


class _Usual:
    """Where a measure usually lies: a slow mean and spread, from a prior on."""

    def __init__(self, mean: float, spread: float) -> None:
        self._mean, self._square, self._weight = mean, spread**2, 1.0

    def share(self, value: float, weight: float) -> float:
        """Return where the value lies in the usual range, 0 to 1, and learn from it."""
        step = weight / 50
        self._weight = min(self._weight + step, MEMORY_S)
        rate = step / self._weight
        way = value - self._mean
        self._mean += rate * way
        self._square += rate * (way * way - self._square)
        return 1 / (1 + math.exp(-1.7 * way / max(math.sqrt(self._square), 0.2)))


class FallbackStream:
    """Feature frames in, ARKit coefficients out ``LOOK_AHEAD`` frames later."""

    look_ahead = LOOK_AHEAD

    def __init__(self, *, level: float | None = None) -> None:
        """Start at time 0.

        Args:
            level: how loud the speech is (``speech_level``); None finds out while it comes.
        """
        self._level = SpeechLevel(-4.0 if level is None else level, known=level is not None)
        self._openness = _Usual(-1.0, 1.2)
        self._roundness = _Usual(1.0, 1.5)
        self._pitch = _Usual(0.5, 0.35)
        self._loud_before = 0.0
        self._held = np.zeros((2, ARKIT_COUNT))  # a face at rest before the beginning

    def push(self, features: np.ndarray) -> Tensor:
        """Take frames [N, 43]; return the coefficients [M, 52] that can be known now."""
        rows = [self._row(frame) for frame in features]
        self._held = np.concatenate([self._held, np.array(rows).reshape(-1, ARKIT_COUNT)])
        count = len(self._held) - len(SMOOTHING) + 1
        if count <= 0:
            return torch.zeros(0, ARKIT_COUNT)
        windows = np.lib.stride_tricks.sliding_window_view(self._held, len(SMOOTHING), axis=0)
        out = np.einsum("nck,k->nc", windows, SMOOTHING)
        # A closure is shorter than the smoothing: the lips meet all the same.
        shut = self._held[2 : 2 + count, [ARKIT_INDEX["mouthPressLeft"]]] / REACH["mouthPressLeft"]
        out[:, [ARKIT_INDEX[OPEN]]] *= 1 - 0.85 * shut
        self._held = self._held[count:]
        return torch.from_numpy(out).float()

    def flush(self) -> Tensor:
        """Return the last coefficients [M, 52]; the mouth comes to rest."""
        self._held = np.concatenate([self._held, np.zeros((LOOK_AHEAD, ARKIT_COUNT))])
        return self.push(np.zeros((0, MELS + 3)))

    def _row(self, frame: np.ndarray) -> np.ndarray:
        """Return the coefficients [52] of one frame, not smoothed."""
        power = np.exp(frame[:MELS])
        level, voiced = float(frame[LEVEL]), float(frame[VOICING])
        silence = math.log(FLOOR) + 3
        loud = min(max((level - self._level.follow(level) + HEARD) / HEARD, 0.0), 1.15)
        if level <= silence:
            loud = 0.0
        speech = loud * voiced

        def band(low: float, high: float) -> float:
            first, last = np.searchsorted(_CENTRES, (low, high))
            return math.log(float(power[first : max(last, first + 1)].sum()) + FLOOR)

        murmur, open_ = band(150, 450), band(550, 1100)
        back, front, hiss = band(700, 1300), band(1600, 2800), band(4000, 7600)
        openness = self._openness.share(open_ - murmur, speech)
        roundness = self._roundness.share(back - front, speech)
        raised = self._pitch.share(float(frame[PITCH]) / voiced if voiced > 0.3 else 0.5, speech)
        fricative = loud * (1 - voiced) * _ramp(hiss - front, 0.0, 2.0)
        nasal = voiced * _ramp(murmur - max(open_, front), 2.5, 4.5) * _ramp(loud, 0.1, 0.3)
        dropped = _ramp(self._loud_before - loud, 0.25, 0.6) * _ramp(0.35 - loud, 0.0, 0.2)
        self._loud_before = max(loud, self._loud_before - 0.12)
        shut = max(nasal, dropped * (1 - fricative))
        # Loud vowels are open ones; how open, the first formant says.
        opened = speech * (0.35 + 0.65 * openness) + 0.15 * fricative
        rounded = speech * _ramp(roundness, 0.5, 1.0)
        spread = speech * _ramp(roundness, 0.5, 0.0)
        values = {
            OPEN: opened * (1 - 0.45 * rounded),
            "mouthFunnel": rounded * openness,
            "mouthPucker": rounded * (1 - 0.6 * openness),
            "mouthLowerDownLeft": 0.7 * opened + 0.5 * fricative,
            "mouthUpperUpLeft": 0.6 * opened + 0.3 * fricative,
            "mouthStretchLeft": spread,
            "mouthShrugLower": 0.5 * rounded,
            "browInnerUp": speech * _ramp(raised, 0.6, 1.0),
            "browOuterUpLeft": speech * _ramp(raised, 0.7, 1.0),
        }
        row = np.zeros(ARKIT_COUNT)
        for name, value in values.items():
            mouth = not name.startswith("brow")
            value = min(max(value, 0.0), 1.0) * (1 - shut if mouth else 1.0)
            row[ARKIT_INDEX[name]] = REACH[name] * value
            other = name.replace("Left", "Right")
            row[ARKIT_INDEX[other]] = REACH[other] * value
        for name in CLOSED:
            row[ARKIT_INDEX[name]] = REACH[name] * shut
        return row


def fallback_weights(features: np.ndarray, *, level: float | None = None) -> Tensor:
    """Return coefficients [N, 52] for the frames [N, 43] of a whole sound."""
    stream = FallbackStream(level=level)
    return torch.cat([stream.push(features), stream.flush()])


def rules_reach() -> Tensor:
    """Return how far the rules move each coefficient, [52]; 1 for those that they leave alone."""
    reach = torch.ones(ARKIT_COUNT)
    for name, value in REACH.items():
        reach[ARKIT_INDEX[name]] = value
    return reach


def _ramp(x: float, low: float, high: float) -> float:
    """Rise from 0 at ``low`` to 1 at ``high`` (or fall, where high is below low)."""
    return min(max((x - low) / (high - low), 0.0), 1.0)


def _centres() -> np.ndarray:
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (LOWEST_HZ, HIGHEST_HZ))
    return 700 * (10 ** (np.linspace(low, high, MELS + 2)[1:-1] / 2595) - 1)


_CENTRES = _centres()
