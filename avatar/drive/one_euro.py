"""The One-Euro filter: steady when still, quick when moving.

Casiez, Roussel, Vogel: 1 Euro Filter, A Simple Speed-based Low-pass Filter for Noisy Input in
Interactive Systems, CHI 2012. A first-order low-pass (their equation 1) whose smoothing factor
follows from the time step and a cutoff frequency (equations 4 and 5), the cutoff rising with the
filtered speed (equation 6). Speed is taken between raw values, so that it does not depend on the rate;
against the last output, as in the paper's listing, the lag itself would count as speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OneEuroConfig:
    """How steady and how quick. One set of numbers for values of one unit."""

    min_cutoff_hz: float
    """Cutoff frequency at rest: lower is steadier, and later where motion begins."""
    beta: float
    """Rise of the cutoff with speed, Hz per (unit / s): higher is quicker in motion."""
    speed_cutoff_hz: float = 1.0
    """Cutoff of the speed estimate; the paper's own choice."""

    def lag_s(self, speed: float) -> float:
        """Return by how many seconds the output trails values that move steadily at ``speed``.

        A first-order low-pass with cutoff f trails a ramp by its time constant, 1 / (2 pi f).
        """
        return 1 / (2 * math.pi * (self.min_cutoff_hz + self.beta * abs(speed)))


class OneEuro:
    """Filters an array of independent values; time is given, not taken."""

    def __init__(self, config: OneEuroConfig) -> None:
        """Start without a past: the first value passes as it is."""
        self.config = config
        self.value: np.ndarray | None = None
        """The newest output."""
        self._raw: np.ndarray | None = None
        self._speed: np.ndarray | None = None

    def add(self, value: np.ndarray, step_s: float) -> np.ndarray:
        """Take the next value, ``step_s`` seconds (positive) after the one before; return the output."""
        value = np.asarray(value, np.float64)
        if self.value is None or self._raw is None or self._speed is None:
            self.value, self._raw, self._speed = value, value, np.zeros_like(value)
            return value
        config, before, speed = self.config, self.value, self._speed
        speed = speed + _share(config.speed_cutoff_hz, step_s) * (
            (value - self._raw) / step_s - speed
        )
        cutoff = config.min_cutoff_hz + config.beta * np.abs(speed)
        after = before + _share(cutoff, step_s) * (value - before)
        self.value, self._raw, self._speed = after, value, speed
        return after


def _share(cutoff_hz: np.ndarray | float, step_s: float) -> np.ndarray | float:
    """Return the smoothing factor alpha = 1 / (1 + tau / T_e) with tau = 1 / (2 pi f_c)."""
    r = 2 * math.pi * cutoff_hz * step_s
    return r / (1 + r)
