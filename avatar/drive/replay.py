"""Recorded streams: what arrived, one JSON line a sample, and the same states again.

The first line says what the file is; the others hold ``at`` (arrival on the recorder's clock),
``time`` (the sender's clock or null), ``sender``, ``weights``, ``head`` and ``gaze``. Numbers are
written so that they come back bit by bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from avatar.checks import InputError
from avatar.drive.live import FaceSample, LiveConfig, StreamDriver
from avatar.drive.motion import BatchDriver
from avatar.drive.retarget import RetargetConfig
from avatar.model.avatar import Avatar
from avatar.tensorfile import atomic_path
from avatar.types import HeadState

RECORDING_SUFFIX = ".jsonl"
FORMAT, VERSION = "headsplat.stream", 1
LONGEST_S = 4 * 3600.0
REMEDY = "Record the stream again."


class Recorder:
    """Writes what arrives; the file appears, whole, when it is closed.

    A disk that fills up ends the recording, not the stream: ``failure`` then says so.
    """

    def __init__(self, path: Path) -> None:
        """Begin a recording.

        Raises:
            InputError: the file cannot be written, or is not to end in .jsonl.
        """
        self.path = Path(path)
        self.failure = ""
        """Why nothing more is written, a sentence; empty while all is well."""
        if self.path.suffix.lower() != RECORDING_SUFFIX:
            raise InputError(f"The recording {path} must end in {RECORDING_SUFFIX}.")
        self._stack = ExitStack()
        try:
            temporary = self._stack.enter_context(atomic_path(self.path))
            self._file: TextIO | None = self._stack.enter_context(open(temporary, "w"))  # noqa: SIM115 (the stack closes it)
        except OSError as error:
            self._stack.close()
            raise InputError(
                f"{path} cannot be written ({error.strerror or error}). "
                "Choose a folder that exists, is writable and has space."
            ) from error
        self._file.write(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")

    def add(self, sample: FaceSample, arrival_s: float) -> None:
        """Write one sample, also one that will be dropped; does nothing once closed."""
        if self._file is None:
            return
        line = {
            "at": arrival_s,
            "time": sample.time_s,
            "sender": sample.sender,
            "weights": np.asarray(sample.weights, np.float64).tolist(),
            "head": None if sample.head is None else np.asarray(sample.head, np.float64).tolist(),
            "gaze": None if sample.gaze is None else np.asarray(sample.gaze, np.float64).tolist(),
        }
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            self._file = None
            with suppress(OSError):  # the error itself once more, after the file was removed
                self._stack.__exit__(type(error), error, error.__traceback__)
            self.failure = self._sentence(error)

    def close(self) -> None:
        """Put the file in its place; doing so twice does no harm.

        Raises:
            InputError: it cannot be written; what stood there is as it was.
        """
        if self._file is None:
            return
        self._file = None
        try:
            self._stack.close()
        except OSError as error:
            self.failure = self._sentence(error)
            raise InputError(self.failure) from error

    def _sentence(self, error: OSError) -> str:
        return (
            f"The recording {self.path} is lost: it could not be written any further "
            f"({error.strerror or error}). Free some space and record again."
        )


def read_recording(path: Path) -> Iterator[tuple[FaceSample, float]]:
    """Yield the samples of a recording and when they arrived.

    Raises:
        InputError: missing, of another format or version, a damaged line, arrivals that go back.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). {REMEDY}") from error
    head = _parsed(path, 1, lines[0] if lines else "")
    if head.get("format") != FORMAT:
        raise InputError(f"{path} is no recorded stream (its first line does not say {FORMAT}).")
    if head.get("version") != VERSION:
        raise InputError(
            f"{path} has version {head.get('version')!r} of {FORMAT}, but this program reads version "
            f"{VERSION}. Install a newer headsplat, or record again."
        )
    newest = -np.inf
    for number, text in enumerate(lines[1:], 2):
        if not text.strip():
            continue
        line = _parsed(path, number, text)
        try:
            arrival = _number(line["at"])
            time_s = None if line.get("time") is None else _number(line["time"])
            sample = FaceSample(
                _array(line["weights"], (52,)),
                None if line.get("head") is None else _array(line["head"], (3,)),
                None if line.get("gaze") is None else _array(line["gaze"], (2, 2)),
                time_s,
                str(line.get("sender", "")),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{path}, line {number} is no sample of a face ({error}). {REMEDY}"
            ) from error
        if not np.isfinite(arrival) or arrival < newest:
            raise InputError(
                f"{path}, line {number}: its arrival lies before the line above. {REMEDY}"
            )
        newest = arrival
        yield sample, arrival


class RecordingDriver(BatchDriver):
    """Plays a recorded stream, at the avatar's frame rate, as it was seen live."""

    def __init__(self, path: Path, avatar: Avatar, config: RetargetConfig | None = None) -> None:
        """Read a recording.

        Args:
            path: the .jsonl file.
            avatar: who is driven.
            config: how to retarget.

        Raises:
            InputError: the file cannot be used or holds no sample.
        """
        live = LiveConfig() if config is None else LiveConfig(retarget=config)
        samples = list(read_recording(path))
        if not samples:
            raise InputError(f"{path} holds no sample. {REMEDY}")
        first, last = samples[0][1], samples[-1][1]
        if last - first > LONGEST_S:
            raise InputError(
                f"{path} spans {last - first:.0f} seconds; at most {LONGEST_S:.0f} are understood."
            )
        frames = int((last - first) * avatar.fps + 1e-4) + 1
        times_s = first + np.arange(frames) / avatar.fps
        super().__init__(replay(samples, avatar, live, times_s), avatar.fps)


def replay(
    samples: list[tuple[FaceSample, float]],
    avatar: Avatar,
    config: LiveConfig | None,
    times_s: np.ndarray,
) -> HeadState:
    """Return the states [F] that the stream gave at times [F] (increasing, the recorder's clock)."""
    stream = StreamDriver(avatar, config)
    states, k = [], 0
    for now in times_s.tolist():
        while k < len(samples) and samples[k][1] <= now:
            stream.push(*samples[k])
            k += 1
        states.append(stream.state(now))
    return HeadState.stacked(states)


def _parsed(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}, line {number} cannot be read as JSON ({error}). {REMEDY}"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}, line {number} is no JSON object. {REMEDY}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {value!r:.40}")
    return float(value)


def _array(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(value, np.float64)
    if array.shape != shape:
        raise ValueError(f"expected {list(shape)} numbers, found {list(array.shape)}")
    return array
