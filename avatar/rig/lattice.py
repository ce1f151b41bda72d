"""The face lattice: 478 named points, their triangles, mirror partners, regions, a neutral start.

Points are in MediaPipe Face Mesh's order (468 of the skin, then five of each iris). Everything here
is in the head frame of ``avatar.types``: metres, x to the subject's left, y up, z out of the face,
origin between the ears. "Left" is always the subject's left.

The table beside this file (triangles, partners, a generic neutral) is our own derivation; it is made
again by ``python -m avatar.rig.make_lattice``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from avatar.tensorfile import read_tensors

POINTS = 478
"""Points of the lattice."""
SKIN_POINTS = 468
"""The first 468 points lie on the skin, the others on the irises."""
IRIS_DIAMETER_M = 0.0117
"""Horizontal visible iris diameter: 11.7 mm with a spread among adults of about 4 %
(Hashemi et al., White-to-white corneal diameter, 2015). It gives the tracker its metric scale."""
EYEBALL_TO_IRIS_M = 0.0098
"""Distance from the eyeball's centre of rotation to the plane of the iris."""

LATTICE_FORMAT = "headsplat.lattice"
LATTICE_VERSION = 1
TABLE = Path(__file__).with_name("lattice.safetensors")

# Lip columns, from the middle to the corner; each column runs from the outer contour to the inner.
_UPPER_MIDDLE = (0, 11, 12, 13)
_UPPER_LEFT = (
    (267, 302, 268, 312),
    (269, 303, 271, 311),
    (270, 304, 272, 310),
    (409, 408, 407, 415),
)
_UPPER_RIGHT = ((37, 72, 38, 82), (39, 73, 41, 81), (40, 74, 42, 80), (185, 184, 183, 191))
_LOWER_MIDDLE = (17, 16, 15, 14)
_LOWER_LEFT = (
    (314, 315, 316, 317),
    (405, 404, 403, 402),
    (321, 320, 319, 318),
    (375, 307, 325, 324),
)
_LOWER_RIGHT = ((84, 85, 86, 87), (181, 180, 179, 178), (91, 90, 89, 88), (146, 77, 96, 95))
_CORNER_LEFT = (291, 306, 292, 308)
_CORNER_RIGHT = (61, 76, 62, 78)

UPPER_LIP_COLUMNS: tuple[tuple[int, ...], ...] = (
    _CORNER_RIGHT, *_UPPER_RIGHT[::-1], _UPPER_MIDDLE, *_UPPER_LEFT, _CORNER_LEFT,
)  # fmt: skip
"""11 columns of the upper lip from the right corner to the left, each outer to inner contour."""
LOWER_LIP_COLUMNS: tuple[tuple[int, ...], ...] = (
    _CORNER_RIGHT, *_LOWER_RIGHT[::-1], _LOWER_MIDDLE, *_LOWER_LEFT, _CORNER_LEFT,
)  # fmt: skip
"""11 columns of the lower lip; the corners are shared with the upper lip."""

_EYE_LEFT_UPPER = (466, 388, 387, 386, 385, 384, 398)
_EYE_LEFT_LOWER = (249, 390, 373, 374, 380, 381, 382)
_EYE_RIGHT_UPPER = (246, 161, 160, 159, 158, 157, 173)
_EYE_RIGHT_LOWER = (7, 163, 144, 145, 153, 154, 155)

REGIONS: dict[str, tuple[int, ...]] = {
    "lip_upper_outer": tuple(column[0] for column in UPPER_LIP_COLUMNS),
    "lip_upper_inner": tuple(column[-1] for column in UPPER_LIP_COLUMNS),
    "lip_lower_outer": tuple(column[0] for column in LOWER_LIP_COLUMNS),
    "lip_lower_inner": tuple(column[-1] for column in LOWER_LIP_COLUMNS),
    "lip_corner_left": _CORNER_LEFT,
    "lip_corner_right": _CORNER_RIGHT,
    # Lids run from the outer to the inner corner; the corners themselves are named apart.
    "lid_left_upper": _EYE_LEFT_UPPER,
    "lid_left_lower": _EYE_LEFT_LOWER,
    "lid_right_upper": _EYE_RIGHT_UPPER,
    "lid_right_lower": _EYE_RIGHT_LOWER,
    "eye_corners_left": (263, 362),
    "eye_corners_right": (33, 133),
    # Brows run from the nose outwards, lower edge and upper edge.
    "brow_left": (285, 295, 282, 283, 276, 336, 296, 334, 293, 300),
    "brow_right": (55, 65, 52, 53, 46, 107, 66, 105, 63, 70),
    "forehead": (10, 151, 9, 108, 69, 104, 68, 71, 337, 299, 333, 298, 301, 109, 67, 103, 338, 297, 332),
    "nose_bridge": (168, 6, 197, 195, 5, 8, 122, 196, 3, 351, 419, 248),
    "nose_tip": (1, 4, 19, 94, 2, 44, 45, 274, 275),
    "nostril_left": (279, 358, 278, 294, 327, 326, 309, 438, 439, 344, 360, 331),
    "nostril_right": (49, 129, 48, 64, 98, 97, 79, 218, 219, 115, 131, 102),
    "cheek_left": (280, 352, 411, 425, 330, 347, 346, 266, 371, 427, 436, 426, 423),
    "cheek_right": (50, 123, 187, 205, 101, 118, 117, 36, 142, 207, 216, 206, 203),
    "jaw_line": (
        323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58, 132, 93,
    ),
    "chin": (152, 175, 199, 200, 18, 396, 171, 377, 148, 428, 208, 262, 32, 369, 140, 421, 201),
    "iris_left": (473, 474, 475, 476, 477),
    "iris_right": (468, 469, 470, 471, 472),
    "face_oval": (
        10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
        148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
    ),
}  # fmt: skip
"""Names of places on the face to point indices."""


