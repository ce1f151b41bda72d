"""A run's folder: what a fit was started with, and what it leaves beside the avatar."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.tensorfile import write_json

RESULT_FORMAT = "headsplat.result"
RESULT_VERSION = 1


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
