"""Cameras that are known beforehand: read from a file, matched to clips, brought to their pixels.

What is read, by what FILE is:

- ``transforms.json`` of nerfstudio or Blender (``capture.calibration_json``),
- a COLMAP model, text or binary: the folder with cameras and images, or one above it
  (``capture.calibration_colmap``),
- OpenCV FileStorage, ``.yml``, ``.yaml`` or ``.xml``, one file or a folder of ``intri.yml`` and
  ``extri.yml`` (``capture.calibration_opencv``, which says what names it expects).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from avatar.checks import InputError
from capture.ingest import ClipInfo
from capture.known_camera import KnownCamera, bends
from capture.track.footage import Calibration

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "arbitrary": None}
"""What ``--calibration-unit`` takes, in metres."""
ASPECT = 0.01
"""Aspects that differ by less are the same: sides are rounded to even numbers of pixels."""
LARGEST_BYTES = 256 << 20
"""A file beyond this is no calibration of a rig."""

Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Placed:
    """The known cameras of some clips."""

    calibration: Calibration
    """In the order of the clips, in pixels of their stored frames, straightened."""
    straighten: list[Change | None]
    """What takes a camera's distortion out of a stored frame, uint8 [H, W, 3] or [H, W]."""
    bent: list[list[float] | None]
    """The numbers that ``straighten`` is made from."""
    notes: list[str]
    """Sentences for people: what was matched by order or scaled."""


@dataclass(frozen=True)
class KnownCameras:
    """A calibration as its file has it."""

    source: str
    """The file, for messages."""
    cameras: tuple[KnownCamera, ...]
    metres: float | None
    """Its unit of length; None where it is arbitrary."""

    def placed(self, clips: Sequence[ClipInfo]) -> Placed:
        """Find each clip's camera, in pixels of its stored frames; InputError where that cannot be."""
        names = [clip.path.stem for clip in clips]
        order, notes = self._matched(names)
        K, T, straighten, bent, sizes = [], [], [], [], []
        for clip, index in zip(clips, order, strict=True):
            camera = self.cameras[index]
            own, note = self._at_size(camera, clip)
            if note:
                notes.append(note)
            pose = camera.T_cam_world.copy()
            pose[:3, 3] *= 1.0 if self.metres is None else self.metres
            K.append(own)
            T.append(pose)
            sizes.append((clip.width, clip.height))
            curved = bends(camera)
            numbers = [*own[[0, 1, 0, 1], [0, 1, 2, 2]].tolist(), *camera.distortion]
            bent.append(numbers if curved else None)
            straighten.append(straightener(own, camera.distortion, sizes[-1]) if curved else None)
        calibration = Calibration(
            names=tuple(self.cameras[index].names[0] for index in order),
            sizes=tuple(sizes),
            K=torch.from_numpy(np.stack(K)),
            T_cam_world=torch.from_numpy(np.stack(T)),
            metric=self.metres is not None,
        )
        return Placed(calibration, straighten, bent, notes)

    def _matched(self, names: Sequence[str]) -> tuple[list[int], list[str]]:
        """Which camera each clip has: by name, or all by order where none is named and counts agree."""
        found = [
            [k for k, camera in enumerate(self.cameras) if name in camera.names] for name in names
        ]
        for name, hits in zip(names, found, strict=True):
            if len(hits) > 1:
                raise InputError(
                    f"{self.source} has {len(hits)} cameras that may be the clip {name!r}: a camera that "
                    f"moves, or one name twice. Expected one fixed camera for each clip."
                )
        if all(hits for hits in found):
            return self._once([hits[0] for hits in found], names), []
        known = ", ".join(camera.names[0] for camera in self.cameras[:12])
        if any(hits for hits in found):
            lost = next(name for name, hits in zip(names, found, strict=True) if not hits)
            raise InputError(
                f"{self.source} has no camera called {lost!r} (it has {known}). Name the clips like "
                f"the cameras of the calibration."
            )
        if len(self.cameras) != len(names):
            raise InputError(
                f"{self.source} has {len(self.cameras)} cameras ({known}), none called like one of the "
                f"{len(names)} clips. Name the clips like their cameras, or give as many in their order."
            )
        pairs = [
            f"{name} is {camera.names[0]}" for name, camera in zip(names, self.cameras, strict=True)
        ]
        note = f"No clip is called like a camera of the calibration, so they go by order: {', '.join(pairs)}."
        return list(range(len(names))), [note]

    def _once(self, order: list[int], names: Sequence[str]) -> list[int]:
        for k, index in enumerate(order):
            if index in order[:k]:
                raise InputError(
                    f"{self.source}: the clips {names[order.index(index)]!r} and {names[k]!r} are both its "
                    f"camera {self.cameras[index].names[0]!r}. Expected a camera for each clip."
                )
        return order

    def _at_size(self, camera: KnownCamera, clip: ClipInfo) -> tuple[np.ndarray, str]:
        """K in pixels of the clip's stored frames, and a note where that took more than our own scaling."""
        name = camera.names[0]
        if camera.size is None:
            K = camera.K.copy()
            K[0, 0] *= clip.width
            K[1, 1] *= clip.width
            K[:2, 2] = clip.width / 2, clip.height / 2
            return K, ""
        width, height = camera.size
        across, down = clip.width / width, clip.height / height
        if abs(across / down - 1) > ASPECT:
            raise InputError(
                f"{self.source} knows camera {name!r} at {width}x{height}, but {clip.path} has another "
                f"aspect ({clip.width}x{clip.height}). Calibrate with the setting of the clip: a crop "
                f"moves the picture's centre by an unknown way."
            )
        K = camera.K.copy()
        K[0] *= across
        K[1] *= down
        source = (clip.source_width, clip.source_height)
        if clip.rotation % 180:
            source = source[::-1]
        if abs(source[0] / width - 1) <= ASPECT:
            return K, ""
        note = (
            f"The calibration of {name} is for {width}x{height} pixels, its clip has {source[0]}x"
            f"{source[1]}: it was scaled, which is right if both show the same part of the scene."
        )
        return K, note


