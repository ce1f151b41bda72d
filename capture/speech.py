"""Text to sound with timed phonemes, by the espeak-ng library that the extra ``[speech]`` brings.

The library is called through its C interface (``speak_lib.h``), with ctypes; nothing is downloaded
and no sound device is touched.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatar.checks import InputError

_LOG = logging.getLogger(__name__)

# Constants of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_PHONEME_IPA = 0x0002
_INITIALIZE_DONT_EXIT = 0x8000
_EVENT_LIST_TERMINATED = 0
_EVENT_PHONEME = 7
_PARAMETER_RATE = 1
_CHARS_UTF8 = 1
_POS_CHARACTER = 1

_LIBRARY_LOCK = threading.Lock()
"""espeak-ng keeps its voice and its callback in static variables: one utterance at a time."""


class _Event(ctypes.Structure):
    """``espeak_EVENT``; ``id`` is a union of an int, a pointer and eight bytes of text."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_uint8 * 8),
    )


_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Speech:
    """One spoken text."""

    samples: np.ndarray
    """[S] int16, mono."""
    sample_rate: int
    """Samples a second."""
    phonemes: list[tuple[float, str]]
    """(start in seconds, IPA name) in order; an empty name is a pause."""

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return len(self.samples) / self.sample_rate


def speech_available() -> bool:
    """Say whether the extra ``[speech]`` is installed."""
    try:
        import espeakng_loader  # noqa: F401
    except ImportError:
        return False
    return True


def synthesise(text: str, voice: str = "en", rate_wpm: int = 160) -> Speech:
    """Speak a text.

    Args:
        text: what to say, any language that the voice knows.
        voice: espeak-ng voice name: ``"en"``, ``"en-us"``, ``"de"``, ``"fr"``, ...
        rate_wpm: words a minute, 80 to 450.

    Raises:
        InputError: the extra is not installed, its library cannot be loaded, or the voice is unknown.
        ValueError: ``rate_wpm`` out of range.
    """
    if not 80 <= rate_wpm <= 450:
        raise ValueError(f"rate_wpm must lie in [80, 450]; got {rate_wpm}.")
    remedy = 'Install it with: pip install "headsplat[speech]"'
    try:
        import espeakng_loader

        library = ctypes.CDLL(espeakng_loader.get_library_path())
        folder = Path(espeakng_loader.get_data_path()).parent
    except ImportError as error:
        raise InputError(f"Speaking a text needs the espeak-ng library. {remedy}") from error
    except (OSError, RuntimeError) as error:
        raise InputError(f"The espeak-ng library cannot be loaded ({error}). {remedy}") from error
    _declare(library)

    chunks: list[np.ndarray] = []
    phonemes: list[tuple[float, str]] = []

    def receive(wave, count: int, events) -> int:
        """Keep one chunk of sound and the phonemes that start in it; 0 asks for more."""
        if count > 0 and wave:
            chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events and events[index].type != _EVENT_LIST_TERMINATED:
            event = events[index]
            if event.type == _EVENT_PHONEME:
                name = bytes(event.id).split(b"\0")[0].decode("utf-8", "ignore")
                phonemes.append((event.audio_position / 1000.0, name))
            index += 1
        return 0

    callback = _SynthCallback(receive)
    options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_PHONEME_IPA | _INITIALIZE_DONT_EXIT
    with _LIBRARY_LOCK:
        rate = library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, str(folder).encode(), options
        )
        if rate <= 0:
            raise InputError(f"espeak-ng does not start with its data in {folder}. {remedy}")
        try:
            # A null callback is set again before the Python one goes away.
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise InputError(
                    f"espeak-ng has no voice '{voice}'. Use a language code such as en, de or fr."
                )
            library.espeak_SetParameter(_PARAMETER_RATE, rate_wpm, 0)
            encoded = text.encode()
            status = library.espeak_Synth(
                encoded, len(encoded) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
            )
            if status == 0:
                status = library.espeak_Synchronize()
            if status != 0:
                raise InputError(f"espeak-ng could not speak the text (status {status}). {remedy}")
        finally:
            library.espeak_SetSynthCallback(_SynthCallback())
            library.espeak_Terminate()
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    _LOG.debug("spoke %d characters in %.2f s of sound", len(text), len(samples) / rate)
    return Speech(samples, int(rate), phonemes)


def _declare(library: ctypes.CDLL) -> None:
    """Set argument and result types, without which pointers are cut to 32 bits."""
    c_int, c_uint, c_char_p, c_void_p = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p, ctypes.c_void_p
    library.espeak_Initialize.argtypes = [c_int, c_int, c_char_p, c_int]
    library.espeak_Initialize.restype = c_int
    library.espeak_SetSynthCallback.argtypes = [_SynthCallback]
    library.espeak_SetSynthCallback.restype = None
    library.espeak_SetVoiceByName.argtypes = [c_char_p]
    library.espeak_SetVoiceByName.restype = c_int
    library.espeak_SetParameter.argtypes = [c_int, c_int, c_int]
    library.espeak_SetParameter.restype = c_int
    library.espeak_Synth.argtypes = [
        c_char_p, ctypes.c_size_t, c_uint, c_int, c_uint, c_uint, ctypes.POINTER(c_uint), c_void_p,
    ]  # fmt: skip
    library.espeak_Synth.restype = c_int
    library.espeak_Synchronize.argtypes = []
    library.espeak_Synchronize.restype = c_int
    library.espeak_Terminate.argtypes = []
    library.espeak_Terminate.restype = c_int
