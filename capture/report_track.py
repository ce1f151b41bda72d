"""What a finished track says about a clip: residuals, jitter, coverage of turns, expressions and gaze.

Numbers alone; ``report`` draws them, ``quality`` judges them and ``bench_track`` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from avatar.capture_data import Track
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.lattice import (
    LOWER_LIP_COLUMNS,
    REGIONS,
    UPPER_LIP_COLUMNS,
    deform,
    point_normals,
)
from avatar.rotations import matrix_to_rotvec

COMMON_SIDE = 512
"""Residuals of clips compare when the longer side of their pictures is scaled to so many pixels."""

YAW_EDGES = (-90.0, -45.0, -25.0, -10.0, 10.0, 25.0, 45.0, 90.0)
"""Borders of the coverage map in degrees, to the subject's right and left."""
PITCH_EDGES = (-60.0, -22.0, -8.0, 8.0, 22.0, 60.0)
"""Borders of the coverage map in degrees, down and up."""
GAZE_EDGES = (-35.0, -18.0, -6.0, 6.0, 18.0, 35.0)
"""Borders of the gaze map in degrees, both ways."""

SEEN = 0.3
"""A coefficient counts as seen from here, and as seen strongly from STRONG."""
STRONG = 0.6

FACING = 0.2
"""A point faces the camera from this cosine between its normal and the line of sight on (78 degrees)."""

RESIDUAL_REGIONS: dict[str, tuple[int, ...]] = {
    "brows": (*REGIONS["brow_left"], *REGIONS["brow_right"]),
    "eyes": tuple(
        point
        for name, region in REGIONS.items()
        if name.startswith(("lid_", "eye_corners"))
        for point in region
    ),
    "irises": (*REGIONS["iris_left"], *REGIONS["iris_right"]),
    "nose": (
        *REGIONS["nose_bridge"],
        *REGIONS["nose_tip"],
        *REGIONS["nostril_left"],
        *REGIONS["nostril_right"],
    ),
    "cheeks": (*REGIONS["cheek_left"], *REGIONS["cheek_right"]),
    "mouth": tuple(
        {p for columns in (UPPER_LIP_COLUMNS, LOWER_LIP_COLUMNS) for c in columns for p in c}
    ),
    "jaw and chin": tuple({*REGIONS["jaw_line"], *REGIONS["chin"]}),
}
"""Places whose residuals are told apart."""


@dataclass(frozen=True)
class Jitter:
    """Shake of the tracked head: root mean square of second differences between frames."""

    rotation_deg: float
    """Of the rotation, motion included, degrees."""
    position_mm: float
    """Of the head's origin in the world, motion included, millimetres."""
    rotation_extra_deg: float
    """What of it smooth motion cannot explain: see ``jitter``."""
    position_extra_mm: float
    """The same of the position."""


@dataclass(frozen=True)
class Map:
    """How many frames fall into each cell of a grid of two angles."""

    counts: np.ndarray
    """[rows, columns] frames; row 0 is the lowest, column 0 the leftmost edge."""
    x_edges: tuple[float, ...]
    """Degrees, columns + 1."""
    y_edges: tuple[float, ...]
    """Degrees, rows + 1."""

    def share(self) -> float:
        """Return the share of cells that hold a frame."""
        return float((self.counts > 0).mean())


def track_angles(track: Track) -> np.ndarray:
    """Return the head's yaw (to the subject's left), pitch (up), roll (to the subject's left
    shoulder) towards the main camera, degrees [F, 3]; zero when the face looks along the optical axis."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    R = (flip @ track.T_cam_world[track.main, :3, :3] @ track.T_world_head[:, :3, :3]).numpy()
    yaw = np.arctan2(R[:, 0, 2], R[:, 2, 2])
    pitch = np.arcsin(np.clip(R[:, 1, 2], -1, 1))
    roll = np.arctan2(-R[:, 1, 0], R[:, 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], 1))


def project_lattice(
    track: Track, frames: np.ndarray, camera: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Project the posed, deformed lattice of some frames into a camera.

    Args:
        track: the track.
        frames: [n] indices.
        camera: its number; the main one where None.

    Returns:
        Points [n, 478, 2] in pixels of the stored frames, and whether the skin at each faces the
        camera [n, 478]: where it does not, a detector guesses.
    """
    camera = track.main if camera is None else camera
    index = torch.as_tensor(np.asarray(frames), dtype=torch.long)
    points = deform(track.lattice, track.basis, track.expression[index])
    T = track.T_cam_world[camera] @ track.T_world_head[index]
    seen = points @ T[:, :3, :3].mT + T[:, None, :3, 3]
    flat = seen @ track.K[camera].T
    normals = point_normals(points) @ T[:, :3, :3].mT
    cosine = -(normals * torch.nn.functional.normalize(seen, dim=-1)).sum(-1)
    return (flat[..., :2] / flat[..., 2:].clamp_min(1e-6)).numpy(), (cosine > FACING).numpy()


