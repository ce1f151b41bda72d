"""Text to sound with timed phonemes, by the espeak-ng library that the extra ``[speech]`` brings.

espeak-ng is GPL-3. It is not part of this package: the wheel ``espeakng-loader`` carries it, and it
runs in a process of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avatar.checks import InputError
from avatar.drive.espeak_worker import UNKNOWN_VOICE
from avatar.drive.speech import PHONEMES_AT_MOST, Speech, TimedPhoneme, Word

REMEDY = 'Install it with: pip install "headsplat[speech]"'
DEFAULT_VOICE = "en-us"
TEXT_AT_MOST = 20_000
"""Letters spoken at once: about twenty minutes."""
LONGEST_S = 1800.0
"""The library is ended where it has not answered by then; it speaks some hundred times faster than life."""

VOICES_OF_SCRIPTS = {
    "CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar", "HEBREW": "he", "DEVANAGARI": "hi", "BENGALI": "bn",
    "TAMIL": "ta", "TELUGU": "te", "GUJARATI": "gu", "GURMUKHI": "pa", "KANNADA": "kn", "MALAYALAM": "ml",
    "HANGUL": "ko", "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "cmn", "GEORGIAN": "ka", "ARMENIAN": "hy",
    "ETHIOPIC": "am", "THAI": "th", "SINHALA": "si", "MYANMAR": "my",
}  # fmt: skip
"""First word of a letter's Unicode name to a language of that script; a Latin text is taken for English."""

_WORKER = Path(__file__).with_name("espeak_worker.py")
_VOICE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,39}")


def speech_available() -> bool:
    """Say whether the extra ``[speech]`` is installed."""
    try:
        import espeakng_loader  # noqa: F401
    except ImportError:
        return False
    return True


def voice_for(text: str) -> str:
    """Return the voice for the script in which most letters of a text are written."""
    scripts = Counter(
        unicodedata.name(letter, "?").split(" ")[0].split("-")[0]
        for letter in text
        if letter.isalpha()
    )
    if any(scripts[kana] for kana in ("HIRAGANA", "KATAKANA")):
        return "ja"  # whose sentences are mostly written with signs of other names
    if not scripts:
        return DEFAULT_VOICE
    return VOICES_OF_SCRIPTS.get(scripts.most_common(1)[0][0], DEFAULT_VOICE)


def speakable(text: str) -> str:
    """Return a text of equal length with what nobody would read out replaced by spaces.

    Control characters, surrogates, and pictures (emoji), whose long names espeak-ng would speak.
    """
    unspoken = ("Cc", "Cf", "Cs", "Co", "Cn", "So", "Sk")
    return "".join(" " if unicodedata.category(letter) in unspoken else letter for letter in text)


def synthesise(
    texts: Sequence[str], *, voice: str | None = None, rate_wpm: int = 160, pitch: int = 50
) -> list[Speech]:
    """Speak texts one after another; the same texts always give the same samples.

    The library runs in a process of its own (about a tenth of a second); see ``espeak_worker``.

    Args:
        texts: what to say, in the voice's language; a text without anything to say gives a speech
            without phonemes.
        voice: espeak-ng voice: ``"en-us"``, ``"de"``, ``"fr"``, ``"en+f3"`` ...; None takes the language
            by the script of the letters.
        rate_wpm: words a minute, 80 to 450.
        pitch: of the voice, 0 to 99.

    Returns:
        One speech for each text.

    Raises:
        InputError: the extra is not installed, its library does not work, the voice is unknown, a number
            is out of range, or there is too much text.
    """
    if not 80 <= rate_wpm <= 450:
        raise InputError(f"The rate must lie between 80 and 450 words a minute; got {rate_wpm}.")
    if not 0 <= pitch <= 99:
        raise InputError(f"The pitch must lie between 0 and 99; got {pitch}.")
    if sum(map(len, texts)) > TEXT_AT_MOST:
        raise InputError(
            f"The text has {sum(map(len, texts))} letters; at most {TEXT_AT_MOST} are spoken at once. "
            "Cut it into several films."
        )
    texts = [speakable(text) for text in texts]
    voice = voice or voice_for(" ".join(texts))
    if not _VOICE.fullmatch(voice):
        raise InputError(
            f"'{voice[:40]}' is no name of a voice. Use a language code such as en-us, de or fr."
        )
    header, sound = _run(texts, voice, rate_wpm, pitch)
    rate, first = int(header["sample_rate"]), 0
    spoken = []
    for heard in header["texts"]:
        samples = sound[first : first + int(heard["samples"])]
        first += len(samples)
        spoken.append(_speech(samples, rate, heard))
    return spoken


def _run(texts: list[str], voice: str, rate_wpm: int, pitch: int) -> tuple[dict, np.ndarray]:
    """Return the worker's line and its samples."""
    try:
        import espeakng_loader

        library = espeakng_loader.get_library_path()
        # The library looks for the folder espeak-ng-data in the folder that it is given.
        folder = Path(espeakng_loader.get_data_path()).parent
    except ImportError as error:
        raise InputError(f"Speaking a text needs the espeak-ng library. {REMEDY}") from error
    except RuntimeError as error:
        raise InputError(f"The espeak-ng library is not complete ({error}). {REMEDY}") from error
    command = [sys.executable, "-I", str(_WORKER), library, str(folder), voice]
    command += [str(rate_wpm), str(pitch)]
    content = json.dumps(texts).encode()
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, check=False, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired as error:
        raise InputError("The espeak-ng library does not answer. Give it less text.") from error
    if done.returncode == UNKNOWN_VOICE:
        raise InputError(
            f"espeak-ng has no voice '{voice}'. Use a language code such as en-us, de or fr."
        )
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines else f"status {done.returncode}"
        raise InputError(f"The espeak-ng library does not work ({reason}). {REMEDY}")
    line, _, sound = done.stdout.partition(b"\n")
    return json.loads(line), np.frombuffer(sound, np.int16)


def _speech(samples: np.ndarray, rate: int, heard: dict) -> Speech:
    """Make a speech of what the worker wrote about one text."""
    seconds = len(samples) / rate
    starts = [(min(float(at), seconds), str(name)) for at, name in heard["phonemes"]]
    ends = [*(at for at, _ in starts[1:]), seconds]
    phonemes = tuple(
        TimedPhoneme(name, at, end)
        for (at, name), end in zip(starts, ends, strict=True)
        # Of two at one time the first was merged into the second.
        if end > at
    )[:PHONEMES_AT_MOST]
    words = tuple(Word(min(float(at), seconds), int(char)) for at, char in heard["words"])
    return Speech(samples.astype(np.float32) / 32768.0, rate, phonemes, words)
