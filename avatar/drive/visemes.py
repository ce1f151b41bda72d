"""Speech sounds to mouth shapes: phonemes to visemes, visemes to ARKit coefficients, coarticulation.

Any IPA name does, of whichever language: marks and modifiers are taken off, diphthongs and affricates
fall into their parts, and a letter that is not in the table goes by the letter that it is a variant of,
or as a plain consonant.

Neighbouring sounds blend by dominance functions: Cohen and Massaro, "Modeling coarticulation in
synthetic visual speech" (1993), eqs. 1 to 3: a coefficient's value is the mean of the targets T_s of all
segments s, weighted by D_s(t) = a_s exp(-theta |tau|), where tau is the time from the segment. Rounding
has the smaller theta ahead of its sound: lips round before they are heard to.

Closed lips are not blended, as a mean of open and closed is not closed: ``closures`` gives how far lips
must be together at each moment, and ``avatar.drive.lips`` shuts them on the person's own face.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar.drive.speech import TimedPhoneme
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES

VISEMES: dict[str, dict[str, float]] = {
    "sil": {},
    # Lips together.
    "PP": {"jawOpen": 0.05, "mouthClose": 0.05, "mouthRollLower": 0.38, "mouthRollUpper": 0.30,
           "mouthPress": 0.12},
    # The lower lip at the upper teeth.
    "FF": {"jawOpen": 0.06, "mouthClose": 0.02, "mouthRollLower": 0.50, "mouthUpperUp": 0.16,
           "mouthShrugLower": 0.15},
    # Tongue at or between the teeth, at the ridge behind them, at the palate, at the back.
    "TH": {"jawOpen": 0.16, "mouthLowerDown": 0.12, "mouthUpperUp": 0.08, "tongueOut": 0.25},
    "TT": {"jawOpen": 0.12, "mouthLowerDown": 0.12, "mouthUpperUp": 0.05, "mouthStretch": 0.06},
    "SS": {"jawOpen": 0.06, "mouthLowerDown": 0.16, "mouthUpperUp": 0.08, "mouthStretch": 0.18,
           "mouthSmile": 0.06},
    "CH": {"jawOpen": 0.10, "mouthFunnel": 0.38, "mouthPucker": 0.18, "mouthLowerDown": 0.08},
    "KK": {"jawOpen": 0.18, "mouthLowerDown": 0.06, "mouthStretch": 0.04},
    "HH": {"jawOpen": 0.20},
    "RR": {"jawOpen": 0.14, "mouthFunnel": 0.22, "mouthPucker": 0.26},
    "LL": {"jawOpen": 0.20, "mouthLowerDown": 0.10, "mouthUpperUp": 0.05, "mouthStretch": 0.06},
    "YY": {"jawOpen": 0.10, "mouthStretch": 0.18, "mouthSmile": 0.14},
    "WW": {"jawOpen": 0.08, "mouthPucker": 0.64, "mouthFunnel": 0.20},
    # Vowels, from spread to open to rounded.
    "IY": {"jawOpen": 0.11, "mouthStretch": 0.22, "mouthSmile": 0.20, "mouthLowerDown": 0.08},
    "EH": {"jawOpen": 0.27, "mouthStretch": 0.14, "mouthSmile": 0.08, "mouthLowerDown": 0.12,
           "mouthUpperUp": 0.06},
    "AE": {"jawOpen": 0.36, "mouthStretch": 0.12, "mouthLowerDown": 0.14, "mouthUpperUp": 0.10},
    "AA": {"jawOpen": 0.42, "mouthLowerDown": 0.10, "mouthUpperUp": 0.04},
    "AH": {"jawOpen": 0.22, "mouthLowerDown": 0.08},
    "ER": {"jawOpen": 0.18, "mouthFunnel": 0.18, "mouthPucker": 0.14},
    "AO": {"jawOpen": 0.34, "mouthFunnel": 0.28, "mouthPucker": 0.14},
    "OW": {"jawOpen": 0.20, "mouthFunnel": 0.24, "mouthPucker": 0.42},
    "UW": {"jawOpen": 0.10, "mouthFunnel": 0.18, "mouthPucker": 0.64},
}  # fmt: skip
"""Name to coefficients of a usual speaker; a name that ARKit has twice stands for Left and Right alike."""

_LETTERS = {
    "PP": "pbmʙɓ",
    "FF": "fvɱʋⱱɸβ",
    "TH": "θðϑ",
    "TT": "tdnɾʈɖɳɗɽ",
    "SS": "szʦʣɬɮ",
    "CH": "ʃʒɕʑʂʐʧʤɧʨʥ",
    "KK": "kgɡŋxɣqɢχʁɴcɟɲçʝɠʛʀħʕʜ",
    "HH": "hɦʔ",
    "RR": "ɹɻɺrɚɝ",
    "LL": "lɫɭʎʟ",
    "YY": "jʲɰ",
    "WW": "wʍɥ",
    "IY": "iɪɨ",
    "EH": "eɛɘ",
    "AE": "æ",
    "AA": "aɑɶ",
    "AH": "əɐʌɤᵊ",
    "ER": "ɜɞ",
    "AO": "ɔɒ",
    "OW": "oɵøœ",
    "UW": "uʊɯʉyʏᵿ",
}
_VISEME_OF = {letter: name for name, letters in _LETTERS.items() for letter in letters}
VOWELS = frozenset(("IY", "EH", "AE", "AA", "AH", "ER", "AO", "OW", "UW"))

_LIPS = frozenset(
    n for n in ARKIT_NAMES if n.startswith(("mouthRoll", "mouthPress", "mouthUpper", "mouthLower"))
)
_ROUND = frozenset(("mouthFunnel", "mouthPucker"))

# Dominance by kind of coefficient: fall-off theta in 1/s ahead of the sound and behind it.
_FALL_OFF = {
    "jaw": (22.0, 20.0),
    "lips": (26.0, 24.0),
    "round": (9.0, 17.0),
    "spread": (16.0, 16.0),
}

CLOSING_S = 0.045
"""Lips come together in about this time, and part again."""
STOP_LEAD_S = 0.030
"""A stop's closure is silent: it lies before what is heard of it, and counts to the sound before."""


