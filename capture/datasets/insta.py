"""INSTA's folders: a still head for the world, and one camera that moves around it.

Their public layout (instant-ngp's transforms.json with more fields)::

    transforms_train.json · transforms_test.json · transforms_val.json (or transforms.json)
        file_path images/00001.png · seg_mask_path · depth_path · mesh_path · exp_path flame/exp/00001.txt ·
        eyes_path flame/eyes/00001.txt · jaw_path flame/jaw/00001.txt · transform_matrix
    images/ · matted/ · seg_mask/ · depth/ · meshes/ · flame/ · canonical.obj · checkpoint/

The head's pose is in the camera alone, and jaw and neck are in the meshes; text files of expression, eyes and
jaw are read where they are there. ``seg_mask`` has classes of skin, hair and clothes and no person's alpha:
the alpha of ``matted`` is the mask where that folder is there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from avatar.checks import InputError
from capture.datasets.description import DataSet, HeadParameters, assembled
from capture.datasets.reading import read_numbers
from capture.datasets.transforms import Row, read_fps, read_rows, transform_files

CAMERA = "cam0"
MATTED = "matted"
EXPRESSIONS = 1000
"""Most coefficients of expression: the public folders have 50 or 100."""


def read_insta(folder: Path, fps: float | None = None) -> DataSet:
    """Read an INSTA-style folder; raises InputError naming file and key."""
    rows, head = read_rows(folder)
    path = transform_files(folder)[0][0]
    rate, notes = read_fps(head, path, fps)
    numbers = [_number(row) for row in rows]
    placed = []
    for number, row in zip(numbers, rows, strict=True):
        shot = row.shot
        if shot.mask is None:
            matted = folder / MATTED / f"{shot.picture.stem}.png"
            shot = replace(shot, mask=matted if matted.is_file() else None)
        placed.append((number, CAMERA, shot))
    cameras, shots = assembled(placed, path)
    own = {number: row for number, row in zip(numbers, rows, strict=True)}
    flame = _parameters([own[number] for number in sorted(own)], folder)
    return DataSet(
        "insta",
        folder,
        cameras,
        shots,
        rate,
        metric=True,
        head=flame,
        notes=(
            *notes,
            "The head is this data set's world; it is taken to move before a still camera.",
        ),
    )


def _number(row: Row) -> float:
    """The frame's number, which is its picture's name."""
    digits = re.findall(r"\d+", row.shot.picture.stem)
    if not digits or len(digits[-1]) > 12:
        raise row.fields.wrong(
            "file_path",
            f"is {row.shot.picture.name!r}",
            "a name with the frame's number was expected",
        )
    return float(digits[-1])


def _parameters(rows: list[Row], folder: Path) -> HeadParameters | None:
    """Read the text files of FLAME parameters; None where no frame names any."""
    files = [_text_file(row, "exp_path", folder) for row in rows]
    first = next((path for path in files if path is not None), None)
    if first is None:
        return None
    count = len(read_numbers(first))
    if count > EXPRESSIONS:
        raise InputError(
            f"{first} has {count} numbers, but at most {EXPRESSIONS} coefficients of expression were "
            f"expected. Get the file from the data set again."
        )
    frames = len(rows)
    expr = np.zeros((frames, count), np.float32)
    jaw, eyes = np.zeros((frames, 3), np.float32), np.zeros((frames, 6), np.float32)
    for frame, (row, path) in enumerate(zip(rows, files, strict=True)):
        if path is None:
            continue
        values = read_numbers(path)
        if len(values) != count:
            raise InputError(
                f"{path} has {len(values)} numbers, {first.name} has {count}; as many were expected in "
                f"every frame. Get the file from the data set again."
            )
        expr[frame] = values
        jaw[frame] = _rotations(_text_file(row, "jaw_path", folder, "jaw"), 1)
        eyes[frame] = _rotations(_text_file(row, "eyes_path", folder, "eyes"), 2)
    nothing = np.zeros((frames, 3), np.float32)
    return HeadParameters(
        shape=np.zeros(300, np.float32),
        expr=expr,
        rotation=nothing,
        neck_pose=nothing,
        jaw_pose=jaw,
        eyes_pose=eyes,
        translation=nothing,
        valid=np.array([path is not None for path in files]),
    )


def _text_file(row: Row, key: str, folder: Path, kind: str = "exp") -> Path | None:
    """Return the text file that a frame names, or the one beside the expression's where it is there."""
    if key in row.fields:
        path = row.fields.inside(key, folder)
        if not path.is_file():
            raise row.fields.wrong(
                key, f"names {path}, which is not there", "a text file was expected"
            )
        return path
    path = folder / "flame" / kind / f"{row.shot.picture.stem}.txt"
    return path if path.is_file() else None


def _rotations(path: Path | None, joints: int) -> np.ndarray:
    """Read rotations of joints as axis-angle [3 joints]; zeros where there is no file.

    Three numbers a joint are axis-angle; six are the first two rows of its matrix (Zhou et al. 2019, "On the
    continuity of rotation representations in neural networks", section 4.2).
    """
    if path is None:
        return np.zeros(3 * joints)
    values = read_numbers(path)
    if len(values) == 3 * joints:
        return values
    if len(values) != 6 * joints:
        raise InputError(
            f"{path} has {len(values)} numbers, but {3 * joints} (axis-angle) or {6 * joints} (two rows of "
            f"each matrix) were expected. Get the file from the data set again."
        )
    return np.concatenate([_axis_angle(rows, path) for rows in values.reshape(joints, 2, 3)])


def _axis_angle(rows: np.ndarray, path: Path) -> np.ndarray:
    import cv2

    x = rows[0] / max(float(np.linalg.norm(rows[0])), 1e-12)
    y = rows[1] - x * float(x @ rows[1])
    if float(np.linalg.norm(rows[0])) < 1e-6 or float(np.linalg.norm(y)) < 1e-6:
        raise InputError(f"{path} holds rows that span no rotation. Get the file again.")
    y = y / np.linalg.norm(y)
    R = np.stack([x, y, np.cross(x, y)])
    return cv2.Rodrigues(R)[0][:, 0]
