"""Derive the lattice's table: ``python -m avatar.rig.make_lattice``.

Triangles are the 3-cliques of MediaPipe's tessellation edges (less the two cliques that no face
fills), with three pairs of diagonals turned so that the mesh is its own mirror image. Partners and
the generic neutral come from detections on scikit-image's public-domain portrait (the astronaut
Eileen Collins, NASA) under small turns, scales and mirroring, made symmetric, scaled by the iris,
and brought to rest: she smiles with an open mouth, so the mouth is closed and the jaw raised.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import cv2
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from avatar.rig.lattice import (
    IRIS_DIAMETER_M,
    LATTICE_FORMAT,
    LATTICE_VERSION,
    LOWER_LIP_COLUMNS,
    REGIONS,
    TABLE,
    UPPER_LIP_COLUMNS,
)
from avatar.rig.smooth_field import smooth_field
from avatar.tensorfile import write_tensors

EAR = (454, 234, 356, 127)
"""Points of the face oval nearest to the ears' upper attachment."""


def sides(triangle: np.ndarray) -> list[tuple[int, int]]:
    """Return the three edges of a triangle, smaller index first."""
    a, b, c = sorted(int(i) for i in triangle)
    return [(a, b), (b, c), (a, c)]


def triangles_of(edges: set[tuple[int, int]]) -> np.ndarray:
    """Return the faces [T, 3] of a manifold given by its edges."""
    near: dict[int, set[int]] = {}
    for a, b in edges:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    cliques = sorted({tuple(sorted((a, b, c))) for a, b in edges for c in near[a] & near[b]})
    count = Counter(edge for t in cliques for edge in sides(np.array(t)))
    # An edge has two faces at most: a clique all of whose edges have three is a hull, not a face.
    return np.array([t for t in cliques if any(count[edge] <= 2 for edge in sides(np.array(t)))])


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Move source [N, 3] onto target [N, 3] by the best similarity (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    U, S, Vt = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.linalg.det(U @ Vt)])
    return a @ (U * sign @ Vt).T * ((S * sign).sum() / (a**2).sum()) + target.mean(0)


def detections() -> tuple[np.ndarray, np.ndarray]:
    """Detect the portrait in 20 augmentations, as it is and mirrored: the two means [478, 3]."""
    from mediapipe.python.solutions.face_mesh import FaceMesh
    from skimage.data import astronaut

    picture = astronaut()[0:260, 110:370]
    mesh = FaceMesh(static_image_mode=True, refine_landmarks=True)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for scale in (1.5, 2.0, 2.5, 3.0):
        large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        size = large.shape[0]
        for degrees in (-6, -3, 0, 3, 6):
            turn = cv2.getRotationMatrix2D((size / 2, size / 2), degrees, 1)
            turned = cv2.warpAffine(large, turn, (size, size), borderMode=cv2.BORDER_REPLICATE)
            for mirrored in (0, 1):
                view = np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)
                result: Any = mesh.process(view)
                face = result.multi_face_landmarks[0].landmark
                points = np.array([(p.x, -p.y, -p.z) for p in face]) * size / scale
                found[mirrored].append(points)
    means = []
    for group in found:
        mean = group[0]
        for _ in range(5):
            mean = np.mean([similarity(points, mean) for points in group], 0)
        means.append(mean)
    return means[0], means[1]


