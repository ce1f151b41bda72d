"""Checked, atomic safetensors files: the one way that arrays reach the disk.

A file carries its format name, version and JSON header fields in the safetensors metadata under one
key, ``header``. Writers go to a temporary name in the same folder, fsync and rename, so a reader
sees the old file or the new one. Nothing here unpickles anything.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from avatar.checks import InputError, bind_shape


@contextmanager
def atomic_path(path: Path):
    """Yield a temporary path beside ``path``; on success fsync it and rename it over ``path``.

    On any error the temporary file is removed and ``path`` is as it was.
    """
    path = Path(path)
    # Not tempfile.mkstemp: it makes files of mode 0600, and to widen that the process's umask would have
    # to be known, which is read only by setting it, for all threads.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    format: str,
    version: int,
    header: Mapping[str, Any],
) -> None:
    """Write named tensors with a JSON header, atomically.

    Args:
        path: target file.
        tensors: name to tensor, any shape and dtype that safetensors knows.
        format: what the file is, for example ``"headsplat.track"``; readers check it.
        version: the format's version; readers check it.
        header: JSON-able fields, kept beside format and version.
    """
    text = json.dumps({"format": format, "version": version, **header}, allow_nan=False)
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_bytes(Path(path), save(plain, metadata={"header": text}))


def read_tensors(
    path: Path,
    *,
    format: str,
    version: int,
    required: Mapping[str, str] | None = None,
    migrate: Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]] | None = None,
    finite: bool = True,
    remedy: str = "Make it again with the command that wrote it.",
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that ``write_tensors`` wrote.

    Args:
        path: the file.
        format: the format expected.
        version: the newest version understood; a newer file is refused, an older one is brought up to
            date by ``migrate``, or returned with its ``version`` in the header.
        required: name to shape spec as in ``checks.check``; all must be there and fit together.
        migrate: takes tensors and header of an older file and returns today's tensors, before anything
            is required of them.
        finite: refuse NaN and infinity in floating-point tensors.
        remedy: what the user should do when the file cannot be used.

    Returns:
        The tensors by name, and the header.

    Raises:
        InputError: missing, truncated, another format or a newer version, a missing tensor, a wrong
            shape, NaN. The sentence names the file and the key.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file. {remedy}")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata.get("header", "null"))
            if not isinstance(header, dict) or header.get("format") != format:
                found = header.get("format") if isinstance(header, dict) else "no header"
                raise InputError(f"{path} is not a {format} file (found: {found}). {remedy}")
            if not isinstance(header.get("version"), int) or header["version"] > version:
                raise InputError(
                    f"{path} has version {header.get('version')} of {format}, but this program reads "
                    f"up to version {version}. Install a newer headsplat, or make the file again."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or is not a {format} file ({error}). {remedy}"
        ) from error
    if migrate is not None and header["version"] < version:
        tensors = migrate(tensors, header)
    sizes: dict[str, int] = {}
    for name, spec in (required or {}).items():
        if name not in tensors:
            raise InputError(f"{path} lacks the tensor '{name}' [{spec}]. {remedy}")
        shape = tuple(tensors[name].shape)
        bound = bind_shape(shape, spec, sizes)
        if bound is None:
            dims = ", ".join(spec.split())
            raise InputError(f"{path}: '{name}' must be [{dims}], found {list(shape)}. {remedy}")
        sizes = bound
    if finite:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                count = int((~torch.isfinite(tensor)).sum())
                raise InputError(
                    f"{path}: '{name}' holds {count} values that are NaN or infinite. {remedy}"
                )
    return tensors, header
