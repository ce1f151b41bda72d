"""Reading what others wrote: JSON, numbers, matrices, paths and npz files, checked one by one.

Whatever is wrong ends in one sentence that names the file and the key. Nothing is unpickled, and no path
leads out of the data set's folder.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from avatar.checks import InputError

LARGEST_JSON = 256 << 20
"""Bytes; 16 cameras of 10,000 frames take half of it."""
LARGEST_ARRAY = 16 << 20
"""Bytes of one array of an npz file: FLAME's vertices take 60 kB."""
LARGEST_SIDE = 32768
"""Pixels."""
ROTATION_ROOM = 1e-2
"""By how much a rotation matrix may miss being one: files round to four digits, or carry a scale."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises InputError where it cannot be, or is something else."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise InputError(
                f"{path} is larger than {LARGEST_JSON >> 20} MiB; that is no description of pictures. "
                f"Check that the file is the data set's own."
            )
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({_short(error)}). Get the file from the data set again."
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"{path} holds a {type(value).__name__} where an object with named fields was expected. Get "
            f"the file from the data set again."
        )
    return value


class Fields:
    """The named fields of a JSON object, and of the object around it where they are missing here."""

    def __init__(
        self, value: Any, path: Path, where: str = "", outer: Mapping[str, Any] | None = None
    ) -> None:
        """Take an object of ``path`` that stands at ``where`` ("frames[3]") in it."""
        self.path, self.where = path, where
        if not isinstance(value, dict):
            raise self.wrong("", f"is {_kind(value)}", "an object with named fields was expected")
        self._value, self._outer = value, outer or {}

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None or self._outer.get(key) is not None

    def get(self, key: str) -> Any:
        """Return a field, or None."""
        value = self._value.get(key)
        return self._outer.get(key) if value is None else value

    def wrong(self, key: str, found: str, expected: str) -> InputError:
        """Return the error that a field is not what it should be."""
        name = ".".join(filter(None, (self.where, key))) or "the file"
        return InputError(
            f"{self.path}: {name} {found}, but {expected}. Correct it, or get the file again."
        )

    def number(
        self, key: str, default: float | None = None, *, low: float = -1e9, high: float = 1e9
    ) -> float:
        """Return a finite number within ``low`` and ``high``; ``default`` where it is missing."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        expected = f"a number from {low:g} to {high:g} was expected"
        if value is None:
            raise self.wrong(key, "is missing", expected)
        number = as_number(value)
        if number is None or not low <= number <= high:
            raise self.wrong(key, f"is {_kind(value)}", expected)
        return number

    def side(self, key: str) -> int | None:
        """Return a picture's side, pixels, or None where it is missing."""
        if key not in self:
            return None
        return int(self.number(key, low=1, high=LARGEST_SIDE))

    def array(self, key: str, *shapes: tuple[int, ...]) -> np.ndarray:
        """Return an array, float64 and finite, of one of ``shapes``; -1 is any length."""
        value = self.get(key)
        expected = " or ".join("x".join("n" if n < 0 else str(n) for n in s) for s in shapes)
        expected = f"finite numbers, {expected}, were expected"
        if value is None:
            raise self.wrong(key, "is missing", expected)
        array = as_array(value)
        if array is None or not any(_fits(array.shape, shape) for shape in shapes):
            shape = "" if array is None else f" of {'x'.join(map(str, array.shape)) or 1}"
            raise self.wrong(key, f"is {_kind(value)}{shape}", expected)
        return array

    def rigid(self, key: str) -> np.ndarray:
        """Return a rigid transform, float64 [4, 4], of a 4x4 or 3x4 matrix; a scale is taken out.

        Raises:
            InputError: missing, other shapes, mirrored, or no rotation.
        """
        matrix = np.eye(4)
        given = self.array(key, (4, 4), (3, 4))
        if len(given) == 4 and not np.allclose(given[3], (0, 0, 0, 1), atol=1e-6):
            raise self.wrong(key, "has another last row", "0 0 0 1 was expected")
        R = given[:3, :3]
        with np.errstate(over="ignore", invalid="ignore"):
            determinant = float(np.linalg.det(R))
        if not 1e-9 < abs(determinant) < 1e9:
            raise self.wrong(
                key, "turns nothing round (no rotation)", "a rigid motion was expected"
            )
        if determinant < 0:
            raise self.wrong(key, "mirrors", "a camera that does not was expected")
        U, scales, Vt = np.linalg.svd(R)
        if float(np.ptp(scales)) > ROTATION_ROOM * float(scales.mean()):
            raise self.wrong(key, "shears or stretches", "a rigid motion was expected")
        matrix[:3, :3] = U @ Vt
        matrix[:3, 3] = given[:3, 3]
        return matrix

    def text(self, key: str) -> str:
        """Return a text that is not empty, without control characters or broken Unicode."""
        value = self.get(key)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            state = "is missing" if value is None else f"is {_kind(value)}"
            raise self.wrong(key, state, "a text was expected")
        return value

    def name(self, key: str) -> str:
        """Return a text or a whole number, as text."""
        value = self.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
            return str(value)
        return self.text(key)

    def inside(self, key: str, folder: Path) -> Path:
        """Return the path that a field names, which must lie in ``folder``; it need not exist."""
        text = self.text(key).replace("\\", "/")
        relative = os.path.normpath(text)
        if os.path.isabs(relative) or relative.split(os.sep)[0] == "..":
            raise self.wrong(key, f"is {text!r}", f"a path that stays within {folder} was expected")
        return folder / relative

    def picture(self, key: str, folder: Path) -> Path:
        """Return the path of a picture in ``folder``; names without a suffix get the one that is there.

        Raises:
            InputError: it is missing, leads out of the folder, or is no picture format that is read.
        """
        path = self.inside(key, folder)
        known = path.suffix.lower() in PICTURE_SUFFIXES
        choices = [path] if known else [path.with_name(path.name + s) for s in PICTURE_SUFFIXES]
        for choice in choices:
            if choice.is_file():
                return choice
        raise self.wrong(
            key,
            f"names {path}, which is not there",
            f"a picture ({', '.join(PICTURE_SUFFIXES)}) was expected",
        )


