"""Read a face over time: action units, affect, blinks, gaze, head motion, speaking-like motion.

``Readout`` is a value: ``update`` takes one sample and returns the readout after it and what the sample
says, from the past alone. So a stream is read as it comes, and a clip read frame by frame gives the
very same. A sample without a face is a flag, never left out.

Everything is relative to the person's own neutral (``Calibration``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from avatar.drive.live import FaceSample, checked
from avatar.drive.motion import ARKIT_COUNT
from avatar.drive.readout_units import (
    ACTION_UNITS,
    EMOTIONS,
    PRESENT,
    UNIT_LABELS,
    action_units,
    affect_of,
    emotion_scores,
    named_emotion,
)
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES

LARGEST_NEUTRAL = 0.3
"""No coefficient's neutral is higher: a mouth that is open all the time is an open mouth."""
NEUTRAL_SHARE = 0.1
"""A coefficient's neutral is where it is at least in its lowest tenth of the frames: for a smile and for
speech alike, where a mean would count the open mouth in."""
GAP_S = 0.25
"""After a longer time without a face nothing is said about what happened in between."""
LONGEST_BLINK_S = 0.5
"""Lids that stay shut for longer do not blink. Spontaneous blinks last 0.1 to 0.4 s (Stern, Walrath,
Goldstein: The endogenous eyeblink, 1984)."""
SHUT, OPEN = 0.4, 0.2
"""Lids are shut above the one, and open again below the other: between them a tracker may tremble. At 25
pictures a second a blink's deepest moment often lies between two of them."""
SHIFT_RAD_S = 1.5
"""Eyes that turn faster shift their gaze, slower ones rest on something (the velocity threshold of
Salvucci and Goldberg: Identifying fixations and saccades, 2000; theirs, for eye trackers, is higher)."""
SLOW_HZ, FAST_HZ = 1.0, 8.0
"""Lips of somebody who speaks open and shut 2 to 7 times a second (Chandrasekaran et al.: The natural
statistics of audiovisual speech, 2009)."""
SPEECH_S = 0.5
"""Time constant over which that motion is averaged."""
LOUDEST = 0.05
"""A single grimace moves lips further than this, and is not to count for seconds."""
SPEAKING, SILENT = 0.016, 0.011
"""Of that motion's level, in units of coefficient: above the one a face seems to speak, below the other
not any more."""
COEFFICIENT_SIGMA = 0.08
"""Error of a tracked coefficient, measured on a rendered head with known ones."""

_BLINKS = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]
_LIPS = {
    "jawOpen": 1.0, "mouthClose": -1.0, "mouthFunnel": 0.25, "mouthPucker": 0.25,
    "mouthLowerDownLeft": 0.25, "mouthLowerDownRight": 0.25,
    "mouthUpperUpLeft": 0.25, "mouthUpperUpRight": 0.25,
}  # fmt: skip
_APERTURE = np.array([_LIPS.get(name, 0.0) for name in ARKIT_NAMES])
"""[52] how far each coefficient opens the lips."""


@dataclass(frozen=True)
class Calibration:
    """Where a person's face rests."""

    weights: np.ndarray = field(default_factory=lambda: np.zeros(ARKIT_COUNT))
    """[52] coefficients of the resting face."""
    head: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """[3] usual yaw, pitch, roll, radians."""
    gaze: np.ndarray = field(default_factory=lambda: np.zeros((2, 2)))
    """[2, 2] usual gaze, radians."""

    def relative(self, weights: np.ndarray) -> np.ndarray:
        """Return coefficients [..., 52] as the way from neutral (0) to as far as a face goes (1)."""
        return np.clip((weights - self.weights) / (1 - self.weights), 0.0, 1.0)


def calibrated(weights: np.ndarray, head: np.ndarray, gaze: np.ndarray) -> Calibration:
    """Find where a person rests.

    Args:
        weights: [F, 52] coefficients of frames with a face; none gives the general neutral.
        head: [F, 3] radians, NaN where unknown.
        gaze: [F, 2, 2] radians, NaN where unknown.
    """
    if not len(weights):
        return Calibration()
    neutral = np.clip(np.quantile(weights, NEUTRAL_SHARE, axis=0), 0.0, LARGEST_NEUTRAL)

    def middle(values: np.ndarray) -> np.ndarray:
        known = values[np.isfinite(values).reshape(len(values), -1).all(1)]
        return np.median(known, axis=0) if len(known) else np.zeros(values.shape[1:])

    return Calibration(neutral, middle(head), middle(gaze))


