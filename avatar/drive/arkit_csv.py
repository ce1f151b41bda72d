"""Files of ARKit coefficients: the Live Link Face app's CSV, plain CSV and JSON, in and out.

Columns are known by their names in any order and case; a missing one is 0. Besides the 52
coefficients a file may have ``HeadYaw HeadPitch HeadRoll LeftEyeYaw ... RightEyeRoll`` in radians,
and a time (``Timecode``, or ``time`` in seconds). Signs of the app's angles: HeadYaw to the
subject's left, HeadPitch up, HeadRoll towards the subject's right shoulder; eye yaw to the
subject's *right* and eye pitch *down*, as recordings show when regressed on their eyeLook
coefficients. An eye's roll is ignored.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatar.checks import InputError
from avatar.drive.motion import ARKIT_COUNT, FaceMotion
from avatar.rig.arkit import ARKIT_NAMES
from avatar.tensorfile import write_bytes

ANGLE_NAMES: tuple[str, ...] = (
    "HeadYaw", "HeadPitch", "HeadRoll",
    "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll",
    "RightEyeYaw", "RightEyePitch", "RightEyeRoll",
)  # fmt: skip
VALUE_NAMES: tuple[str, ...] = ARKIT_NAMES + ANGLE_NAMES
"""What a row may hold, in the order of ``_Rows.values``."""

TIME_NAMES = ("time", "timecode")
IGNORED_NAMES = ("blendshapecount", "frame", "_neutral")
"""Known columns that carry no motion; ``_neutral`` is MediaPipe's."""

WEIGHT_RANGE = (-1.0, 2.0)
"""Coefficients nominally lie in [0, 1]; animators exaggerate, but percents are a mistake."""
ANGLE_LIMIT = 3.2
"""Just over half a turn, radians: degrees are a mistake."""
LONGEST_S = 4 * 3600.0
"""A longer recording is taken for a damaged time column."""
TIMECODE_RATES = (24, 25, 30, 50, 60, 120)
LIVE_LINK_RATE = 60
"""The app's default, assumed where a recording is too short to show its rate."""

_POSITION = {name.lower(): index for index, name in enumerate(VALUE_NAMES)}
_TIMECODE = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})[:;](\d{1,3}(?:\.\d{1,9})?)", re.ASCII)
_REMEDY = (
    "Expected ARKit coefficients (0 to 1) under Apple's names, such as jawOpen, "
    "as the Live Link Face app records them."
)


@dataclass(frozen=True)
class _Row:
    """One sample of a file, its cells not yet understood."""

    place: str
    """Where it stands, for messages: ``"line 12"``."""
    cells: Sequence[Any]
    """One a column: text in CSV; numbers or None (missing) in JSON."""


def read_arkit(path: Path, *, fps: float) -> FaceMotion:
    """Read a CSV or JSON file of ARKit coefficients.

    CSV: a header line and one line a sample. A line whose BlendshapeCount is 0 (the app writes one
    where it lost the face) is skipped. JSON: a list of {name: value}; or {"fps": , "frames":
    [...]}; or {"names": [...], "weights": [[...], ...], "fps": }, also with Audio2Face's keys
    facsNames, weightMat and exportFps. Samples without a time are evenly spaced.

    Args:
        path: the file; its suffix says which format.
        fps: samples a second where the file states neither times nor its own rate.

    Raises:
        InputError: unreadable, not of these formats, an unknown or a repeated column, a value that
        is
            no number, not finite or out of range, times that go back; names file, place and value.
    """
    path = Path(path)
    text = _read_text(path)
    if path.suffix.lower() == ".csv":
        columns, rows, rate = _parse_csv(path, text)
    elif path.suffix.lower() == ".json":
        columns, rows, rate = _parse_json(path, text)
    else:
        raise InputError(f"{path} is neither a .csv nor a .json file. {_REMEDY}")
    return _motion(path, columns, rows, rate or fps)


