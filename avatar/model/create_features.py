"""Parts of a first avatar that need anatomy: eyeballs behind the lids, clear openings; and binding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar.model.avatar import Person
from avatar.model.binding import HEAD, MOUTH, Binding
from avatar.model.mouth import INNER_LIPS, InnerRig, fill_mouth
from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.lattice import LOWER_LIP_COLUMNS, REGIONS, UPPER_LIP_COLUMNS, lattice_table

CHIN = 152
"""Lattice point at the bottom of the chin."""
EYE_CONTOURS = tuple(
    REGIONS[f"eye_corners_{side}"][:1]
    + REGIONS[f"lid_{side}_upper"]
    + REGIONS[f"eye_corners_{side}"][1:]
    + REGIONS[f"lid_{side}_lower"][::-1]
    for side in ("left", "right")
)
"""Closed chains of lattice points around the lids' openings: subject's left, right."""
FOLLOW_RANGE_M = 0.022
"""Distance over which hair and neck stop following the nearest skin."""
LID_M = 0.0015
"""Between the eyeball and the lattice of the shut lid: the lid's Gaussians have a thickness."""
SMALLEST_EYEBALL_M = 0.008
"""A lattice that cuts deeper than this into the eye is wrong; adults' eyeballs have 12 mm."""


@dataclass(frozen=True)
class Part:
    """Gaussians of one region."""

    means: Tensor
    colours: Tensor
    scale_m: float | Tensor
    """Standard deviation, or one for each [n], metres."""
    torso_logits: Tensor
    follow: Tensor
    """[n] share of the skin's motion to take; NaN asks for the usual fade with distance."""
    eye: int = -1
    kind: int = HEAD
    """``HEAD``, ``MOUTH`` or ``TORSO``."""
    triangle: Tensor | None = None
    """[n] triangle to hang on where that is known; else the nearest."""
    weights: Tensor | None = None
    """[n, 3] of its corners."""
    opacity: float | Tensor = 0.7
    """Of all, or of each [n]."""

    def __getitem__(self, index: Tensor) -> Part:
        rows = {"means": self.means, "colours": self.colours, "follow": self.follow}
        rows |= {"torso_logits": self.torso_logits, "triangle": self.triangle}
        rows |= {"weights": self.weights, "scale_m": self.scale_m, "opacity": self.opacity}
        return replace(
            self, **{k: v[index] if isinstance(v, Tensor) else v for k, v in rows.items()}
        )


