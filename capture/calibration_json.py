"""``transforms.json`` of nerfstudio and Blender (NeRF) to cameras.

Intrinsics stand at the top or in each frame: ``fl_x fl_y cx cy w h``, or ``camera_angle_x`` alone.
``transform_matrix`` maps the camera's OpenGL axes (x right, y up, z back) to the world. A fixed camera
may have many frames, one for each of its pictures: frames of one pose and lens are one camera.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from avatar.checks import InputError
from capture.known_camera import (
    ANGLES,
    DISTORTION,
    INTRINSICS,
    OPENGL,
    PINHOLE_MODELS,
    KnownCamera,
    checked,
    transforms_pinhole,
)

MOST = 100_000
"""Frames that are read."""


def read_transforms(path: Path, content: bytes) -> list[KnownCamera]:
    """Read the cameras of a file's content; raises InputError naming the frame and the key."""
    try:
        value = json.loads(content.decode())
        frames = value["frames"]
        if not isinstance(frames, list) or not all(isinstance(f, dict) for f in frames):
            raise TypeError("'frames' is not a list of objects")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is no transforms.json ({_said(error)}): expected 'frames' with a 'transform_matrix' each."
        ) from error
    if not 0 < len(frames) <= MOST:
        raise InputError(f"{path} has {len(frames)} frames; expected one for each camera.")
    cameras: dict[Any, KnownCamera] = {}
    for number, frame in enumerate(frames):
        try:
            camera = checked(str(path), _camera({**value, **frame}, number))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise InputError(
                f"{path}: frame {number} cannot be read ({_said(error)}). Expected 'transform_matrix' of four "
                f"rows of four, and fl_x, cx, cy, w, h or camera_angle_x."
            ) from error
        key = (
            camera.K.round(6).tobytes(),
            camera.T_cam_world.round(9).tobytes(),
            camera.size,
            camera.distortion,
        )
        known = cameras.get(key)
        names = camera.names if known is None else (*known.names, *camera.names)
        cameras[key] = KnownCamera(
            tuple(dict.fromkeys(names)),
            camera.size,
            camera.K,
            camera.T_cam_world,
            camera.distortion,
        )
    return list(cameras.values())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:120]}"


def _camera(frame: Mapping[str, Any], number: int) -> KnownCamera:
    """Read one frame; ValueError, KeyError, TypeError where it is damaged, InputError for its model."""
    model = str(frame.get("camera_model", "OPENCV"))
    if model not in PINHOLE_MODELS:
        raise InputError(
            f"The camera model {model} of transforms.json is not known here; expected one of "
            f"{', '.join(PINHOLE_MODELS)}. Undistort the pictures first."
        )
    matrix = np.array(frame["transform_matrix"], float)
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0, 0, 0, 1]]])
    if matrix.shape != (4, 4):
        raise ValueError(f"'transform_matrix' has shape {list(matrix.shape)}")
    size = (_side(frame["w"]), _side(frame["h"])) if "w" in frame and "h" in frame else None
    if size is None and "fl_x" in frame:
        raise KeyError("w")
    numbers = {name: float(frame[name]) for name in INTRINSICS if frame.get(name) is not None}
    for name, value in numbers.items():
        if "angle" in name and "fl_x" not in numbers and not ANGLES[0] < value < ANGLES[1]:
            raise ValueError(f"{name} is {value}")
    if size is None:  # nothing says how high the picture is
        numbers.pop("camera_angle_y", None)
    k4 = float(frame.get("k4", 0))
    if k4 != 0:
        raise InputError(
            f"Frame {number} of transforms.json has k4 = {k4:g}, which is a fisheye lens's; expected k1, "
            f"k2, k3, p1, p2 alone. Undistort the pictures first."
        )
    bend = tuple(float(frame.get(name, 0)) for name in DISTORTION)
    return KnownCamera(
        names=_names(frame, number),
        size=size,
        K=transforms_pinhole(numbers, size or (1, 1)),
        T_cam_world=_inverse(matrix @ OPENGL),
        distortion=bend if any(bend) else (),
    )


def _names(frame: Mapping[str, Any], number: int) -> tuple[str, ...]:
    """The camera's own name where it is told, then those of its picture and that one's folder."""
    names = [str(frame[key]) for key in ("camera_label", "camera", "camera_name") if key in frame]
    if "file_path" in frame:
        picture = PurePosixPath(str(frame["file_path"]).replace("\\", "/"))
        parent = picture.parent.name
        by_folder = picture.stem.isdigit() and parent not in ("", ".", "images", "frames")
        names += [parent, picture.stem] if by_folder else [picture.stem, parent]
    return tuple(name for name in names if name) or (f"frame {number}",)


def _side(value: Any) -> int:
    side = int(value)
    if not 0 < side < 1 << 17:
        raise ValueError(f"a side of {side} pixels")
    return side


def _inverse(T: np.ndarray) -> np.ndarray:
    """Inverse of what should be rigid; whatever else it is comes out as it is, to be named later."""
    if not np.isfinite(T).all() or abs(np.linalg.det(T[:3, :3])) < 1e-9:
        raise ValueError("'transform_matrix' is not finite, or flat")
    return np.linalg.inv(T)