def _fan(upper: tuple[int, ...], lower: tuple[int, ...], ends: tuple[int, int]) -> list[list[int]]:
    """Triangulate the opening between two chains that share their ends (ends = first, last)."""
    top, bottom = (ends[0], *upper, ends[1]), (ends[0], *lower, ends[1])
    triangles = []
    for k in range(len(top) - 1):
        if k > 0:
            triangles.append([top[k], bottom[k], top[k + 1]])
        if k < len(top) - 2:
            triangles.append([bottom[k], bottom[k + 1], top[k + 1]])
    return triangles


def _iris(centre: int, ring: tuple[int, ...]) -> list[list[int]]:
    return [[centre, ring[k], ring[(k + 1) % 4]] for k in range(4)]


@dataclass(frozen=True)
class LatticeTable:
    """The constant tables of the lattice."""

    neutral: Tensor
    """[478, 3] metres, head frame: a generic adult face at rest, exactly symmetric."""
    triangles: Tensor
    """[852, 3] long: the skin, without eyes and mouth, wound so that normals point outwards."""
    partner: Tensor
    """[478] long: the mirror image of each point; points of the middle line are their own."""
    eye_triangles: Tensor
    """[28, 3] long: the two eye openings, spanned between the lids (they shut with the lids)."""
    mouth_triangles: Tensor
    """[18, 3] long: the mouth opening, spanned between the inner lip contours."""
    iris_triangles: Tensor
    """[8, 3] long: four of each iris around its centre."""
    edges: Tensor
    """[M, 2] long: edges of the skin triangles, each once, smaller index first."""


@cache
def lattice_table() -> LatticeTable:
    """Read the tables (once; treat them as constants). Raises InputError if the package is damaged."""
    tensors, _ = read_tensors(
        TABLE,
        format=LATTICE_FORMAT,
        version=LATTICE_VERSION,
        required={"neutral": "478 3", "triangles": "T 3", "partner": "478"},
        remedy="The installation is damaged: install headsplat again.",
    )
    neutral, triangles = tensors["neutral"], tensors["triangles"].long()
    eyes = _fan(_EYE_LEFT_UPPER, _EYE_LEFT_LOWER, (263, 362))
    eyes += _fan(_EYE_RIGHT_UPPER, _EYE_RIGHT_LOWER, (33, 133))
    upper = tuple(column[-1] for column in UPPER_LIP_COLUMNS)
    lower = tuple(column[-1] for column in LOWER_LIP_COLUMNS)
    mouth = _fan(upper[1:-1], lower[1:-1], (upper[0], upper[-1]))
    iris = _iris(473, (474, 475, 476, 477)) + _iris(468, (469, 470, 471, 472))
    sides = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]])
    return LatticeTable(
        neutral=neutral,
        triangles=triangles,
        partner=tensors["partner"].long(),
        eye_triangles=_facing_out(torch.tensor(eyes), neutral),
        mouth_triangles=_facing_out(torch.tensor(mouth), neutral),
        iris_triangles=_facing_out(torch.tensor(iris), neutral),
        edges=torch.unique(sides.sort(1).values, dim=0),
    )


def _facing_out(triangles: Tensor, points: Tensor) -> Tensor:
    """Wind triangles [T, 3] so that their normals point along +z (all of them face the camera)."""
    a, b, c = points[triangles].unbind(1)
    away = torch.linalg.cross(b - a, c - a)[:, 2] < 0
    return torch.where(away[:, None], triangles[:, [0, 2, 1]], triangles)


def point_normals(points: Tensor) -> Tensor:
    """Return unit normals [..., 478, 3] of lattices [..., 478, 3]; irises look along the mean of the lids.

    Normals are area-weighted means over the skin and the eye openings.
    """
    table = lattice_table()
    faces = torch.cat([table.triangles, table.eye_triangles, table.iris_triangles])
    corners = points[..., faces, :]
    a, b, c = corners.unbind(-2)
    normal = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(points)
    for k in range(3):
        total.index_add_(-2, faces[:, k], normal)
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-12)


def deform(lattice: Tensor, basis: Tensor, expression: Tensor) -> Tensor:
    """Add expressions to a neutral lattice.

    Args:
        lattice: [478, 3] neutral, metres, head frame.
        basis: [E, 478, 3] displacements at coefficient 1.
        expression: [..., E] coefficients.

    Returns:
        [..., 478, 3] points, head frame. Differentiable in everything.
    """
    flat = expression @ basis.reshape(basis.shape[0], -1)
    return lattice + flat.reshape(*expression.shape[:-1], *lattice.shape)


def eyeball_centres(lattice: Tensor) -> Tensor:
    """Return the centres of rotation [2, 3] of the subject's left and right eyeball.

    They lie behind the neutral iris, straight back in the head frame, so that a neutral lattice
    looks straight ahead.
    """
    iris = torch.stack([lattice[473:478].mean(0), lattice[468:473].mean(0)])
    return iris - lattice.new_tensor([0.0, 0.0, EYEBALL_TO_IRIS_M])
