"""Named emotions on a face that may be speaking.

What is said and how it is felt are two signals that are laid over each other: Danecek et al., "Emotional
Speech-Driven Animation with Content-Emotion Disentanglement" (EMOTE, 2023) part them the same way, by
losses; here by construction. Brows, lids, cheeks and nose are the emotion's alone. Of the mouth it moves
the corners, less where the lips are busy, and the lips' gap stays what speech makes it: lips that speech
closes are closed again behind the emotion (``avatar.drive.lips``).

Which muscles an emotion moves follows the prototypes of the Facial Action Coding System (Ekman and
Friesen, "EMFACS-7", 1983), written in ARKit's names.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avatar.checks import InputError
from avatar.drive.lips import LipGap, bounded
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.types import HeadState

EMOTIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    # Cheeks up, lip corners up and back (AU 6, 12).
    "happy": {"mouthSmile": 0.75, "cheekSquint": 0.55, "eyeSquint": 0.35, "mouthDimple": 0.15,
              "browOuterUp": 0.10},
    # Inner brows up, corners down, lids heavy (AU 1, 4, 15, 17).
    "sad": {"browInnerUp": 0.75, "mouthFrown": 0.60, "mouthShrugLower": 0.25, "eyeSquint": 0.20,
            "eyeBlink": 0.14, "eyeLookDown": 0.10},
    # Brows down and together, upper lid raised, lips pressed (AU 4, 5, 7, 23).
    "angry": {"browDown": 0.90, "eyeSquint": 0.35, "eyeWide": 0.15, "noseSneer": 0.40, "mouthPress": 0.25,
              "mouthFrown": 0.30, "jawForward": 0.12},
    # Brows and upper lids up, jaw drops (AU 1, 2, 5, 26).
    "surprised": {"browInnerUp": 0.80, "browOuterUp": 0.80, "eyeWide": 0.75, "jawOpen": 0.16,
                  "mouthFunnel": 0.10},
    # Brows up and together, lids wide, lips stretched (AU 1, 2, 4, 5, 20).
    "afraid": {"browInnerUp": 0.90, "browOuterUp": 0.35, "browDown": 0.20, "eyeWide": 0.65,
               "mouthStretch": 0.45, "jawOpen": 0.06},
    # Nose wrinkled, upper lip raised (AU 9, 10, 15).
    "disgusted": {"noseSneer": 0.85, "mouthUpperUp": 0.35, "browDown": 0.45, "eyeSquint": 0.35,
                  "cheekSquint": 0.30, "mouthFrown": 0.30},
    # One corner tightened (AU 14, on one side).
    "contempt": {"mouthDimpleLeft": 0.60, "mouthSmileLeft": 0.45, "cheekSquintLeft": 0.20,
                 "browOuterUpLeft": 0.30, "eyeSquint": 0.20},
}  # fmt: skip
"""Name to coefficients at intensity 1; a name that ARKit has twice stands for both sides."""

EXPRESSIONS: dict[str, dict[str, float]] = EMOTIONS | {
    "smile": {"mouthSmile": 0.65, "cheekSquint": 0.25, "eyeSquint": 0.12, "mouthDimple": 0.10},
    "frown": {"browDown": 0.70, "mouthFrown": 0.35},
    "worried": {"browInnerUp": 0.65, "browDown": 0.20, "mouthFrown": 0.20, "mouthPress": 0.15},
    "sceptical": {"browOuterUpLeft": 0.65, "browDownRight": 0.40, "eyeSquintRight": 0.30,
                  "mouthPress": 0.15, "mouthFrown": 0.15},
}  # fmt: skip
"""Emotions, and expressions that directions and listening use besides."""

ONSET_S = 0.45
"""From one expression to the next, seconds: spontaneous onsets last a third to half a second."""
_MOUTH = [i for i, name in enumerate(ARKIT_NAMES) if name.startswith(("mouth", "jaw"))]
_OPENING = [
    i
    for i, n in enumerate(ARKIT_NAMES)
    if n.startswith(("jawOpen", "mouthFunnel", "mouthUpperUp", "mouthLowerDown", "mouthStretch"))
]


@dataclass(frozen=True)
class EmotionKey:
    """From a time on, an expression."""

    time_s: float
    name: str
    """Of ``EXPRESSIONS``."""
    intensity: float
    """0 to 1."""


def emotion_named(text: str) -> tuple[str, float]:
    """Read ``happy`` or ``happy:0.6``.

    Raises:
        InputError: no such emotion, or an intensity outside 0 to 1; the nearest names are offered.
    """
    name, _, number = text.strip().lower().partition(":")
    if name not in EXPRESSIONS:
        near = difflib.get_close_matches(name, EXPRESSIONS, n=3)
        hint = (
            f"Did you mean {' or '.join(near)}?"
            if near
            else f"There are: {', '.join(EXPRESSIONS)}."
        )
        raise InputError(f"There is no emotion '{name[:40]}'. {hint}")
    try:
        intensity = float(number) if number else 1.0
    except ValueError:
        intensity = -1.0
    if not 0 <= intensity <= 1:
        raise InputError(
            f"The intensity of an emotion must lie between 0 and 1, as in {name}:0.6; got {text[:40]!r}."
        )
    return name, intensity


def expression_weights(name: str, intensity: float = 1.0) -> Tensor:
    """Return the coefficients [52] of a named expression.

    Raises:
        KeyError: there is no such expression.
    """
    weights = torch.zeros(len(ARKIT_NAMES), dtype=torch.float64)
    for part, value in EXPRESSIONS[name].items():
        for full in (part, f"{part}Left", f"{part}Right"):
            if full in ARKIT_INDEX:
                weights[ARKIT_INDEX[full]] = intensity * value
    return weights


def emotion_curve(keys: Sequence[EmotionKey], fps: float, frames: int) -> Tensor:
    """Return coefficients [F, 52] that go smoothly from key to key; before the first the face rests.

    A key at or before time 0 is there from the first frame.
    """
    t = torch.arange(frames, dtype=torch.float64) / fps
    curve = torch.zeros(frames, len(ARKIT_NAMES), dtype=torch.float64)
    for key in sorted(keys, key=lambda key: key.time_s):
        target = expression_weights(key.name, key.intensity)
        if key.time_s <= 0:
            share = torch.ones_like(t)
        else:
            phase = ((t - key.time_s) / ONSET_S).clamp(0, 1)
            share = 0.5 - 0.5 * torch.cos(torch.pi * phase)
        curve = torch.lerp(curve, target.expand_as(curve), share[:, None])
    return curve


def with_emotion(weights: Tensor, emotion: Tensor, closure: Tensor, avatar: Avatar) -> Tensor:
    """Return speech's coefficients with an emotion laid over them, lips as closed as speech has them.

    Args:
        weights: [F, 52 to E] of speech.
        emotion: [F, 52], as ``emotion_curve`` gives it.
        closure: [F] from 0 (free) to 1 (shut): how far speech holds the lips.
        avatar: on whose face, within whose range.
    """
    named = len(ARKIT_NAMES)
    weights, felt = weights.clone(), emotion.to(weights).clone()
    c = closure.to(weights).clamp(0, 1)[:, None]
    felt[:, _MOUTH] *= 1 - 0.35 * c
    felt[:, _OPENING] *= 1 - c
    moved = (felt != 0).any(0)
    # What the emotion leaves alone stays bit by bit as speech has it.
    both = torch.where(moved, bounded(weights[:, :named] + felt, avatar), weights[:, :named])
    weights[:, :named] = both
    lips = LipGap.of(avatar)
    return lips.shut(lips.within_range(weights), c[:, 0])


def emotional_states(states: HeadState, emotion: Tensor, avatar: Avatar) -> HeadState:
    """Lay an emotion [F, 52] over any motion [F]; lips that were closed part no further by it."""
    if not bool((emotion != 0).any()):
        return states
    lips, before = LipGap.of(avatar), states.expression
    loose = with_emotion(before, emotion, torch.zeros(len(states)), avatar)
    was, now = lips.gap(before).clamp(min=0), lips.gap(loose).clamp(min=1e-6)
    closure = lips.closure_of(before) * (1 - was / now).clamp(0, 1)
    return replace(states, expression=with_emotion(before, emotion, closure, avatar))
