"""``transforms.json``: nerfstudio's and Blender's description of pictures and cameras.

Documented by nerfstudio (data conventions) and instant-ngp (transforms.json): intrinsics at the top or in
each frame (``fl_x fl_y cx cy w h``, or ``camera_angle_x``), ``transform_matrix`` from OpenGL camera axes (y up,
z backwards) to the world. D-NeRF adds ``time``, VHAP ``timestep_index`` and ``camera_index``. Blender's file
names have no suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from avatar.checks import InputError
from capture.datasets.description import (
    DEFAULT_FPS,
    DataSet,
    Lens,
    Part,
    Shot,
    assembled,
    natural,
)
from capture.datasets.reading import LARGEST_SIDE, Fields, read_json
from capture.known_camera import ANGLES, DISTORTION, OPENGL, PINHOLE_MODELS, transforms_pinhole

SPLIT_FILES: tuple[tuple[str, Part], ...] = (
    ("transforms_train.json", "train"),
    ("transforms_test.json", "test"),
    ("transforms_val.json", "val"),
)
CAMERA_KEYS = ("camera_id", "camera_index", "camera_label", "camera")
TIME_KEYS = ("timestep_index", "timestep", "time")
POSE_DIGITS = 5
"""Cameras are one where their matrices agree to so many digits."""
FPS_RANGE = (1.0, 1000.0)


@dataclass(frozen=True)
class Row:
    """A frame of a transforms file, read but for what only one layout has."""

    fields: Fields
    shot: Shot


def transform_files(folder: Path) -> list[tuple[Path, Part]]:
    """Return the files that describe a data set: those of its parts, or the one of all."""
    parts: list[tuple[Path, Part]] = [
        (folder / name, part) for name, part in SPLIT_FILES if (folder / name).is_file()
    ]
    if any(part == "train" for _, part in parts):
        return parts
    whole: tuple[Path, Part] = (folder / "transforms.json", "train")
    return [whole] if whole[0].is_file() else parts


def read_rows(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Read all frames that the transforms files list, and the fields at the top of the first.

    Raises:
        InputError: no such file, or the first mistake in one, by file and key.
    """
    rows: list[Row] = []
    head: dict[str, Any] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for path, part in transform_files(folder):
        value = read_json(path)
        head = head or {key: field for key, field in value.items() if key != "frames"}
        frames = value.get("frames")
        if not isinstance(frames, list) or not frames:
            raise InputError(
                f"{path}: frames is {'missing' if frames is None else 'no list with entries'}, but a list "
                f"of pictures was expected. Get the file from the data set again."
            )
        outer = {key: field for key, field in value.items() if key in SHARED}
        named = _named_parts(value, path, folder)
        for i, frame in enumerate(frames):
            fields = Fields(frame, path, f"frames[{i}]", outer)
            picture = fields.picture("file_path", folder)
            rows.append(
                Row(
                    fields,
                    Shot(
                        picture=picture,
                        lens=_lens(fields, picture, sizes),
                        T_cam_world=OPENGL @ np.linalg.inv(fields.rigid("transform_matrix")),
                        mask=fields.picture("mask_path", folder) if "mask_path" in fields else None,
                        part=named.get(picture, part),
                    ),
                )
            )
    return rows, head


SHARED = (
    "fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y", "camera_model", "is_fisheye",
    "k1", "k2", "k3", "k4", "p1", "p2",
)  # fmt: skip
"""Fields of a camera that may stand at the top for all frames."""


def _named_parts(value: dict[str, Any], path: Path, folder: Path) -> dict[Path, Part]:
    """Return the part of each picture that nerfstudio's lists of file names place."""
    named: dict[Path, Part] = {}
    parts: tuple[Part, ...] = ("val", "test", "train")  # a picture in several is the last one's
    for part in parts:
        names = value.get(f"{part}_filenames")
        if names is None:
            continue
        if not isinstance(names, list):
            raise InputError(
                f"{path}: {part}_filenames is no list, but a list of file names was expected. Correct it."
            )
        for i, name in enumerate(names):
            one = Fields({"name": name}, path, f"{part}_filenames[{i}]")
            named[one.inside("name", folder)] = part
    return named


def _lens(fields: Fields, picture: Path, sizes: dict[str, tuple[int, int]]) -> Lens:
    """Read a frame's intrinsics; the picture's header is read where the file does not state its size."""
    model = fields.get("camera_model")
    fisheye = fields.get("is_fisheye") is True or fields.number("k4", 0.0) != 0
    if fisheye or (model is not None and model not in PINHOLE_MODELS):
        said = "is a fisheye" if fisheye else f"is {str(model)[:40]!r}"
        raise fields.wrong(
            "camera_model",
            said,
            f"one of {', '.join(PINHOLE_MODELS)} was expected; undistort the pictures first",
        )
    width, height = fields.side("w"), fields.side("h")
    if width is None or height is None:
        folder = str(
            picture.parent
        )  # the pictures of a folder are of one size, or importing says which not
        if folder not in sizes:
            sizes[folder] = picture_size(picture)
        width, height = sizes[folder]
    ranges = {"fl_x": (1.0, 1e9), "fl_y": (1.0, 1e9)}
    if "fl_x" not in fields:
        ranges = {"camera_angle_x": ANGLES, "camera_angle_y": ANGLES}
    ranges |= dict.fromkeys(("cx", "cy"), (-LARGEST_SIDE, 2 * LARGEST_SIDE))
    needed = ("fl_x", "camera_angle_x")
    numbers = {
        name: fields.number(name, low=low, high=high)
        for name, (low, high) in ranges.items()
        if name in fields or name in needed
    }
    distortion = tuple(fields.number(key, 0.0, low=-100, high=100) for key in DISTORTION)
    K = transforms_pinhole(numbers, (width, height))
    return Lens(K, (width, height), distortion if any(distortion) else ())


