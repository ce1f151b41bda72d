"""When each of several clips began: by their sound, else by what the face and the picture do.

Both ways end in the same place. A clip becomes a few signals over time; two clips are laid over each
other at every lag, and the normalised correlation of what overlaps (gaps left out) is turned into how
far it stands out of all other lags. The pairs that stand out most form a tree over all clips, so a
camera that shares nothing with the first may still be placed through a third.

Offsets are seconds from the first picture of the first clip to the first picture of each.
"""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from avatar.types import Progress, Reporter, ignore_progress
from capture.ingest import AUDIO_RATE, ClipInfo, extract_audio, read_frames
from capture.people import detect_landmarks
from capture.quality import eye_opening, head_angles, mouth_opening

SOUND_RATE = 250.0
"""Samples a second of a sound's onset envelope."""
SOUND_WINDOW = 256
"""Samples of ``AUDIO_RATE`` in a spectrum: 16 ms."""
SOUND_S = 600.0
"""Seconds of sound that are listened to."""
MOTION_RATE = 100.0
"""Samples a second to which signals of pictures are interpolated."""
MOTION_S = 120.0
"""Seconds of pictures that are looked at."""
MOTION_SIDE = 640
"""Longer side, pixels, at which faces are looked for here: a lip's gap needs no more."""
SLOW_S = 1.0
"""What changes more slowly than this (light, a lean of the body) is taken out of the motion signals."""
OVERLAP_S = 2.0
"""Clips are laid over each other by at least this long."""
OVERLAP_SHARE = 0.25
"""And by at least this share of the shorter one."""
CLEAR = 7.0
"""A lag is believed from so many robust standard deviations over the others on: noise of ten minutes'
lags reaches 5."""
RIVAL = 0.8
"""And where no other lag (``APART_S`` away) reaches this share of it: a beat repeats itself."""
APART_S = {"sound": 0.08, "motion": 0.5}


@dataclass(frozen=True)
class Signals:
    """What is compared of a clip."""

    values: np.ndarray
    """[n, S] float64, evenly in time; sample 0 belongs to the clip's first picture."""
    known: np.ndarray
    """[n, S] bool."""
    rate: float
    """Samples a second."""


@dataclass(frozen=True)
class Match:
    """How two clips lie over each other best."""

    lag_s: float
    """Seconds from the first clip's beginning to the second one's."""
    strength: float
    """Robust standard deviations by which this lag's likeness stands over that of all lags."""
    rival: float
    """The best other lag's share of it, 0 to 1."""

    @property
    def clear(self) -> bool:
        """Whether to believe it."""
        return self.strength >= CLEAR and self.rival <= RIVAL

    @property
    def confidence(self) -> float:
        """Between 0 and 1; a clear match has 0.2 or more."""
        return float(np.clip(1 - self.rival, 0, 1) * min(1.0, self.strength / CLEAR))


@dataclass(frozen=True)
class Offset:
    """When a clip began, and how that is known."""

    seconds: float
    """After the first clip's first picture."""
    method: str
    """``"reference"`` (the first clip), ``"given"``, ``"sound"``, ``"motion"``, or ``"assumed"``."""
    confidence: float
    """Of the weakest link to the first clip, 0 to 1; 1 where given."""


