"""FLAME parameters that came with a data set, kept beside a capture's own track.

    me.capture/flame.safetensors   optional; format "headsplat.flame", version 1

FLAME's meaning of the numbers (Li et al. 2017, "Learning a model of facial shape and expression from 4D
scans"): shape and expression are coefficients of its bases; rotations are axis-angle vectors, radians:
``rotation`` about the model's origin, then neck, jaw and the two eyes at their joints; ``translation`` is
added last. Only numbers are kept: no part of the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from avatar.checks import InputError
from avatar.tensorfile import read_tensors, write_tensors

FLAME_FILE = "flame.safetensors"
FLAME_FORMAT = "headsplat.flame"
FLAME_VERSION = 1

FLAME_TENSORS = {
    "shape": "S",
    "expr": "F X",
    "rotation": "F 3",
    "neck_pose": "F 3",
    "jaw_pose": "F 3",
    "eyes_pose": "F 6",
    "translation": "F 3",
    "valid": "F",
    "K": "C 3 3",
    "T_cam_flame": "F C 4 4",
}

REMEDY = "Capture the data set again: avatar capture DATASET -o DIR.capture"


@dataclass(frozen=True)
class FlameTrack:
    """FLAME parameters of F frames, and the C cameras in the coordinates that they place the head in."""

    shape: Tensor
    """[S] identity coefficients; zeros where the data set states none."""
    expr: Tensor
    """[F, X] expression coefficients."""
    rotation: Tensor
    """[F, 3] axis-angle, radians, about the model's origin."""
    neck_pose: Tensor
    """[F, 3] axis-angle, radians."""
    jaw_pose: Tensor
    """[F, 3] axis-angle, radians."""
    eyes_pose: Tensor
    """[F, 6] axis-angle of the subject's left, then right eye, radians."""
    translation: Tensor
    """[F, 3] metres."""
    valid: Tensor
    """[F] bool: the data set has parameters of the frame; the others' are zeros."""
    K: Tensor
    """[C, 3, 3] pixels of the capture's stored frames."""
    T_cam_flame: Tensor
    """[F, C, 4, 4] coordinates in which ``rotation`` and ``translation`` place the head, to camera (OpenCV
    axes). The same in all frames where cameras stand still; where the data set has the head for its world,
    the head's motion is in here."""
    static_offset: Tensor | None = None
    """[V, 3] metres added to the model's V vertices before posing; None where the data set has none."""

    def __len__(self) -> int:
        return self.expr.shape[0]

    def save(self, path: Path) -> None:
        """Write flame.safetensors atomically."""
        tensors = {name: getattr(self, name) for name in FLAME_TENSORS}
        if self.static_offset is not None:
            tensors["static_offset"] = self.static_offset
        # Copies: tensors that share memory, zeros for example, cannot go into one file.
        typed = {n: (t.bool() if n == "valid" else t.float()).clone() for n, t in tensors.items()}
        write_tensors(path, typed, format=FLAME_FORMAT, version=FLAME_VERSION, header={})

    @staticmethod
    def load(path: Path, *, frames: int | None = None, cameras: int | None = None) -> FlameTrack:
        """Read flame.safetensors; raises InputError naming what is wrong.

        Args:
            path: the file.
            frames: how many its capture has; not checked where None.
            cameras: likewise.
        """
        tensors, _ = read_tensors(
            path,
            format=FLAME_FORMAT,
            version=FLAME_VERSION,
            required=FLAME_TENSORS,
            remedy=REMEDY,
        )
        offset = tensors.get("static_offset")
        if offset is not None and (offset.ndim != 2 or offset.shape[1] != 3):
            raise InputError(
                f"{path}: 'static_offset' must be [V, 3], found {list(offset.shape)}. {REMEDY}"
            )
        found = tuple(tensors["T_cam_flame"].shape[:2])
        for name, count, wanted in zip(
            ("frames", "cameras"), found, (frames, cameras), strict=True
        ):
            if wanted is not None and count != wanted:
                raise InputError(f"{path} has {count} {name}, its capture has {wanted}. {REMEDY}")
        values = {name: tensors[name] for name in FLAME_TENSORS}
        values["valid"] = values["valid"].bool()
        return FlameTrack(**values, static_offset=offset)


def find_flame(capture: Path, *, frames: int, cameras: int) -> FlameTrack | None:
    """Return the FLAME parameters in a capture folder; None where it has none."""
    path = Path(capture) / FLAME_FILE
    return FlameTrack.load(path, frames=frames, cameras=cameras) if path.is_file() else None
