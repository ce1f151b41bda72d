"""A camera as a calibration file knows it, and the checks that every reader shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from avatar.checks import InputError

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenGL camera axes (y up, z backwards) to OpenCV's (y down, z forwards), and back."""
PINHOLE_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
"""Camera models of transforms.json that a pinhole and OpenCV's five coefficients say all of."""
DISTORTION = ("k1", "k2", "p1", "p2", "k3")
"""Names of those coefficients there, in OpenCV's order."""
ANGLES = (1e-3, 3.1)
"""Radians between which a ``camera_angle_x`` or ``camera_angle_y`` there must lie."""
INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")
"""Names of the numbers there that say K."""
RIGID = 2e-3
"""Departure of a rotation from orthogonality that rounding in a text file may make."""
NEGLIGIBLE_PX = 0.05
"""A distortion that nowhere moves a pixel further is none."""
FARTHEST = 1e6
"""A camera centre further away than this, in the file's unit, is a mistake."""


@dataclass(frozen=True)
class KnownCamera:
    """One camera of a calibration."""

    names: tuple[str, ...]
    """What it may be called: the first is its own name, the others those of its pictures and folders."""
    size: tuple[int, int] | None
    """(width, height) in pixels; None where K stands for a picture of width 1 with its centre unknown."""
    K: np.ndarray
    """[3, 3] float64 pixels of ``size``; pixel centres at +0.5."""
    T_cam_world: np.ndarray
    """[4, 4] float64, OpenCV axes, in the file's unit."""
    distortion: tuple[float, ...] = ()
    """OpenCV's k1 k2 p1 p2 k3 k4 k5 k6, none or 4, 5 or 8 of them."""


def checked(source: str, camera: KnownCamera) -> KnownCamera:
    """Return a camera whose numbers can be one's; raises InputError that names what cannot.

    Args:
        source: the file, for the message.
        camera: as it was read.
    """
    name = f"{source}: camera {camera.names[0]!r}"
    numbers = [camera.K, camera.T_cam_world, np.asarray(camera.distortion, float)]
    if not all(np.isfinite(value).all() for value in numbers):
        raise InputError(f"{name} has numbers that are not finite. Calibrate again.")
    fx, fy = camera.K[0, 0], camera.K[1, 1]
    width = 1.0 if camera.size is None else float(camera.size[0])
    if not (0.1 * width < fx < 100 * width and 0.8 * fy < fx < 1.25 * fy):
        raise InputError(
            f"{name} has focal lengths {fx:.4g} and {fy:.4g} for a picture {width:g} wide; expected two "
            f"alike, between a tenth and a hundred times that. Check its intrinsics."
        )
    if camera.size is not None:
        cx, cy = camera.K[:2, 2] / np.array(camera.size, float)
        if not (-0.5 < cx < 1.5 and -0.5 < cy < 1.5) or min(camera.size) < 16:
            raise InputError(
                f"{name} has its principal point far out of its {camera.size[0]}x{camera.size[1]} "
                f"picture. Check its intrinsics."
            )
    if abs(camera.K[0, 1]) > 1e-3 * fx or np.abs(camera.K[[1, 2, 2], [0, 0, 1]]).max() > 1e-9:
        raise InputError(
            f"{name} has a camera matrix with skew or a bottom row other than 0 0 1; expected a pinhole. "
            f"Calibrate without skew."
        )
    R = camera.T_cam_world[:3, :3]
    if np.abs(camera.T_cam_world[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise InputError(
            f"{name} has a pose whose bottom row is not 0 0 0 1. Check its extrinsics."
        )
    if np.abs(R @ R.T - np.eye(3)).max() > RIGID:
        raise InputError(
            f"{name} has a pose that is not a rotation and a translation (it scales or shears). Check "
            f"its extrinsics."
        )
    if np.linalg.det(R) < 0:
        raise InputError(
            f"{name} is mirrored (the determinant of its rotation is -1). Flip an axis of its "
            f"extrinsics: expected a right-handed frame."
        )
    if np.abs(camera.T_cam_world[:3, 3]).max() > FARTHEST:
        raise InputError(f"{name} stands more than {FARTHEST:g} units away. Check its extrinsics.")
    return camera


def pinhole(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """Return K [3, 3]."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], float)


def transforms_pinhole(numbers: Mapping[str, float], size: tuple[int, int]) -> np.ndarray:
    """Return K [3, 3] of the numbers that a transforms.json states for a picture.

    Args:
        numbers: those of ``INTRINSICS`` that are stated: focal lengths and principal point in pixels, else
            ``camera_angle_x`` (and ``camera_angle_y``), the whole angle of view in radians.
        size: (width, height) of the picture in pixels; its middle is the principal point that is not stated.
    """
    width, height = size
    if "fl_x" in numbers:
        fx = numbers["fl_x"]
        fy = numbers.get("fl_y", fx)
    else:
        fx = 0.5 * width / math.tan(0.5 * numbers["camera_angle_x"])
        down = numbers.get("camera_angle_y")
        fy = fx if down is None else 0.5 * height / math.tan(0.5 * down)
    return pinhole(fx, fy, numbers.get("cx", width / 2), numbers.get("cy", height / 2))


def pose(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return T_cam_world [4, 4] of R [3, 3] and t [3]."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


def rotation_of(quaternion: np.ndarray) -> np.ndarray:
    """Return R [3, 3] of a quaternion wxyz [4] of any length but 0 (ValueError)."""
    length = np.linalg.norm(quaternion)
    if not np.isfinite(length) or length < 1e-9:
        raise ValueError("a quaternion of length 0")
    w, x, y, z = quaternion / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def bends(camera: KnownCamera) -> bool:
    """Whether its distortion moves any pixel of its picture by more than ``NEGLIGIBLE_PX``."""
    if not any(camera.distortion):
        return False
    import cv2

    width, height = camera.size or (1, 1)
    x, y = np.meshgrid(np.linspace(0, width, 9), np.linspace(0, height, 9))
    points = np.stack([x.ravel(), y.ravel()], 1)
    K = camera.K
    rays = np.concatenate([(points - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((len(points), 1))], 1)
    zero = np.zeros(3)
    bent, _ = cv2.projectPoints(rays, zero, zero, K, np.asarray(camera.distortion, float))
    away = np.abs(bent[:, 0] - points).max()
    return not away <= NEGLIGIBLE_PX * (1 if camera.size else 1e-3)
