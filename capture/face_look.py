"""What one picture of a face says of the person: who it is, and whether dark glasses hide the eyes.

No face recognition network is at hand, and none is needed: the question is never who somebody is,
only whether two stretches of one clip show the same face, in much the same light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from avatar.rig.lattice import lattice_table

PATCH_SIDE = 40
"""Pixels a side of the flattened face: eyes, brows, nose and lips are told apart, noise is not."""

SAME_FACE = 0.8
"""Correlation of two mean flattened faces from which on they are one person. Parts of one clip, with
head turns and speech: 0.84 to 0.99. Of all pairs of the hundred people in scikit-image's
``lfw_subset``, one in a thousand is above 0.79, half are above 0.44."""

SAME_FACE_FEW = 0.7
"""The same where one of the two has few pictures: one alone was at 0.7 of its own mean at worst."""

FEW = 4
"""Fewer pictures than this are few."""

DARK_LENS = 0.5
"""The skin behind a lens of category 2 or darker (ISO 12312-1) sends less than 0.43 squared of its
light, as light passes twice: in sRGB codes under half of the cheek's. Bare eyes have 0.6 to 1."""

LENS = (
    (247, 30, 29, 27, 28, 56, 190, 244, 233, 232, 231, 230, 229, 228, 31, 226),
    (467, 260, 259, 257, 258, 286, 414, 464, 453, 452, 451, 450, 449, 448, 261, 446),
)
"""Outline of what a lens covers, about the subject's right and left eye."""

CHEEK = (
    (117, 118, 119, 120, 47, 142, 36, 205, 187, 123),
    (346, 347, 348, 349, 277, 371, 266, 425, 411, 352),
)
"""Outline of the cheek under each eye."""


@dataclass(frozen=True)
class FaceLook:
    """One face in one picture."""

    turn_deg: float
    """Rough angle by which the face is turned to a side; its size alone."""
    patch: np.ndarray
    """float32 [n] of unit length: the flattened face's log brightness, without its slow changes."""
    lens_level: float
    """Brightness about the eyes over that of the cheeks, of the eye where it is higher."""


def look_at(image: np.ndarray, face: np.ndarray) -> FaceLook | None:
    """Look at a face.

    Args:
        image: uint8 [H, W, 3] sRGB.
        face: [478, 3] landmarks in pixels.

    Returns:
        None where the face is too small or leaves the picture.
    """
    height, width = image.shape[:2]
    low, high = np.floor(face[:468, :2].min(0)).astype(int), np.ceil(face[:468, :2].max(0)) + 1
    x0, y0, x1, y1 = *low, *high.astype(int)
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height or min(x1 - x0, y1 - y0) < PATCH_SIDE:
        return None
    grey = cv2.cvtColor(np.ascontiguousarray(image[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY)
    points = face[:, :2] - (x0, y0)
    across = face[263] - face[33]
    return FaceLook(
        turn_deg=float(np.degrees(np.arctan2(abs(across[2]), across[0]))),
        patch=_flatten(grey, points),
        lens_level=max(_lens_level(grey, points, eye) for eye in (0, 1)),
    )


def same_face(a: Sequence[FaceLook], b: Sequence[FaceLook]) -> bool:
    """Whether two stretches show one person, from one picture or more of each."""
    means = [np.mean([look.patch for look in looks], axis=0) for looks in (a, b)]
    lengths = [float(np.linalg.norm(mean)) for mean in means]
    alike = float(means[0] @ means[1]) / max(lengths[0] * lengths[1], 1e-9)
    return alike >= (SAME_FACE_FEW if min(len(a), len(b)) < FEW else SAME_FACE)


def _flatten(grey: np.ndarray, points: np.ndarray) -> np.ndarray:
    triangle, weights, inside = _flat_map()
    at = (points[lattice_table().triangles.numpy()[triangle]] * weights[..., None]).sum(2)
    blurred = cv2.GaussianBlur(grey, (0, 0), max(0.3, 0.5 * grey.shape[1] / PATCH_SIDE))
    at = at.astype(np.float32)
    flat = cv2.remap(blurred, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
    # Light that comes from a side is slow over the face; what is quick is the face's own.
    log: np.ndarray = np.log(flat.astype(np.float32) + 8) * inside
    sigma = 0.15 * PATCH_SIDE
    slow = cv2.GaussianBlur(log, (0, 0), sigma)
    slow /= cv2.GaussianBlur(inside, (0, 0), sigma) + 1e-3
    patch = (log - slow)[inside > 0]
    patch = patch - patch.mean()
    return patch / max(float(np.linalg.norm(patch)), 1e-9)


@cache
def _flat_map() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every pixel of the flat face: triangle [s, s], weights [s, s, 3], inside (float32 0 or 1)."""
    table = lattice_table()
    flat = table.neutral.numpy()[:, :2] * (1, -1)
    low, high = flat[:468].min(0), flat[:468].max(0)
    flat = (flat - (low + high) / 2) / (high - low).max() * PATCH_SIDE + PATCH_SIDE / 2
    ys, xs = np.mgrid[:PATCH_SIDE, :PATCH_SIDE] + 0.5
    pixels = np.stack([xs.ravel(), ys.ravel(), np.ones(PATCH_SIDE**2)])
    triangle = np.zeros(PATCH_SIDE**2, int)
    weights = np.zeros((PATCH_SIDE**2, 3))
    found = np.zeros(PATCH_SIDE**2, bool)
    for index, corners in enumerate(table.triangles.numpy()):
        matrix = np.concatenate([flat[corners].T, np.ones((1, 3))])
        if corners.max() >= 468 or abs(np.linalg.det(matrix)) < 1e-9:
            continue
        w = np.linalg.solve(matrix, pixels).T
        here = (w >= -1e-6).all(1) & ~found
        triangle[here], weights[here] = index, w[here]
        found |= here
    shape = (PATCH_SIDE, PATCH_SIDE)
    inside = found.reshape(shape).astype(np.float32)
    return triangle.reshape(shape), weights.reshape(*shape, 3), inside


def _lens_level(grey: np.ndarray, points: np.ndarray, eye: int) -> float:
    levels = []
    for outline in (LENS[eye], CHEEK[eye]):
        hull = cv2.convexHull(np.round(points[list(outline)]).astype(np.int32))
        area = cv2.fillConvexPoly(np.zeros(grey.shape, np.uint8), hull, (1,)) > 0
        levels.append(float(np.median(grey[area])) if area.any() else 0.0)
    # A cheek in the dark tells nothing: 16 levels count as bare skin.
    return levels[0] / levels[1] if levels[1] >= 16 else 1.0
