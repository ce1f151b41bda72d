"""What a sound is made of, 50 times a second: log-mel energies, pitch, voicing, level.

Any file that FFmpeg reads, any sampling rate, any number of channels. There is one way to compute the
numbers: a stream that takes chunks of samples of any length. Offline is the same stream fed from a
file, so both give the same values, and ten minutes need no more memory than one second.

Frame k shows the sound around k / 50 s: its window reaches 20 ms to either side, so it is known 20 ms
(and the resampler's 2 ms) after the moment that it describes. Nothing else looks ahead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from avatar.checks import InputError

AUDIO_SUFFIXES = (".wav", ".mp3", ".m4a", ".ogg", ".flac", ".aac", ".opus")

RATE = 16000
"""Samples a second at which sound is analysed."""
HOP = 320
"""Samples from frame to frame."""
WINDOW = 640
"""Samples of a frame's window, half of them after its moment."""
FEATURE_FPS = RATE / HOP
MELS = 40
"""Bands of the log-mel spectrum; the first so many features."""
LEVEL, PITCH, VOICING = MELS, MELS + 1, MELS + 2
"""Positions of the level (natural logarithm of the power), of the pitch (octaves from 100 Hz, times the
voicing) and of the voicing (0 to 1)."""
FEATURES = MELS + 3
FLOOR = 1e-8
"""Power below which nothing is heard (-80 dB of full scale)."""
QUIETEST = -12.0
"""Level (natural logarithm of power, -52 dB) of the quietest sound that is taken for speech."""
LOWEST_HZ, HIGHEST_HZ = 60.0, 7600.0
PITCH_HZ = (65.0, 400.0)
RATES = (4000, 384000)
"""Sampling rates that are believed."""
ZERO_CROSSINGS = 24
"""Of the resampler's filter, to either side."""

REMEDY = "Give a sound file that plays elsewhere, for example a .wav."


@dataclass(frozen=True)
class SoundBlock:
    """Some consecutive samples of one sound."""

    samples: np.ndarray
    """[S] float64, one channel, nominally in [-1, 1]."""
    rate: int
    """Samples a second."""