@dataclass(frozen=True)
class Reading:
    """What one sample says. Where ``valid`` is false its numbers are NaN and its flags false."""

    time_s: float
    """When it was taken."""
    valid: bool
    """The sample shows a usable face."""
    units: np.ndarray
    """[A] intensities of ``ACTION_UNITS``, 0 to 5."""
    emotions: np.ndarray
    """[7] scores of ``EMOTIONS``, 0 to 1; no probabilities."""
    affect: np.ndarray
    """[2] valence and arousal, -1 to 1."""
    emotion: str
    """The strongest of ``EMOTIONS``, ``"neutral"``, or ``""`` where not valid."""
    head: np.ndarray
    """[3] yaw, pitch, roll from the usual pose, radians; NaN where the source does not say."""
    gaze: np.ndarray
    """[2] yaw and pitch, mean of both eyes, from the usual gaze, radians; NaN where not said."""
    shut: float
    """How shut the eyes are, 0 to 1."""
    blinked: bool
    """A blink ended here."""
    shifted: bool
    """A shift of gaze began here."""
    speech: float
    """Level of the lips' speech-like motion, in units of coefficient."""
    speaking: bool
    """That level is one of speech. Chewing moves lips as well."""


def _unread(time_s: float) -> Reading:
    def nan(*shape: int) -> np.ndarray:
        return np.full(shape, np.nan)

    return Reading(
        time_s, False, nan(len(ACTION_UNITS)), nan(len(EMOTIONS)), nan(2), "",
        nan(3), nan(2), math.nan, False, False, math.nan, False,
    )  # fmt: skip


@dataclass(frozen=True)
class Moments:
    """Count, mean, spread and ends of values that come one by one (Welford 1962)."""

    count: int = 0
    """How many."""
    mean: np.ndarray | float = 0.0
    """Their mean."""
    squares: np.ndarray | float = 0.0
    """Sum of their squared distances from the mean."""
    low: np.ndarray | float = math.inf
    """The lowest."""
    high: np.ndarray | float = -math.inf
    """The highest."""

    def add(self, value: np.ndarray) -> Moments:
        """Return the moments with one more."""
        count, away = self.count + 1, value - self.mean
        mean = self.mean + away / count
        return Moments(
            count,
            mean,
            self.squares + away * (value - mean),
            np.minimum(self.low, value),
            np.maximum(self.high, value),
        )

    @property
    def sd(self) -> np.ndarray:
        """Their standard deviation."""
        return np.sqrt(np.asarray(self.squares) / max(self.count, 1))


@dataclass(frozen=True)
class Totals:
    """What has been counted so far."""

    frames: int = 0
    """Samples, with and without a face."""
    valid: int = 0
    """Samples with a face."""
    refused: int = 0
    """Samples of which nothing could be used: NaN, out of range, time that did not advance."""
    observed_s: float = 0.0
    """Time between samples with a face."""
    values: Moments = field(default_factory=Moments)
    """Of the intensities, valence and arousal, the scores and the gaze, in this order."""
    present: np.ndarray = field(default_factory=lambda: np.zeros(len(ACTION_UNITS), int))
    """[A] samples in which a unit was present."""
    named: tuple[int, ...] = (0,) * (len(EMOTIONS) + 1)
    """Samples by the name of their emotion: neutral, then ``EMOTIONS``."""
    head: Moments = field(default_factory=Moments)
    head_path_rad: float = 0.0
    """Angle through which the head turned in all."""
    ahead: int = 0
    """Samples whose gaze was within ``AHEAD_RAD`` of the usual."""
    blinks: int = 0
    shifts: int = 0
    shut_s: float = 0.0
    """Time with the lids shut, blinks included."""
    speaking_s: float = 0.0


AHEAD_RAD = 0.17
"""A gaze within about ten degrees of the usual one counts as ahead."""


