"""Training pictures: rows of frame and camera, in memory as far as they fit, else read ahead."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.model.create import need_frames
from avatar.raster.fused import unpack_target
from avatar.raster.library import kernel_threads
from avatar.train.pictures import read_pixels
from avatar.types import Camera

CACHE_BYTES = 2 << 30
"""Memory for pictures: 960 frames of 1024 x 576, 580 of 1280 x 720, all that the draft preset takes."""
GPU_SHARE = 0.5
"""Share of a GPU's free memory that pictures may take."""
AHEAD = 6
"""Pictures that are read before they are asked for: 3 megapixels take as long as a step or two."""


def training_cameras(capture: Capture, held: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the indices of the cameras that are fitted to: all but those held out.

    Raises:
        InputError: a held camera does not exist, or none is left.
    """
    count = len(capture.cameras)
    for camera in held:
        if not 0 <= camera < count:
            there = "one camera, 0" if count == 1 else f"cameras 0 to {count - 1}"
            raise InputError(
                f"--hold-cameras: {capture.path} has {there}; got {camera}. Give indices among those."
            )
    cameras = tuple(k for k in range(count) if k not in held)
    if not cameras:
        raise InputError(
            f"--hold-cameras holds every camera of {capture.path}, so none is left to fit to. Give fewer."
        )
    return cameras


def training_frames(capture: Capture, held: Sequence[int] = ()) -> Tensor:
    """Return the indices [n] of the training frames that show the face to a camera that is fitted to.

    Raises:
        InputError: the capture has no usable track or split, or too few such frames, or see
            ``training_cameras``.
    """
    cameras = training_cameras(capture, held)
    begin, end = capture.splits.train
    frames = torch.nonzero(capture.track.valid[begin:end])[:, 0] + begin
    missing = frozenset.intersection(*(capture.cameras[k].missing for k in cameras))
    if missing:
        frames = frames[torch.tensor([int(f) not in missing for f in frames], dtype=torch.bool)]
    need_frames(capture, frames)
    return frames


class FrameStore:
    """Pictures of a capture at one size a camera, 4 bytes a pixel, and their states.

    A row is a frame of a camera. Pictures beyond ``cache_bytes`` are read from the capture each time:
    the same bytes, tens of milliseconds later, unless ``expect`` said that they would be wanted. Rows
    are asked for in random order, so it does not matter which ones those are.
    """

    def __init__(
        self,
        capture: Capture,
        frames: Tensor,
        max_side: int,
        *,
        cameras: Sequence[int] | None = None,
        cache_bytes: int = CACHE_BYTES,
        device: torch.device | None = None,
    ) -> None:
        """Read the frames [n] (indices), scaled so that the longer side is ``max_side`` at most.

        Args:
            capture: where from.
            frames: [n] their indices.
            max_side: longer side, pixels.
            cameras: indices of the cameras; the main one where None. Frames of which a camera has no
                picture are no rows.
            cache_bytes: what pictures may take of memory.
            device: where ``pixels`` leaves them; the CPU where None. A GPU keeps what it was once given as
                far as that fits into a share of its memory.
        """
        cameras = (capture.main,) if cameras is None else tuple(cameras)
        sizes = {k: capture.size_within(max_side, k) for k in cameras}
        self._cameras = {k: capture.camera(k).scaled(*sizes[k]) for k in cameras}
        rows = [
            (f, k) for f in frames.tolist() for k in cameras if f not in capture.cameras[k].missing
        ]
        self.frames = torch.tensor([f for f, _ in rows], dtype=torch.long)
        """[R] frame of each row."""
        self.cameras = torch.tensor([k for _, k in rows], dtype=torch.long)
        """[R] camera of each row."""
        self.states = capture.track.states()[self.frames]
        self._rows, self._sizes, self._capture = rows, sizes, capture
        total = np.cumsum([4 * sizes[k][0] * sizes[k][1] for _, k in rows])
        kept = int(np.searchsorted(total, cache_bytes, side="right"))
        # From this row on; copies on disk are for what is read again and again.
        self._copied = kept if cache_bytes > 0 else len(rows)
        self._device = device or torch.device("cpu")
        # Whole and half pictures that a GPU keeps, by row.
        self._there: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})
        self._room = 0
        if self._device.type == "cuda":
            self._room = int(GPU_SHARE * torch.cuda.mem_get_info(self._device)[0])
        self._pixels: list[np.ndarray] = []
        self._ahead: dict[int, Future[np.ndarray]] = {}
        self._pool = ThreadPoolExecutor(kernel_threads(), thread_name_prefix="pictures")
        # Asked for one by one, so that an error stops the rest.
        for pixels in self._pool.map(self._read, range(kept)):
            self._pixels.append(pixels)

    def __len__(self) -> int:
        return len(self._rows)

    def camera(self, row: int, half: bool = False) -> Camera:
        """Return the camera of a row at the size of its picture, or at half of it."""
        camera = self._cameras[self._rows[row][1]]
        if not half:
            return camera
        return camera.scaled(max(1, camera.width // 2), max(1, camera.height // 2))

    def expect(self, rows: Sequence[int], half: bool = False) -> None:
        """Read in the background what ``target`` will be asked for next; what else was expected is dropped.

        Args:
            rows: in the order in which they will be asked for; beyond ``AHEAD`` they are left.
            half: at half the size.
        """
        here = len(self._pixels)
        wanted = [row for row in rows[:AHEAD] if row >= here and row not in self._there[half]]
        self._ahead = {row: self._ahead[row] for row in self._ahead if row in wanted}
        for row in wanted:
            if row not in self._ahead:
                self._ahead[row] = self._pool.submit(self._read, row)

    def target(
        self, row: int, half: bool = False, background: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Camera]:
        """Return picture [H, W, 3], mask [H, W], both float in [0, 1], and their camera.

        Args:
            row: which of the pictures.
            half: at half the size.
            background: [3] what the person stands before; white where None.
        """
        shown, mask = unpack_target(self.pixels(row, half), background)
        return shown, mask, self.camera(row, half)

    def pixels(self, row: int, half: bool = False) -> Tensor:
        """Return a row's picture [H, W, 4] uint8 on the store's device: the person on white, and the mask.

        A GPU is not waited for: the copy to it goes from pinned memory, which is not used again before it ends.
        """
        if row in self._there[half]:
            return self._there[half][row]
        if row < len(self._pixels):
            pixels = self._pixels[row]
        elif row in self._ahead:
            pixels = self._ahead.pop(row).result()
        else:
            pixels = self._read(row)
        if half:
            camera = self.camera(row, half)
            size = (camera.width, camera.height)
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        picture = torch.from_numpy(pixels)
        if self._device.type == "cpu":
            return picture
        there = picture.pin_memory().to(self._device, non_blocking=True)
        if there.numel() <= self._room:
            self._room -= there.numel()
            self._there[half][row] = there
        return there

    def drop_halves(self) -> None:
        """Make room on a GPU: no picture is asked for at half the size any more."""
        self._room += sum(picture.numel() for picture in self._there[True].values())
        self._there[True].clear()

    def close(self) -> None:
        """Stop reading ahead."""
        self._ahead = {}
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, row: int) -> np.ndarray:
        """Read a row's picture: uint8 [H, W, 4], the person on white and the mask."""
        frame, camera = self._rows[row]
        size = self._sizes[camera]
        return read_pixels(self._capture, frame, camera, size, keep=row >= self._copied)
