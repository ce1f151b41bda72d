"""The filmed frame beside the avatar, from the same camera: a movable split, and a map of the error."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import cv2
import numpy as np

from avatar.capture_data import Capture
from avatar.types import Camera

FILMED_AVATAR = "filmed | avatar"
AVATAR_ERROR = "avatar | error"
MODES = (FILMED_AVATAR, AVATAR_ERROR)

FULL_ERROR = 64
"""Mean absolute difference of a pixel's channels, of 255, at which the error map is at its brightest."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how."""

    frame: int
    """The capture's frame, which the avatar's state is of."""
    split: float = 0.5
    """Where the split is, share of the frame's width; left of it the first of the mode's two."""
    mode: str = FILMED_AVATAR
    """One of ``MODES``."""


class Filmed:
    """A capture's frames on the viewer's background; the latest is kept, as many pictures show it."""

    def __init__(self, capture: Capture) -> None:
        self._capture, self._lock = capture, threading.Lock()
        self._key: tuple[object, ...] = ()
        self._picture = np.empty((0, 0, 3), np.uint8)

    @property
    def capture(self) -> Capture:
        """Whose frames."""
        return self._capture

    def frame(
        self, frame: int, size: tuple[int, int], background: tuple[int, int, int]
    ) -> np.ndarray:
        """Return a frame with the person on ``background``, uint8 [H, W, 3], of (width, height).

        Raises:
            InputError: the frame or its mask cannot be read.
        """
        with self._lock:
            key = (frame, size, background)
            if key != self._key:
                small = size if size[0] <= self._capture.width else None
                picture = self._capture.frame(frame, size=small)
                mask = self._capture.mask(frame, size=small)
                alpha = mask[..., None].astype(np.float32) / 255
                mixed = picture * alpha + np.asarray(background, np.float32) * (1 - alpha)
                mixed = mixed.round().astype(np.uint8)
                self._picture = mixed if small else cv2.resize(mixed, size)
                self._key = key
            return self._picture


def fitted_view(camera: Camera, size: tuple[int, int]) -> tuple[Camera, tuple[int, int, int, int]]:
    """Return a camera that shows the whole of a capture's frame in the middle of a picture.

    Args:
        camera: the capture's.
        size: width and height of the picture.

    Returns:
        The camera, and the frame's place in the picture: left, top, width, height in pixels.
    """
    scale = min(size[0] / camera.width, size[1] / camera.height)
    width, height = (max(1, round(side * scale)) for side in (camera.width, camera.height))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    inner = camera.scaled(width, height)
    return inner.cropped(-left, -top, *size), (left, top, width, height)


def compared(
    picture: np.ndarray, filmed: np.ndarray, box: tuple[int, int, int, int], how: Comparison
) -> tuple[np.ndarray, float]:
    """Return the avatar's picture with the filmed frame or the error put into it, and the PSNR, dB.

    Args:
        picture: the avatar, uint8 [H, W, 3]; changed in place.
        filmed: the frame at the box's size.
        box: the frame's place in the picture.
        how: mode and split.
    """
    left, top, width, height = box
    inside = picture[top : top + height, left : left + width]
    difference = cv2.absdiff(inside, filmed)
    mse = float(np.square(difference, dtype=np.float32).mean())
    psnr = 10 * float(np.log10(255**2 / max(mse, 1e-6)))
    at = min(max(round(how.split * width), 0), width)
    if how.mode == AVATAR_ERROR:
        inside[:, at:] = error_map(difference[:, at:])
    else:
        inside[:, :at] = filmed[:, :at]
    if 0 < at < width:
        inside[:, max(0, at - 1) : at + 1] = (255, 255, 255)
        inside[:, at : at + 1] = (40, 40, 40)
    return picture, psnr


def error_map(difference: np.ndarray) -> np.ndarray:
    """Return the colours of an error, uint8 [H, W, 3]: dark is none, bright ``FULL_ERROR`` or more."""
    if difference.shape[1] == 0:
        return difference
    mean = difference.astype(np.float32).mean(-1) * (255 / FULL_ERROR)
    coloured = cv2.applyColorMap(cv2.convertScaleAbs(mean), cv2.COLORMAP_INFERNO)
    return cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)
