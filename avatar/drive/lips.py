"""A person's own lips: how far they part for given coefficients, and how to shut them.

The inner lip contours of the rig move linearly with the coefficients, so that the gap between them is a
linear function, of which shutting is the inverse. Whoever's lips part at rest needs more than what
``mouthClose`` takes back of ``jawOpen``; how much was filmed bounds it (``Avatar.feasible``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.lattice import LOWER_LIP_COLUMNS, UPPER_LIP_COLUMNS

_MIDDLE = range(4, 7)
"""Columns in the middle of the mouth, where a gap is seen first and last."""
_JAW, _CLOSE = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["mouthClose"]
_SHRUG = ARKIT_INDEX["mouthShrugLower"]
_PARTING = [
    ARKIT_INDEX[n]
    for n in ARKIT_NAMES
    if n.startswith(("mouthUpperUp", "mouthLowerDown", "mouthFunnel", "mouthShrugUpper"))
]

USUAL_REACH = {
    "jawOpen": 0.35, "mouthFunnel": 0.30, "mouthPucker": 0.45, "mouthStretch": 0.25, "mouthSmile": 0.40,
    "mouthRollLower": 0.35, "mouthRollUpper": 0.30, "mouthUpperUp": 0.20, "mouthLowerDown": 0.25,
    "mouthPress": 0.20, "mouthShrugLower": 0.30,
}  # fmt: skip
"""98th percentile of a usual person who was filmed speaking."""
GAIN_LIMITS = (0.7, 1.3)
"""A clip in which somebody hardly spoke says little about how far their mouth goes."""
HEADROOM = 0.30
"""How far, in coefficient units, a coefficient may go past the highest that the avatar was fitted on."""

CLOSED_SHARE = 0.15
"""Lips whose gap is under this share of the person's range count as closed."""


@dataclass(frozen=True)
class LipGap:
    """The vertical gap between a person's inner lips, linear in the coefficients."""

    rest_m: float
    """With all coefficients at 0, metres."""
    per_weight: Tensor
    """[E] metres at coefficient 1."""
    range_m: float
    """How far the person's lips were filmed to part, metres, at least a centimetre."""
    spare: float
    """How far ``mouthClose`` may go beyond ``jawOpen``."""

    @staticmethod
    def of(avatar: Avatar) -> LipGap:
        """Measure an avatar's rig."""
        upper = [UPPER_LIP_COLUMNS[k][-1] for k in _MIDDLE]
        lower = [LOWER_LIP_COLUMNS[k][-1] for k in _MIDDLE]
        rest = (avatar.lattice[upper, 1] - avatar.lattice[lower, 1]).mean()
        per = (avatar.basis[:, upper, 1] - avatar.basis[:, lower, 1]).mean(1)
        named = per[: len(ARKIT_NAMES)].clone()
        named[_CLOSE] = 0.0  # takes back what the jaw does
        opening = named.clamp(min=0) * avatar.expression_high[: len(ARKIT_NAMES)]
        jaw = opening[_JAW].clone()
        opening[_JAW] = 0.0
        # All shapes are never at their most at once: beside the jaw, as independent ones add up.
        wide = rest.clamp(min=0) + jaw + opening.norm()
        spare = max(0.0, float(avatar.expression_high[_CLOSE]))
        return LipGap(float(rest), per, max(0.010, float(wide)), spare)

    def gap(self, weights: Tensor) -> Tensor:
        """Return the gap [...] in metres for coefficients [..., 52 to E]; negative where lips press."""
        weights = weights.clone()
        most = weights[..., _JAW].clamp(min=0) + self.spare
        weights[..., _CLOSE] = torch.minimum(weights[..., _CLOSE], most)
        return self.rest_m + weights @ self.per_weight[: weights.shape[-1]].to(weights)

    def shut(self, weights: Tensor, closure: Tensor) -> Tensor:
        """Return coefficients with the lips brought together as far as asked.

        Where closure is 1 the gap becomes 0 or less, or the least that this face can; where it is 0
        nothing changes; in between the gap shrinks in proportion.

        Args:
            weights: [F, 52 to E].
            closure: [F] from 0 to 1.
        """
        weights, c = weights.clone(), closure.to(weights).clamp(0, 1)
        parted = self.gap(weights).clamp(min=0)
        wanted = (1 - c) * parted
        # What draws the lips apart gives way first, so that mouthClose need not tear against it.
        for index in _PARTING:
            weights[:, index] *= 1 - 0.85 * c
        weights[:, _JAW] = torch.where(
            weights[:, _JAW] > 0, weights[:, _JAW] * (1 - 0.6 * c), weights[:, _JAW]
        )
        slope = -float(self.per_weight[_CLOSE])
        if slope > 1e-4:
            most = weights[:, _JAW].clamp(min=0) + self.spare
            missing = (self.gap(weights) - wanted).clamp(min=0) / slope
            more = torch.minimum(weights[:, _CLOSE] + missing, most)
            weights[:, _CLOSE] = torch.maximum(weights[:, _CLOSE], more)
        slope = -float(self.per_weight[_SHRUG])
        if slope > 1e-4:
            missing = (self.gap(weights) - wanted).clamp(min=0) / slope
            weights[:, _SHRUG] += torch.minimum(missing, (0.4 - weights[:, _SHRUG]).clamp(min=0))
        slope = float(self.per_weight[_JAW])
        if slope > 1e-4:
            missing = (self.gap(weights) - wanted).clamp(min=0) / slope
            # Below 0 only a little: a jaw that hangs at rest has that way to go, others do not.
            lowest = torch.minimum(weights[:, _JAW], torch.full_like(missing, -0.08))
            held = self.gap(weights) > wanted
            lowered = torch.maximum(weights[:, _JAW] - missing, lowest)
            weights[:, _JAW] = torch.where(held, lowered, weights[:, _JAW])
        return weights

    def within_range(self, weights: Tensor) -> Tensor:
        """Return coefficients [F, 52 to E] whose jaw opens the lips little further than was filmed.

        Up to 0.85 of the range nothing changes; beyond, the gap approaches 1.1 of it ever more slowly.
        """
        weights = weights.clone()
        begin, margin = 0.85 * self.range_m, 0.25 * self.range_m
        gap, slope = self.gap(weights), float(self.per_weight[_JAW])
        if slope > 1e-4:
            over = (gap - begin).clamp(min=0)
            less = (over - margin * torch.tanh(over / margin)) / slope
            weights[:, _JAW] -= torch.minimum(less, weights[:, _JAW].clamp(min=0))
        return weights

    def closure_of(self, weights: Tensor) -> Tensor:
        """Return how closed lips are, [F] from 0 to 1: 1 up to a tenth of the range, 0 from a third."""
        share = self.gap(weights) / self.range_m
        return ((0.33 - share) / 0.23).clamp(0, 1)


