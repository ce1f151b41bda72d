"""Live sound: 20 ms chunks of samples in, head states out within 150 ms, clocks locked.

``PcmDriver`` knows no device: chunks come by ``push`` with the time at which they arrived, states go out
by ``state`` for any time. Sound is counted in samples; where its clock lies on the local one follows
from the chunks that were under way the shortest, so that neither jitter nor a sound card that runs a
little fast becomes a drift.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np

from avatar.checks import InputError
from avatar.drive.audio import SpeechMotion, SpokenFace, frame_at, open_face
from avatar.drive.audio_fallback import FALLBACK_NOTE
from avatar.drive.audio_features import FEATURE_FPS
from avatar.drive.motion import ARKIT_COUNT
from avatar.drive.voice import VoiceModel
from avatar.model.avatar import Avatar
from avatar.types import HeadState

CHUNK_S = 0.02
"""Length of the chunks that latency is stated for."""
MOST_LATENCY_S = 0.15
KEPT = 100
"""Frames kept to show: two seconds."""
DRIFT = 3e-4
"""Seconds a second by which a sound card's clock may run slow."""
LOST_S = 0.3
"""A chunk later than this by its own count means that samples were lost."""
HOLD_S, RELAX_S = 0.3, 0.5
"""How long the mouth holds when no sound comes, and how long it then takes to rest."""
LONGEST_CHUNK_S = 10.0


class PcmDriver:
    """A ``LiveDriver``: chunks of samples move an avatar. May be called from several threads."""

    def __init__(
        self,
        avatar: Avatar,
        rate: int,
        voice: VoiceModel | None = None,
        *,
        seed: int = 0,
        label: str = "sound",
    ) -> None:
        """Prepare.

        Args:
            avatar: who speaks.
            rate: samples a second of what will come.
            voice: the person's model; None takes the fallback without training.
            seed: of blinks, glances and the head's sway.
            label: what the note calls the source.

        Raises:
            InputError: an impossible rate, or a model that cannot work live.
        """
        self._rate, self._voice, self._label = rate, voice, label
        self._motion = SpeechMotion(avatar, voice, seed=seed)
        self._lock = threading.Lock()
        self._rest_frame = np.zeros(ARKIT_COUNT + 2)
        if voice is not None:
            self._rest_frame[:ARKIT_COUNT] = voice.rest.numpy()
        self.lost = 0
        """How many times samples were lost on the way."""
        self._epoch: float | None = None
        self._start()

    @property
    def latency_s(self) -> float:
        """Algorithmic latency, seconds: a state shows the sound of so long ago.

        A chunk of 20 ms, half a feature window and the resampler (21 to 22 ms), the look-ahead (80 ms),
        and one frame to interpolate (20 ms).
        """
        return CHUNK_S + self._spoken.delay_s + 1 / FEATURE_FPS

    def push(self, samples: np.ndarray, arrival_s: float) -> None:
        """Take a chunk whose last sample arrived at ``arrival_s`` on the local clock.

        Args:
            samples: [S] or [S, channels], floating point in [-1, 1] or integers of full scale.
            arrival_s: ``time.perf_counter`` by then.
        """
        samples = mono(samples)[-int(LONGEST_CHUNK_S * self._rate) :]
        with self._lock:
            if not len(samples):
                return
            self._samples += len(samples)
            found = arrival_s - self._samples / self._rate
            if self._offset is not None and found - self._offset > LOST_S:
                self.lost += 1
                self._start()
                self._samples = len(samples)
                found = arrival_s - self._samples / self._rate
            if self._offset is None:
                self._offset = found
            else:
                allowed = self._offset + DRIFT * len(samples) / self._rate
                self._offset = min(allowed, found)
            self._arrival = arrival_s
            new = self._spoken.push(samples)
            self._frames = np.concatenate([self._frames, new])
            surplus = len(self._frames) - KEPT
            if surplus > 0:
                self._frames, self._first = self._frames[surplus:], self._first + surplus

    def shown_s(self, now_s: float) -> float | None:
        """Return the time of the sound, seconds from its first sample, that ``state`` shows."""
        return None if self._offset is None else now_s - self._offset - self.latency_s

    def state(self, now_s: float) -> HeadState:
        """Return the state for a time on the local clock."""
        with self._lock:
            if self._epoch is None:
                self._epoch = now_s
            idle_s = max(0.0, now_s - self._epoch)
            frame, shown = self._rest_frame, self.shown_s(now_s)
            if shown is not None and len(self._frames):
                frame = frame_at(self._frames, shown, self._first)
                early = (shown + 0.1) / 0.1  # before the first sample there is no mouth to show
                gone = (now_s - self._arrival - HOLD_S) / RELAX_S
                share = min(max(early, 0.0), 1.0) * (1 - min(max(gone, 0.0), 1.0))
                frame = self._rest_frame + share * (frame - self._rest_frame)
        return self._motion.state(idle_s, frame)

    def note(self, now_s: float) -> str:
        """Return one line: what arrives, how late, and that the fallback is one."""
        with self._lock:
            if self._arrival == -math.inf:
                text = f"{self._label}: no sound has arrived yet"
            elif now_s - self._arrival > HOLD_S:
                text = (
                    f"{self._label}: lost {now_s - self._arrival:.0f} s ago, idle until it is back"
                )
            else:
                text = f"{self._label}: {self._rate} Hz; {1e3 * self.latency_s:.0f} ms behind"
            if self.lost:
                text += f"; sound was interrupted {self.lost} times"
            kind = "own voice model" if self._voice is not None else FALLBACK_NOTE
        return f"{text}; {kind}."

    def close(self) -> None:
        """Do nothing: no thread, no device."""

    def _start(self) -> None:
        self._spoken = SpokenFace(self._rate, open_face(self._voice, "live", None))
        self._frames, self._first = np.zeros((0, ARKIT_COUNT + 2)), 0
        self._samples, self._offset, self._arrival = 0, None, -math.inf