class Resampler:
    """Brings chunks of samples from any rate to ``RATE``; the sound keeps its time.

    Band-limited interpolation with a Kaiser-windowed sinc (Smith 2002, Digital Audio Resampling), evaluated
    at the exact rational position of every output sample, so that no error builds up.
    """

    def __init__(self, rate: int) -> None:
        """Prepare.

        Args:
            rate: samples a second of what will come.

        Raises:
            InputError: a rate that no sound has.
        """
        if not RATES[0] <= rate <= RATES[1]:
            raise InputError(
                f"The sound has {rate} samples a second; between {RATES[0]} and {RATES[1]} are understood."
            )
        shared = math.gcd(rate, RATE)
        self._up, self._down = RATE // shared, rate // shared
        self._rate = rate
        scale = min(1.0, RATE / rate)  # the cutoff, as a share of the input's
        self._half = 0 if rate == RATE else math.ceil(ZERO_CROSSINGS / scale)
        self._bank = _filter_bank(self._up, self._half, scale) if self._half else None
        self._held = np.zeros(self._half)
        self._first = -self._half  # index of the first held sample
        self._next = 0  # index of the next output sample
        self._taken = 0

    @property
    def delay_s(self) -> float:
        """How far the filter looks ahead, seconds."""
        return self._half / self._rate

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples [S] and return those that can be computed now, [T] at ``RATE``."""
        self._taken += len(samples)
        if self._bank is None:
            return samples
        self._held = np.concatenate([self._held, samples])
        known = self._first + len(self._held)
        # Output n lies at input position n * down / up and needs ``half`` samples beyond it.
        last = ((known - self._half) * self._up - 1) // self._down + 1
        return self._until(last)

    def flush(self) -> np.ndarray:
        """Return what is still to come, [T], taking silence after the end."""
        if self._bank is None:
            return np.zeros(0)
        self._held = np.concatenate([self._held, np.zeros(self._half + 1)])
        return self._until(-(-self._taken * self._up // self._down))

    def _until(self, last: int) -> np.ndarray:
        if last <= self._next or self._bank is None:
            return np.zeros(0)
        n = np.arange(self._next, last)
        base, phase = np.divmod(n * self._down, self._up)
        windows = np.lib.stride_tricks.sliding_window_view(self._held, 2 * self._half)
        out = np.einsum("nk,nk->n", windows[base + 1 - self._half - self._first], self._bank[phase])
        self._next = last
        keep = last * self._down // self._up - self._half - self._first
        if keep > 0:
            self._held, self._first = self._held[keep:], self._first + keep
        return out


class FeatureStream:
    """Turns chunks of samples into feature frames as soon as they are known."""

    def __init__(self, rate: int = RATE) -> None:
        """Start at time 0 of a sound of ``rate`` samples a second; raises as ``Resampler``."""
        self._resampler = Resampler(rate)
        self._held = np.zeros(WINDOW // 2)  # silence before the beginning
        self._samples = 0

    @property
    def delay_s(self) -> float:
        """How much later than the moment that it describes a frame is known, seconds."""
        return self._resampler.delay_s + WINDOW / 2 / RATE

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples [S] (any length; NaN is silence, beyond full scale is clipped); return new frames [N, 43]."""
        clean = np.nan_to_num(np.asarray(samples, np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
        return self._frames(self._resampler.push(np.clip(clean, -1, 1)))

    def flush(self) -> np.ndarray:
        """Return the last frames [N, 43], taking silence after the end."""
        frames = self._frames(self._resampler.flush())
        wanted = -(-self._samples // HOP)
        missing = wanted * HOP + WINDOW - HOP - (self._samples + WINDOW // 2)
        done = self._samples
        rest = self._frames(np.zeros(max(missing, 0)))
        self._samples = done
        return np.concatenate([frames, rest])

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        self._samples += len(samples)
        self._held = np.concatenate([self._held, samples])
        count = (len(self._held) - WINDOW) // HOP + 1
        if count <= 0:
            return np.zeros((0, FEATURES))
        windows = np.lib.stride_tricks.sliding_window_view(self._held, WINDOW)[: count * HOP : HOP]
        frames = _features(windows)
        self._held = self._held[count * HOP :]
        return frames


def read_sound(path: Path) -> Iterator[SoundBlock]:
    """Yield the sound of a file in blocks, its channels averaged.

    Raises:
        InputError: the file is missing, is no sound, is damaged, or is empty.
    """
    import av

    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no sound file {path}. {REMEDY}")
    total = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path} has no sound in it. {REMEDY}")
            converter = av.AudioResampler(format="fltp")
            for frame in container.decode(container.streams.audio[0]):
                for part in converter.resample(frame):
                    samples = part.to_ndarray().astype(np.float64).mean(0)
                    total += len(samples)
                    yield SoundBlock(samples, part.sample_rate)
    except (av.FFmpegError, ValueError, OSError, EOFError) as error:
        if total == 0:
            raise InputError(f"{path} cannot be read as sound ({error}). {REMEDY}") from error
        # A file that breaks off is used as far as it goes, as every player does.
    if total == 0:
        raise InputError(f"{path} holds no sound: it has no samples. {REMEDY}")


def feature_blocks(blocks: Iterable[SoundBlock]) -> Iterator[np.ndarray]:
    """Yield feature frames [N, 43] of a sound, block by block.

    Raises:
        InputError: the sampling rate changes on the way.
    """
    stream, rate = None, 0
    for block in blocks:
        if stream is None:
            stream, rate = FeatureStream(block.rate), block.rate
        if block.rate != rate:
            raise InputError(
                f"The sound changes from {rate} to {block.rate} samples a second. {REMEDY}"
            )
        yield stream.push(block.samples)
    if stream is not None:
        yield stream.flush()


def sound_features(path: Path) -> np.ndarray:
    """Return the feature frames [N, 43] of a sound file, 50 a second; raises as ``read_sound``."""
    return np.concatenate([*feature_blocks(read_sound(path)), np.zeros((0, FEATURES))])


def speech_level(features: np.ndarray) -> float:
    """Return how loud the speech of frames [N, 43] is: the level that a tenth of them exceed.

    At least ``QUIETEST``: below it there is no speech, but the noise of a room.
    """
    return max(QUIETEST, float(np.quantile(features[:, LEVEL], 0.9))) if len(features) else QUIETEST


class SpeechLevel:
    """Finds out how loud speech is while it comes: a stochastic estimate of ``speech_level``."""

    def __init__(self, start: float, *, known: bool = False) -> None:
        """Begin at ``start``; a known level stays as it is."""
        self.value = start
        """The level now."""
        self._known, self._heard = known, 0

    def follow(self, level: float) -> float:
        """Take the level of the next frame; return that of speech.

        Up nine times as fast as down, so that a tenth of what is not silence is louder; at first quickly.
        What lies far below counts as silence, and pulls the level down slowly: perhaps that is the speech.
        """
        silence = math.log(FLOOR) + 3
        if self._known or level <= silence:
            return self.value
        if level > self.value - 7:
            step = 0.04 + 0.12 * math.exp(-self._heard / 100)
            self.value += step * (0.9 if level > self.value else -0.1)
            self._heard += 1
        else:
            self.value -= 0.06 if self._heard < 25 else 0.01
        return self.value


def with_level(features: np.ndarray, gain: float) -> np.ndarray:
    """Return frames [N, 43] of the same sound played louder by ``gain`` (natural logarithm of power)."""
    out = features.copy()
    floor = math.log(FLOOR)
    out[:, : LEVEL + 1] = np.maximum(out[:, : LEVEL + 1] + gain, floor)
    return out


@lru_cache(maxsize=8)
def _filter_bank(up: int, half: int, scale: float) -> np.ndarray:
    """Return the interpolation filters [up, 2 half], one for each fraction of an input sample."""
    taps = np.arange(1 - half, half + 1)
    x = taps[None] - np.arange(up)[:, None] / up
    window = np.i0(8.0 * np.sqrt(np.clip(1 - (x / half) ** 2, 0, None))) / np.i0(8.0)
    # A little under the band's edge: the filter falls off over a finite band.
    cut = 0.94 * scale
    bank = cut * np.sinc(cut * x) * window
    return bank / bank.sum(1, keepdims=True)


@lru_cache(maxsize=1)
def _mel_matrix() -> np.ndarray:
    """Return triangular mel filters [513, 40]; each sums the power of its band."""

    def mel(hz: np.ndarray | float) -> np.ndarray | float:
        return 2595 * np.log10(1 + np.asarray(hz) / 700)

    edges = 700 * (10 ** (np.linspace(mel(LOWEST_HZ), mel(HIGHEST_HZ), MELS + 2) / 2595) - 1)
    hz = np.arange(513) * RATE / 1024
    rise = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rise, fall))


@lru_cache(maxsize=1)
def _windowing() -> tuple[np.ndarray, np.ndarray]:
    """Return the Hann window [640] and its autocorrelation [1024], 1 at lag 0."""
    window = np.hanning(WINDOW + 1)[:WINDOW]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(window, 2048)) ** 2)[:1024]
    return window, correlation / correlation[0]


