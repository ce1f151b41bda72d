"""One colour for all cameras: what each picture's channels are multiplied by to agree with the main one.

Two cameras that see the same patch of skin in the same frame should give it one colour. The ratio of
what they give, its median over patches and frames, joins them; ratios of all pairs are reconciled by
least squares, so that a camera that shares no skin with the main one is matched through others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from avatar.capture_data import UNIT_GAIN, Landmarks
from avatar.rig.lattice import REGIONS, point_normals

FRAMES = 16
"""Frames that are looked at for each camera, evenly over those in which another sees the face too."""
FACING = 0.55
"""A patch counts where the cosine between its normal and the line of sight is so high in both pictures:
grazing skin shines."""
PATCH = 0.03
"""Width of a patch over the face's height."""
DARK, BRIGHT = 25.0, 235.0
"""Levels of a channel between which a ratio says something: not noise, not clipped."""
FEWEST = 60
"""Patches that two cameras must share."""
ALIKE = 0.03
"""Gains all within this share of 1 are 1: shine and shade, which move with the view, give eight equal
cameras about a rendered head up to 2.9 %."""
WIDEST = 3.0
"""A gain beyond this, or under its inverse, is no white balance but a mistake."""

Gain = tuple[float, float, float]


def skin_points() -> np.ndarray:
    """Indices of points on open skin: nose, cheeks and chin, away from lips, lids, brows and hair."""
    names = ("nose_bridge", "nose_tip", "cheek_left", "cheek_right", "chin")
    return np.array(sorted({point for name in names for point in REGIONS[name]}))


def patches(image: np.ndarray, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour of the skin at each point, and how squarely it is seen.

    Args:
        image: uint8 [H, W, 3] sRGB.
        face: [478, 3] pixels, z in the same unit.

    Returns:
        [n, 3] mean levels (NaN out of the picture) and [n] cosines to the line of sight.
    """
    index = skin_points()
    upright = torch.from_numpy(face.astype(np.float32)) * torch.tensor([1.0, -1.0, -1.0])
    facing = point_normals(upright[None])[0, :, 2].numpy()[index]
    half = max(1, round(PATCH / 2 * float(np.ptp(face[:468, 1]))))
    blurred = cv2.boxFilter(image, cv2.CV_32F, (2 * half + 1, 2 * half + 1))
    place = np.round(face[index, :2] - 0.5).astype(int)
    height, width = image.shape[:2]
    inside = ((place >= half) & (place < [width - half, height - half])).all(1)
    x, y = place.clip(0, [width - 1, height - 1]).T
    return np.where(inside[:, None], blurred[y, x], np.nan), facing


def pair_ratio(
    a: Sequence[tuple[np.ndarray, np.ndarray]], b: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, int] | None:
    """Return the median log ratio [3] of colours in ``a`` over ``b``, and of how many patches.

    Args:
        a: ``patches`` of common frames in one camera.
        b: of the same frames in the other.

    Returns:
        None for too few patches.
    """
    rows = []
    for (one, facing_one), (other, facing_other) in zip(a, b, strict=True):
        low, high = np.minimum(one, other).min(1), np.maximum(one, other).max(1)
        good = (facing_one > FACING) & (facing_other > FACING) & (low > DARK) & (high < BRIGHT)
        rows.append(np.log(one[good] / other[good]))
    ratios = np.concatenate(rows) if rows else np.zeros((0, 3))
    if len(ratios) < FEWEST:
        return None
    return np.median(ratios, axis=0), len(ratios)


def match_colours(
    frame: Sequence[Callable[[int], np.ndarray]],
    landmarks: Sequence[Landmarks],
    main: int,
) -> tuple[list[Gain], list[int]]:
    """Return every camera's gain to the main one, and the cameras that share no skin with it.

    Args:
        frame: gives each camera's picture of a frame, uint8 [H, W, 3] sRGB.
        landmarks: of each camera, pixels of those pictures.
        main: the camera that stays as it is.
    """
    count = len(frame)
    valid = np.stack([marks.valid.numpy() for marks in landmarks])
    chosen = np.zeros(valid.shape[1], bool)
    for k in range(count):
        shared = np.flatnonzero(valid[k] & (valid.sum(0) > 1))
        if len(shared):
            chosen[shared[np.linspace(0, len(shared) - 1, FRAMES).round().astype(int)]] = True
    seen: list[dict[int, tuple[np.ndarray, np.ndarray]]] = [
        {
            int(f): patches(frame[k](int(f)), landmarks[k].points[f].numpy())
            for f in np.flatnonzero(chosen & valid[k])
        }
        for k in range(count)
    ]
    joined: list[tuple[int, int, np.ndarray, int]] = []
    for i in range(count):
        for j in range(i + 1, count):
            both = sorted(seen[i].keys() & seen[j].keys())
            found = pair_ratio([seen[i][f] for f in both], [seen[j][f] for f in both])
            if found is not None:
                joined.append((i, j, *found))
    reached = {main}
    while True:
        more = {k for i, j, *_ in joined if (i in reached) != (j in reached) for k in (i, j)}
        if more <= reached:
            break
        reached |= more
    logs = _reconciled([link for link in joined if link[0] in reached], count, main)
    gains: list[Gain] = []
    for k in range(count):
        gain = np.exp(logs[k]).round(4)
        if np.abs(gain - 1).max() < ALIKE or k == main:
            gain = np.ones(3)
        if gain.max() > WIDEST or gain.min() < 1 / WIDEST:
            gain, reached = np.ones(3), reached - {k}
        gains.append((float(gain[0]), float(gain[1]), float(gain[2])))
    assert gains[main] == UNIT_GAIN
    return gains, [k for k in range(count) if k not in reached]


def _reconciled(
    joined: Sequence[tuple[int, int, np.ndarray, int]], count: int, main: int
) -> np.ndarray:
    """Log gains [C, 3] with x_j - x_i = log(a_i / a_j) as nearly as can be; 0 for the main camera."""
    rows, sides = np.zeros((len(joined) + count, count)), np.zeros((len(joined) + count, 3))
    for row, (i, j, ratio, patches_shared) in enumerate(joined):
        weight = patches_shared**0.5
        rows[row, j], rows[row, i] = weight, -weight
        sides[row] = weight * ratio
    rows[len(joined) :] = 1e-3 * np.eye(count)  # what is joined to nothing stays as it is
    rows[len(joined) + main] *= 1e6
    return np.linalg.lstsq(rows, sides, rcond=None)[0]