REST_S = 1.0
"""Length of the rest that is put before and behind all speech."""
SHORTEST_GAP_S = 0.03


@dataclass(frozen=True)
class Segment:
    """One viseme in time."""

    viseme: str
    start_s: float
    end_s: float
    strength: float = 1.0
    """How large it is spoken: stress and length open vowels."""
    rounded: bool = False
    """A consonant spoken with rounded lips (the mark ʷ)."""
    stop: bool = False
    """Lips meet in silence before it is heard (p and b)."""


def visemes_of(phoneme: str) -> list[str]:
    """Return the visemes of an IPA name, in order; ``["sil"]`` where nothing is spoken."""
    found: list[str] = []
    for letter in unicodedata.normalize("NFD", phoneme):
        name = _viseme_of_letter(letter)
        if name is not None and (not found or found[-1] != name):
            found.append(name)
    return found or ["sil"]


def _viseme_of_letter(letter: str) -> str | None:
    """Return a letter's viseme; None for marks (stress, length, tone, nasality ...)."""
    known = _VISEME_OF.get(letter)
    if known is not None:
        return known
    category = unicodedata.category(letter)
    if not category.startswith("L") or category == "Lm":
        return None
    # A variant of a letter, as Unicode names it: SMALL CAPITAL B, LETTER T WITH PALATAL HOOK ...
    words = unicodedata.name(letter, "").split(" WITH ")[0].split(" ")
    base = words[-1].lower()
    if len(base) == 1 and base in _VISEME_OF:
        return _VISEME_OF[base]
    return "TT"


def segments_of(phonemes: Sequence[TimedPhoneme]) -> list[Segment]:
    """Return timed phonemes as visemes in time: diphthongs and affricates in their parts.

    Where nothing is spoken, before, between and behind, the mouth rests (``sil``).
    """
    segments: list[Segment] = []
    now = -REST_S
    for phoneme in phonemes:
        if phoneme.start_s - now > SHORTEST_GAP_S:
            segments.append(Segment("sil", now, phoneme.start_s))
        now = phoneme.end_s
        names = visemes_of(phoneme.name)
        if "ʲ" in phoneme.name and names[-1:] == ["YY"] and len(names) > 1:
            names = names[:-1]  # a palatalised consonant is one sound, not two
        step = (phoneme.end_s - phoneme.start_s) / len(names)
        for k, name in enumerate(names):
            strength = 1.0
            if name in VOWELS:
                strength = 1.12 if phoneme.stressed else 0.95 if "ˌ" in phoneme.name else 0.85
                # A short vowel is not reached: speakers undershoot.
                strength *= 0.75 + 0.25 * min(1.0, step / 0.09)
            start = phoneme.start_s + k * step
            segments.append(
                Segment(
                    name,
                    start,
                    start + step,
                    strength,
                    rounded="ʷ" in phoneme.name and name not in VOWELS,
                    stop=name == "PP" and any(letter in phoneme.name for letter in "pbɓ"),
                )
            )
    if segments:
        segments.append(Segment("sil", now, now + REST_S))
    return segments


