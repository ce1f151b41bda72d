"""A clip's sound in few bytes, in a form that every browser plays."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from avatar.checks import InputError
from avatar.export.video import SOUND_RATE, read_sound

BIT_RATE = 64_000
"""Bits a second, for one channel; twice that for two. Speech is clear at it."""


@dataclass(frozen=True)
class WebSound:
    """An encoded sound."""

    content: bytes
    mime: str
    """What a browser is told that it is."""


def encode_sound(path: Path, start_s: float, seconds: float) -> WebSound:
    """Return ``seconds`` of a file's sound from ``start_s`` on, cut or padded with silence.

    MP3: unlike AAC no system's licence can be missing for it, and unlike Opus no browser is too old. Its
    file says how long the encoder's own delay is, which players take off, so that lips stay in step.

    Raises:
        InputError: the file has no sound or cannot be read.
    """
    sound = read_sound(path, start_s)
    samples = round(seconds * SOUND_RATE)
    sound = np.pad(sound[:, :samples], ((0, 0), (0, max(0, samples - sound.shape[1]))))
    layout = "mono" if len(sound) == 1 else "stereo"
    out = io.BytesIO()
    # bitexact: without it the encoder's version is in the file, and pages differ between machines.
    with av.open(out, "w", format="mp3", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libmp3lame", rate=SOUND_RATE)
        stream.layout = layout
        stream.bit_rate = BIT_RATE * len(sound)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(sound), format="fltp", layout=layout
        )
        frame.sample_rate = SOUND_RATE
        frame.time_base = Fraction(1, SOUND_RATE)
        frame.pts = 0
        fifo = av.AudioFifo()
        fifo.write(frame)
        # The encoder takes frames of its own size only.
        while part := fifo.read(stream.codec_context.frame_size or 1152, partial=True):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    if not out.getvalue():
        raise InputError(f"The sound of {path} is empty. Give a sound file or a clip with sound.")
    return WebSound(out.getvalue(), "audio/mpeg")