class MicrophoneDriver(PcmDriver):
    """A microphone moves an avatar."""

    def __init__(
        self,
        avatar: Avatar,
        voice: VoiceModel | None = None,
        *,
        device: int | str | None = None,
        seed: int = 0,
    ) -> None:
        """Open the microphone.

        Args:
            avatar: who speaks.
            voice: the person's model; None takes the fallback without training.
            device: number or name as ``python -m sounddevice`` lists them; None for the usual one.
            seed: as for ``PcmDriver``.

        Raises:
            InputError: there is no microphone, or it cannot be opened.
        """
        sounddevice = _sounddevice()
        try:
            info = sounddevice.query_devices(device, "input")
            rate = round(float(info["default_samplerate"]))
            super().__init__(avatar, rate, voice, seed=seed, label=f"microphone {info['name']}")
            self._stream = sounddevice.InputStream(
                samplerate=rate,
                blocksize=round(rate * CHUNK_S),
                channels=1,
                dtype="float32",
                device=device,
                callback=lambda data, frames, when, status: self.push(data, time.perf_counter()),
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            raise InputError(
                f"No microphone can be opened ({str(error).splitlines()[0]}). Plug one in, allow this "
                "program to use it, and choose it anew."
            ) from error

    def close(self) -> None:
        """End the recording; doing so twice does no harm."""
        self._stream.close()


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise InputError(
            "Listening to a microphone needs the package sounddevice. Run: pip install sounddevice"
        ) from error
    except OSError as error:  # the package is there, the library that it wraps is not
        raise InputError(
            "Listening to a microphone needs the PortAudio library, which was not found. Install it "
            "(Debian, Ubuntu: apt install libportaudio2; macOS: brew install portaudio)."
        ) from error
    return sounddevice


def mono(samples: np.ndarray) -> np.ndarray:
    """Return samples [S] float64 in [-1, 1] of [S] or [S, channels], floats or integers of full scale."""
    array = np.asarray(samples)
    if array.dtype.kind == "u":
        array = (array.astype(np.float64) - 2 ** (8 * array.dtype.itemsize - 1)) / 2 ** (
            8 * array.dtype.itemsize - 1
        )
    elif array.dtype.kind == "i":
        array = array.astype(np.float64) / 2 ** (8 * array.dtype.itemsize - 1)
    if array.ndim not in (1, 2):
        raise ValueError(f"samples must be [S] or [S, channels]; got {list(array.shape)}.")
    return array.astype(np.float64) if array.ndim == 1 else array.astype(np.float64).mean(1)
