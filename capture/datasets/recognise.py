"""Tell a data set by its layout, and hand it to its reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from avatar.checks import InputError
from capture.datasets.description import DataSet
from capture.datasets.imavatar import (
    FLASH_PICTURES,
    PARAMETERS,
    parameter_files,
    read_flashavatar,
    read_imavatar,
)
from capture.datasets.insta import MATTED, read_insta
from capture.datasets.reading import read_json
from capture.datasets.transforms import FPS_RANGE, read_nerfstudio, transform_files
from capture.datasets.vhap import CANONICAL, read_vhap

Layout = Literal["nerfstudio", "vhap", "insta", "imavatar", "flashavatar"]

READERS: dict[Layout, Callable[[Path, float | None], DataSet]] = {
    "nerfstudio": read_nerfstudio,
    "vhap": read_vhap,
    "insta": read_insta,
    "imavatar": read_imavatar,
    "flashavatar": read_flashavatar,
}

EXPECTED: dict[Layout, str] = {
    "nerfstudio": "transforms.json",
    "vhap": "transforms.json",
    "insta": "transforms.json",
    "imavatar": PARAMETERS,
    "flashavatar": f"{FLASH_PICTURES}/",
}
"""What a layout cannot be without."""


def read_data_set(folder: Path, layout: Layout | None = None, fps: float | None = None) -> DataSet:
    """Read what a folder says of its pictures; no picture is loaded.

    Args:
        folder: of the data set.
        layout: how it is laid out; told by its files where None.
        fps: frames a second; the data set's own, or 25 with a note, where None.

    Raises:
        InputError: no data set that is known, or the first mistake in it, by file and key.
    """
    folder = Path(folder)
    if fps is not None and not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
        raise InputError(
            f"--fps must lie within {FPS_RANGE[0]:g} and {FPS_RANGE[1]:g}; got {fps:g}."
        )
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; a data set is one. Check the path.")
    if layout is None:
        layout = recognised(folder)
    elif layout not in READERS:
        raise InputError(f"--dataset {layout} is none of {', '.join(get_args(Layout))}.")
    elif not _has(folder, layout):
        raise InputError(
            f"{folder} has no {EXPECTED[layout]}, without which it is no {layout} data set. Leave "
            f"--dataset out to have its layout recognised."
        )
    return READERS[layout](folder, fps)


def _has(folder: Path, layout: Layout) -> bool:
    if layout == "imavatar":
        return bool(parameter_files(folder))
    if layout == "flashavatar":
        return (folder / FLASH_PICTURES).is_dir()
    return bool(transform_files(folder))


def recognised(folder: Path) -> Layout:
    """Tell a folder's layout; raises InputError where it is none that is known."""
    files = transform_files(folder)
    if files:
        frames = read_json(files[0][0]).get("frames")
        first = frames[0] if isinstance(frames, list) and frames else {}
        keys = set(first) if isinstance(first, dict) else set()
        if keys & {"flame_param_path", "fg_mask_path"} or (folder / CANONICAL).is_file():
            return "vhap"
        head_files = keys & {"exp_path", "mesh_path", "seg_mask_path"}
        if head_files or (folder / "canonical.obj").is_file() or (folder / MATTED).is_dir():
            return "insta"
        return "nerfstudio"
    for layout in ("imavatar", "flashavatar"):
        if _has(folder, layout):
            return layout
    if any(folder.glob("*.frame")) or any(folder.glob("*/*.frame")):
        raise InputError(
            f"{folder} holds .frame files, which are pickles and are not read. Give the folder with the "
            f"pictures ({FLASH_PICTURES}/ and alpha/), or a clip of them."
        )
    raise InputError(
        f"{folder} is no data set whose layout is known: transforms.json or transforms_train.json "
        f"(nerfstudio, Blender, VHAP, INSTA), {PARAMETERS} (IMavatar) or {FLASH_PICTURES}/ (FlashAvatar) was "
        f"expected in it. Check the folder, or give a clip."
    )
