"""Speak one text with espeak-ng; run as a script by ``capture.speech``, in a process of its own.

espeak-ng keeps its voice, its callback and the phase of its oscillators in static variables that
``espeak_Terminate`` does not reset: a second text in one process sounds different from the first.
In a fresh process the same text always gives the same sound, and a crash of the library stays here.
So this file imports nothing but the standard library.

    python espeak_worker.py LIBRARY DATA_FOLDER VOICE RATE_WPM < text > one JSON line, then PCM
"""

from __future__ import annotations

import ctypes
import json
import sys

# Constants of espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_PHONEME_IPA = 0x0002
_INITIALIZE_DONT_EXIT = 0x8000
_EVENT_LIST_TERMINATED = 0
_EVENT_PHONEME = 7
_PARAMETER_RATE = 1
_CHARS_UTF8 = 1
_POS_CHARACTER = 1

UNKNOWN_VOICE = 3
"""Exit status where the library has no such voice."""

FAILED = 4
"""Exit status where the library does not start or does not speak."""


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


def main(library_path: str, data_folder: str, voice: str, rate_wpm: str) -> int:
    """Speak stdin (UTF-8); write a line ``{"sample_rate", "phonemes"}`` and 16-bit PCM to stdout."""
    library = ctypes.CDLL(library_path)
    _declare(library)
    chunks: list[bytes] = []
    phonemes: list[tuple[float, str]] = []

    def receive(wave, count: int, events) -> int:
        """Keep one chunk of sound and the phonemes that start in it; 0 asks for more."""
        if count > 0 and wave:
            chunks.append(ctypes.string_at(wave, 2 * count))
        index = 0
        while events and events[index].type != _EVENT_LIST_TERMINATED:
            event = events[index]
            if event.type == _EVENT_PHONEME:
                name = bytes(event.id).split(b"\0")[0].decode("utf-8", "ignore")
                phonemes.append((event.audio_position / 1000.0, name))
            index += 1
        return 0

    options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_PHONEME_IPA | _INITIALIZE_DONT_EXIT
    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data_folder.encode(), options)
    if rate <= 0:
        return FAILED
    callback = _SynthCallback(receive)  # must live until the library has ended
    library.espeak_SetSynthCallback(callback)
    try:
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            return UNKNOWN_VOICE
        library.espeak_SetParameter(_PARAMETER_RATE, int(rate_wpm), 0)
        text = sys.stdin.buffer.read()
        status = library.espeak_Synth(
            text, len(text) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        if status != 0 or library.espeak_Synchronize() != 0:
            return FAILED
    finally:
        library.espeak_Terminate()
    header = json.dumps({"sample_rate": rate, "phonemes": phonemes}) + "\n"
    sys.stdout.buffer.write(header.encode() + b"".join(chunks))
    return 0


def _declare(library: ctypes.CDLL) -> None:
    """Set argument and result types, without which pointers are cut to 32 bits."""
    c_int, c_uint, c_char_p, c_void_p = (
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_char_p,
        ctypes.c_void_p,
    )
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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
