"""A run's folder: what a fit was started with, and what it leaves beside the avatar."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avatar import __version__
from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.tensorfile import write_bytes, write_json
from avatar.train.checkpoint import checkpoints
from avatar.train.config import TrainConfig

RUN_FORMAT = "headsplat.run"
RUN_VERSION = 1
_SAME = ("source_sha256", "track_sha256", "config")
"""Fields of config.json in which a run must agree with what it is to be resumed with."""
RESULT_FORMAT = "headsplat.result"
RESULT_VERSION = 1


def open_run(run: Path, capture: Capture, config: TrainConfig, *, resume: bool) -> None:
    """Make the folder of a run and describe the run in its config.json.

    Raises:
        InputError: the folder holds another run, or one that is not to be resumed, or cannot be written.
    """
    description = {
        "format": RUN_FORMAT,
        "version": RUN_VERSION,
        "headsplat": __version__,
        "torch": torch.__version__,
        "capture": os.path.relpath(capture.path.resolve(), run.resolve()),
        "source_sha256": capture.source_sha256,
        "track_sha256": track_sha256(capture),
        "config": config.to_json(),
    }
    file = run / "config.json"
    if file.is_file():
        known = read_run(run)
        same = all(known.get(k) == description[k] for k in _SAME)
        if resume and not same:
            raise InputError(
                f"{run} was started with other settings or another capture, so it cannot be "
                "resumed with these. Give the same settings, or another folder with -o."
            )
        if not resume and checkpoints(run / "checkpoints"):
            raise InputError(
                f"{run} already holds a run. Continue it with --resume, start over with "
                "--overwrite, or give another folder with -o."
            )
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_json(file, description)
    except OSError as error:
        raise InputError(
            f"{run} cannot be written ({error.strerror}). Give another folder with -o."
        ) from error


def read_run(run: Path) -> dict[str, Any]:
    """Read a run's config.json; raises InputError naming what is wrong."""
    file = Path(run) / "config.json"
    try:
        value = json.loads(file.read_text())
        if value["format"] != RUN_FORMAT or int(value["version"]) > RUN_VERSION:
            raise InputError(
                f"{file} is {value['format']} version {value['version']}; this program reads {RUN_FORMAT} "
                f"up to version {RUN_VERSION}. Install a newer headsplat, or give another folder with -o."
            )
        return value
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is missing or damaged ({error}). Run: avatar train ME.capture -o {run}"
        ) from error


def capture_of(run: Path) -> Capture:
    """Open the capture that a run was fitted to.

    Raises:
        InputError: config.json is damaged or names none, or the capture is gone or damaged.
    """
    named = read_run(run).get("capture")
    if not isinstance(named, str) or not named:
        raise InputError(
            f"{run / 'config.json'} does not name the run's capture. Train again: avatar train"
        )
    return Capture((run / named).resolve())


def can_resume(capture: Capture, run: Path, config: TrainConfig) -> bool:
    """Whether ``run`` holds a checkpoint of this capture with these settings."""
    try:
        known = read_run(run)
    except InputError:
        return False
    asked = (capture.source_sha256, track_sha256(capture), config.to_json())
    same = tuple(known.get(name) for name in _SAME) == asked
    return same and bool(checkpoints(Path(run) / "checkpoints"))


def track_sha256(capture: Capture) -> str:
    """Return the SHA-256 of what was tracked: another mask or crop of one clip is another track.

    Raises:
        InputError: the capture has no track.
    """
    file = capture.path / "track.safetensors"
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}). Run: avatar capture VIDEO -o {capture.path}"
        ) from error


def append_metrics(run: Path, values: Mapping[str, float]) -> None:
    """Add a line to metrics.jsonl."""
    line = json.dumps({name: round(value, 5) for name, value in values.items()})
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")


def cut_log(run: Path, step: int) -> None:
    """Drop the lines of steps that are about to be taken again: a kill loses the steps, not the log."""
    log = run / "metrics.jsonl"
    if log.is_file():
        lines = [x for x in log.read_text().splitlines() if _step_of(x) <= step]
        write_bytes(log, "".join(x + "\n" for x in lines).encode())


def _step_of(line: str) -> int:
    """The step of a metrics line; a line cut by a kill counts as beyond every step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 60


def write_result(run: Path, steps: int, gaussians: int, train_seconds: float) -> None:
    """Write what a fit took. It is no part of the avatar, whose file is the same for every run of one seed."""
    result = {
        "format": RESULT_FORMAT,
        "version": RESULT_VERSION,
        "steps": steps,
        "gaussians": gaussians,
        "seconds": {"train": round(train_seconds, 2)},
    }
    write_json(run / "result.json", result)


def run_seconds(run: Path) -> dict[str, float]:
    """Return what the stages of a finished run took, seconds; empty where it does not say."""
    try:
        value = json.loads((Path(run) / "result.json").read_text())
        if value["format"] != RESULT_FORMAT or int(value["version"]) > RESULT_VERSION:
            return {}
        return {str(name): float(seconds) for name, seconds in value["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
