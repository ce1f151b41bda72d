"""Training pictures: the person on white and the mask, as bytes, in memory as far as they fit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Capture
from avatar.model.create import need_frames
from avatar.raster.fused import unpack_target
from avatar.raster.library import kernel_threads
from avatar.types import Camera

CACHE_BYTES = 2 << 30
"""Memory for pictures: 960 frames of 1024 x 576, 580 of 1280 x 720, all that the draft preset takes."""


def training_frames(capture: Capture) -> Tensor:
    """Return the indices [n] of the training frames that show the face.

    Raises:
        InputError: the capture has no usable track or split, or too few such frames.
    """
    begin, end = capture.splits.train
    frames = torch.nonzero(capture.track.valid[begin:end])[:, 0] + begin
    need_frames(capture, frames)
    return frames


class FrameStore:
    """Frames of a capture at one size, 4 bytes a pixel, and their states.

    Pictures beyond ``cache_bytes`` are read from the capture each time: the same bytes, tens of
    milliseconds later. Rows are asked for in random order, so it does not matter which ones those are.
    """

    def __init__(
        self, capture: Capture, frames: Tensor, max_side: int, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """Read the frames [n] (indices), scaled so that the longer side is ``max_side`` at most."""
        self.width, self.height = capture.size_within(max_side)
        self.frames = frames
        self.camera: Camera = capture.camera().scaled(self.width, self.height)
        self.states = capture.track.states()[frames]
        self._capture = capture
        kept = min(len(frames), cache_bytes // (self.width * self.height * 4))
        self._pixels = np.empty((kept, self.height, self.width, 4), np.uint8)

        def fill(row: int) -> None:
            self._pixels[row] = self._read(int(frames[row]))

        with ThreadPoolExecutor(kernel_threads()) as pool:
            for _ in pool.map(fill, range(kept)):
                pass  # asked for one by one, so that an error stops the rest

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
        cached = row < len(self._pixels)
        pixels = self._pixels[row] if cached else self._read(int(self.frames[row]))
        camera = self.camera
        if half:
            size = (self.width // 2, self.height // 2)
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            camera = camera.scaled(*size)
        shown, mask = unpack_target(torch.from_numpy(pixels), background)
        return shown, mask, camera

    def _read(self, frame: int) -> np.ndarray:
        """Read a frame: uint8 [H, W, 4], the person on white and the mask."""
        size = (self.width, self.height)
        picture, mask = self._capture.frame(frame, size=size), self._capture.mask(frame, size=size)
        alpha = mask[..., None].astype(np.uint16)
        pixels = np.empty((self.height, self.width, 4), np.uint8)
        pixels[..., :3] = (picture * alpha + 255 * (255 - alpha) + 127) // 255
        pixels[..., 3] = mask
        return pixels