def write_arkit_csv(path: Path, motion: FaceMotion) -> None:
    """Write a motion as the Live Link Face app does: 61 values a line, timecode at 60 frames/s.

    Unknown head and eye angles are written as 0. Raises InputError if the file cannot be written.
    """
    table = np.zeros((len(motion), len(VALUE_NAMES)))
    table[:, :ARKIT_COUNT] = motion.weights.numpy()
    if motion.head is not None:
        table[:, ARKIT_COUNT : ARKIT_COUNT + 3] = motion.head.numpy()
    if motion.gaze is not None:
        yaw_pitch = -motion.gaze.numpy()  # the app's signs, see the module's text
        table[:, ARKIT_COUNT + 3 : ARKIT_COUNT + 5] = yaw_pitch[:, 0]
        table[:, ARKIT_COUNT + 6 : ARKIT_COUNT + 8] = yaw_pitch[:, 1]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["Timecode", "BlendshapeCount", *(name[0].upper() + name[1:] for name in VALUE_NAMES)]
    )
    for time, row in zip(motion.time_s.tolist(), table.tolist(), strict=True):
        writer.writerow([_timecode(time), len(VALUE_NAMES), *(f"{value:.10f}" for value in row)])
    try:
        write_bytes(Path(path), out.getvalue().encode())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}). "
            "Choose a folder that exists, is writable and has space."
        ) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}). {_REMEDY}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no UTF-8 text (byte {error.start} cannot be decoded). {_REMEDY}"
        ) from error


def _parse_csv(path: Path, text: str) -> tuple[list[str], Iterator[_Row], float | None]:
    """Return the column names, the rows to come and None: a CSV states no rate."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise InputError(f"{path}, line 1: cannot be read as CSV ({error}). {_REMEDY}") from error
    count = next((i for i, name in enumerate(header) if name.lower() == "blendshapecount"), None)

    def rows() -> Iterator[_Row]:
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise InputError(
                    f"{path}, line {reader.line_num}: cannot be read as CSV ({error}). {_REMEDY}"
                ) from error
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            if count is not None and len(cells) > count and cells[count].strip() == "0":
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: has {len(cells)} values where the header names "
                    f"{len(header)} columns. Is the file complete? Record or export it again."
                )
            yield _Row(f"line {reader.line_num}", cells)

    return header, rows(), None


def _parse_json(path: Path, text: str) -> tuple[list[str], Iterator[_Row], float | None]:
    """Return the column names, the rows to come and the rate that the file states, if it does."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}). {_REMEDY}") from error
    rate: float | None = None
    if isinstance(value, dict):
        stated = next((value[key] for key in ("fps", "exportFps") if key in value), None)
        if stated is not None:
            if (
                isinstance(stated, bool)
                or not isinstance(stated, int | float)
                or not 1 <= stated <= 1000
            ):
                raise InputError(
                    f"{path}: 'fps' must be a number from 1 to 1000; found {_shown(stated)}."
                )
            rate = float(stated)
        names = value.get("names", value.get("facsNames"))
        if names is not None:
            weights = value.get("weights", value.get("weightMat"))
            return *_matrix_rows(path, names, weights), rate
        value = value.get("frames")
    if not isinstance(value, list) or not all(isinstance(frame, dict) for frame in value):
        raise InputError(
            f'{path} must hold a list of {{name: value}}, or {{"fps": , "frames": [...]}}, or '
            f'{{"names": [...], "weights": [[...], ...]}}. {_REMEDY}'
        )
    columns = list(dict.fromkeys(name for frame in value for name in frame))
    rows = (
        _Row(f"frame {i}", [frame.get(name) for name in columns]) for i, frame in enumerate(value)
    )
    return columns, rows, rate