def mirror_partners(plain: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Match each point with its mirror image [478] from the detections of both pictures."""
    flipped = mirrored * [-1, 1, 1]
    seed, seed_partner = [33, 263, 61, 291, 10, 152, 1], [263, 33, 291, 61, 10, 152, 1]
    partner = np.arange(478)
    centre, other = flipped[seed].mean(0), plain[seed_partner].mean(0)
    moved = flipped - centre + other
    for _ in range(6):
        distance = np.linalg.norm(moved[:, None] - plain[None], axis=-1)
        distance[468:, :468] = distance[:468, 468:] = 1e3
        partner = linear_sum_assignment(distance**2)[1]
        moved = similarity(flipped, plain[partner])
    assert (partner[partner] == np.arange(478)).all()
    return partner


def symmetric(points: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """Return the nearest lattice [478, 3] that is its own mirror image in the plane x = 0."""
    for _ in range(30):
        points = (points + similarity((points * [-1, 1, 1])[partner], points)) / 2
        across = points - points[partner]
        across = across[across[:, 0] > 0].mean(0)
        x = across / np.linalg.norm(across)
        y = np.array([0.0, 1.0, 0.0]) - x * x[1]
        y /= np.linalg.norm(y)
        points = points @ np.stack([x, y, np.cross(x, y)]).T
        points[:, 0] -= points[:, 0].mean()
    return (points + (points * [-1, 1, 1])[partner]) / 2


def at_rest(points: np.ndarray, partner: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Close the smiling mouth of ``points`` [478, 3] (mm) and let the cheeks follow smoothly.

    The resting mouth is drawn from common proportions: 50 mm wide, lips closed, full lips of 9 and
    10 mm height, corners 10 mm behind the middle of the upper lip.
    """
    nose = points[2]
    across = np.linspace(-1, 1, 11)
    seam = np.stack(
        [25 * np.sign(across) * np.abs(across) ** 0.85, nose[1] - 19 - 1.5 * across**2,
         nose[2] - 5 - 10 * across**2], 1
    )  # fmt: skip
    target: dict[int, np.ndarray] = {}
    for columns, sign, height in ((UPPER_LIP_COLUMNS, 1, 8.0), (LOWER_LIP_COLUMNS, -1, 9.5)):
        for k, column in enumerate(columns):
            corner = k in (0, 10)
            for row, point in enumerate(column):
                open_ = 1 - row / 3
                full = height * (1 - across[k] ** 2) ** 0.7
                shift = [0, sign * full * open_, 3.0 * (1 - across[k] ** 2) * np.sin(np.pi * open_)]
                if corner:
                    shift = [np.sign(across[k]) * 2.5 * open_, 0, -1.0 * open_]
                target[point] = seam[k] + shift
    raised = {
        point: points[point] + [0, 9.0, 5.0]
        for point in (152, 175, 199, 200, 377, 148, 396, 171, 428, 208, 400, 176)
    }
    still = [
        point
        for name, region in REGIONS.items()
        if name.startswith(("lid", "eye", "brow", "forehead", "nose", "nostril"))
        for point in region
    ]
    still += [454, 234, 323, 93, 361, 132, 356, 127, 251, 21, 284, 54]
    handles = {p: t - points[p] for p, t in {**raised, **target}.items()}
    for point in still:
        handles.setdefault(point, np.zeros(3))
    index = np.array(sorted(handles))
    value = np.array([handles[i] for i in index])
    move = smooth_field(
        torch.tensor(points), torch.tensor(triangles), torch.tensor(index), torch.tensor(value)
    ).numpy()
    moved = points + move
    return (moved + (moved * [-1, 1, 1])[partner]) / 2


def main() -> None:
    """Write the table beside ``lattice.py``."""
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

    plain, mirrored = detections()
    partner = mirror_partners(plain, mirrored)
    flipped = similarity((mirrored * [-1, 1, 1])[partner], plain)
    points = symmetric((plain + flipped) / 2, partner)

    faces = triangles_of({(min(a, b), max(a, b)) for a, b in FACEMESH_TESSELATION})
    known = {tuple(t) for t in faces.tolist()}
    # Three quadrilaterals are cut along different diagonals on the two sides: take the left's cut.
    left = [t for t in known if points[list(t), 0].mean() > 1e-6]
    middle = [t for t in known if abs(points[list(t), 0].mean()) <= 1e-6]
    mirrored_left = [tuple(sorted(int(partner[i]) for i in t)) for t in left]
    faces = np.array(sorted({*left, *middle, *mirrored_left}))
    assert len(faces) == len(known)

    wide = np.linalg.norm(points[474] - points[476])
    points *= 1000 * IRIS_DIAMETER_M / wide
    points = at_rest(points, partner, faces)
    points -= points[list(EAR)].mean(0) - [0, 0, 12]
    a, b, c = (points[faces[:, k]] for k in range(3))
    inward = (np.cross(b - a, c - a) * ((a + b + c) / 3 - [0, 10, 0])).sum(1) < 0
    faces[inward] = faces[inward][:, [0, 2, 1]]
    write_tensors(
        TABLE,
        {
            "neutral": torch.tensor(points / 1000, dtype=torch.float32),
            "triangles": torch.tensor(faces, dtype=torch.int16),
            "partner": torch.tensor(partner, dtype=torch.int16),
        },
        format=LATTICE_FORMAT,
        version=LATTICE_VERSION,
        header={},
    )


if __name__ == "__main__":
    main()
