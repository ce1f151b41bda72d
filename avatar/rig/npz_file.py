"""Read arrays out of a .npz file that somebody else made."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from avatar.checks import InputError

LARGEST_BYTES = 1 << 30
"""Of all arrays read together; no head model that is read here has a fifth of that."""


def npz_names(path: Path, advice: str) -> set[str]:
    """Return the names of a .npz file's arrays; raises InputError, ending in ``advice``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return set(file.files)
    except Exception as error:  # zipfile, zlib, numpy and tokenize have a dozen kinds between them
        raise _unreadable(path, error, advice) from error


def read_npz(path: Path, wanted: Iterable[str], advice: str) -> dict[str, np.ndarray]:
    """Read named arrays.

    Args:
        path: the file.
        wanted: names; of those that are not there, none is returned.
        advice: the last sentence of errors: what to do.

    Returns:
        Name to array.

    Raises:
        InputError: damaged, not a .npz file, an array of objects, larger unpacked than ``LARGEST_BYTES``.
    """
    names = set(wanted)
    try:
        with zipfile.ZipFile(path) as parts:
            # zipfile unpacks no more of a part than it says here.
            unpacked = sum(
                part.file_size
                for part in parts.infolist()
                if part.filename.removesuffix(".npy") in names
            )
        if unpacked > LARGEST_BYTES:
            raise InputError(
                f"{path} unpacks to {unpacked / 1e9:.1f} GB, which is no head model. {advice}"
            )
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in sorted(names & set(file.files))}
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(path, error, advice) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy gives the bytes of a part that is no array
            raise InputError(f"{path}: '{name}' is not an array. {advice}")
    return arrays


def _unreadable(path: Path, error: Exception, advice: str) -> InputError:
    detail = str(error).partition("\n")[0][:120] or type(error).__name__
    return InputError(f"{path} cannot be read as an .npz file ({detail}). {advice}")
