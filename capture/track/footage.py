"""What the tracker is given of one camera, and what may be known of cameras beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from avatar.capture_data import Landmarks


@dataclass(frozen=True)
class Footage:
    """One camera's pictures of a head; those of several cameras share one time line."""

    landmarks: Landmarks
    """Detections of all frames, pixels of ``frame``'s pictures; not valid where there is no picture."""
    frame: Callable[[int], np.ndarray]
    """Frame number to picture, uint8 [H, W, 3] sRGB; never asked for a missing one."""
    mask: Callable[[int], np.ndarray]
    """Frame number to person mask, uint8 [H, W], 255 on the person."""
    width: int
    """Of the pictures, pixels."""
    height: int
    """Of the pictures, pixels."""
    missing: frozenset[int] = frozenset()
    """Frames without a picture."""
    focal_widths: float | None = None
    """Its focal length where the user states it, in units of the longer picture side."""


@dataclass(frozen=True)
class Calibration:
    """Cameras that are known beforehand: pinhole, without distortion."""

    names: tuple[str, ...]
    """What the calibration calls its C cameras."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) in pixels for which each K stands."""
    K: Tensor
    """[C, 3, 3] float64 pixels of pictures of ``sizes``."""
    T_cam_world: Tensor
    """[C, 4, 4] float64; OpenCV axes."""
    metric: bool
    """Whether its unit of length is the metre; otherwise one scale is found from the face."""

    def __len__(self) -> int:
        return len(self.names)
