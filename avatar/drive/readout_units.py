"""What a face shows, from its ARKit coefficients: FACS action units, prototypes of emotions, affect.

Action units are those of the Facial Action Coding System (Ekman, Friesen: Facial Action Coding System,
1978; Ekman, Friesen, Hager: FACS, The Manual, 2002). What each coefficient does to a face is taken from
Apple's documentation of ``ARFaceAnchor.BlendShapeLocation``. Both are lists of what skin does, so that most
rows of ``ACTION_UNITS`` are one shape of the left and one of the right side; units for which ARKit has no
shape (11, 13, 21, 23, 31 to 33, 35 to 39) are not read.

Emotions are scored against prototypes in the manner of EMFACS (Friesen, Ekman: EMFACS-7, 1983; the
table of Ekman, Friesen, Hager: FACS Investigator's Guide, 2002; as summed up by Lucey et al.: The Extended
Cohn-Kanade Dataset, CVPR workshops 2010). The weights in ``PROTOTYPES`` are this project's: the units that
a prototype names share a weight of 1, those that speak against it count negatively. Where emotions lie
between unpleasant and pleasant, calm and aroused follows Russell and Mehrabian (Evidence for a three-factor
theory of emotions, 1977), to a tenth.

A face is no feeling: people smile from politeness and frown in thought, and how well prototypes tell
what anybody feels is disputed (Barrett et al.: Emotional Expressions Reconsidered, 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES

FULL = 5.0
"""Intensity of a unit that goes as far as a face goes: FACS' grade E. A to E are 1 to 5 here, evenly
spread, while those of the manual are not (C is wide, A and E are narrow)."""
PRESENT = 1.0
"""From this intensity on (grade A, a trace) a unit counts as present."""
SHOWN = 0.15
"""From this score on the strongest emotion is named; below, a face is called neutral."""


@dataclass(frozen=True)
class ActionUnit:
    """How one unit is read: 5 times the weighted sum of coefficients plus an offset, cut to [0, 5]."""

    number: int
    """As in FACS."""
    name: str
    """As in FACS."""
    terms: tuple[tuple[str, float], ...]
    """Coefficients, with their weights; of both sides where the unit has two."""
    offset: float = 0.0
    """Added to the sum."""

    @property
    def label(self) -> str:
        """Short name, for example ``"AU12"``."""
        return f"AU{self.number}"


def _both(number: int, name: str, shape: str) -> ActionUnit:
    """Read a unit from the mean of its sides."""
    return ActionUnit(number, name, ((f"{shape}Left", 0.5), (f"{shape}Right", 0.5)))


ACTION_UNITS: tuple[ActionUnit, ...] = (
    ActionUnit(1, "inner brow raiser", (("browInnerUp", 1.0),)),
    _both(2, "outer brow raiser", "browOuterUp"),
    _both(4, "brow lowerer", "browDown"),
    _both(5, "upper lid raiser", "eyeWide"),
    _both(6, "cheek raiser", "cheekSquint"),
    _both(7, "lid tightener", "eyeSquint"),
    _both(9, "nose wrinkler", "noseSneer"),
    _both(10, "upper lip raiser", "mouthUpperUp"),
    _both(12, "lip corner puller", "mouthSmile"),
    _both(14, "dimpler", "mouthDimple"),
    _both(15, "lip corner depressor", "mouthFrown"),
    _both(16, "lower lip depressor", "mouthLowerDown"),
    ActionUnit(17, "chin raiser", (("mouthShrugLower", 1.0),)),
    ActionUnit(18, "lip pucker", (("mouthPucker", 1.0),)),
    ActionUnit(19, "tongue show", (("tongueOut", 1.0),)),
    _both(20, "lip stretcher", "mouthStretch"),
    ActionUnit(22, "lip funneler", (("mouthFunnel", 1.0),)),
    _both(24, "lip pressor", "mouthPress"),
    ActionUnit(
        25,
        "lips part",
        # mouthClose is by definition what shuts the lips again over an open jaw.
        (
            ("jawOpen", 1.0), ("mouthClose", -1.0),
            ("mouthLowerDownLeft", 0.25), ("mouthLowerDownRight", 0.25),
            ("mouthUpperUpLeft", 0.25), ("mouthUpperUpRight", 0.25),
        ),
    ),
    ActionUnit(26, "jaw drop", (("jawOpen", 1.0),)),
    # A jaw that drops by itself comes half of the way; past that it is pulled.
    ActionUnit(27, "mouth stretch", (("jawOpen", 2.0),), -1.0),
    ActionUnit(28, "lip suck", (("mouthRollLower", 0.5), ("mouthRollUpper", 0.5))),
    ActionUnit(29, "jaw thrust", (("jawForward", 1.0),)),
    ActionUnit(30, "jaw sideways", (("jawLeft", 1.0), ("jawRight", 1.0))),
    ActionUnit(34, "cheek puff", (("cheekPuff", 1.0),)),
    _both(43, "eyes closed", "eyeBlink"),
)  # fmt: skip
"""The units that are read, by number. A blink (45) is an event in time, not a picture's."""

UNIT_LABELS: tuple[str, ...] = tuple(unit.label for unit in ACTION_UNITS)
_UNIT_INDEX = {unit.number: i for i, unit in enumerate(ACTION_UNITS)}