def lips_closed(weights: Tensor, avatar: Avatar) -> Tensor:
    """Return for coefficients [..., 52 to E] whether the avatar's lips are closed, [...] bool."""
    lips = LipGap.of(avatar)
    return lips.gap(weights) < CLOSED_SHARE * lips.range_m


def fitted_to(weights: Tensor, avatar: Avatar) -> Tensor:
    """Return a usual speaker's coefficients [F, 52] as this person makes them.

    Scaled by how far the person's own go beside a usual person's, within limits, and bent softly where
    they would leave what the avatar was fitted on.
    """
    high = avatar.expression_high[: len(ARKIT_NAMES)].to(weights).clamp(min=0)
    gain = torch.ones_like(high)
    for part, usual in USUAL_REACH.items():
        for name in (part, f"{part}Left", f"{part}Right"):
            if name in ARKIT_INDEX:
                # Both sides alike: speech is symmetric, a person's usual grimace is not.
                sides = [
                    ARKIT_INDEX[n] for n in (f"{part}Left", f"{part}Right") if n in ARKIT_INDEX
                ]
                reach = high[sides].mean() if sides else high[ARKIT_INDEX[name]]
                gain[ARKIT_INDEX[name]] = (reach / usual).clamp(*GAIN_LIMITS)
    return bounded(weights * gain, avatar)


def bounded(weights: Tensor, avatar: Avatar) -> Tensor:
    """Return coefficients [..., 52] bent softly below what was filmed and ``HEADROOM``, or 1.

    Unchanged up to half of that limit m; beyond, x becomes m/2 + m/2 tanh((x - m/2) / (m/2)).
    """
    high = avatar.expression_high[: len(ARKIT_NAMES)].to(weights).clamp(min=0)
    half = 0.5 * (high + HEADROOM).clamp(max=1.0)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):  # so rare that percentiles miss them
        half[ARKIT_INDEX[name]] = 1.0
    over = half + half * torch.tanh((weights - half) / half)
    return torch.where(weights > half, over, weights)