def read_arrays(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Read those of the named arrays that an npz file has, float64.

    Raises:
        InputError: no npz file, damaged, an array of objects (a pickle), too large, or not finite.
    """
    remedy = "Get the file from the data set again."
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            for key in keys:
                if f"{key}.npy" not in names:
                    continue
                with archive.open(f"{key}.npy") as file:
                    content = file.read(LARGEST_ARRAY + 1)
                if len(content) > LARGEST_ARRAY:
                    raise InputError(
                        f"{path}: '{key}' takes more than {LARGEST_ARRAY >> 20} MiB, which no head "
                        f"parameter does. {remedy}"
                    )
                found[key] = _array_of(content, path, key, remedy)
    except (
        OSError,
        ValueError,
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        RuntimeError,
    ) as error:
        raise InputError(
            f"{path} cannot be read as an npz file of numbers ({_short(error)}). {remedy}"
        ) from error
    return found


def _array_of(content: bytes, path: Path, key: str, remedy: str) -> np.ndarray:
    """Read one npy member, its header checked against its length before anything is allocated."""
    stream = BytesIO(content)
    version = np.lib.format.read_magic(stream)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in reader:
        raise ValueError(f"'{key}' has npy version {version}")
    shape, _, dtype = reader[version](stream)
    if dtype.kind not in "fiu":
        raise InputError(
            f"{path}: '{key}' holds {dtype} where numbers were expected; pickled objects are not read. "
            f"{remedy}"
        )
    if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"'{key}' is cut off, or is of another shape than it says")
    stream.seek(0)
    array = np.lib.format.read_array(stream, allow_pickle=False).astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: '{key}' holds values that are NaN or infinite. {remedy}")
    return array


def read_numbers(path: Path) -> np.ndarray:
    """Read a text file of numbers, float64 [n]; raises InputError naming what is wrong."""
    try:
        if path.stat().st_size > 1 << 20:
            raise ValueError("it is larger than 1 MiB")
        words = path.read_text().replace(",", " ").split()
        values = np.array([float(word) for word in words])
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a list of numbers ({_short(error)}). Get the file again."
        ) from error
    if not len(values) or not np.isfinite(values).all():
        raise InputError(f"{path} holds no numbers, or NaN or infinity. Get the file again.")
    return values


def as_number(value: Any) -> float | None:
    """Return a finite number as float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_array(value: Any) -> np.ndarray | None:
    """Return nested lists of finite numbers as float64, or None for anything else."""
    flat: list[float] = []

    def walk(part: Any, depth: int) -> tuple[int, ...] | None:
        if not isinstance(part, list):
            number = as_number(part)
            if number is None:
                return None
            flat.append(number)
            return ()
        shapes = {walk(one, depth + 1) for one in part} if depth < 4 else {None}
        inner = shapes.pop() if len(shapes) == 1 else (0,) if not part else None
        return None if inner is None else (len(part), *inner) if part else (0,)

    shape = walk(value, 0)
    return None if shape is None else np.array(flat, float).reshape(shape)


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        w in (-1, n) for n, w in zip(shape, wanted, strict=True)
    )


def _kind(value: Any) -> str:
    """Name a value in a few words."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    text = (
        str(value)
        if isinstance(value, int) and abs(value) < 10**30
        else repr(value)
        if not isinstance(value, int)
        else "a huge number"
    )
    return text if len(text) <= 60 else text[:57] + "..."


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