def viseme_weights(name: str) -> Tensor:
    """Return the coefficients [52] of a viseme, of a usual speaker.

    Raises:
        KeyError: there is no such viseme.
    """
    weights = torch.zeros(len(ARKIT_NAMES))
    for part, value in VISEMES[name].items():
        for full in (part, f"{part}Left", f"{part}Right"):
            if full in ARKIT_INDEX:
                weights[ARKIT_INDEX[full]] = value
    return weights


_PLAIN = {name: viseme_weights(name).numpy().astype(np.float64) for name in VISEMES}


def articulated(segments: Sequence[Segment], fps: float, frames: int) -> Tensor:
    """Return coefficients [F, 52] of a usual speaker at frame times 0, 1 / fps ...

    ``mouthClose`` is left at 0: who shuts the lips on a person's own face sets it.
    """
    weights = np.zeros((frames, len(ARKIT_NAMES)))
    if not segments or not frames:
        return torch.from_numpy(weights)
    used = sorted(
        {ARKIT_INDEX[n] for n in ARKIT_NAMES if any(_PLAIN[v][ARKIT_INDEX[n]] for v in _PLAIN)}
    )
    kinds = [_kind(ARKIT_NAMES[index]) for index in used]
    sums, totals = np.zeros((frames, len(used))), np.full((frames, len(used)), 1e-9)
    for segment in segments:
        # Beyond half a second the slowest dominance has fallen below a hundredth.
        first = max(0, int((segment.start_s - 0.6) * fps))
        last = min(frames, int((segment.end_s + 0.6) * fps) + 2)
        if last <= first:
            continue
        t = np.arange(first, last) / fps
        inset = 0.25 * (segment.end_s - segment.start_s)
        ahead = np.maximum(0.0, segment.start_s + inset - t)
        behind = np.maximum(0.0, t - segment.end_s + inset)
        target = segment.strength * _PLAIN[segment.viseme]
        if segment.rounded:
            target = np.maximum(target, 0.6 * _PLAIN["WW"])
        for column, (index, kind) in enumerate(zip(used, kinds, strict=True)):
            theta_ahead, theta_behind = _FALL_OFF[kind]
            dominance = _alpha(segment, kind, float(target[index])) * np.exp(
                -theta_ahead * ahead - theta_behind * behind
            )
            sums[first:last, column] += dominance * target[index]
            totals[first:last, column] += dominance
    weights[:, used] = sums / totals
    weights[:, ARKIT_INDEX["mouthClose"]] = 0.0
    return torch.from_numpy(weights)


def _kind(name: str) -> str:
    return (
        "round"
        if name in _ROUND
        else "jaw"
        if name == "jawOpen"
        else "lips"
        if name in _LIPS
        else "spread"
    )


def _alpha(segment: Segment, kind: str, target: float) -> float:
    """How much a segment insists on a kind of coefficient (Cohen and Massaro's alpha)."""
    vowel, name = segment.viseme in VOWELS, segment.viseme
    if name == "sil":
        # In a short gap lips stay as they are; in a pause they go to rest.
        return 0.3 if segment.end_s - segment.start_s < 0.12 else 1.0
    if kind == "jaw":
        return 1.0 if vowel else 1.6 if name in ("PP", "FF", "SS", "CH") else 0.7
    if kind == "lips":
        return 2.5 if name in ("PP", "FF") else 0.8
    if kind == "round":
        # What is not rounded itself lets its neighbours round through it.
        return 1.0 if target > 0.1 else 0.5 if vowel else 0.25
    return 1.0 if vowel else 0.6 if target > 0 else 0.3


def closures(segments: Sequence[Segment], fps: float, frames: int) -> Tensor:
    """Return how far the lips must be together at each frame, [F] from 0 (free) to 1 (shut).

    1 at a frame of every bilabial: where one is shorter than a frame, the nearest frame shuts. A
    labiodental asks for half.
    """
    t = np.arange(frames) / fps
    closure = np.zeros(frames)
    for segment in segments:
        most = {"PP": 1.0, "FF": 0.55}.get(segment.viseme)
        if most is None or not frames:
            continue
        begin = segment.start_s - (STOP_LEAD_S if segment.stop else 0.0)
        # Lips part in time for the next sound; at least a twentieth of a second they are shut.
        end = max(segment.end_s - 0.5 * CLOSING_S, begin + 0.05)
        away = np.maximum(0.0, np.maximum(begin - t, t - end)) / CLOSING_S
        shape = 0.5 + 0.5 * np.cos(np.pi * np.minimum(1.0, away))
        last = min(end, segment.end_s)
        if not ((t >= segment.start_s) & (t <= last)).any():
            shape[min(frames - 1, round(0.5 * (segment.start_s + last) * fps))] = 1.0
        closure = np.maximum(closure, most * shape)
    return torch.from_numpy(closure)