@dataclass(frozen=True)
class _Past:
    """What of the samples before matters for the next."""

    time_s: float
    shut: float
    closing: tuple[float, float] | None
    """When the lids were last open, and the most that they have been shut since; None while open, or
    where the beginning was not seen."""
    head: np.ndarray
    gaze: np.ndarray
    shifting: bool
    fast: float
    slow: float
    slower: float
    power: float
    speaking: bool


@dataclass(frozen=True)
class Readout:
    """Everything read so far; begin with ``Readout(calibration)``."""

    calibration: Calibration = field(default_factory=Calibration)
    totals: Totals = field(default_factory=Totals)
    last_s: float = -math.inf
    """Time of the newest sample."""
    _past: _Past | None = None

    def update(self, sample: FaceSample | None, time_s: float) -> tuple[Readout, Reading]:
        """Return the readout after a sample, and what the sample says.

        A sample that cannot be used (NaN, no coefficients, a time that does not advance) is not valid
        and is counted in ``totals.refused``.

        Args:
            sample: coefficients, head and gaze; None where no face was seen.
            time_s: when it was taken, seconds.
        """
        values = None if sample is None else checked(sample)[0]
        late = not math.isfinite(time_s) or time_s <= self.last_s
        refused = late or (sample is not None and values is None)
        totals = replace(
            self.totals,
            frames=self.totals.frames + 1,
            refused=self.totals.refused + refused,
        )
        if late:
            return replace(self, totals=totals), _unread(time_s)
        if sample is None or values is None:
            return replace(self, totals=totals, last_s=time_s), _unread(time_s)
        head = np.full(3, np.nan)
        if sample.head is not None:
            turn = values[ARKIT_COUNT : ARKIT_COUNT + 3] - self.calibration.head
            head = turn - 2 * math.pi * np.round(turn / (2 * math.pi))
        gaze = values[ARKIT_COUNT + 3 :].reshape(2, 2) - self.calibration.gaze
        weights = self.calibration.relative(values[:ARKIT_COUNT])
        past, blinked, shifted, step = self._moved(weights, head, gaze.mean(0), time_s)
        units = action_units(weights)
        scores = emotion_scores(weights, units)
        reading = Reading(
            time_s, True, units, scores, affect_of(scores), named_emotion(scores), head,
            gaze.mean(0), past.shut, blinked, shifted, math.sqrt(past.power), past.speaking,
        )  # fmt: skip
        totals = _counted(totals, reading, step, self._past)
        return replace(self, totals=totals, last_s=time_s, _past=past), reading

    def _moved(
        self, weights: np.ndarray, head: np.ndarray, gaze: np.ndarray, time_s: float
    ) -> tuple[_Past, bool, bool, float]:
        """Follow lids, eyes and lips; return what to keep, blinked, shifted, and the time observed."""
        shut = float(weights[_BLINKS].mean())
        aperture = float(weights @ _APERTURE)
        before = self._past
        if before is None or time_s - before.time_s > GAP_S:
            # Lids that are shut at the beginning have been so for an unknown time: that is no blink.
            past = _Past(time_s, shut, None, head, gaze, False, aperture, aperture, 0.0, 0.0, False)
            return past, False, False, 0.0
        step = time_s - before.time_s
        closing, blinked = before.closing, False
        if shut < OPEN:
            if closing is not None:
                blinked = closing[1] >= SHUT and time_s - closing[0] <= LONGEST_BLINK_S
            closing = None
        elif closing is not None:
            closing = (closing[0], max(closing[1], shut))
        elif before.shut < OPEN:
            closing = (before.time_s, shut)
        shifting = float(np.linalg.norm(gaze - before.gaze)) > SHIFT_RAD_S * step
        fast = before.fast + _share(FAST_HZ, step) * (aperture - before.fast)
        slow = before.slow + _share(SLOW_HZ, step) * (aperture - before.slow)
        # Twice, as a mouth that opens slowly and widely would pass a single filter.
        band = fast - slow
        slower = before.slower + _share(SLOW_HZ, step) * (band - before.slower)
        now = min(abs(band - slower), LOUDEST) ** 2
        power = before.power + (1 - math.exp(-step / SPEECH_S)) * (now - before.power)
        speaking = math.sqrt(power) > (SILENT if before.speaking else SPEAKING)
        past = _Past(
            time_s, shut, closing, head, gaze, shifting, fast, slow, slower, power, speaking
        )
        return past, blinked, shifting and not before.shifting, step

    def summary(self) -> dict[str, Any]:
        """Return statistics of all that was read, JSON-able; None where nothing is known."""
        totals, valid = self.totals, max(self.totals.valid, 1)
        minutes = totals.observed_s / 60
        known = totals.valid > 0

        def per_minute(count: int) -> float | None:
            return count / minutes if minutes > 0 else None

        def share(seconds: float) -> float | None:
            return seconds / totals.observed_s if totals.observed_s > 0 else None

        def each(moments: Moments, names: tuple[str, ...], first: int = 0) -> dict[str, Any] | None:
            if not moments.count:
                return None
            parts = {
                "mean": moments.mean, "sd": moments.sd, "min": moments.low, "max": moments.high,
            }  # fmt: skip
            return {
                name: {key: float(np.asarray(value)[i]) for key, value in parts.items()}
                for i, name in enumerate(names, first)
            }

        affect_at = len(UNIT_LABELS)
        scores_at = affect_at + 2
        gaze_at = scores_at + len(EMOTIONS)
        units = each(totals.values, UNIT_LABELS)
        for i, label in enumerate(UNIT_LABELS if units else ()):
            units[label]["present_share"] = float(totals.present[i] / valid)  # type: ignore[index]
        shares = [count / valid for count in totals.named] if known else None
        return {
            "frames": totals.frames,
            "frames_with_face": totals.valid,
            "frames_refused": totals.refused,
            "observed_s": totals.observed_s,
            "action_units": units,
            "affect": each(totals.values, ("valence", "arousal"), affect_at),
            "emotion_scores": each(totals.values, EMOTIONS, scores_at),
            "emotion_shares": None
            if shares is None
            else dict(zip(("neutral", *EMOTIONS), shares, strict=True)),
            "blinks": {
                "count": totals.blinks,
                "per_minute": per_minute(totals.blinks),
                "eyes_shut_share": share(totals.shut_s),
            },
            "gaze_rad": each(totals.values, ("yaw", "pitch"), gaze_at),
            "gaze": {
                "ahead_share": totals.ahead / valid if known else None,
                "shifts_per_minute": per_minute(totals.shifts),
            },
            "head_rad": each(totals.head, ("yaw", "pitch", "roll")),
            "head": {
                "mean_speed_rad_s": totals.head_path_rad / totals.observed_s
                if totals.head.count and totals.observed_s > 0
                else None
            },
            "speaking_like_share": share(totals.speaking_s),
        }


