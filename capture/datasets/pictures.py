"""A data set's pictures as a capture stores them: straight lines, an even size, 8 bits, masks beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from avatar.capture_data import shrunk
from avatar.checks import InputError
from capture.datasets.description import DataSet, Shot
from capture.datasets.reading import LARGEST_SIDE
from capture.datasets.transforms import picture_size
from capture.following import Picture
from capture.ingest import MIN_SIDE

SAME_ASPECT = 0.01
"""By which share the aspect of pictures may differ from the one their intrinsics are stated for."""
OPAQUE = 128
"""An alpha that nowhere falls below this is no mask."""
EXIF_ORIENTATION = 0x0112
ALPHA_PROBES = 3
"""Pictures that are looked at for an alpha that masks."""


@dataclass(frozen=True)
class PicturePlan:
    """How one camera's pictures become stored ones."""

    name: str
    """The camera's."""
    shots: tuple[Shot | None, ...]
    """[F]"""
    source_size: tuple[int, int]
    """(width, height) of all of its pictures."""
    size: tuple[int, int]
    """(width, height) stored: even, and no longer than asked for."""
    K: np.ndarray | None
    """[3, 3] float64, pixels of stored pictures; None where not known."""
    distortion: tuple[float, ...]
    masked: bool
    """Whether the data set has a mask of every picture."""
    notes: tuple[str, ...]

    @property
    def missing(self) -> list[int]:
        """Frames without a picture."""
        return [frame for frame, shot in enumerate(self.shots) if shot is None]

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Where each straightened pixel lies in the pictures."""
        lens = next(shot.lens for shot in self.shots if shot is not None)
        if lens is None or not self.distortion:
            return None
        K = _rescaled(lens.K, lens.size, self.source_size)
        K[:2, 2] -= 0.5  # OpenCV has the middle of the first pixel at 0
        maps = cv2.initUndistortRectifyMap(
            K, np.array(self.distortion), np.eye(3), K, self.source_size, cv2.CV_32FC1
        )
        return maps[0], maps[1]

    def read(self, frame: int) -> Picture | None:
        """Read the picture of a frame; None where there is none. Raises InputError naming the file."""
        shot = self.shots[frame]
        if shot is None:
            return None
        path = shot.picture
        image = self._decoded(path)
        if image.shape[2] == 4:
            alpha = image[..., 3]
            # Straight alpha: colours count where they show, and what is behind them is white.
            rgb = np.where(alpha[..., None] > 0, image[..., :3], np.uint8(255))
            return Picture(self._stored(rgb), self._stored(alpha))
        rgb = self._stored(image)
        as_it_is = rgb is image and path.suffix.lower() in (".jpg", ".jpeg") and _upright(path)
        return Picture(rgb, copied=path if as_it_is else None)

    def mask(self, frame: int) -> np.ndarray:
        """Read the mask of a frame that has a picture, uint8 [H, W]; raises InputError naming the file."""
        shot = self.shots[frame]
        assert shot is not None
        if shot.mask is None:
            picture = self.read(frame)
            assert picture is not None
            if picture.alpha is None:
                raise InputError(
                    f"{shot.picture} has no transparency, unlike the first pictures, and no mask is stated "
                    f"for it. Give masks for all pictures or for none."
                )
            return picture.alpha
        image = self._decoded(shot.mask)
        if image.shape[2] == 4:
            return self._stored(image[..., 3])
        return self._stored(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))

    def pictures(self) -> Iterator[Picture | None]:
        """Read all of them in order."""
        return (self.read(frame) for frame in range(len(self.shots)))

    def _decoded(self, path: Path) -> np.ndarray:
        """Decode a file, uint8 [H, W, 3 or 4] RGB, and check its size."""
        found = picture_size(path)
        image = None
        if max(found) <= LARGEST_SIDE:  # before anything of that size is allocated
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype not in (np.uint8, np.uint16):
            raise InputError(
                f"{path} cannot be read as a picture of 8 or 16 bits. Get the file from the data set again."
            )
        if image.dtype == np.uint16:
            image = np.round(image / 257.0).astype(np.uint8)
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        elif image.shape[2] == 3:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        else:
            image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
        if (image.shape[1], image.shape[0]) != self.source_size:
            wanted = f"{self.source_size[0]}x{self.source_size[1]}"
            raise InputError(
                f"{path} is {image.shape[1]}x{image.shape[0]}, but {wanted} was expected, as the first "
                f"picture of camera {self.name!r} is. Pictures and masks of one camera need one size."
            )
        return image

    def _stored(self, image: np.ndarray) -> np.ndarray:
        """Straighten, crop to an even size, and shrink; the very array where none of it is needed."""
        if self._maps is not None:
            border = (255, 255, 255) if image.ndim == 3 else (0,)
            image = cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderValue=border)
        even = (image.shape[0] & ~1, image.shape[1] & ~1)
        if even != image.shape[:2] and self.size == (even[1], even[0]):
            return np.ascontiguousarray(image[: even[0], : even[1]])
        return shrunk(image, self.size)


def _upright(path: Path) -> bool:
    """Whether a file asks for no turning: intrinsics are of the pixels as they are stored."""
    with Image.open(path) as image:
        return image.getexif().get(EXIF_ORIENTATION, 1) == 1


def plan_pictures(data_set: DataSet, camera: int, max_side: int) -> PicturePlan:
    """Decide how a camera's pictures are stored; raises InputError where they cannot be.

    Args:
        data_set: as a reader describes it.
        camera: index of the camera.
        max_side: longer side of stored pictures, pixels.
    """
    name = data_set.cameras[camera].name
    shots = tuple(row[camera] for row in data_set.shots)
    present = [shot for shot in shots if shot is not None]
    first = present[0]
    width, height = picture_size(first.picture)
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{first.picture} is {width}x{height}; pictures need {MIN_SIDE} pixels at least on their shorter "
            f"side, or the face is too small. Get the data set in a larger size."
        )
    scale = min(1.0, max_side / max(width, height))
    size = (max(2, 2 * int(width * scale / 2)), max(2, 2 * int(height * scale / 2)))
    notes: list[str] = []
    K, distortion = None, ()
    lens = first.lens
    if lens is not None:
        for shot in present:
            same = shot.lens is not None and np.allclose(shot.lens.K, lens.K, rtol=1e-6, atol=1e-6)
            if not same or shot.lens is None or shot.lens.distortion != lens.distortion:
                raise InputError(
                    f"{shot.picture}: camera {name!r} draws otherwise here than in {first.picture.name} (its "
                    f"focal length or centre changes), which is not read. Leave out what was zoomed."
                )
        if abs(lens.size[0] / lens.size[1] / (width / height) - 1) > SAME_ASPECT:
            raise InputError(
                f"{first.picture} is {width}x{height}, but its intrinsics are stated for "
                f"{lens.size[0]}x{lens.size[1]}, another aspect. Give the pictures that were calibrated."
            )
        if lens.size != (width, height):
            notes.append(
                f"Camera {name}: intrinsics for {lens.size[0]}x{lens.size[1]} are scaled to its pictures of "
                f"{width}x{height}."
            )
        K = _rescaled(lens.K, lens.size, (width, height))
        if scale < 1:  # otherwise at most a row and a column are cut off, which moves nothing
            K = _rescaled(K, (width, height), size)
        distortion = lens.distortion
        if distortion:
            notes.append(f"Camera {name}: pictures are straightened by its stated distortion.")
    plan = PicturePlan(
        name, shots, (width, height), size, K, distortion, masked=True, notes=tuple(notes)
    )
    masked = all(shot.mask is not None for shot in present) or _alpha_masks(plan)
    if any(shot.mask is not None for shot in present) and not masked:
        notes.append(f"Camera {name}: some pictures have no mask; all masks are made anew.")
    return PicturePlan(
        name, shots, (width, height), size, K, distortion, masked, notes=tuple(notes)
    )


def _rescaled(K: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    return np.diag([new[0] / old[0], new[1] / old[1], 1.0]) @ K


def _alpha_masks(plan: PicturePlan) -> bool:
    """Whether the pictures that have no mask file have an alpha that masks."""
    bare = [f for f, shot in enumerate(plan.shots) if shot is not None and shot.mask is None]
    for frame in [bare[i * (len(bare) - 1) // (ALPHA_PROBES - 1)] for i in range(ALPHA_PROBES)]:
        shot = plan.shots[frame]
        assert shot is not None
        picture_size(shot.picture)  # raises where it is no picture
        with Image.open(shot.picture) as image:
            if "A" not in image.getbands() and "transparency" not in image.info:
                return False
        picture = plan.read(frame)
        if picture is None or picture.alpha is None or picture.alpha.min() >= OPAQUE:
            return False
    return True