def sound_signals(samples: np.ndarray) -> Signals:
    """Return the onset envelope of sound: how much louder each band became, summed over bands.

    Spectral flux of log magnitudes (Bello et al., A tutorial on onset detection in music signals, 2005,
    eq. 6 with log compression): it does not mind that microphones differ.

    Args:
        samples: [n] int16 or float at ``AUDIO_RATE``, sample 0 at the first picture.
    """
    hop = round(AUDIO_RATE / SOUND_RATE)
    sound = np.asarray(samples, np.float64)
    scale = float(np.sqrt(np.mean(sound**2))) if len(sound) else 0.0
    padded = np.pad(sound / max(scale, 1e-9), (SOUND_WINDOW // 2, SOUND_WINDOW))
    count = len(sound) // hop
    window = np.hanning(SOUND_WINDOW)
    flux = np.zeros(count)
    previous = None
    for begin in range(0, count, 4096):
        rows = np.arange(begin, min(begin + 4096, count))
        pieces = padded[rows[:, None] * hop + np.arange(SOUND_WINDOW)] * window
        level = np.log1p(np.abs(np.fft.rfft(pieces, axis=1))[:, 2:])
        before = level[:1] if previous is None else previous
        steps = np.diff(np.concatenate([before, level]), axis=0)
        flux[rows] = np.maximum(steps, 0).mean(1)
        previous = level[-1:]
    return Signals(flux[:, None], np.full((count, 1), scale > 0), SOUND_RATE)


def motion_signals(
    points: np.ndarray, found: np.ndarray, change: np.ndarray, fps: float
) -> Signals:
    """Return what cameras that stand elsewhere see alike of a moving head.

    The lips' gap and the lids' gap over the face's own height, the head's turning to the side and its
    speed of turning, and how much the picture changes (all that a camera behind the head has).

    Args:
        points: [F, 478, 3] pixels.
        found: [F] bool, a face was found.
        change: [F] mean absolute difference of a picture to the one before.
        fps: pictures a second.
    """
    angles = np.unwrap(head_angles(points), axis=0, period=360) * found[:, None]
    turned = np.gradient(angles, axis=0) if len(angles) > 1 else angles
    speed = np.linalg.norm(turned, axis=1)
    channels = [mouth_opening(points), eye_opening(points), turned[:, 0], np.sqrt(speed)]
    channels.append(np.sqrt(np.maximum(change, 0)))
    # A turn is known where its neighbours are.
    inner = found & np.roll(found, 1) & np.roll(found, -1)
    inner[[0, -1]] = False
    everywhere = np.ones(len(found), bool)
    everywhere[0] = False
    known = np.stack([found, found, inner, inner, everywhere], 1)
    values = np.nan_to_num(np.stack(channels, 1))
    return _resampled(_without_slow(values, known, fps), known, fps)


def _without_slow(values: np.ndarray, known: np.ndarray, fps: float) -> np.ndarray:
    """Subtract a running mean over the known samples about each."""
    width = max(3, round(SLOW_S * fps) | 1)
    box = np.ones(width)
    out = np.zeros_like(values)
    for k in range(values.shape[1]):
        weight = known[:, k].astype(float)
        total = np.convolve(values[:, k] * weight, box)[width // 2 :][: len(values)]
        count = np.convolve(weight, box)[width // 2 :][: len(values)]
        out[:, k] = (values[:, k] - total / np.maximum(count, 1)) * weight
    return out


def _resampled(values: np.ndarray, known: np.ndarray, fps: float) -> Signals:
    frames = len(values)
    times = np.arange(int((frames - 1) / fps * MOTION_RATE) + 1) / MOTION_RATE
    place = times * fps
    low = np.minimum(place.astype(int), max(frames - 2, 0))
    high = np.minimum(low + 1, frames - 1)
    share = (place - low)[:, None]
    return Signals(
        values[low] * (1 - share) + values[high] * share, known[low] & known[high], MOTION_RATE
    )


def match(a: Signals, b: Signals, kind: str) -> Match | None:
    """Lay ``b`` over ``a`` at every lag; None where nothing overlaps or nothing happens.

    Args:
        a: the first clip's.
        b: the second clip's, of the same kind and rate.
        kind: ``"sound"`` or ``"motion"``: how far apart two lags are other ones.
    """
    least = OVERLAP_S * a.rate
    least = max(least, OVERLAP_SHARE * min(len(a.values), len(b.values)))
    total = 0.0
    used = 0
    possible = np.zeros(len(a.values) + len(b.values) - 1, bool)
    for k in range(a.values.shape[1]):
        score = _likeness(a.values[:, k], a.known[:, k], b.values[:, k], b.known[:, k], least)
        if score is None:
            continue
        possible |= np.isfinite(score)
        total = total + np.nan_to_num(score)
        used += 1
    if not used:
        return None
    score = np.where(possible, total, -np.inf)
    usual = score[possible]
    middle = np.median(usual)
    spread = max(1.4826 * float(np.median(np.abs(usual - middle))), 1e-9)
    score = (score - middle) / spread
    peak = int(score.argmax())
    apart = round(APART_S[kind] * a.rate)
    rest = score.copy()
    rest[max(0, peak - apart) : peak + apart + 1] = -np.inf
    rival = float(rest.max()) if np.isfinite(rest).any() else 0.0
    shift = 0.0
    if 0 < peak < len(score) - 1 and np.isfinite(score[[peak - 1, peak + 1]]).all():
        before, here, after = score[peak - 1 : peak + 2]
        bend = before - 2 * here + after
        shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    lag = (peak + shift - (len(b.values) - 1)) / a.rate
    strength = float(score[peak])
    return Match(float(lag), strength, max(0.0, rival / max(strength, 1e-9)))


def _likeness(
    a: np.ndarray, known_a: np.ndarray, b: np.ndarray, known_b: np.ndarray, least: float
) -> np.ndarray | None:
    """Fisher's z of the correlation at every lag, times the root of what overlaps; NaN for too little.

    [len(a) + len(b) - 1]; entry ``len(b) - 1 + lag`` has sample j of ``b`` over ``j + lag`` of ``a``.
    """
    length = len(a) + len(b) - 1
    size = 1 << (length - 1).bit_length()

    def lagged(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(y[::-1], size), size)[:length]

    wa, wb = known_a.astype(float), known_b.astype(float)
    if wa.sum() < least or wb.sum() < least:
        return None
    a, b = (a - a[known_a].mean()) * wa, (b - b[known_b].mean()) * wb
    if a.std() < 1e-9 or b.std() < 1e-9:
        return None
    count = np.round(lagged(wa, wb))
    enough = count >= least
    n = np.maximum(count, 1)
    sum_a, sum_b = lagged(a, wb), lagged(wa, b)
    var_a = lagged(a * a, wb) - sum_a**2 / n
    var_b = lagged(wa, b * b) - sum_b**2 / n
    # Where one is all but still over the overlap, a correlation means nothing.
    floor_a, floor_b = 0.02 * a.var() * n, 0.02 * b.var() * n
    enough &= (var_a > floor_a) & (var_b > floor_b)
    if not enough.any():
        return None
    covariance = lagged(a, b) - sum_a * sum_b / n
    r = covariance / np.sqrt(np.where(enough, var_a * var_b, 1))
    z = np.arctanh(np.clip(r, -0.999, 0.999)) * np.sqrt(n)
    return np.where(enough, z, np.nan)


@dataclass(frozen=True)
class Heard:
    """A clip's sound, heard once."""

    signals: Signals
    """For ``match``."""
    range_db: float
    """By how much its loud moments stand over its quiet ones, less where it is clipped."""


def listen(clip: ClipInfo) -> Heard | None:
    """Hear a clip; None where it has no sound or only silence."""
    if not clip.has_audio:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        seconds = min(clip.duration_s, SOUND_S)
        if not extract_audio(clip.path, path, start_s=clip.start_s, duration_s=seconds):
            return None
        with wave.open(str(path), "rb") as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    signals = sound_signals(samples)
    if not signals.known.any() or signals.values.std() == 0:
        return None
    return Heard(signals, _range_db(samples))


def _range_db(samples: np.ndarray) -> float:
    block = AUDIO_RATE // 50
    whole = samples[: len(samples) // block * block].astype(np.float64).reshape(-1, block)
    quiet, loud = np.percentile(np.sqrt((whole**2).mean(1)), [10, 95])
    clipped = float((np.abs(samples.astype(int)) >= 32700).mean())
    # A thousandth of clipped samples is heard as a crackle.
    return float(20 * np.log10((loud + 1) / (quiet + 1)) - min(40.0, 1e4 * clipped))


def watch(clip: ClipInfo, report: Reporter = ignore_progress) -> Signals:
    """Return the pictures' signals: one pass over the clip at a small size.

    Args:
        clip: the clip.
        report: listener; stage ``"synchronise"``.
    """
    share = min(1.0, MOTION_SIDE / max(clip.width, clip.height))
    width, height = (max(2, round(side * share)) for side in (clip.width, clip.height))
    frames = min(clip.frames, round(MOTION_S * clip.fps))
    small = replace(clip, width=width, height=height, frames=frames)
    change: list[float] = []
    previous: np.ndarray | None = None

    def pictures():
        nonlocal previous
        for image in read_frames(small):
            thumb = cv2.resize(image, (80, 80), interpolation=cv2.INTER_AREA).astype(np.float32)
            change.append(0.0 if previous is None else float(np.abs(thumb - previous).mean()))
            previous = thumb
            report(Progress("synchronise", len(change), frames))
            yield image

    followed = detect_landmarks(pictures(), small.width, small.height)
    points, found = followed.landmarks.points.numpy(), followed.landmarks.valid.numpy()
    return motion_signals(points, found, np.array(change), small.fps)


def offsets_of(
    sounds: Sequence[Signals | None], motions: Sequence[Signals | None]
) -> list[Offset | None]:
    """Place every clip by the clearest matches; None for one that cannot be placed.

    Args:
        sounds: of each clip; None where it has none.
        motions: of each clip; None where not looked at.
    """
    count = len(sounds)
    links: list[tuple[float, int, int, Match, str]] = []
    for i in range(count):
        for j in range(i + 1, count):
            for kind, signals in (("sound", sounds), ("motion", motions)):
                a, b = signals[i], signals[j]
                found = None if a is None or b is None else match(a, b, kind)
                if found is not None and found.clear:
                    # Sound is exact to a few milliseconds: where both are clear it is taken.
                    links.append((found.confidence + (kind == "sound"), i, j, found, kind))
                    break
    placed: list[Offset | None] = [None] * count
    placed[0] = Offset(0.0, "reference", 1.0)
    while True:  # Prim's algorithm: the firmest link from what is placed to what is not
        best = None
        for firmness, i, j, found, kind in links:
            if (placed[i] is None) != (placed[j] is None) and (best is None or firmness > best[0]):
                best = (firmness, i, j, found, kind)
        if best is None:
            return placed
        _, i, j, found, kind = best
        known, new, sign = (i, j, 1.0) if placed[i] is not None else (j, i, -1.0)
        start = placed[known]
        assert start is not None
        placed[new] = Offset(
            start.seconds + sign * found.lag_s, kind, min(start.confidence, found.confidence)
        )
