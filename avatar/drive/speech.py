"""Sound with timed phonemes: what every voice, built in or not, hands to the face."""

from __future__ import annotations

import json
import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler

from avatar.checks import InputError
from avatar.tensorfile import atomic_path

PHONEMES_AT_MOST = 200_000
TIMING_BYTES = 16 * 2**20
SOUND_AT_MOST_S = 3600.0
HEARD_RATE = 16_000
"""Hz at which a sound file is listened to."""

TIMING_FORMAT = (
    'expected {"phonemes": [{"phoneme": "h", "start": 0.0, "end": 0.08}, ...]} with IPA names and seconds '
    "in increasing order"
)


@dataclass(frozen=True)
class TimedPhoneme:
    """One sound of speech."""

    name: str
    """IPA, with stress and length marks as far as they are known; empty for a pause."""
    start_s: float
    end_s: float

    @property
    def stressed(self) -> bool:
        """Whether it carries the main stress of its word."""
        return "ˈ" in self.name


@dataclass(frozen=True)
class Word:
    """Where a word begins, in the sound and in the text."""

    start_s: float
    character: int
    """Index of its first letter."""


@dataclass(frozen=True)
class Speech:
    """A spoken text."""

    samples: np.ndarray
    """[S] float32 in [-1, 1], one channel."""
    sample_rate: int
    """Samples a second."""
    phonemes: tuple[TimedPhoneme, ...]
    """In order, none overlapping the next."""
    words: tuple[Word, ...] = ()
    """In order; none where the voice does not tell."""

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return len(self.samples) / self.sample_rate

    @property
    def says_something(self) -> bool:
        """Whether any phoneme is spoken."""
        return any(phoneme.name for phoneme in self.phonemes)

    def time_of(self, character: int) -> float:
        """Return when the first word at or behind a letter begins; the end where none does, seconds."""
        return min(
            (word.start_s for word in self.words if word.character >= character),
            default=self.seconds,
        )

    def write(self, path: Path) -> None:
        """Write the sound as a 16-bit wav file, atomically."""
        pcm = np.round(np.clip(self.samples, -1, 1) * 32767).astype("<i2")
        with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.sample_rate)
            file.writeframes(pcm.tobytes())


def silence(seconds: float, sample_rate: int) -> Speech:
    """Return a pause as a speech."""
    count = round(seconds * sample_rate)
    return Speech(np.zeros(count, np.float32), sample_rate, ())


def joined(parts: Sequence[Speech], characters: Sequence[int]) -> Speech:
    """Return speeches one after another.

    Args:
        parts: at least one, all at one sample rate.
        characters: of each, where its text begins in the whole text.
    """
    rate, begin = parts[0].sample_rate, 0.0
    phonemes: list[TimedPhoneme] = []
    words: list[Word] = []
    for part, first in zip(parts, characters, strict=True):
        if part.sample_rate != rate:
            raise ValueError(f"parts at {rate} and {part.sample_rate} Hz cannot be joined.")
        phonemes += [
            TimedPhoneme(p.name, p.start_s + begin, p.end_s + begin) for p in part.phonemes
        ]
        words += [Word(word.start_s + begin, word.character + first) for word in part.words]
        begin += part.seconds
    samples = np.concatenate([part.samples for part in parts])
    return Speech(samples, rate, tuple(phonemes), tuple(words))


def read_samples(path: Path, rate: int = HEARD_RATE) -> np.ndarray:
    """Return the sound of any file that FFmpeg reads, [S] float32, one channel at ``rate`` Hz.

    Raises:
        InputError: missing, no sound in it, damaged, or longer than an hour.
    """
    remedy = "Give a sound file, for example a .wav."
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file. {remedy}")
    parts: list[np.ndarray] = []
    heard = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path} has no sound. {remedy}")
            # Its own layout stays: FFmpeg's mixing to one channel adds voices up to 3 dB louder.
            resampler = AudioResampler(format="fltp", rate=rate)
            for frame in container.decode(container.streams.audio[0]):
                for part in resampler.resample(frame):
                    parts.append(part.to_ndarray().mean(0))
                    heard += parts[-1].size
                if heard > SOUND_AT_MOST_S * rate:
                    raise InputError(
                        f"{path} is longer than {SOUND_AT_MOST_S / 60:.0f} minutes. Cut it into parts."
                    )
            parts += [part.to_ndarray().mean(0) for part in resampler.resample(None)]
    except (OSError, av.FFmpegError) as error:
        raise InputError(
            f"{path} cannot be read as sound ({error.strerror or error}). {remedy}"
        ) from error
    if not sum(part.size for part in parts):
        raise InputError(f"{path} has no sound in its sound track. {remedy}")
    return np.nan_to_num(np.concatenate(parts).astype(np.float32))


def read_spoken(sound: Path, timing: Path) -> Speech:
    """Open a sound file with the timing of its phonemes.

    Raises:
        InputError: either cannot be read, or they do not fit each other.
    """
    samples = read_samples(sound)
    phonemes = read_timing(timing)
    seconds = len(samples) / HEARD_RATE
    if phonemes[-1].end_s > seconds + 1.0:
        raise InputError(
            f"{timing} ends at {phonemes[-1].end_s:.2f} s, but {sound} is {seconds:.2f} s long. "
            "Give the timing of this very sound."
        )
    return Speech(samples, HEARD_RATE, phonemes)


def read_timing(path: Path) -> tuple[TimedPhoneme, ...]:
    """Read when which phoneme is spoken, from a JSON file (docs/speech.md has the format).

    Raises:
        InputError: missing, too large, no JSON, or not of that form; the sentence says which entry.
    """
    path = Path(path)
    try:
        if path.stat().st_size > TIMING_BYTES:
            raise InputError(f"{path} is larger than {TIMING_BYTES >> 20} MB; {TIMING_FORMAT}.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); {TIMING_FORMAT}.") from error
    entries = value.get("phonemes") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} has no list of phonemes; {TIMING_FORMAT}.")
    if len(entries) > PHONEMES_AT_MOST:
        raise InputError(f"{path} has more than {PHONEMES_AT_MOST} phonemes. Cut it into parts.")
    phonemes: list[TimedPhoneme] = []
    for number, entry in enumerate(entries):
        try:
            phoneme = _timed(entry, phonemes[-1].end_s if phonemes else 0.0)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}, phoneme {number}: {error}; {TIMING_FORMAT}.") from error
        phonemes.append(phoneme)
    return tuple(phonemes)


def _timed(entry: Any, earliest_s: float) -> TimedPhoneme:
    """Check one entry; raises KeyError, TypeError or ValueError."""
    if not isinstance(entry, dict):
        raise TypeError("it is no object")
    name = entry["phoneme"]
    if not isinstance(name, str) or len(name) > 16:
        raise TypeError("its name is no short text")
    times = [entry["start"], entry["end"]]
    if any(isinstance(t, bool) or not isinstance(t, int | float) for t in times):
        raise TypeError("start and end must be numbers")
    start, end = map(float, times)
    # Aligners round to milliseconds; what overlaps by less is rounding.
    if not (math.isfinite(start) and math.isfinite(end)) or end > 2 * SOUND_AT_MOST_S:
        raise ValueError("its times are out of range")
    if start < earliest_s - 0.005 or end <= start or start < 0:
        raise ValueError(
            f"it lasts from {start:g} to {end:g} s, the one before ends at {earliest_s:g} s"
        )
    start = max(start, earliest_s)
    if end <= start:
        raise ValueError("it has no length")
    return TimedPhoneme(name, start, end)