def _features(windows: np.ndarray) -> np.ndarray:
    """Return features [N, 43] of windows [N, 640] of samples.

    Pitch: the highest peak of the autocorrelation, divided by the window's own (Boersma 1993, Accurate
    short-term analysis of the fundamental frequency, equation 9).
    """
    window, own = _windowing()
    out = np.empty((len(windows), FEATURES))
    for first in range(0, len(windows), 512):
        part = windows[first : first + 512]
        spectrum = np.fft.rfft(part * window, 1024)
        power = np.abs(spectrum) ** 2 / (window**2).sum()
        rows = out[first : first + 512]
        # einsum, not matmul: a row's sum must not depend on how many rows come at once.
        mels = np.einsum("nf,fm->nm", power, _mel_matrix()) / 512
        rows[:, :MELS] = np.log(np.maximum(mels, FLOOR))
        loud = np.mean((part * window) ** 2, axis=1) / np.mean(window**2)
        rows[:, LEVEL] = np.log(np.maximum(loud, FLOOR))
        # A DC offset and hum correlate at every lag: they are left out.
        heard = power * (np.arange(513) * RATE / 1024 > LOWEST_HZ)
        correlation = np.fft.irfft(heard, 1024)
        lags = np.arange(int(RATE / PITCH_HZ[1]), int(RATE / PITCH_HZ[0]) + 1)
        share = correlation[:, lags] / np.maximum(correlation[:, :1], 1e-12) / own[lags]
        # Of peaks that are equally high the first is the pitch, the others its octaves below.
        best = np.argmax(share - 0.03 * np.log2(lags / lags[0]), axis=1)
        height = share[np.arange(len(share)), best]
        voicing = np.clip((height - 0.35) / 0.5, 0, 1) * (loud > 10 * FLOOR)
        rows[:, PITCH] = voicing * np.log2(RATE / lags[best] / 100)
        rows[:, VOICING] = voicing
    return out