def _counted(totals: Totals, reading: Reading, step: float, before: _Past | None) -> Totals:
    """Return the totals with one more valid reading, ``step`` seconds after the one before (0: a gap)."""
    named = list(totals.named)
    named[("neutral", *EMOTIONS).index(reading.emotion)] += 1
    said, turn = bool(np.isfinite(reading.head).all()), 0.0
    if said and before is not None and step > 0 and np.isfinite(before.head).all():
        away = reading.head - before.head
        turn = float(np.linalg.norm(away - 2 * math.pi * np.round(away / (2 * math.pi))))
    return replace(
        totals,
        valid=totals.valid + 1,
        observed_s=totals.observed_s + step,
        values=totals.values.add(
            np.concatenate([reading.units, reading.affect, reading.emotions, reading.gaze])
        ),
        present=totals.present + (reading.units >= PRESENT),
        named=tuple(named),
        head=totals.head.add(reading.head) if said else totals.head,
        head_path_rad=totals.head_path_rad + turn,
        ahead=totals.ahead + bool(np.linalg.norm(reading.gaze) <= AHEAD_RAD),
        blinks=totals.blinks + reading.blinked,
        shifts=totals.shifts + reading.shifted,
        shut_s=totals.shut_s + (step if reading.shut >= SHUT else 0.0),
        speaking_s=totals.speaking_s + (step if reading.speaking else 0.0),
    )


def _share(cutoff_hz: float, step_s: float) -> float:
    """Return how far a first-order low-pass goes in a step."""
    return 1 - math.exp(-2 * math.pi * cutoff_hz * step_s)
