"""How right a calibration is that was found from the face: cameras against known ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from avatar.capture_data import Track
from avatar.checks import InputError
from avatar.rotations import invert_rigid, matrix_to_rotvec
from avatar.train.novel_views import CameraRig
from capture.track.rig_fit import procrustes


def true_cameras(path: Path, cameras: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Read cameras [C, 4, 4] (world to camera, metres) and focal lengths [C] from a truth.npz.

    Raises:
        InputError: one of ``cameras`` is not in it.
    """
    rig = CameraRig.load(path)
    count = len(rig.T_cam_world)
    missing = [k for k in cameras if not 0 <= k < count]
    if missing:
        raise InputError(
            f"{path} has cameras 0 to {count - 1}, not {missing[0]}. Give --cameras, the truth's camera "
            "of each of the capture's."
        )
    return rig.T_cam_world[list(cameras)], rig.K[0, 0].expand(len(cameras))


def camera_errors(track: Track, T_true: Tensor, focal_true: Tensor) -> dict[str, Any]:
    """Compare a track's cameras with true ones, whose world is another.

    Rotations are compared between every two cameras. Centres are laid over the true ones by the
    similarity nearest in the least-squares sense (Umeyama 1991), as the world's place, and its size but
    for the iris, are nobody's to know; what is left is told in percent of the cameras' mean distance
    from the head, and once more with the size as it was found.

    Args:
        track: of C cameras.
        T_true: [C, 4, 4] world to camera, metres.
        focal_true: [C] pixels.
    """
    T, T_true = track.T_cam_world.double(), T_true.double()
    count = len(T)
    turns = {}
    for a, b in combinations(range(count), 2):
        found, true = (rig[b, :3, :3] @ rig[a, :3, :3].T for rig in (T, T_true))
        turns[a, b] = float(matrix_to_rotvec(found @ true.T).norm().rad2deg())
    centres, true_centres = (invert_rigid(rig)[:, :3, 3] for rig in (T, T_true))
    turn, scales, shift = procrustes(centres, true_centres[None])
    scale = float(scales[0])
    heads = (T[:, None] @ track.T_world_head[track.valid].double())[:, :, :3, 3]
    distance = float(heads.norm(dim=-1).mean()) * scale
    placed = scale * centres @ turn[0].T + shift[0]
    off = (placed - true_centres).norm(dim=1) / distance
    middle = true_centres.mean(0)
    off_with_size = ((placed - middle) / scale + middle - true_centres).norm(dim=1) / distance
    worst = max(turns, key=lambda pair: turns[pair])
    return {
        "cameras": count,
        "rotation_max_deg": turns[worst],
        "rotation_mean_deg": fmean(turns.values()),
        "rotation_worst_pair": list(worst),
        "centre_max_percent": 100 * float(off.max()),
        "centre_mean_percent": 100 * float(off.mean()),
        "centre_max_percent_with_size": 100 * float(off_with_size.max()),
        "size": 1 / scale,
        "focal_ratio": (track.K[:, 0, 0].double() / focal_true).tolist(),
    }


def text_of(errors: dict[str, Any]) -> str:
    """Say it in two lines."""
    a, b = errors["rotation_worst_pair"]
    focal = ", ".join(f"{ratio:.3f}" for ratio in errors["focal_ratio"])
    return (
        f"{errors['cameras']} cameras: relative rotations within {errors['rotation_max_deg']:.2f} degrees "
        f"(mean {errors['rotation_mean_deg']:.2f}, worst between {a} and {b}); centres within "
        f"{errors['centre_max_percent']:.2f} % of the distance (mean {errors['centre_mean_percent']:.2f} %; "
        f"{errors['centre_max_percent_with_size']:.2f} % with the size as found, {errors['size']:.3f}).\n"
        f"  Focal lengths, found over true: {focal}."
    )