def nearest_vertex(vertices: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index [n] of and the distance [n] to the nearest vertex [V, d] of points [n, d]."""
    found = [torch.cdist(chunk, vertices).min(1) for chunk in points.split(16384)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


def with_inner_rig(person: Person, inner: InnerRig) -> Person:
    """Append the points and triangles of the mouth's inside to a person's lattice."""
    return replace(
        person,
        lattice=torch.cat([person.lattice, inner.points]),
        basis=torch.cat([person.basis, inner.basis], 1),
        triangles=torch.cat([person.triangles, inner.triangles]),
    )


def near_openings() -> Tensor:
    """Return which triangles of the skin [T] bool lie on a lip or at a lid's edge."""
    points = [p for column in (*UPPER_LIP_COLUMNS, *LOWER_LIP_COLUMNS) for p in column]
    points += [p for contour in EYE_CONTOURS for p in contour]
    return torch.isin(lattice_table().triangles, torch.tensor(points)).any(1)


def largest_areas(lattice: Tensor, basis: Tensor, triangles: Tensor) -> Tensor:
    """Return the area [T] of each triangle at rest or in the shape that stretches it most, m^2.

    An upper lid that comes down, a lip that stretches: sampled as they lie at rest, they would tear.
    """

    def areas(points: Tensor) -> Tensor:
        a, b, c = points[..., triangles, :].unbind(-2)
        return torch.linalg.norm(torch.linalg.cross(b - a, c - a), dim=-1) / 2

    shapes = basis[: len(ARKIT_INDEX)].clone()
    shapes[ARKIT_INDEX["mouthClose"]] += shapes[ARKIT_INDEX["jawOpen"]]
    rest = areas(lattice)
    return torch.maximum(rest, areas(lattice + shapes).amax(0)).clamp(max=4 * rest)


def eyeball_radii(lattice: Tensor, basis: Tensor, eyeballs: Tensor) -> Tensor:
    """Return the radii [2], metres, at which eyeballs lie behind the lids, open or shut.

    Lids move along straight lines between open and shut, so they come nearest to the eye when shut.

    Args:
        lattice: [V, 3] neutral.
        basis: [E, V, 3] at coefficient 1, Apple's first.
        eyeballs: [2, 3] centres.
    """
    face = lattice_table().triangles
    steps = torch.tensor(
        [(i / 6, j / 6, 1 - (i + j) / 6) for i in range(7) for j in range(7 - i)],
        dtype=lattice.dtype,
    )
    radii = []
    for side, name in enumerate(("Left", "Right")):
        shut = lattice + basis[ARKIT_INDEX[f"eyeBlink{name}"]]
        near = torch.isin(face, torch.tensor(EYE_CONTOURS[side])).any(1)
        surface = torch.einsum("gk,tkc->tgc", steps, shut[face[near]]).reshape(-1, 3)
        away = surface - eyeballs[side]
        # Beside the eye the skin leaves the lids; before it, it must clear the eye.
        before = away[:, 2] > 0.5 * away[:, :2].norm(dim=1)
        clear = away[before].norm(dim=1).quantile(0.02) if before.any() else away.new_tensor(0.011)
        contour = lattice[torch.tensor(EYE_CONTOURS[side])]
        open_ = (contour - eyeballs[side]).norm(dim=1).median() * 0.98
        radii.append(torch.minimum(clear - LID_M, open_).clamp(min=SMALLEST_EYEBALL_M))
    return torch.stack(radii)


def eyeball(
    person: Person,
    side: int,
    count: int,
    colour_of: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Part:
    """Sample the eyeball behind the lids' opening, a little beyond it so that turning shows no gap."""
    contour = person.lattice[torch.tensor(EYE_CONTOURS[side])]
    centre = person.eyeballs[side]
    middle = contour.mean(0)
    polygon = ((contour[:, :2] - middle[:2]) * 1.25).numpy().astype(np.float32)
    low, high = torch.from_numpy(polygon.min(0)), torch.from_numpy(polygon.max(0))
    drawn = torch.rand(count * 8, 2, generator=generator) * (high - low) + low
    inside = [cv2.pointPolygonTest(polygon, (float(x), float(y)), False) >= 0 for x, y in drawn]
    flat = drawn[torch.tensor(inside)][:count] + middle[:2]
    area = float(np.prod((high - low).numpy())) * 0.7
    scale = 0.6 * math.sqrt(area / max(1, len(flat)))
    # All of a Gaussian is to be behind the lid, not its middle alone.
    radius = float(eyeball_radii(person.lattice, person.basis, person.eyeballs)[side]) - scale
    offset = flat - centre[:2]
    z = (radius**2 - (offset**2).sum(1)).clamp(min=(0.3 * radius) ** 2).sqrt()
    arm = torch.cat([offset, z[:, None]], 1)
    # What is off to the side goes round the eye, rather than straight back.
    points = centre + arm * (0.999 * radius / arm.norm(dim=1)).clamp(max=1)[:, None]
    zero = torch.zeros(len(points))
    return Part(points, colour_of(points), scale, zero - 5, zero, eye=side)


def mouth(
    person: Person,
    count: int,
    colour_of: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Part:
    """Teeth, tongue and a dark wall behind the lips, on the points of ``with_inner_rig``."""
    made = fill_mouth(person.lattice, person.triangles, count, colour_of, generator)
    torso = torch.full((len(made.means),), -5.0)
    return Part(
        made.means,
        made.colours,
        made.scale_m,
        torso,
        made.follow,
        kind=MOUTH,
        triangle=made.triangle,
        weights=made.weights,
    )


def clear_openings(person: Person, part: Part) -> Part:
    """Drop what lies behind the openings of mouth and eyes, where it would shine through them.

    The hull is solid, and what is left of it behind the face has the skin's colour.
    """
    lips = person.lattice[torch.tensor(INNER_LIPS)]
    half = float(lips[:, 0].max() - lips[:, 0].min()) / 2
    x, y, z = (part.means - lips.mean(0)).unbind(1)
    # An open jaw uncovers what is above the chin; what is level with it is the underside of the jaw.
    above = part.means[:, 1] > person.lattice[CHIN, 1] + 0.012
    inside = (x.abs() < half + 0.01) & above & (y < 0.016) & (z > -0.09) & (z < 0.02)
    for centre in person.eyeballs:
        away = part.means - centre
        inside |= (away[:, :2].norm(dim=1) < 0.017) & (away[:, 2].abs() < 0.03)
    return part[~inside]


def bind(
    person: Person,
    points: Tensor,
    follow: Tensor,
    eye: Tensor,
    triangle: Tensor | None = None,
    weights: Tensor | None = None,
) -> Binding:
    """Hang canonical points [N, 3] on the lattice.

    Args:
        person: whose lattice.
        points: [N, 3] metres, head frame.
        follow: [N] share of the motion to take; NaN fades with the distance to the skin, a number
            stands, and then a point whose triangle is not given takes the motion of the chin.
        eye: [N] 0 or 1 on an eyeball, else -1.
        triangle: [N] triangle to hang on, -1 for the nearest of the skin; all the nearest by default.
        weights: [N, 3] of its corners, where ``triangle`` is given.
    """
    skin = person.triangles[: len(lattice_table().triangles)]
    if triangle is None or weights is None:
        triangle, weights = torch.full((len(points),), -1), points.new_zeros(len(points), 3)
    known = triangle >= 0
    corners = person.lattice[skin]
    nearest, _ = nearest_vertex(corners.mean(1), points)
    fixed = ~torch.isnan(follow)
    chin = int((skin == CHIN).any(1).nonzero()[0, 0])
    nearest[fixed] = chin
    found = barycentric_weights(corners[nearest], points)
    found[fixed] = (skin[chin] == CHIN).float()
    place = (corners[nearest] * found[..., None]).sum(1)
    distance = torch.linalg.norm(points - place, dim=1)
    fade = torch.exp(-((distance / FOLLOW_RANGE_M) ** 2))
    return Binding(
        torch.where(known, triangle, nearest),
        torch.where(known[:, None], weights, found),
        torch.where(fixed, follow.nan_to_num(), fade),
        eye,
        torch.full_like(eye, HEAD),
    )


def barycentric_weights(corners: Tensor, points: Tensor) -> Tensor:
    """Barycentric weights [n, 3] of the points [n, 3] nearest in triangles [n, 3, 3], held inside."""
    a, b, c = corners.unbind(1)
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    d20, d21 = (ap * ab).sum(1), (ap * ac).sum(1)
    determinant = (d00 * d11 - d01 * d01).clamp(min=1e-12)
    v = (d11 * d20 - d01 * d21) / determinant
    w = (d00 * d21 - d01 * d20) / determinant
    weights = torch.stack([1 - v - w, v, w], 1).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
