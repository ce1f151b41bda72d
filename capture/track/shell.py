"""The shell: points on temples, ears, scalp and hair, which expressions do not move.

A face that talks and frowns has no point that holds still, and what its skin does is easily taken for
a turn of the head. Around the face there is skin and hair that only the skull moves, some of it ten
centimetres behind the nose, where a turn shows most. The shell starts as an ellipsoid through the
rim of the lattice and is moved to where the pictures say it is, together with the lattice
(``solver.bundle_adjust``): hair, ears and all.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.spatial import Delaunay
from torch import Tensor

from avatar.rig.lattice import POINTS, REGIONS, SKIN_POINTS
from avatar.rig.smooth_field import graph_laplacian
from capture.track.projection import Pose
from capture.track.rig_fit import procrustes
from capture.track.solver import LatticePrior

CENTRE = (0.0, 0.03, -0.005)
"""Middle of the cranium in the head frame, metres."""
HALF_HEIGHT = 0.1
"""From there to the crown, metres."""
SPACING = np.radians(10.0)
"""Angle between neighbouring points: 15 mm, about as far as flow is independent."""
WIDEST, LOWEST, HIGHEST = np.radians([125.0, -38.0, 66.0])
"""Reach of the shell to the sides, down and up, seen from the middle of the cranium."""
EAR_LOBE = -0.035
"""Height below which the neck begins, metres in the head frame."""
BEND_M = 0.004
"""Sigma of how the shell bends away from its ellipsoid: ears and hair stand out."""
ASYMMETRY_M = 0.006
"""Sigma of the difference between the shell's sides: partings."""
AWAY_M = 0.02
"""Sigma of a point's distance from the ellipsoid, metres."""
RIM = tuple(p for p in REGIONS["face_oval"] if p not in REGIONS["jaw_line"])
"""The face's outline without the jaw: what the ellipsoid goes through."""


@dataclass(frozen=True)
class Shell:
    """Topology of the shell; its points follow the lattice's 478 in all arrays."""

    points: Tensor
    """[S, 3] where they start, metres, head frame."""
    triangles: Tensor
    """[T, 3] long, indices into lattice and shell together, wound outwards."""
    partner: Tensor
    """[S] long: mirror images, counted within the shell."""
    chart: np.ndarray
    """[478 + S, 2] longitude and latitude, radians."""


def make_shell(lattice: Tensor, generic: Tensor) -> Shell:
    """Wrap an ellipsoid around the head that a personal lattice [478, 3] belongs to."""
    _, scale, _ = procrustes(generic, lattice[None])
    size = float(scale)
    centre = size * np.array(CENTRE)
    skin = lattice.double().numpy()
    rim = skin[list(RIM)] - centre
    height = HALF_HEIGHT * size
    # x^2 / a^2 + z^2 / c^2 = 1 - y^2 / b^2, linear in the inverse squares.
    A = rim[:, [0, 2]] ** 2
    inverse = np.linalg.lstsq(A, 1 - (rim[:, 1] / height) ** 2, rcond=None)[0]
    width, depth = np.clip(inverse, 1e-9, None) ** -0.5
    width, depth = np.clip([width, depth], (0.065 * size, 0.08 * size), (0.09 * size, 0.115 * size))
    face = _chart(skin, centre)
    outline = face[list(REGIONS["face_oval"])]
    rows: list[tuple[float, float]] = []
    for k, latitude in enumerate(np.arange(LOWEST, HIGHEST, SPACING * np.sqrt(0.75))):
        # Meridians close in towards the crown: keep the spacing along each circle.
        step = SPACING / max(np.cos(latitude), 0.3)
        n = int(WIDEST / step)
        shift = 0.5 * (k % 2)
        rows += [(step * (j + shift), latitude) for j in range(-n, n + 1 - (k % 2))]
    angles = np.array(rows)
    direction = np.stack(
        [
            np.sin(angles[:, 0]) * np.cos(angles[:, 1]),
            np.sin(angles[:, 1]),
            np.cos(angles[:, 0]) * np.cos(angles[:, 1]),
        ],
        1,
    )
    radius = 1 / np.sqrt(((direction / [width, height, depth]) ** 2).sum(1))
    points = centre + direction * radius[:, None]
    near = np.linalg.norm(angles[:, None] - face[None, :SKIN_POINTS], axis=2).min(1)
    keep = ~_inside(outline, angles) & (near > 0.5 * SPACING)
    keep &= points[:, 1] > EAR_LOBE * size
    angles, points = angles[keep], points[keep]
    chart = np.concatenate([face, angles])
    used = np.concatenate([np.arange(SKIN_POINTS), np.arange(POINTS, len(chart))])
    triangles = used[Delaunay(chart[used]).simplices]
    corners = chart[triangles]
    longest = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).max(1)
    ok = (triangles >= POINTS).any(1) & (longest < 2.6 * SPACING)
    ok &= ~_inside(outline, corners.mean(1))
    triangles, corners = triangles[ok], corners[ok]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    turned = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0
    triangles[turned] = triangles[turned][:, [0, 2, 1]]
    mirror = points * [-1, 1, 1]
    partner = np.linalg.norm(mirror[:, None] - points[None], axis=2).argmin(1)
    return Shell(
        torch.from_numpy(points).to(lattice.dtype),
        torch.from_numpy(triangles.astype(np.int64)),
        torch.from_numpy(partner),
        chart,
    )


def _inside(outline: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which places [n, 2] lie inside of a closed outline [m, 2]."""
    polygon = outline.astype(np.float32)
    return np.array([cv2.pointPolygonTest(polygon, (x, y), False) > 0 for x, y in places])


def _chart(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    p = points - centre
    return np.stack(
        [np.arctan2(p[:, 0], p[:, 2]), np.arctan2(p[:, 1], np.hypot(p[:, 0], p[:, 2]))], 1
    )


def head_prior(face: LatticePrior, shell: Shell) -> LatticePrior:
    """Extend a lattice's prior over the shell, which hangs together with the lattice's rim."""
    mean = torch.cat([face.mean.double(), shell.points.double()])
    count, own = len(mean), len(shell.points)
    L = graph_laplacian(mean, shell.triangles)
    L[:POINTS] = 0  # the lattice bends by its own rule
    away = torch.zeros(count, dtype=torch.float64)
    away[POINTS:] = 1 / AWAY_M**2
    smooth = L.T @ L / BEND_M**2 + torch.diag(away)
    identity = torch.eye(own, dtype=torch.float64)
    mirror = identity[shell.partner]
    precision = smooth.expand(3, -1, -1).clone()
    precision[:, :POINTS, :POINTS] += face.precision.double()
    for axis, sign in enumerate((1, -1, -1)):
        E = identity + sign * mirror
        precision[axis, POINTS:, POINTS:] += E.T @ E / ASYMMETRY_M**2 / 2
    return LatticePrior(mean.to(face.mean.dtype), precision)


def shell_facing(points: Tensor, shell: Shell, pose: Pose) -> Tensor:
    """Cosine [F, P] between normals and lines of sight of lattice and shell points [P, 3]."""
    a, b, c = points[shell.triangles].unbind(-2)
    normal = torch.zeros_like(points)
    face = torch.linalg.cross(b - a, c - a)
    for k in range(3):
        normal.index_add_(0, shell.triangles[:, k], face)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    turned = normal @ pose.R.transpose(1, 2)
    sight = points @ pose.R.transpose(1, 2) + pose.t[:, None]
    return -(turned * torch.nn.functional.normalize(sight, dim=-1)).sum(-1)
