"""A pose as a small JSON file: what the sliders say, saved and loaded by the browser."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from avatar.checks import InputError
from avatar.rig.arkit import ARKIT_INDEX
from viewer.state import Controls

POSE_FORMAT = "headsplat.pose"
POSE_VERSION = 1
MOST_BYTES = 64 * 1024
"""A pose of all sliders is 2 kB."""
MOST_DEG = 90.0
_REMEDY = 'Load a file that "Save pose" wrote.'


def pose_json(controls: Controls) -> bytes:
    """Return a pose as the text of a JSON file."""
    value = {
        "format": POSE_FORMAT,
        "version": POSE_VERSION,
        "expression": dict(controls.weights),
        "gaze_deg": list(controls.gaze_deg),
        "head_deg": list(controls.head_deg),
    }
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def parse_pose(content: bytes) -> Controls:
    """Read a pose file.

    Args:
        content: the file, from anybody.

    Raises:
        InputError: too large, no JSON, another format or a newer version, an unknown name, a value that
            is no number, not finite or out of range.
    """
    if len(content) > MOST_BYTES:
        raise InputError(
            f"The pose file has {len(content):,} bytes; at most {MOST_BYTES:,}. {_REMEDY}"
        )
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"The pose file is no JSON text ({error}). {_REMEDY}") from error
    if not isinstance(value, dict) or value.get("format") != POSE_FORMAT:
        raise InputError(f"The file is no {POSE_FORMAT}. {_REMEDY}")
    version = value.get("version")
    if type(version) is not int or not 1 <= version <= POSE_VERSION:
        raise InputError(
            f"The pose file has version {str(version)[:20]}; this program reads up to version "
            f"{POSE_VERSION}. Install a newer headsplat."
        )
    expression = value.get("expression", {})
    if not isinstance(expression, Mapping):
        raise InputError(f"The pose file's expression must map names to numbers. {_REMEDY}")
    unknown = [str(name)[:40] for name in expression if name not in ARKIT_INDEX]
    if unknown:
        raise InputError(f"The pose file names {unknown[0]!r}, which is no ARKit name. {_REMEDY}")
    weights = {name: _number(value, name, 0.0, 1.0) for name, value in expression.items()}
    yaw, pitch = _numbers(value.get("gaze_deg", [0, 0]), "gaze_deg", 2)
    turn = _numbers(value.get("head_deg", [0, 0, 0]), "head_deg", 3)
    return Controls(weights, (yaw, pitch), (turn[0], turn[1], turn[2]))


def _numbers(value: Any, name: str, count: int) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        raise InputError(f"The pose file's {name} must be {count} numbers. {_REMEDY}")
    return [_number(one, name, -MOST_DEG, MOST_DEG) for one in value]


def _number(value: Any, name: str, low: float, high: float) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not low <= value <= high or not math.isfinite(value):
        raise InputError(
            f"The pose file's {name} must be a number from {low:g} to {high:g}; "
            f"got {str(value)[:40]}. {_REMEDY}"
        )
    return float(value)
