"""Numbered files in a folder that appears when all of them are there; motion at another rate."""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from avatar.checks import InputError
from avatar.export.provenance import in_png
from avatar.export.splat_common import FULL, naming_path
from avatar.tensorfile import write_bytes
from avatar.types import HeadState

_NUMBERED = re.compile(r"\d{6,}\.[a-z.]+")


def numbered(frame: int, suffix: str) -> str:
    """Return a frame's file name: ``000012.png``."""
    return f"{frame:06d}{suffix}"


def _not_numbered(folder: Path) -> str | None:
    names = sorted(entry.name for entry in folder.iterdir())
    return next((name for name in names if not _NUMBERED.fullmatch(name)), None)


@contextmanager
def new_folder(
    path: Path,
    *,
    overwrite: bool = False,
    strange: Callable[[Path], str | None] = _not_numbered,
) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that becomes ``path`` when the block ends well.

    On any error, Ctrl-C included, it is removed and what stood at ``path`` is as it was.

    Args:
        path: the folder to make; its parent must exist.
        overwrite: replace a folder that is not empty. A folder that holds what was not made here is never
            deleted.
        strange: names what in a folder was not made here, None where all of it was; by default all but
            numbered files.

    Raises:
        InputError: ``path`` is a file, or a folder that must not be replaced, or cannot be written.
        OSError: the disk is full.
    """
    path = Path(path)
    with naming_path(path):
        _check_replaceable(path, overwrite, strange)
        # Not tempfile.mkdtemp: it makes folders of mode 0700, and widening that takes the umask, which is
        # read only by setting it, for all threads.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        temporary.mkdir()
    try:
        yield temporary
        with naming_path(path):
            _put_in_place(temporary, path, overwrite, strange)
    except OSError as error:
        if error.errno in FULL:  # named by what the user knows, not by the file that did not fit
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(path: Path, overwrite: bool, strange: Callable[[Path], str | None]) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir() or path.is_symlink():
        raise InputError(f"{path} is no folder, but a folder of frames goes there. Name another.")
    names = sorted(entry.name for entry in path.iterdir())
    if names and not overwrite:
        raise InputError(
            f"{path} is a folder that is not empty ({names[0]}). Name another folder with -o, or give "
            "--overwrite to replace it."
        )
    found = strange(path) if names else None
    if found is not None:
        raise InputError(
            f"{path} holds {found}, which is no frame of a sequence, so --overwrite would delete "
            "what was not exported. Name another folder with -o."
        )


def _put_in_place(
    temporary: Path, path: Path, overwrite: bool, strange: Callable[[Path], str | None]
) -> None:
    """Rename the finished folder over ``path``, moving what stood there aside first."""
    _check_replaceable(path, overwrite, strange)  # once more: rendering took its time
    if not path.is_dir():
        os.replace(temporary, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        os.replace(path, aside)  # over a folder that is empty
        try:
            os.replace(temporary, path)
        except BaseException:
            os.replace(aside, path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_png(path: Path, picture: np.ndarray, manifest: Mapping[str, Any] | None = None) -> None:
    """Write a picture uint8 [H, W, 3] sRGB or [H, W, 4] with straight alpha as PNG, atomically.

    Args:
        path: the file.
        picture: what to write.
        manifest: where it comes from (``avatar.export.provenance``); a text chunk of the file.

    Raises:
        InputError: the file cannot be written.
        OSError: the disk is full.
    """
    with naming_path(path):
        write_bytes(Path(path), png_bytes(picture, manifest))


def png_bytes(picture: np.ndarray, manifest: Mapping[str, Any] | None = None) -> bytes:
    """Return what ``write_png`` writes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    png = buffer.getvalue()
    return png if manifest is None else in_png(png, manifest)


def at_rate(states: HeadState, fps: float, wanted_fps: float) -> HeadState:
    """Return a batch of states at another rate over the same time.

    Coefficients, gaze and positions are linear in time between two states, rotations turn at
    constant speed. The last state is kept where it falls on a frame of the new rate.

    Args:
        states: a batch of F states, at least one.
        fps: their rate.
        wanted_fps: the rate of the result.

    Raises:
        ValueError: no states, or a rate that is not positive.
    """
    if not len(states) or fps <= 0 or wanted_fps <= 0:
        raise ValueError(
            f"at_rate needs states and positive rates; got {len(states)} states, {fps} and "
            f"{wanted_fps} frames/s."
        )
    if fps == wanted_fps:
        return states
    last = len(states) - 1
    # The tolerance keeps a last frame that rounding would put just behind the end.
    count = int(last / fps * wanted_fps + 1e-6) + 1
    place = (torch.arange(count, dtype=torch.float64) * (fps / wanted_fps)).clamp(max=last)
    a = place.floor().long()
    b = (a + 1).clamp(max=last)
    share = (place - a).to(states.expression.dtype)
    return states.between(a, b, share)
