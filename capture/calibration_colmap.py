"""COLMAP models, text and binary, to cameras (layout: colmap.github.io/format.html).

``images`` has a line, or a record, for each picture: quaternion wxyz and translation that map the world
to the camera, the number of its lens in ``cameras``, and its file name. Pictures in one folder that have
one pose and lens are those of one fixed camera.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from avatar.checks import InputError
from capture.known_camera import KnownCamera, checked, pinhole, pose, rotation_of

MODEL_PARAMETERS = {
    "SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8,
    "OPENCV_FISHEYE": 8, "FULL_OPENCV": 12, "FOV": 5, "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12,
}  # fmt: skip
"""How many numbers each model has; in the order of their numbers in binary files."""
SUPPORTED = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
STEMS = ("cameras", "images")
FOLDERS = ("", "sparse/0", "sparse", "colmap/sparse/0", "0")
"""Where, below the given folder, a model may lie."""


class _Lens(NamedTuple):
    model: str
    size: tuple[int, int]
    numbers: list[float]


class _Picture(NamedTuple):
    quaternion: list[float]
    translation: list[float]
    lens: int
    name: str


def find_model(path: Path) -> list[Path] | None:
    """Return the cameras and images files of a model at or below a folder; None where there is none."""
    if not path.is_dir():
        if path.stem not in STEMS or path.suffix not in (".txt", ".bin"):
            return None
        path = path.parent
    for below in FOLDERS:
        for suffix in (".bin", ".txt"):
            files = [path / below / f"{stem}{suffix}" for stem in STEMS]
            if all(file.is_file() for file in files):
                return files
    return None


def read_colmap(folder: str, files: Mapping[str, bytes]) -> list[KnownCamera]:
    """Read the cameras of a model; raises InputError that names the file and what is wrong in it.

    Args:
        folder: for messages.
        files: content by name: cameras.txt and images.txt, or .bin.
    """
    binary = "cameras.bin" in files
    suffix = ".bin" if binary else ".txt"
    lenses = _read(
        f"{folder}/cameras{suffix}",
        files[f"cameras{suffix}"],
        _lenses_bin if binary else _lenses_txt,
    )
    pictures = _read(
        f"{folder}/images{suffix}",
        files[f"images{suffix}"],
        _pictures_bin if binary else _pictures_txt,
    )
    if not pictures:
        raise InputError(
            f"{folder}/images{suffix} has no picture. Give a model with a picture of every camera."
        )
    cameras: dict[Any, KnownCamera] = {}
    for picture in pictures:
        lens = lenses.get(picture.lens)
        if lens is None:
            raise InputError(
                f"{folder}/images{suffix}: {picture.name!r} was taken by camera {picture.lens}, which "
                f"cameras{suffix} lacks. Give both files of one model."
            )
        try:
            R = rotation_of(np.array(picture.quaternion))
        except ValueError as error:
            raise InputError(f"{folder}/images{suffix}: {picture.name!r} has {error}.") from error
        K, bend = _intrinsics(folder, lens)
        path = PurePosixPath(picture.name.replace("\\", "/"))
        parent = path.parent.name
        names = (parent, path.stem) if parent and path.stem.isdigit() else (path.stem, parent)
        camera = checked(
            folder,
            KnownCamera(
                tuple(name for name in names if name) or (picture.name or "?",),
                lens.size,
                K,
                pose(R, np.array(picture.translation)),
                bend,
            ),
        )
        key = (picture.lens, camera.T_cam_world.round(9).tobytes())
        known = cameras.get(key)
        if known is not None:
            names = tuple(dict.fromkeys((*known.names, *camera.names)))
            camera = KnownCamera(
                names, camera.size, camera.K, camera.T_cam_world, camera.distortion
            )
        cameras[key] = camera
    return list(cameras.values())


def _read(name: str, content: bytes, reader: Callable[[bytes], Any]) -> Any:
    try:
        return reader(content)
    except (ValueError, IndexError, KeyError, struct.error, OverflowError, UnicodeError) as error:
        raise InputError(
            f"{name} is damaged or no COLMAP file ({error}). Export the model again."
        ) from error


def _intrinsics(folder: str, lens: _Lens) -> tuple[np.ndarray, tuple[float, ...]]:
    p = lens.numbers
    if lens.model not in SUPPORTED:
        raise InputError(
            f"{folder}: the camera model {lens.model} is not known here; expected one of "
            f"{', '.join(SUPPORTED)}. Run colmap image_undistorter, and film with the same lens setting."
        )
    if lens.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        bend = (*p[3:], 0.0, 0.0, 0.0)[:4] if p[3:] else ()
        return pinhole(p[0], p[0], p[1], p[2]), bend if any(bend) else ()
    bend = tuple(p[4:])
    return pinhole(*p[:4]), bend if any(bend) else ()


def _lenses_txt(content: bytes) -> dict[int, _Lens]:
    lenses = {}
    for line in content.decode().splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        model = words[1]
        numbers = [float(word) for word in words[4:]]
        lenses[int(words[0])] = _lens(model, int(words[2]), int(words[3]), numbers)
    return lenses


def _lens(model: str, width: int, height: int, numbers: list[float]) -> _Lens:
    expected = MODEL_PARAMETERS.get(model)
    if expected is not None and len(numbers) != expected:
        raise ValueError(f"a {model} camera with {len(numbers)} numbers instead of {expected}")
    if not (0 < width < 1 << 17 and 0 < height < 1 << 17):
        raise ValueError(f"a picture of {width}x{height} pixels")
    return _Lens(model, (width, height), numbers)


def _pictures_txt(content: bytes) -> list[_Picture]:
    """Every other line is a picture; the line after it has its 2D points, and may be empty."""
    pictures = []
    lines = [line for line in content.decode().splitlines() if not line.startswith("#")]
    while lines and not lines[-1].strip():
        lines.pop()
    for line in lines[::2]:
        words = line.split(maxsplit=9)
        numbers = [float(word) for word in words[1:8]]
        int(words[0])
        pictures.append(_Picture(numbers[:4], numbers[4:], int(words[8]), words[9].strip()))
    return pictures


class _Bytes:
    """Little-endian numbers one after another; ValueError past the end."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def count(self, least: int) -> int:
        """Read how many records follow, each of ``least`` bytes or more."""
        (count,) = self.take("Q")
        if count * least > len(self.content) - self.place:
            raise ValueError(f"{count} records in {len(self.content)} bytes")
        return count

    def text(self) -> str:
        end = self.content.index(b"\0", self.place)
        value = self.content[self.place : end].decode()
        self.place = end + 1
        return value

    def skip(self, size: int) -> None:
        self.place += size
        if self.place > len(self.content):
            raise ValueError("it is cut off")


def _lenses_bin(content: bytes) -> dict[int, _Lens]:
    source, lenses = _Bytes(content), {}
    models = list(MODEL_PARAMETERS)
    for _ in range(source.count(24)):
        number, model, width, height = source.take("iiQQ")
        if not 0 <= model < len(models):
            raise ValueError(f"the camera model number {model}")
        name = models[model]
        numbers = list(source.take(f"{MODEL_PARAMETERS[name]}d"))
        lenses[number] = _lens(name, width, height, numbers)
    return lenses


def _pictures_bin(content: bytes) -> list[_Picture]:
    source, pictures = _Bytes(content), []
    for _ in range(source.count(73)):
        source.take("i")
        numbers = list(source.take("7d"))
        (lens,) = source.take("i")
        name = source.text()
        source.skip(24 * source.count(24))  # its 2D points: x, y, and the 3D point's number
        pictures.append(_Picture(numbers[:4], numbers[4:], lens, name))
    return pictures