def _matrix_rows(path: Path, names: Any, weights: Any) -> tuple[list[str], Iterator[_Row]]:
    """Rows of the form {"names": [...], "weights": [[...], ...]}."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: 'names' must be a list of texts. {_REMEDY}")
    if not isinstance(weights, list):
        raise InputError(f"{path}: 'weights' must be a list with one list of numbers a frame.")
    for i, row in enumerate(weights):
        if not isinstance(row, list) or len(row) != len(names):
            size = len(row) if isinstance(row, list) else _shown(row)
            raise InputError(
                f"{path}, frame {i}: 'weights' must have {len(names)} numbers, as many as 'names'; "
                f"found {size}."
            )
    return names, (_Row(f"frame {i}", row) for i, row in enumerate(weights))


def _motion(path: Path, columns: list[str], rows: Iterable[_Row], rate: float) -> FaceMotion:
    """Understand the cells of all rows."""
    targets = _targets(path, columns)
    time_column = next((i for i, target in enumerate(targets) if target in TIME_NAMES), None)
    timecode = time_column is not None and targets[time_column] == "timecode"
    times: list[float] = []
    places: list[str] = []
    values: list[list[float]] = []
    for row in rows:
        line = [0.0] * len(VALUE_NAMES)
        for name, target, cell in zip(columns, targets, row.cells, strict=True):
            if isinstance(target, int) and cell is not None:
                line[target] = _value(path, row.place, name, target, cell)
        values.append(line)
        places.append(row.place)
        if time_column is None:
            times.append(len(times) / rate)
        else:
            cell, name = row.cells[time_column], columns[time_column]
            if timecode:
                times.append(_timecode_seconds(path, row.place, cell))
            else:
                times.append(_number(path, row.place, name, cell))
    if not values:
        raise InputError(f"{path} holds no sample of a face. {_REMEDY}")
    time_s = _timecodes_to_seconds(np.array(times)) if timecode else np.array(times)
    # The app's clock may be corrected by a frame or so while it records; a written time may not.
    keep = _advancing(path, places, time_s, tolerance=0.1 if timecode else 0.0)
    time_s = time_s[keep] - time_s[keep[0]]
    if time_s[-1] > LONGEST_S:
        raise InputError(
            f"{path} spans {time_s[-1]:.0f} seconds; at most {LONGEST_S:.0f} are understood. "
            "Are its times seconds?"
        )
    table = torch.tensor(values, dtype=torch.float64)[torch.from_numpy(keep)]
    present = {target for target in targets if isinstance(target, int)}
    angles = {VALUE_NAMES[i] for i in present if i >= ARKIT_COUNT}
    head = table[:, ARKIT_COUNT : ARKIT_COUNT + 3]
    eyes = -torch.stack([table[:, ARKIT_COUNT + 3 :][:, :2], table[:, ARKIT_COUNT + 6 :][:, :2]], 1)
    if angles & set(ANGLE_NAMES[:3]):
        # A phone held sideways puts roll near half a turn, where it wraps around.
        head = torch.from_numpy(np.unwrap(head.numpy(), axis=0))
    return FaceMotion(
        torch.from_numpy(time_s),
        table[:, :ARKIT_COUNT],
        head if angles & set(ANGLE_NAMES[:3]) else None,
        eyes if angles & set(ANGLE_NAMES[3:]) else None,
    )


def _targets(path: Path, columns: list[str]) -> list[int | str]:
    """Return for every column its position in VALUE_NAMES, or ``"time"``, ``"timecode"``,
    ``""``."""
    targets: list[int | str] = []
    seen: set[str] = set()
    for name in columns:
        key = name.strip().lower()
        if key in seen:
            raise InputError(f"{path} has the column '{name}' twice. Remove one of them.")
        seen.add(key)
        if key in _POSITION:
            targets.append(_POSITION[key])
        elif key in TIME_NAMES:
            targets.append(key)
        elif key in IGNORED_NAMES:
            targets.append("")
        else:
            close = difflib.get_close_matches(key, _POSITION, n=1)
            hint = f" Did you mean {VALUE_NAMES[_POSITION[close[0]]]}?" if close else f" {_REMEDY}"
            raise InputError(f"{path} has an unknown column {_shown(name)}.{hint}")
    if not any(isinstance(target, int) and target < ARKIT_COUNT for target in targets):
        raise InputError(f"{path} names no ARKit coefficient. {_REMEDY}")
    if {"time", "timecode"} <= seen:
        raise InputError(f"{path} has both a 'time' and a 'Timecode' column. Remove one of them.")
    return targets


def _number(path: Path, place: str, column: str, cell: Any) -> float:
    """Return a finite number from a CSV cell or a JSON value."""
    value = math.nan
    if isinstance(cell, str | int | float) and not isinstance(cell, bool):
        try:
            value = float(cell)
        except (ValueError, OverflowError):
            value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{path}, {place}, column '{column}': expected a finite number, found {_shown(cell)}."
        )
    return value


def _value(path: Path, place: str, column: str, position: int, cell: Any) -> float:
    """Return a coefficient or an angle, its range checked."""
    value = _number(path, place, column, cell)
    if position < ARKIT_COUNT and not WEIGHT_RANGE[0] <= value <= WEIGHT_RANGE[1]:
        raise InputError(
            f"{path}, {place}, column '{column}': a coefficient runs from 0 to 1, found {value:g}. "
            "If the file holds percents, divide them by 100."
        )
    if position >= ARKIT_COUNT and abs(value) > ANGLE_LIMIT:
        raise InputError(
            f"{path}, {place}, column '{column}': an angle is in radians, from -3.15 to 3.15; found "
            f"{value:g}. If the file holds degrees, convert them."
        )
    return value


def _shown(value: Any) -> str:
    """Show a wrong value in a message, shortened."""
    text = repr(value) if not isinstance(value, int) or isinstance(value, bool) else "a huge number"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**20:
        text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _timecode_seconds(path: Path, place: str, cell: Any) -> float:
    """Return 1000 * seconds + frames of HH:MM:SS:FF.sss, to be parted when the rate is known."""
    match = _TIMECODE.fullmatch(cell.strip()) if isinstance(cell, str) else None
    if match is None or int(match[1]) > 23 or int(match[2]) > 59 or int(match[3]) > 59:
        raise InputError(
            f"{path}, {place}, column 'Timecode': expected HH:MM:SS:FF.sss, found {_shown(cell)}."
        )
    seconds = (int(match[1]) * 60 + int(match[2])) * 60 + int(match[3])
    return seconds * 1000.0 + float(match[4])


def _timecodes_to_seconds(packed: np.ndarray) -> np.ndarray:
    """Return seconds from packed seconds and frames; midnight is passed, not gone back over."""
    seconds, frames = np.divmod(packed, 1000.0)
    rate = next((r for r in TIMECODE_RATES if r > frames.max()), math.ceil(frames.max()) + 1)
    if seconds[0] == seconds[-1]:
        rate = max(rate, LIVE_LINK_RATE)
    time = seconds + frames / rate
    days = np.cumsum(np.diff(time, prepend=time[0]) < -12 * 3600)
    return time + 24 * 3600 * days


def _advancing(path: Path, places: list[str], time_s: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the indices of the rows whose time advances; raise where one goes back."""
    newest = np.maximum.accumulate(time_s)
    back = np.nonzero(time_s < newest - tolerance)[0]
    if len(back):
        i = int(back[0])
        raise InputError(
            f"{path}, {places[i]}: its time lies {newest[i] - time_s[i]:g} seconds before that of an "
            "earlier row. Sort the rows by time, or record again."
        )
    advance = np.diff(newest, prepend=-np.inf) > 1e-9
    return np.nonzero(advance)[0]


def _timecode(time_s: float) -> str:
    """Return ``HH:MM:SS:FF.sss`` with 60 frames a second."""
    thousandths = round(time_s * LIVE_LINK_RATE * 1000)
    frames, part = divmod(thousandths, 1000)
    seconds, frame = divmod(frames, LIVE_LINK_RATE)
    hours, rest = divmod(seconds % (24 * 3600), 3600)
    return f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}:{frame:02d}.{part:03d}"
