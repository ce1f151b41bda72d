"""Checkpoints: everything that an exact resume needs, in safetensors files written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from avatar.checks import InputError
from avatar.tensorfile import read_tensors, write_tensors

CHECKPOINT_FORMAT = "headsplat.checkpoint"
CHECKPOINT_VERSION = 1
KEPT = 2
"""Newest checkpoints kept: one that may be damaged by a dying disk, and one before it."""


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], header: dict[str, Any]
) -> Path:
    """Write ``step_000123.safetensors`` into ``folder`` and remove all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:06d}.safetensors"
    write_tensors(
        path, tensors, format=CHECKPOINT_FORMAT, version=CHECKPOINT_VERSION, header=header
    )
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(folder.glob("step_*.safetensors"))


def load_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest checkpoint that can be read; None where there is none.

    Raises:
        InputError: there are checkpoints and none can be read.
    """
    failure: InputError | None = None
    for path in reversed(checkpoints(folder)):
        try:
            return read_tensors(
                path,
                format=CHECKPOINT_FORMAT,
                version=CHECKPOINT_VERSION,
                remedy="Train again without --resume.",
            )
        except InputError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return None


def store(tensors: dict[str, Tensor], counts: dict[str, Any], name: str, value: Any) -> None:
    """File a piece of optimiser state: tensors as tensors, numbers in the header.

    A single integer is a number: a GPU counts its steps in its own memory, a CPU does not.
    """
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_floating_point():
        counts[name] = int(value)
    elif isinstance(value, Tensor):
        tensors[name] = value
    else:
        counts[name] = value


def fetch(tensors: dict[str, Tensor], counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Undo ``store`` for all names under a prefix."""
    both = {**tensors, **counts}
    return {n.removeprefix(prefix): v for n, v in both.items() if n.startswith(prefix)}