PROTOTYPES: dict[str, dict[int, float]] = {
    "happiness": {6: 0.4, 12: 0.6, 4: -0.2, 15: -0.3},
    "sadness": {1: 0.3, 4: 0.2, 15: 0.4, 17: 0.1, 2: -0.2, 12: -0.4},
    "surprise": {1: 0.2, 2: 0.25, 5: 0.25, 26: 0.3, 4: -0.4, 12: -0.1},
    "fear": {1: 0.1, 2: 0.05, 4: 0.3, 5: 0.25, 20: 0.3, 12: -0.3},
    "anger": {4: 0.4, 5: 0.1, 7: 0.2, 24: 0.3, 1: -0.3, 12: -0.3},
    "disgust": {9: 0.5, 10: 0.3, 16: 0.1, 17: 0.1, 12: -0.2},
    "contempt": {},
}
"""Emotion to unit to weight. Contempt has a prototype of its own: one corner of the mouth alone is
tightened (12 and 14 on one side), see ``emotion_scores``."""

EMOTIONS: tuple[str, ...] = tuple(PROTOTYPES)
AFFECT: dict[str, tuple[float, float]] = {
    "happiness": (0.8, 0.5),
    "sadness": (-0.6, -0.3),
    "surprise": (0.4, 0.7),
    "fear": (-0.6, 0.6),
    "anger": (-0.5, 0.6),
    "disgust": (-0.6, 0.4),
    "contempt": (-0.2, 0.3),
}
"""Valence and arousal of each emotion, both from -1 to 1."""

_ONE_SIDED = ((12, "mouthSmile"), (14, "mouthDimple"))
"""Units, and their shapes, whose difference between the sides is contempt."""


def _unit_matrix() -> tuple[np.ndarray, np.ndarray]:
    weights = np.zeros((len(ACTION_UNITS), len(ARKIT_NAMES)))
    for row, unit in zip(weights, ACTION_UNITS, strict=True):
        for name, weight in unit.terms:
            row[ARKIT_INDEX[name]] = weight
    return weights, np.array([unit.offset for unit in ACTION_UNITS])


def _prototype_matrix() -> np.ndarray:
    weights = np.zeros((len(EMOTIONS), len(ACTION_UNITS)))
    for row, prototype in zip(weights, PROTOTYPES.values(), strict=True):
        for number, weight in prototype.items():
            row[_UNIT_INDEX[number]] = weight
    return weights


_UNITS, _OFFSETS = _unit_matrix()
_PROTOTYPES = _prototype_matrix()
_AFFECT = np.array([AFFECT[name] for name in EMOTIONS])


def action_units(weights: np.ndarray) -> np.ndarray:
    """Return the intensities [..., A] in [0, 5] of ``ACTION_UNITS``.

    Args:
        weights: [..., 52] coefficients relative to the person's neutral, in [0, 1].
    """
    # A sum of products, not a matrix product: its rounding does not depend on how many frames there are.
    total = (weights[..., None, :] * _UNITS).sum(-1) + _OFFSETS
    return FULL * np.clip(total, 0.0, 1.0)


def emotion_scores(weights: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return how much a face looks like each of ``EMOTIONS`` [..., 7], 0 not at all to 1 fully.

    The scores are no probabilities: they need not sum to 1, and all are 0 for a neutral face.

    Args:
        weights: [..., 52] as for ``action_units``.
        units: [..., A] what ``action_units`` gives for them.
    """
    scores = (units[..., None, :] / FULL * _PROTOTYPES).sum(-1)
    apart = [
        np.abs(
            weights[..., ARKIT_INDEX[f"{shape}Left"]] - weights[..., ARKIT_INDEX[f"{shape}Right"]]
        )
        for _, shape in _ONE_SIDED
    ]
    scores[..., EMOTIONS.index("contempt")] = 0.5 * apart[0] + 0.5 * apart[1]
    return np.clip(scores, 0.0, 1.0)


def affect_of(scores: np.ndarray) -> np.ndarray:
    """Return valence and arousal [..., 2], each in [-1, 1], of emotion scores [..., 7].

    The sum of the emotions' places, each by its score; where scores add up to more than 1, their mean.
    """
    total = (scores[..., None] * _AFFECT).sum(-2)
    return total / np.maximum(scores.sum(-1), 1.0)[..., None]


def named_emotion(scores: np.ndarray) -> str:
    """Return the emotion with the highest of scores [7], ``"neutral"`` where none reaches ``SHOWN``."""
    best = int(np.argmax(scores))
    return EMOTIONS[best] if scores[best] >= SHOWN else "neutral"


@dataclass(frozen=True)
class Uncertainty:
    """One standard deviation of what is read, from the coefficients' own error alone."""

    units: np.ndarray
    """[A] of the intensities."""
    emotions: np.ndarray
    """[7] of the scores."""
    affect: np.ndarray
    """[2] of valence and arousal."""


def uncertainty(coefficient_sigma: float) -> Uncertainty:
    """Carry an error of the coefficients, independent between them, through the linear rules.

    An upper bound where a value is cut at an end of its range. The larger part is not in it: that the
    rule itself, from faces to emotions, holds for many people on average and for nobody exactly.

    Args:
        coefficient_sigma: standard deviation of a coefficient's error.
    """
    one_sided = np.zeros((len(EMOTIONS), len(ARKIT_NAMES)))
    for _, shape in _ONE_SIDED:
        one_sided[EMOTIONS.index("contempt"), ARKIT_INDEX[f"{shape}Left"]] = 0.5
        one_sided[EMOTIONS.index("contempt"), ARKIT_INDEX[f"{shape}Right"]] = -0.5
    scores = _PROTOTYPES @ _UNITS + one_sided
    affect = _AFFECT.T @ scores

    def spread(rows: np.ndarray) -> np.ndarray:
        return coefficient_sigma * np.linalg.norm(rows, axis=1)

    return Uncertainty(spread(FULL * _UNITS), spread(scores), spread(affect))
