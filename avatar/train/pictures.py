"""Training pictures as they are read: person on white and mask in one array, and small copies on disk.

Frames much larger than the size trained at cost their decoding at every step that memory has no room
for: 45 ms a picture of 3 megapixels at 720 pixels on one core, of which the copy that is kept beside
them, ``me.capture/pyramid/SIDE/camK/``, takes 7. Copies are lossless, so that the fit is the same, bit
for bit, with and without them. They may be removed at any time.
"""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np

from avatar.capture_data import COPIES, Capture
from avatar.tensorfile import atomic_path

MUCH_LARGER = 1.5
"""Copies are kept of frames whose sides are this many times those trained at: below that, reading the
frame itself is as quick."""
SPARE_DISK_BYTES = 2 << 30
"""No copy is made where the disk would have less left."""


def read_pixels(
    capture: Capture, frame: int, camera: int, size: tuple[int, int], *, keep: bool = False
) -> np.ndarray:
    """Read a picture: uint8 [H, W, 4], the person on white and the mask.

    Args:
        capture: where from.
        frame: its index.
        camera: its camera's index.
        size: (width, height).
        keep: leave a copy on disk if the stored frame is much larger, for whoever reads it again.

    Raises:
        InputError: picture or mask cannot be read.
    """
    copy = copy_path(capture, frame, camera, size)
    if copy is not None and copy.is_file():
        pixels = cv2.imread(str(copy), cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.shape == (size[1], size[0], 4):
            return pixels
    pixels = with_mask(
        capture.frame(frame, camera, size=size), capture.mask(frame, camera, size=size)
    )
    if keep and copy is not None:
        _keep(copy, pixels)
    return pixels


def with_mask(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Set a picture uint8 [H, W, 3] on white by its mask uint8 [H, W]: uint8 [H, W, 4], the mask last."""
    pixels = np.empty((*mask.shape, 4), np.uint8)
    mixed = picture.astype(np.uint16)
    mixed *= mask[..., None]
    mixed += (255 * (255 - mask.astype(np.uint16)) + 127)[..., None]
    # Division by 255, exact below 65535, in half the time.
    pixels[..., :3] = (mixed + 1 + (mixed >> 8)) >> 8
    pixels[..., 3] = mask
    return pixels


def copy_path(capture: Capture, frame: int, camera: int, size: tuple[int, int]) -> Path | None:
    """Return where the copy of a picture lies, or would; None where the frame is not much larger.

    The name says what it is a copy of, by size and time of the files, so that copies of what was
    replaced since are not found.
    """
    info = capture.cameras[camera]
    if max(info.size) < MUCH_LARGER * max(size):
        return None
    sources = (capture.frame_path(frame, camera), capture.mask_path(frame, camera))
    try:
        facts = [(s.st_size, s.st_mtime_ns) for s in (path.stat() for path in sources)]
    except OSError:
        return None  # reading it says what is wrong
    stamp = zlib.crc32(repr((facts, size, info.gain)).encode())
    folder = capture.path / COPIES / str(max(size)) / f"cam{camera}"
    return folder / f"{frame:06d}-{stamp:08x}.png"


def _keep(copy: Path, pixels: np.ndarray) -> None:
    """Write a copy, in place of stale ones of that frame; a full or read-only disk is no failure."""
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not done or shutil.disk_usage(copy.parent).free < SPARE_DISK_BYTES:
            return
        for stale in copy.parent.glob(f"{copy.name[:6]}-*.png"):
            stale.unlink(missing_ok=True)
        with atomic_path(copy) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError:
        return
