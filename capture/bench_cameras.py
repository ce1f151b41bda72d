"""How right a calibration is that was found from the face: cameras against known ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from avatar.capture_data import Track
from avatar.checks import InputError


def true_cameras(path: Path, cameras: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Read cameras [C, 4, 4] (world to camera, metres) and focal lengths [C] from a truth.npz.

    Raises:
        InputError: one of ``cameras`` is not in it.
    """
    with np.load(path, allow_pickle=False) as file:
        R = file["world_to_camera_R"].astype(float)
        t = file["world_to_camera_t_cm"].astype(float) / 100
        focal = float(file["K"][0, 0])
    missing = [k for k in cameras if not 0 <= k < len(R)]
    if missing:
        raise InputError(
            f"{path} has cameras 0 to {len(R) - 1}, not {missing[0]}. Give --cameras, the truth's camera "
            "of each of the capture's."
        )
    T = np.tile(np.eye(4), (len(cameras), 1, 1))
    T[:, :3, :3], T[:, :3, 3] = R[list(cameras)], t[list(cameras)]
    return T, np.full(len(cameras), focal)


def camera_errors(track: Track, T_true: np.ndarray, focal_true: np.ndarray) -> dict[str, Any]:
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
    T = track.T_cam_world.double().numpy()
    count = len(T)
    turns = {}
    for a, b in combinations(range(count), 2):
        found, true = T[b, :3, :3] @ T[a, :3, :3].T, T_true[b, :3, :3] @ T_true[a, :3, :3].T
        cosine = (np.trace(found @ true.T) - 1) / 2
        turns[a, b] = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    centres, true_centres = _centres(T), _centres(T_true)
    own, own_true = centres - centres.mean(0), true_centres - true_centres.mean(0)
    U, S, Vt = np.linalg.svd(own_true.T @ own)
    sign = np.diag([1.0, 1.0, np.linalg.det(U @ Vt)])
    turned = own @ (U @ sign @ Vt).T
    scale = float((S * np.diag(sign)).sum() / (own**2).sum())
    heads = (track.T_cam_world.double()[:, None] @ track.T_world_head[track.valid].double())[
        :, :, :3, 3
    ]
    distance = float(heads.norm(dim=-1).mean()) * scale
    off = np.linalg.norm(scale * turned - own_true, axis=1) / distance
    worst = max(turns, key=lambda pair: turns[pair])
    return {
        "cameras": count,
        "rotation_max_deg": turns[worst],
        "rotation_mean_deg": float(np.mean(list(turns.values()))),
        "rotation_worst_pair": list(worst),
        "centre_max_percent": 100 * float(off.max()),
        "centre_mean_percent": 100 * float(off.mean()),
        "centre_max_percent_with_size": 100
        * float(np.linalg.norm(turned - own_true, axis=1).max() / distance),
        "size": 1 / scale,
        "focal_ratio": [float(v) for v in track.K[:, 0, 0].double().numpy() / focal_true],
    }


def _centres(T_cam_world: np.ndarray) -> np.ndarray:
    """Camera centres [C, 3] in the world."""
    return -np.einsum("cji,cj->ci", T_cam_world[:, :3, :3], T_cam_world[:, :3, 3])


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
