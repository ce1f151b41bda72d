"""VHAP's exports, as GaussianAvatars uses them.

As their public documentation lays the folder out::

    transforms_train.json · transforms_val.json · transforms_test.json     a frame is one picture:
        timestep_index · camera_index (or camera_id) · transform_matrix (OpenGL) · fl_x fl_y cx cy w h ·
        file_path · fg_mask_path · flame_param_path
    images/ · fg_masks/ · flame_param/00000.npz ... · canonical_flame_param.npz

val holds out cameras, test the last time steps. An npz has shape [300], expr [1, 100], rotation, neck_pose,
jaw_pose, translation [1, 3], eyes_pose [1, 6], static_offset [1, V, 3].
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from avatar.checks import InputError
from capture.datasets.description import DataSet, HeadParameters, assembled
from capture.datasets.reading import read_arrays
from capture.datasets.transforms import CAMERA_KEYS, Row, read_fps, read_rows, transform_files

PER_FRAME = {"rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "translation": 3}
"""Length of each parameter that every frame has; ``expr`` may be of any."""
CANONICAL = "canonical_flame_param.npz"
LONGEST = 1000
"""Most coefficients of shape or expression: FLAME has 300 and 100."""


def read_vhap(folder: Path, fps: float | None = None) -> DataSet:
    """Read a VHAP export; raises InputError naming file and key."""
    rows, head = read_rows(folder)
    path = transform_files(folder)[0][0]
    rate, notes = read_fps(head, path, fps)
    placed, parameters = [], {}
    for row in rows:
        time = row.fields.number("timestep_index", low=0)
        key = next((key for key in CAMERA_KEYS if key in row.fields), "camera_index")
        mask = None
        if "fg_mask_path" in row.fields:
            mask = row.fields.picture("fg_mask_path", folder)
        placed.append((time, row.fields.name(key), replace(row.shot, mask=mask or row.shot.mask)))
        if "flame_param_path" in row.fields:
            parameters.setdefault(time, _parameter_file(row, folder))
    cameras, shots = assembled(placed, path)
    times = sorted({time for time, _, _ in placed})
    if times[-1] - times[0] >= len(times):
        notes = (
            *notes,
            f"Of time steps {times[0]:g} to {times[-1]:g}, {len(times)} are there; they follow each other.",
        )
    flame = _read_parameters(folder, [parameters.get(time) for time in times])
    return DataSet("vhap", folder, cameras, shots, rate, metric=True, head=flame, notes=notes)


def _parameter_file(row: Row, folder: Path) -> Path:
    path = row.fields.inside("flame_param_path", folder)
    if not path.is_file():
        raise row.fields.wrong(
            "flame_param_path", f"names {path}, which is not there", "an npz file was expected"
        )
    return path


def _read_parameters(folder: Path, files: list[Path | None]) -> HeadParameters | None:
    """Read each frame's npz; None where no frame has one."""
    first = next((path for path in files if path is not None), None)
    if first is None:
        return None
    names = ("shape", "expr", *PER_FRAME)
    start = read_arrays(first, (*names, "static_offset"))
    canonical = folder / CANONICAL
    if "shape" not in start and canonical.is_file():
        start["shape"] = read_arrays(canonical, ("shape",)).get("shape", np.zeros(0))
    shape = _vector(start, "shape", first, None)
    count = len(_vector(start, "expr", first, None))
    sizes = {**PER_FRAME, "expr": count}
    values = {name: np.zeros((len(files), n), np.float32) for name, n in sizes.items()}
    for frame, path in enumerate(files):
        if path is None:
            continue
        found = read_arrays(path, tuple(sizes))
        for name, n in sizes.items():
            values[name][frame] = _vector(found, name, path, n)
    offset = start.get("static_offset")
    if offset is not None and (offset.size % 3 or offset.shape[-1:] != (3,)):
        raise InputError(
            f"{first}: 'static_offset' is {list(offset.shape)}, but [1, V, 3] was expected. Get the file "
            f"from the data set again."
        )
    return HeadParameters(
        shape=shape.astype(np.float32),
        valid=np.array([path is not None for path in files]),
        static_offset=None if offset is None else offset.reshape(-1, 3).astype(np.float32),
        **values,
    )


def _vector(found: dict[str, np.ndarray], name: str, path: Path, length: int | None) -> np.ndarray:
    """Return an array as one row of ``length`` numbers, or of up to LONGEST where None."""
    array = found.get(name)
    wanted = f"[1, {length}]" if length is not None else f"[n] with n up to {LONGEST}"
    single = array is not None and array.size == max((*array.shape, 1))  # all but one axis are 1
    if (
        array is None
        or not single
        or not (array.size == length if length is not None else 0 < array.size <= LONGEST)
    ):
        state = "is missing" if array is None else f"is {list(array.shape)}"
        raise InputError(
            f"{path}: '{name}' {state}, but {wanted} was expected. Get the file from the data set again."
        )
    return array.reshape(-1)
