"""Decoded sound into a wave file that stays in step with the frames."""

from __future__ import annotations

import wave
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

from avatar.tensorfile import atomic_path

AUDIO_RATE = 16000
"""Samples a second of audio.wav: what speech models take."""

GAP_S = 0.05
"""A pause longer than this is filled with silence; a shorter one is a time stamp's trembling."""


def write_sound(
    frames: Iterable[tuple[float, av.AudioFrame]],
    wav: Path,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
) -> bool:
    """Write sound as 16-bit mono PCM at ``AUDIO_RATE``; sample 0 belongs to ``start_s``.

    Args:
        frames: (time stamp in seconds, decoded sound), ascending; what begins late or pauses is filled
            with silence.
        wav: target, written atomically; not there afterwards where ``frames`` has none.
        start_s: time stamp of the first frame of the picture.
        duration_s: seconds to write; cut or filled with silence to it. None: as long as the sound.

    Returns:
        Whether there was sound.
    """
    resampler = av.AudioResampler(format="s16", layout="mono", rate=AUDIO_RATE)
    limit = None if duration_s is None else round(duration_s * AUDIO_RATE)
    decoded = False
    with atomic_path(wav) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AUDIO_RATE)
        written = 0

        def put(samples: np.ndarray) -> None:
            nonlocal written
            if limit is not None:
                samples = samples[: max(0, limit - written)]
            file.writeframes(samples.tobytes())
            written += len(samples)

        def sound_of(frame: av.AudioFrame | None) -> np.ndarray:
            parts = [part.to_ndarray().reshape(-1) for part in resampler.resample(frame)]
            return np.concatenate(parts) if parts else np.zeros(0, np.int16)

        skip = 0
        handed_in = 0.0  # seconds of sound given to the resampler or replaced by silence
        for time_s, frame in frames:
            if limit is not None and written >= limit:
                break
            offset = time_s - start_s
            if not decoded:
                decoded = True
                if offset < 0:
                    skip = round(-offset * AUDIO_RATE)
                handed_in = offset
                if offset > 0:
                    put(np.zeros(round(offset * AUDIO_RATE), np.int16))
            elif offset - handed_in > GAP_S:
                gap = np.zeros(round((offset - handed_in) * AUDIO_RATE), np.int16)
                put(gap[skip:])
                skip = max(0, skip - len(gap))
                handed_in = offset
            frame.pts = None  # the resampler must not act on stamps a second time
            samples = sound_of(frame)
            handed_in += frame.samples / frame.sample_rate
            put(samples[skip:])
            skip = max(0, skip - len(samples))
        if decoded:
            put(sound_of(None)[skip:])
            if limit is not None:
                put(np.zeros(limit - written, np.int16))
    if not decoded:
        wav.unlink(missing_ok=True)
    return decoded
