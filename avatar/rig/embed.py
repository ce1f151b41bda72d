"""Lay the face lattice on the mesh of an external rig: where on its surface each of our points lies.

Done once, when a rig is imported. A few places are known (published landmark vertices, or what the
face detector finds on pictures of the mesh); the generic lattice is laid on those, bent smoothly and
drawn onto the surface step by step (a non-rigid iterative closest point method: Amberg, Romdhani and
Vetter, Optimal Step Nonrigid ICP Algorithms for Surface Registration, 2007).

Lips that touch and lids are two surfaces in one place. Which of them a point belongs to shows in how
the surface moves when the jaw opens and when the eyes shut, so both movements are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.rig.lattice import (
    LOWER_LIP_COLUMNS,
    POINTS,
    REGIONS,
    SKIN_POINTS,
    UPPER_LIP_COLUMNS,
    lattice_table,
)
from avatar.rig.similarity import similarity
from avatar.rig.smooth_field import graph_laplacian, smooth_field

REACH = 0.07
"""A surface this far away, in distances between the outer corners of the eyes, draws no point."""
PULLS = (3.0, 1.5, 1.0, 0.75)
"""Stiffness of the lattice in each round."""
NEAREST = 16
"""Triangles with the nearest middles among which the nearest place is looked for."""
LOWER_LIP_SHARE = 0.45
"""Share of the lower lip's way that parts the lips when the jaw opens."""


@dataclass(frozen=True)
class Mesh:
    """A face mesh at rest, in any frame and unit."""

    vertices: Tensor
    """[V, 3]."""
    triangles: Tensor
    """[T, 3] long: the skin of the face alone, without teeth, mouth cavity and eyeballs."""
    jaw: Tensor
    """[V, 3] how far it moves when the jaw opens."""
    lids: Tensor | None
    """[V, 3] how far it moves when both eyes shut; None where the rig cannot."""


@dataclass(frozen=True)
class Embedding:
    """Places of the lattice's 468 skin points on a mesh."""

    triangle: Tensor
    """[468] long, rows of the mesh's triangles."""
    barycentric: Tensor
    """[468, 3]."""

    def of(self, field: Tensor, triangles: Tensor) -> Tensor:
        """Read a field [..., V, 3] on the mesh at the points: [..., 468, 3]."""
        corners = field[..., triangles[self.triangle], :]
        return (corners * self.barycentric[:, :, None].to(field.dtype)).sum(-2)


def lay_lattice(
    mesh: Mesh, known: Tensor, places: Tensor, trust: Tensor | None = None
) -> Embedding:
    """Find the lattice's skin points on a mesh.

    Args:
        mesh: the face.
        known: [K] long, lattice points whose place is known.
        places: [K, 3] where they are, in the mesh's frame.
        trust: [K] in (0, 1], 1 where exact; None for all exact.

    Returns:
        The places of all 468 points.
    """
    table = lattice_table()
    places = places.double()
    trust = torch.ones(len(known)).double() if trust is None else trust.double()
    vertices = mesh.vertices.double()
    generic = table.neutral.double()
    R, scale, shift = similarity(generic[known], places, trust)
    start = scale * generic @ R.T + shift
    width = float((start[33] - start[263]).norm())
    # In units of a face of usual size, so that the stiffness means the same in every unit.
    unit = width / 90.0
    vertices, places, start = vertices / unit, places / unit, start / unit
    exact = trust > 0.99
    points = start.clone()
    if exact.any():
        handles = known[exact]
        points = points + smooth_field(
            start, table.triangles, handles, places[exact] - start[handles], decay=0.005
        )
    bend = graph_laplacian(start, table.triangles)
    bend = bend.T @ bend
    allowed = _sides(mesh, vertices, known, places)
    weight = torch.full((POINTS,), 0.3, dtype=torch.float64)
    weight[known], weight[SKIN_POINTS:] = trust, 0.0
    for stiffness in PULLS:
        target = points.clone()
        which, at = closest(points[:SKIN_POINTS], vertices, mesh.triangles, allowed)
        found = (at[:, :, None] * vertices[mesh.triangles[which]]).sum(1)
        target[:SKIN_POINTS] = found
        target[known] = places
        far = (target - points).norm(dim=-1) > REACH * 90.0
        far[known] = False
        pull = torch.where(far, 0.0, weight)
        stiff = stiffness * bend
        points = torch.linalg.solve(
            stiff + torch.diag(pull + 1e-9), stiff @ points + pull[:, None] * target
        )
    which, at = closest(points[:SKIN_POINTS], vertices, mesh.triangles, allowed)
    return Embedding(which, at)


