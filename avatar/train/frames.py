"""Training pictures in memory: the person on white and the mask, as bytes."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Capture
from avatar.raster.fused import unpack_target
from avatar.types import Camera


class FrameStore:
    """Frames of a capture at one size, 4 bytes a pixel, and their states."""

    def __init__(self, capture: Capture, frames: Tensor, max_side: int) -> None:
        """Read the frames [n] (indices), scaled so that the longer side is ``max_side`` at most."""
        longer = max(capture.width, capture.height)
        scale = min(1.0, max_side / longer)
        self.width = round(capture.width * scale)
        self.height = round(capture.height * scale)
        self.frames = frames
        self.camera: Camera = capture.camera().scaled(self.width, self.height)
        self.states = capture.track.states()[frames]
        self._pixels = np.empty((len(frames), self.height, self.width, 4), np.uint8)
        for row, frame in enumerate(frames.tolist()):
            picture, mask = capture.frame(frame), capture.mask(frame)
            if scale < 1:
                size = (self.width, self.height)
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
                mask = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
            alpha = mask[..., None].astype(np.uint16)
            mixed = (picture * alpha + 255 * (255 - alpha) + 127) // 255
            self._pixels[row, ..., :3] = mixed
            self._pixels[row, ..., 3] = mask

    def __len__(self) -> int:
        return len(self.frames)

    def target(
        self, row: int, half: bool = False, background: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Camera]:
        """Return picture [H, W, 3], mask [H, W], both float in [0, 1], and their camera.

        Args:
            row: which of the frames.
            half: at half the size.
            background: [3] what the person stands before; white where None.
        """
        pixels = self._pixels[row]
        camera = self.camera
        if half:
            size = (self.width // 2, self.height // 2)
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            camera = camera.scaled(*size)
        shown, mask = unpack_target(torch.from_numpy(pixels), background)
        return shown, mask, camera
