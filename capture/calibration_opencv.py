"""OpenCV FileStorage (yml, yaml, xml) to cameras.

Three layouts are read, in this order; NAME is what a camera is called:

1. ``cameras``: a list of maps with ``name``, ``camera_matrix`` (or ``K``), ``distortion_coefficients``
   (or ``dist``), ``R`` (3x3, or a rotation vector, also ``rvec``), ``T`` (or ``t``, ``tvec``),
   ``image_width``, ``image_height``.
2. Names in the keys: ``names`` (a list of them; may be missing), and of each camera ``K_NAME`` (or
   ``camera_matrix_NAME``), ``dist_NAME`` (or ``distortion_coefficients_NAME``), ``Rot_NAME`` or
   ``R_NAME``, ``T_NAME`` (or ``t_NAME``), ``image_width_NAME``, ``image_height_NAME``. In one file, or
   in a folder as ``intri.yml`` and ``extri.yml``.
3. A stereo pair: ``M1 D1 M2 D2`` and ``R T``, which map the first camera's coordinates to the second's.

R and T map the world to the camera. ``image_width`` and ``image_height`` at the top are those of every
camera that has none of its own; they must be told somewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatar.checks import InputError
from capture.known_camera import KnownCamera, checked, pose

EXTENSIONS = (".yml", ".yaml", ".xml")
PAIR = ("intri", "extri")
LARGEST = 4 << 20
"""Bytes of text; a rig of a hundred cameras has a hundred thousand."""
DEEPEST = 64
"""Brackets within brackets."""
K_KEYS = ("camera_matrix", "K", "cameraMatrix")
D_KEYS = ("distortion_coefficients", "dist", "D", "distCoeffs")
R_KEYS = ("Rot", "R", "rvec", "rotation")
T_KEYS = ("T", "t", "tvec", "translation")


def find_storage(path: Path) -> list[Path]:
    """Return the file, or the two of a folder; none where there are none."""
    if path.is_file():
        return [path] if path.suffix.lower() in EXTENSIONS else []
    for suffix in EXTENSIONS:
        pair = [path / f"{stem}{suffix}" for stem in PAIR]
        if all(file.is_file() for file in pair):
            return pair
    return []


def read_storage(source: str, contents: Sequence[bytes]) -> list[KnownCamera]:
    """Read the cameras of files; raises InputError that says what is wrong or missing.

    Args:
        source: what they are called in messages.
        contents: of one file, or of two whose keys belong together.
    """
    top: dict[str, Any] = {}
    for content in contents:
        top.update(_parsed(source, content))
    try:
        cameras = _listed(top) or _keyed(top) or _stereo(top)
    except (ValueError, KeyError, TypeError, cv2.error) as error:
        raise InputError(
            f"{source} cannot be read as cameras ({error}). Expected K, R, T and the picture's size of each."
        ) from error
    if not cameras:
        raise InputError(
            f"{source} has no cameras: expected a list 'cameras', or K_NAME, R_NAME and T_NAME of each, "
            f"or a stereo pair M1 D1 M2 D2 R T (it has {', '.join(list(top)[:8]) or 'nothing'})."
        )
    return [checked(source, camera) for camera in cameras]


def _parsed(source: str, content: bytes) -> dict[str, Any]:
    """Parse a file to plain values."""
    if len(content) > LARGEST:
        raise InputError(f"{source} is too large for a calibration ({len(content) >> 20} MiB).")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is no text, so no OpenCV file. Give a .yml or .xml.") from error
    _check_sizes(source, text)
    if not text.lstrip().startswith(("%YAML", "<?xml")):
        text = "%YAML:1.0\n---\n" + text
    storage = cv2.FileStorage()
    try:
        if not storage.open(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY):
            raise ValueError("it cannot be parsed")
        root = storage.root()
        return {key: _plain(root.getNode(key)) for key in root.keys()} if root.isMap() else {}  # noqa: SIM118
    except (cv2.error, ValueError, UnicodeError, SystemError) as error:
        reason = (
            str(error).strip().splitlines()[-1] if str(error).strip() else "it cannot be parsed"
        )
        raise InputError(
            f"{source} is no OpenCV FileStorage file ({reason}). Write it again."
        ) from error
    finally:
        storage.release()


def _check_sizes(source: str, text: str) -> None:
    """Refuse what OpenCV would allocate or recurse itself to death for."""
    for key in ("rows", "cols"):
        for found in re.findall(rf"{key}[\s:>]*(\S{{1,24}})", text):
            digits = re.match(r"\d+", found)
            if digits is None or len(digits.group()) > 3:
                raise InputError(
                    f"{source} has a matrix whose {key} are {found[:12]}; expected 3x3, 3x1 and the like."
                )
    if max(text.count("["), text.count("{")) > 100_000:
        raise InputError(f"{source} has too many brackets for a calibration.")
    depth = deepest = 0
    for sign in re.findall(r"[\[\]{}]", text):
        depth += 1 if sign in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST or text.count("<") > 100_000:
        raise InputError(f"{source} is nested too deeply for a calibration.")


def _plain(node: Any, depth: int = 0) -> Any:
    """A node as a number, text, array, list or dict."""
    if depth > 8:
        raise ValueError("nested too deeply")
    if node.isReal() or node.isInt():
        return node.real()
    if node.isString():
        return node.string()
    if node.isMap():
        keys = node.keys()
        if {"rows", "cols", "data"} <= set(keys):
            matrix = node.mat()
            return np.zeros(0) if matrix is None else np.asarray(matrix, float)
        return {key: _plain(node.getNode(key), depth + 1) for key in keys}
    if node.isSeq():
        return [_plain(node.at(k), depth + 1) for k in range(node.size())]
    return None


def _first(values: Mapping[str, Any], keys: Sequence[str], end: str = "") -> Any:
    return next((values[k + end] for k in keys if values.get(k + end) is not None), None)


def _camera(
    name: str, values: Mapping[str, Any], top: Mapping[str, Any], end: str = ""
) -> KnownCamera:
    K, bend = _first(values, K_KEYS, end), _first(values, D_KEYS, end)
    R, t = _first(values, R_KEYS, end), _first(values, T_KEYS, end)
    for what, value in (("camera matrix", K), ("rotation R", R), ("translation T", t)):
        if value is None:
            raise ValueError(f"camera {name!r} has no {what}")
    return _made(name, K, bend, R, t, _size(name, values, top, end))


def _made(name: str, K: Any, bend: Any, R: Any, t: Any, size: tuple[int, int]) -> KnownCamera:
    K = np.array(K, float).reshape(3, 3).copy()
    # OpenCV counts pixels from their centres.
    K[:2, 2] += 0.5
    R = np.array(R, float)
    if R.size == 3:
        if not np.isfinite(R).all():
            raise ValueError(f"camera {name!r} has a rotation that is not finite")
        R = cv2.Rodrigues(R.reshape(3))[0]
    numbers = [] if bend is None else np.array(bend, float).ravel().tolist()
    if any(numbers[8:]):
        raise ValueError(
            f"camera {name!r} has thin prism or tilt distortion, which is not known here; expected k1 k2 p1 "
            f"p2 k3 k4 k5 k6 at most"
        )
    numbers = numbers[:8]
    numbers += [0.0] * ({0: 0, 1: 3, 2: 2, 3: 1, 6: 2, 7: 1}.get(len(numbers), 0))
    return KnownCamera(
        names=(name,),
        size=size,
        K=K,
        T_cam_world=pose(R.reshape(3, 3), np.array(t, float).reshape(3)),
        distortion=tuple(numbers) if any(numbers) else (),
    )


def _size(
    name: str, values: Mapping[str, Any], top: Mapping[str, Any], end: str
) -> tuple[int, int]:
    sides = []
    for key in ("image_width", "image_height"):
        value = values.get(key + end, top.get(key))
        if value is None:
            raise ValueError(f"camera {name!r} has no {key}")
        side = float(value)
        if not 0 < side < 1 << 17:
            raise ValueError(f"camera {name!r} has {key} {side}")
        sides.append(int(side))
    return sides[0], sides[1]


def _listed(top: Mapping[str, Any]) -> list[KnownCamera]:
    entries = top.get("cameras")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return []
    return [_camera(_name(entry.get("name", k)), entry, top) for k, entry in enumerate(entries)]


def _keyed(top: Mapping[str, Any]) -> list[KnownCamera]:
    names = top.get("names")
    if not isinstance(names, list):
        found = [re.match(r"(?:K|camera_matrix)_(.+)$", key) for key in top]
        names = [hit.group(1) for hit in found if hit is not None]
    return [_camera(_name(name), top, top, f"_{_name(name)}") for name in names]


def _name(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def _stereo(top: Mapping[str, Any]) -> list[KnownCamera]:
    if not {"M1", "M2", "R", "T"} <= set(top):
        return []
    first = _made("1", top["M1"], top.get("D1"), np.eye(3), np.zeros(3), _size("1", {}, top, ""))
    second = _made("2", top["M2"], top.get("D2"), top["R"], top["T"], _size("2", {}, top, ""))
    return [first, second]