def common_scale(width: int, height: int) -> float:
    """Return what a distance in stored pixels is multiplied by to compare clips (see COMMON_SIDE)."""
    return COMMON_SIDE / max(width, height)


def residuals_by_region(track: Track, chunk: int = 64) -> dict[str, np.ndarray]:
    """Return each region's RMS distance between model and detected points, [F] pixels.

    Only points that face the camera count. NaN where the frame is not valid or shows nothing of the
    region. The whole face comes first, as "all".
    """
    regions = {"all": range(len(track.lattice)), **RESIDUAL_REGIONS}
    valid = np.flatnonzero(track.valid.numpy())
    curves = {name: np.full(len(track), np.nan) for name in regions}
    for begin in range(0, len(valid), chunk):
        frames = valid[begin : begin + chunk]
        model, faces = project_lattice(track, frames)
        square = ((model - track.landmarks_px[frames].numpy()) ** 2).sum(-1) * faces
        for name, points in regions.items():
            count = faces[:, list(points)].sum(1)
            total = square[:, list(points)].sum(1)
            curves[name][frames] = np.sqrt(total / np.where(count > 0, count, np.nan))
    return curves


def jitter(track: Track) -> Jitter:
    """Measure the shake of the head's pose without knowing its true motion.

    Second differences of a pose hold the head's own acceleration too. Fourth differences hold hardly
    any: whatever is a cubic over five frames cancels. White noise of variance v has second
    differences of variance 6 v and fourth ones of 70 v, so ``extra`` is the RMS of the fourth
    differences times sqrt(6 / 70): the second differences that noise alone would have. Noise that the
    tracker has already smoothed counts for less than it is; the plain number bounds it from above.
    """
    R = track.T_world_head[:, :3, :3].double()
    step = matrix_to_rotvec(R[:-1].mT @ R[1:]).numpy()
    step = np.degrees(step)
    move = np.diff(track.T_world_head[:, :3, 3].double().numpy(), axis=0) * 1e3
    valid = track.valid.numpy()

    def rms(steps: np.ndarray, order: int) -> float:
        values = np.diff(steps, order - 1, axis=0)
        # A difference over frames k .. k + order needs all of them.
        whole = np.convolve(valid, np.ones(order + 1), "valid") > order + 0.5
        values = values[whole]
        return float(np.sqrt((values**2).sum(1).mean())) if len(values) else 0.0

    noise = (6 / 70) ** 0.5
    return Jitter(rms(step, 2), rms(move, 2), noise * rms(step, 4), noise * rms(move, 4))


def turns_map(track: Track) -> Map:
    """Count the valid frames by the head's yaw and pitch towards the camera."""
    angles = track_angles(track)[track.valid.numpy()]
    return _map(angles[:, 0], angles[:, 1], YAW_EDGES, PITCH_EDGES)


def gaze_map(track: Track) -> Map:
    """Count the valid frames by gaze in the head, mean of both eyes, x to the subject's left."""
    gaze = np.degrees(track.gaze[track.valid].numpy().mean(1))
    return _map(gaze[:, 0], gaze[:, 1], GAZE_EDGES, GAZE_EDGES)


def _map(
    x: np.ndarray, y: np.ndarray, x_edges: tuple[float, ...], y_edges: tuple[float, ...]
) -> Map:
    inside = np.clip(x, x_edges[0], x_edges[-1]), np.clip(y, y_edges[0], y_edges[-1])
    counts, _, _ = np.histogram2d(inside[1], inside[0], [np.asarray(y_edges), np.asarray(x_edges)])
    return Map(counts.astype(int), x_edges, y_edges)


def expression_reach(track: Track) -> dict[str, float]:
    """Return how far each ARKit coefficient went: its 99th percentile over valid frames."""
    values = track.expression[track.valid].numpy()[:, : len(ARKIT_NAMES)]
    if not len(values):
        return dict.fromkeys(ARKIT_NAMES, 0.0)
    reach = np.percentile(values, 99, axis=0)
    return {name: float(reach[ARKIT_INDEX[name]]) for name in ARKIT_NAMES}


def worst_frames(track: Track, count: int, apart_s: float = 0.5) -> list[int]:
    """Return the valid frames with the largest residual, worst first, each ``apart_s`` from the others."""
    residual = np.where(track.valid.numpy(), track.residual_px.numpy(), -np.inf)
    return pick_apart(residual, count, max(1, round(apart_s * track.fps)))


def pick_apart(values: np.ndarray, count: int, apart: int) -> list[int]:
    """Return the indices of the largest values, largest first, at least ``apart`` from each other;
    -inf is never taken."""
    left = np.asarray(values, float).copy()
    chosen: list[int] = []
    while len(chosen) < count and len(left):
        k = int(left.argmax())
        if left[k] == -np.inf:
            break
        chosen.append(k)
        left[max(0, k - apart + 1) : k + apart] = -np.inf
    return chosen
