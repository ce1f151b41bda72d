"""Text to sound with timed phonemes, by the espeak-ng library that the extra ``[speech]`` brings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatar.checks import InputError
from capture.espeak_worker import UNKNOWN_VOICE

_WORKER = Path(__file__).with_name("espeak_worker.py")
_REMEDY = 'Install it with: pip install "headsplat[speech]"'


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

    def delayed(self, seconds: float) -> Speech:
        """Return the same speech after a silence of ``seconds``."""
        silence = np.zeros(round(seconds * self.sample_rate), self.samples.dtype)
        phonemes = [(start + seconds, name) for start, name in self.phonemes]
        return Speech(np.concatenate([silence, self.samples]), self.sample_rate, phonemes)


def speech_available() -> bool:
    """Say whether the extra ``[speech]`` is installed."""
    try:
        import espeakng_loader  # noqa: F401
    except ImportError:
        return False
    return True


def synthesise(text: str, voice: str = "en", rate_wpm: int = 160) -> Speech:
    """Speak a text; the same text always gives the same samples.

    The library runs in a process of its own (about a tenth of a second); see ``espeak_worker``.

    Args:
        text: what to say, in the voice's language.
        voice: espeak-ng voice name: ``"en"``, ``"en-us"``, ``"de"``, ``"fr"``, ...
        rate_wpm: words a minute, 80 to 450.

    Raises:
        InputError: the extra is not installed, its library does not work, or the voice is unknown.
        ValueError: ``rate_wpm`` out of range.
    """
    if not 80 <= rate_wpm <= 450:
        raise ValueError(f"rate_wpm must lie in [80, 450]; got {rate_wpm}.")
    try:
        import espeakng_loader

        library = espeakng_loader.get_library_path()
        # The library looks for the folder espeak-ng-data in the folder that it is given.
        folder = Path(espeakng_loader.get_data_path()).parent
    except ImportError as error:
        raise InputError(f"Speaking a text needs the espeak-ng library. {_REMEDY}") from error
    except RuntimeError as error:
        raise InputError(f"The espeak-ng library is not complete ({error}). {_REMEDY}") from error
    command = [sys.executable, "-I", str(_WORKER), library, str(folder), voice, str(rate_wpm)]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode == UNKNOWN_VOICE:
        raise InputError(
            f"espeak-ng has no voice '{voice}'. Use a language code such as en, de or fr."
        )
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines else f"status {done.returncode}"
        raise InputError(f"The espeak-ng library does not work ({reason}). {_REMEDY}")
    line, _, sound = done.stdout.partition(b"\n")
    header = json.loads(line)
    samples = np.frombuffer(sound, np.int16).copy()
    phonemes = [(float(start), str(name)) for start, name in header["phonemes"]]
    return Speech(samples, int(header["sample_rate"]), phonemes)