def straightener(K: np.ndarray, distortion: Sequence[float], size: tuple[int, int]) -> Change:
    """Return what takes a lens's distortion out of pictures of a size, K staying as it is."""
    # OpenCV counts pixels from their centres.
    own = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    across, down = cv2.initUndistortRectifyMap(
        own, np.asarray(distortion, float), np.eye(3), own, size, cv2.CV_16SC2
    )

    def straighten(picture: np.ndarray) -> np.ndarray:
        return cv2.remap(picture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    return straighten


def read_calibration(path: Path, unit: str | None = None) -> KnownCameras:
    """Read a calibration of any kind.

    Args:
        path: a file, or a folder.
        unit: its unit of length, of ``UNITS``; None for what is usual: metres, but arbitrary for COLMAP.

    Raises:
        InputError: missing, of no kind that is known, damaged, or with a camera that cannot be one.
    """
    from capture.calibration_colmap import find_model, read_colmap
    from capture.calibration_json import read_transforms
    from capture.calibration_opencv import EXTENSIONS, find_storage, read_storage

    if unit is not None and unit not in UNITS:
        raise InputError(f"--calibration-unit must be one of {', '.join(UNITS)}; got {unit!r}.")
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path} does not exist. Give a transforms.json, a COLMAP folder or an OpenCV yml."
        )
    usual: float | None = 1.0
    transforms = path / "transforms.json" if path.is_dir() else path
    model = find_model(path)
    if transforms.suffix.lower() == ".json" and transforms.is_file():
        cameras = read_transforms(transforms, _content(transforms))
    elif model is not None:
        files = {file.name: _content(file) for file in model}
        cameras, usual = read_colmap(str(model[0].parent), files), None
    elif storage := find_storage(path):
        cameras = read_storage(str(path), [_content(file) for file in storage])
    else:
        raise InputError(
            f"{path} is no calibration that is known: expected transforms.json (nerfstudio, Blender), a "
            f"COLMAP folder with cameras and images as .txt or .bin, or an OpenCV file "
            f"({', '.join(EXTENSIONS)})."
        )
    metres = usual if unit is None else UNITS[unit]
    return KnownCameras(str(path), tuple(cameras), metres)


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise InputError(
                f"{file} has {file.stat().st_size >> 20} MiB, which is no calibration of a rig. Give "
                f"another file."
            )
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}). Check its permissions."
        ) from error
