"""Read FLAME from the user's licensed file: a .npz, or the original pickle through a restricted reader.

Files of FLAME 2017 to 2023 have one layout: v_template [5023, 3], f [9976, 3], shapedirs [5023, 3, 400]
(300 of identity, 100 of expression), posedirs [5023, 3, 36], J_regressor [5, 5023], kintree_table
[2, 5], weights [5023, 5]; metres, y up, z out of the face.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avatar.checks import InputError
from avatar.rig.flame import EXPRESSIONS, JOINTS, PARENTS, SHAPES, FlameModel
from avatar.rig.flame_pickle import REMEDY, read_arrays
from avatar.rig.npz_file import read_npz

VERTICES = 5023
"""Vertices of every published FLAME."""
LAYOUT: dict[str, tuple[int | None, ...]] = {
    "v_template": (VERTICES, 3),
    "f": (None, 3),
    "shapedirs": (VERTICES, 3, SHAPES + EXPRESSIONS),
    "posedirs": (VERTICES, 3, 9 * (JOINTS - 1)),
    "J_regressor": (JOINTS, VERTICES),
    "kintree_table": (2, JOINTS),
    "weights": (VERTICES, JOINTS),
}
"""Keys and shapes; None for any size."""
LARGEST = 100.0
"""No number in the file is as large."""


def read_flame(path: Path) -> tuple[FlameModel, Tensor]:
    """Read the model and its triangles [T, 3] long.

    Raises:
        InputError: not FLAME, another layout, a pickle with anything but arrays in it.
    """
    if zipfile.is_zipfile(path):
        arrays = read_npz(path, LAYOUT, REMEDY)
    else:
        arrays = read_arrays(path, tuple(LAYOUT))
    return _checked(path, arrays)


def _checked(path: Path, arrays: dict[str, np.ndarray]) -> tuple[FlameModel, Tensor]:
    for key, expected in LAYOUT.items():
        if key not in arrays:
            raise InputError(f"{path} has no '{key}', so it is no FLAME model. {REMEDY}")
        array = arrays[key]
        fits = array.ndim == len(expected) and all(
            want in (None, have) for want, have in zip(expected, array.shape, strict=True)
        )
        if not fits:
            shape = ", ".join("T" if n is None else str(n) for n in expected)
            raise InputError(
                f"{path}: '{key}' is {list(array.shape)} where FLAME has [{shape}]: it is another version "
                f"or another model. {REMEDY}"
            )
        kinds = "iu" if key in ("f", "kintree_table") else "f"
        if array.dtype.kind not in kinds or (
            kinds == "f" and not np.abs(array).max(initial=0) < LARGEST
        ):
            raise InputError(
                f"{path}: '{key}' holds {array.dtype} values that are not those of FLAME. {REMEDY}"
            )
    faces = arrays["f"].astype(np.int64)
    if not len(faces) or faces.min() < 0 or faces.max() >= VERTICES:
        raise InputError(f"{path}: 'f' names vertices that the model does not have. {REMEDY}")
    # The root's parent is written as the largest unsigned number.
    if tuple(arrays["kintree_table"][0, 1:].astype(np.int64).tolist()) != PARENTS[1:]:
        raise InputError(f"{path}: 'kintree_table' hangs the joints otherwise than FLAME. {REMEDY}")
    if np.abs(arrays["weights"].sum(1) - 1).max() > 1e-3:
        raise InputError(f"{path}: 'weights' do not sum to 1 at every vertex. {REMEDY}")

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    model = FlameModel(
        template=tensor(arrays["v_template"]),
        shapes=tensor(arrays["shapedirs"].transpose(2, 0, 1)),
        pose=tensor(arrays["posedirs"].transpose(2, 0, 1)),
        regressor=tensor(arrays["J_regressor"]),
        parents=PARENTS,
        weights=tensor(arrays["weights"]),
        identities=SHAPES,
    )
    return model, torch.from_numpy(faces)
