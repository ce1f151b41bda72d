"""Speak texts with espeak-ng; run as a script by ``avatar.drive.espeak``, in a process of its own.

espeak-ng keeps its voice, its callback and the phase of its oscillators in static variables that
``espeak_Terminate`` does not reset. In a fresh process the same texts always give the same sound, two
threads cannot meet in the library, and a crash of it stays here. So this file imports nothing but the
standard library.

    python espeak_worker.py LIBRARY DATA_FOLDER VOICE RATE_WPM PITCH < JSON list of texts > JSON line, PCM
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
_EVENT_WORD = 1
_EVENT_PHONEME = 7
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3
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


class _Receiver:
    """Collects what the library hands over while it speaks one text."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.phonemes: list[tuple[float, str]] = []
        self.words: list[tuple[float, int]] = []

    def take(self, wave, count: int, events) -> int:
        """Keep one chunk of sound and the events in it; 0 asks for more."""
        if count > 0 and wave:
            self.chunks.append(ctypes.string_at(wave, 2 * count))
        index = 0
        while events and events[index].type != _EVENT_LIST_TERMINATED:
            event = events[index]
            at = event.audio_position / 1000.0
            if event.type == _EVENT_PHONEME:
                name = bytes(event.id).split(b"\0")[0].decode("utf-8", "ignore")
                self.phonemes.append((at, name))
            elif event.type == _EVENT_WORD:
                self.words.append((at, event.text_position - 1))
            index += 1
        return 0


def main(library_path: str, data_folder: str, voice: str, rate_wpm: str, pitch: str) -> int:
    """Speak the texts of stdin, a JSON list; write a line of JSON and 16-bit PCM to stdout.

    The line holds ``sample_rate`` and ``texts``: of each its ``samples``, ``phonemes`` [[s, name]] and
    ``words`` [[s, index of the first character]].
    """
    library = ctypes.CDLL(library_path)
    _declare(library)
    receiver = _Receiver()
    options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_PHONEME_IPA | _INITIALIZE_DONT_EXIT
    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data_folder.encode(), options)
    if rate <= 0:
        return FAILED
    callback = _SynthCallback(
        lambda *heard: receiver.take(*heard)
    )  # must outlive the library's use
    library.espeak_SetSynthCallback(callback)
    spoken: list[dict[str, object]] = []
    sound: list[bytes] = []
    try:
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            return UNKNOWN_VOICE
        library.espeak_SetParameter(_PARAMETER_RATE, int(rate_wpm), 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, int(pitch), 0)
        for text in json.load(sys.stdin.buffer):
            receiver = _Receiver()
            content = text.encode()
            status = library.espeak_Synth(
                content, len(content) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
            )
            if status != 0 or library.espeak_Synchronize() != 0:
                return FAILED
            pcm = b"".join(receiver.chunks)
            sound.append(pcm)
            spoken.append(
                {
                    "samples": len(pcm) // 2,
                    "phonemes": receiver.phonemes,
                    "words": receiver.words,
                }
            )
    finally:
        library.espeak_Terminate()
    header = json.dumps({"sample_rate": rate, "texts": spoken}) + "\n"
    sys.stdout.buffer.write(header.encode() + b"".join(sound))
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
