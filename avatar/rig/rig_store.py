"""The user's own head models: where they lie, how they get there, how they are found by name."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from avatar.checks import InputError
from avatar.rig.external import ExternalRig, load_rig
from avatar.rig.mesh_views import Detect
from avatar.rig.npz_file import npz_names

LATTICE = "lattice"
"""The name of the rig that needs no file."""
OVERRIDE = "HEADSPLAT_DATA"
"""Environment variable: another folder for the program's data."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SUFFIX = ".safetensors"
WHAT = "Give ICT-FaceKit's .npz or clone, or your licensed FLAME file (.npz or .pkl)."


def data_folder() -> Path:
    """Return the folder for data that the program keeps for this user.

    ``HEADSPLAT_DATA``, else what the system has for it: ``$XDG_DATA_HOME`` or ``~/.local/share`` (XDG Base
    Directory Specification), ``~/Library/Application Support`` on a Mac, ``%LOCALAPPDATA%`` on Windows.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        return Path(override)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "headsplat"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "headsplat"
    xdg = os.environ.get("XDG_DATA_HOME", "")
    # The specification has relative paths ignored.
    home = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".local" / "share"
    return home / "headsplat"


def rigs_folder() -> Path:
    """Return the folder that holds a file for each imported head model; it may not exist yet."""
    return data_folder() / "rigs"


def rig_names() -> list[str]:
    """Return the names of the imported head models, sorted."""
    folder = rigs_folder()
    if not folder.is_dir():
        return []
    return sorted(p.stem for p in folder.glob(f"*{SUFFIX}") if NAME.fullmatch(p.stem))


def rig_path(name: str) -> Path:
    """Return the file of an imported head model.

    Raises:
        InputError: there is none of that name; the sentence lists those that are there.
    """
    names = rig_names()
    if name not in names:
        there = f"There are: {', '.join([LATTICE, *names])}" if names else "None is imported yet"
        raise InputError(
            f"No head model named {name!r} is imported. {there}. Import one with: avatar rig import FILE "
            f"--name {name if NAME.fullmatch(name) and name != LATTICE else 'NAME'}"
        )
    return rigs_folder() / f"{name}{SUFFIX}"


def open_rig(name: str) -> ExternalRig:
    """Open an imported head model by its name; raises InputError."""
    return load_rig(rig_path(name))


def import_rig(
    path: Path, name: str | None, detector: Callable[[], Detect], *, replace: bool = False
) -> ExternalRig:
    """Turn a head model's file into one of ours, in the user's data folder.

    Args:
        path: ICT-FaceKit's .npz or clone, FLAME's .npz or .pkl.
        name: what to call it; its kind where None.
        detector: makes a face detector, for models whose layout does not name the face's points.
        replace: replace one of that name.

    Raises:
        InputError: not such a file, of an unknown version or layout; or the name is taken.
    """
    path = Path(path)
    kind = _kind_of(path)
    name = kind if name is None else name
    if not NAME.fullmatch(name) or name == LATTICE:
        raise InputError(
            f"A head model cannot be called {name!r}: letters, digits, '.', '_' and '-' make a name, and "
            f"{LATTICE!r} is taken by the rig that needs no file."
        )
    target = rigs_folder() / f"{name}{SUFFIX}"
    if target.exists() and not replace:
        raise InputError(
            f"A head model named {name!r} is imported already. Give another --name, or --overwrite to "
            "replace it."
        )
    if kind == "ict":
        from avatar.rig.ict import make_ict, read_ict

        arrays = read_ict(path)
        rig: ExternalRig = make_ict(arrays, name, _source(path))
    else:
        from avatar.rig.flame_file import read_flame
        from avatar.rig.flame_import import make_flame

        model, triangles = read_flame(path)
        rig = make_flame(model, triangles, detector(), name, _source(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    rig.save(target)
    return rig


def remove_rig(name: str) -> Path:
    """Delete an imported head model; returns the file that was. Raises InputError where there is none."""
    path = rig_path(name)
    path.unlink()
    return path


def rig_sha256(name: str) -> str:
    """Return the SHA-256 of an imported head model's file; raises InputError."""
    return _sha256(rig_path(name))


def _kind_of(path: Path) -> str:
    """Tell which head model a file or folder is, by its layout."""
    if path.is_dir():
        return "ict"
    if not path.is_file():
        raise InputError(f"{path} does not exist. {WHAT}")
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            start = file.read(2)
        # Protocol 2 and later begin with 0x80; older ones are text that begins with "(dp" or "(d".
        if start[:1] == b"\x80" or start == b"(d" or path.suffix.lower() in (".pkl", ".pickle"):
            return "flame"
        raise InputError(f"{path} is no head model that this program knows. {WHAT}")
    keys = npz_names(path, WHAT)
    if "v_template" in keys:
        return "flame"
    if keys & {"expr", "ident"}:
        return "ict"
    listed = ", ".join(sorted(keys)[:6]) or "nothing"
    raise InputError(f"{path} is no head model that this program knows (it holds {listed}). {WHAT}")


def _source(path: Path) -> dict[str, str]:
    """Say what was imported; of a folder only once it is known to be a head model, not somebody's disk."""
    return {"file": path.resolve().name, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    """Hash a file, or a folder's OBJ files with their names in order."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(path.rglob("*.obj"))
    for file in files:
        if len(files) > 1:
            digest.update(file.name.encode() + b"\0")
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