def picture_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of a picture from its header; raises InputError where it has none."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} cannot be read as a picture. Get the file from the data set again."
        ) from error


def read_fps(
    head: dict[str, Any], path: Path, given: float | None
) -> tuple[float, tuple[str, ...]]:
    """Return the frame rate: the one given, the file's own ``fps``, or the usual one with a note."""
    if given is not None:
        return given, ()
    if head.get("fps") is not None:
        return Fields(head, path).number("fps", low=FPS_RANGE[0], high=FPS_RANGE[1]), ()
    return DEFAULT_FPS, (
        f"The data set states no frame rate; {DEFAULT_FPS:g} frames/s are assumed (--fps states another).",
    )


def read_nerfstudio(folder: Path, fps: float | None = None) -> DataSet:
    """Read a nerfstudio, Blender or D-NeRF folder; raises InputError naming file and key."""
    rows, head = read_rows(folder)
    path = transform_files(folder)[0][0]
    rate, notes = read_fps(head, path, fps)
    named = [_time_and_camera(row) for row in rows]
    if any(time is None for time, _ in named):
        more = ["No time is stated: pictures follow each other as their names do."]
        placed = _by_names(rows)
    else:
        more = []
        placed = _by_times(rows, named, path)
    cameras, shots = assembled(placed, path)
    if any(camera.T_cam_world is None for camera in cameras):
        more.append(
            "The camera moves with the frame: it is taken to stand still before a moving head."
        )
    return DataSet(
        "nerfstudio",
        folder,
        cameras,
        shots,
        rate,
        metric=head.get("metric") is True,
        notes=(*notes, *more),
    )


def _time_and_camera(row: Row) -> tuple[float | None, str | None]:
    time = next((row.fields.number(key) for key in TIME_KEYS if key in row.fields), None)
    camera = next((row.fields.name(key) for key in CAMERA_KEYS if key in row.fields), None)
    return time, camera


def _look(shot: Shot) -> str:
    """Name a camera by where it stands and how it draws: one that stands still has one such name."""
    K = np.zeros(0) if shot.lens is None else shot.lens.K
    values = np.round(np.concatenate([shot.T_cam_world.ravel(), K.ravel()]), POSE_DIGITS) + 0.0
    return values.tobytes().hex()


def _by_times(
    rows: Sequence[Row], named: Sequence[tuple[float | None, str | None]], path: Path
) -> list[tuple[float, str, Shot]]:
    """Place pictures by their stated times; cameras by stated names, or by where they stand."""
    times = [0.0 if time is None else time for time, _ in named]
    if all(camera is not None for _, camera in named):
        return [
            (time, str(camera), row.shot)
            for time, (_, camera), row in zip(times, named, rows, strict=True)
        ]
    pictures = [(time, row.shot.picture) for time, row in zip(times, rows, strict=True)]
    if len({time for time, _ in pictures}) == len(set(pictures)):
        return [(time, "cam0", row.shot) for time, row in zip(times, rows, strict=True)]
    looks = [_look(row.shot) for row in rows]
    order = {look: k for k, look in enumerate(dict.fromkeys(looks))}
    if len(order) == len(rows):
        raise InputError(
            f"{path}: frames share times, but neither camera_index names their cameras nor do cameras stand "
            f"still, so they cannot be told apart. Add camera_index to the frames."
        )
    return [
        (time, f"cam{order[look]}", row.shot)
        for time, look, row in zip(times, looks, rows, strict=True)
    ]


def _by_names(rows: Sequence[Row]) -> list[tuple[float, str, Shot]]:
    """Place pictures without times: each camera that stands still has a time line of its own."""
    unique: dict[Path, Row] = {}
    for row in rows:
        unique.setdefault(row.shot.picture, row)
    ordered = sorted(unique.values(), key=lambda row: natural(row.shot.picture.as_posix()))
    looks = [_look(row.shot) for row in ordered]
    repeated = len(set(looks)) < len(looks)
    order = {look: k for k, look in enumerate(dict.fromkeys(looks))}
    counts: dict[str, int] = {}
    placed = []
    for look, row in zip(looks, ordered, strict=True):
        name = f"cam{order[look]}" if repeated else "cam0"
        counts[name] = counts.get(name, -1) + 1
        placed.append((float(counts[name]), name, replace(row.shot)))
    return placed