def _sides(mesh: Mesh, vertices: Tensor, known: Tensor, places: Tensor) -> Tensor:
    """Which vertices [468, V] each point may lie on: its own lip, its own lid."""
    allowed = torch.ones(SKIN_POINTS, len(vertices), dtype=torch.bool)
    jaw = mesh.jaw.double().norm(dim=-1)
    middle = LOWER_LIP_COLUMNS[5]
    lip = [int(torch.nonzero(known == p)[0]) for p in middle if bool((known == p).any())]
    if lip:
        # The lower of the nearby vertices' ways would be the upper lip's, where the lips touch.
        near = torch.cdist(places[lip], vertices).topk(6, largest=False).indices
        jaw = jaw / jaw[near].amax()
        for k in range(1, 10):
            u = abs(k / 5 - 1)
            allowed[list(UPPER_LIP_COLUMNS[k])] = jaw < LOWER_LIP_SHARE
            allowed[list(LOWER_LIP_COLUMNS[k])] = jaw > LOWER_LIP_SHARE - 0.3 * u * u
    if mesh.lids is not None:
        up = _up(known, places)
        shut = mesh.lids.double() @ up
        for side in ("left", "right"):
            allowed[list(REGIONS[f"lid_{side}_lower"])] = shut > 0.2 * shut.min()
    return allowed


def _up(known: Tensor, places: Tensor) -> Tensor:
    """Which way is up on the mesh."""
    R, _, _ = similarity(lattice_table().neutral.double()[known], places)
    return R[:, 1]


def closest(
    points: Tensor, vertices: Tensor, triangles: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the nearest places of a mesh.

    Args:
        points: [P, 3].
        vertices: [V, 3].
        triangles: [T, 3] long.
        allowed: [P, V] bool: a point may only lie on triangles all of whose corners are allowed.

    Returns:
        Triangles [P] long and barycentric coordinates [P, 3].
    """
    far = torch.cdist(points, vertices[triangles].mean(1))
    far = far.masked_fill(~allowed[:, triangles].all(-1), torch.inf)
    near = far.topk(min(NEAREST, len(triangles)), dim=1, largest=False)
    corners = vertices[triangles[near.indices]]
    weights = nearest_in_triangle(points[:, None].expand((*corners.shape[:2], 3)), corners)
    places = (weights[..., None] * corners).sum(-2)
    gap = (places - points[:, None]).square().sum(-1)
    gap = gap.masked_fill(near.values.isinf(), torch.inf)
    best = gap.argmin(1, keepdim=True)
    which = near.indices.gather(1, best)[:, 0]
    return which, weights.gather(1, best[..., None].expand(-1, 1, 3))[:, 0]


def nearest_in_triangle(points: Tensor, corners: Tensor) -> Tensor:
    """Return the barycentric coordinates [..., 3] of the place of a triangle nearest to a point.

    The foot of the perpendicular where it lies inside, else the nearest place of the three sides.

    Args:
        points: [..., 3].
        corners: [..., 3, 3] (corner, coordinate).
    """
    a, b, c = corners.unbind(-2)
    tiny = torch.finfo(points.dtype).tiny
    options = []
    for i, (start, end) in enumerate(((a, b), (b, c), (c, a))):
        side = end - start
        t = ((points - start) * side).sum(-1) / side.square().sum(-1).clamp_min(tiny)
        t = t.clamp(0, 1)
        weights = torch.zeros_like(corners[..., 0])
        weights[..., i], weights[..., (i + 1) % 3] = 1 - t, t
        options.append(weights)
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = (d00 * d11 - d01 * d01).clamp_min(tiny)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    inside = torch.stack([1 - v - w, v, w], -1)
    options.append(torch.where((inside >= 0).all(-1, keepdim=True), inside, options[0]))
    every = torch.stack(options, -2)
    places = (every[..., None] * corners[..., None, :, :]).sum(-2)
    gap = (places - points[..., None, :]).square().sum(-1)
    best = gap.argmin(-1, keepdim=True)[..., None].expand(*gap.shape[:-1], 1, 3)
    return every.gather(-2, best)[..., 0, :]
