"""The inside of the mouth: jaw bone and tongue as points beside the lattice, and the first Gaussians.

A tracker sees no teeth and no tongue, only skin. What sits on the jaw bone moves as the bone does, and not as
the skin of the chin, which presses, puffs and shrugs. So a few points are added to a person's lattice
that move by the jaw's own shapes alone, and others that carry the tongue; Gaussians hang on triangles of
those as they do on triangles of the skin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.rig.arkit import ARKIT_NAMES
from avatar.rig.arkit_drawing import Drawing
from avatar.rig.arkit_shapes_jaw import JAW_TURNS
from avatar.rig.lattice import POINTS, REGIONS, lattice_table

UPPER_LIP, LOWER_LIP = 13, 14
"""Lattice points in the middle of the inner lips."""
INNER_LIPS = REGIONS["lip_upper_inner"] + REGIONS["lip_lower_inner"]

# Offsets in millimetres (y up, z out) of the jaw's three points from the middle of the lower lip.
_JAW_MM = ((0.0, 0.0), (-40.0, -15.0), (0.0, -60.0))

# Stations of the tongue from its root to its tip, from the middle between the lips: its upper side
# (y, z) at rest, its upper side put out, and how thick it is at rest and put out.
_TONGUE_MM = (
    ((-16.0, -42.0), (-14.0, -36.0), 9.0, 9.0),
    ((-7.0, -34.0), (-4.0, -18.0), 11.0, 9.0),
    ((-8.0, -25.0), (0.5, 4.0), 9.0, 7.0),
    ((-12.0, -17.0), (-11.0, 15.0), 4.0, 5.0),
    ((-14.0, -14.5), (-22.0, 15.5), 3.0, 3.5),
)
TONGUE_HALF_WIDTH_MM = 12.0

JAW_TRIANGLES = 1
INNER_POINTS = len(_JAW_MM) + 2 * len(_TONGUE_MM)
"""Points beside the 478 of the skin."""

_CROWN_MM = 9.0
"""Height of a tooth; beyond it is gum."""
_TOOTH_EDGES_MM = {"upper": (0.0, 8.4, 15.0, 22.5), "lower": (0.0, 5.3, 11.1, 17.8)}
"""Where teeth meet, from the middle line."""


def skin_triangles() -> int:
    """Return how many of a person's triangles are skin; the ones after them carry the mouth's inside."""
    return len(lattice_table().triangles)


@dataclass(frozen=True)
class InnerRig:
    """What is added to a person's lattice."""

    points: Tensor
    """[INNER_POINTS, 3] at rest, head frame, metres; all in the plane x = that of the lips."""
    basis: Tensor
    """[E, INNER_POINTS, 3] displacement at coefficient 1, metres."""
    triangles: Tensor
    """[T, 3] int64 indices into the lattice with the points appended."""


def inner_rig(lattice: Tensor, basis: Tensor, names: tuple[str, ...]) -> InnerRig:
    """Draw the points of jaw and tongue of one person.

    The bone moves with the four shapes of the jaw as far as the person's chin does, rigidly; with a shape
    that is the person's own by what of it the jaw explains; with no other.

    Args:
        lattice: [478, 3] neutral, metres.
        basis: [E, 478, 3] at coefficient 1.
        names: the E expressions' names.
    """
    draw = Drawing(lattice[:POINTS])
    unit = draw.unit
    lips = lattice[torch.tensor([UPPER_LIP, LOWER_LIP])].double()
    # The lips' surface in the middle, whichever of them lies further back.
    middle = lips.mean(0)
    middle[2] = lips[:, 2].min()
    jaw = torch.stack([lips[1] + _yz(*offset, unit) for offset in _JAW_MM])
    tops = torch.stack([middle + _yz(*top, unit) for top, _, _, _ in _TONGUE_MM])
    outs = torch.stack([middle + _yz(*out, unit) for _, out, _, _ in _TONGUE_MM])
    thick = torch.tensor([row[2:] for row in _TONGUE_MM], dtype=torch.float64) * unit
    points = torch.cat([jaw, tops, _under(tops, thick[:, 0])])

    turned = [draw.on_jaw(points, *turn) for turn in JAW_TURNS.values()]
    chin = torch.tensor(REGIONS["chin"])
    ways = torch.stack(
        [draw.on_jaw(draw.neutral[chin], *turn).flatten() for turn in JAW_TURNS.values()]
    )
    # Left and right are one way there and back; of the bone's three ways these are the shares.
    ways = ways[:3]
    field = torch.zeros(len(basis), len(points), 3, dtype=torch.float64)
    for index, name in enumerate(names):
        if name in ARKIT_NAMES and name not in JAW_TURNS:
            continue
        skin = basis[index, chin].double().flatten()
        shares = torch.linalg.lstsq(ways.T, skin[:, None]).solution[:, 0]
        field[index] = sum(
            share * way for share, way in zip(shares.tolist(), turned[:3], strict=True)
        )
    out = torch.cat([outs, _under(outs, thick[:, 1])])
    field[names.index("tongueOut"), len(jaw) :] += out - points[len(jaw) :]

    count = len(_TONGUE_MM)
    top = POINTS + len(jaw) + torch.arange(count)
    bottom = top + count
    strip = [
        torch.stack([top[:-1], bottom[:-1], top[1:]], 1),
        torch.stack([bottom[:-1], bottom[1:], top[1:]], 1),
    ]
    bone = POINTS + torch.arange(3)[None]
    return InnerRig(
        points.to(lattice.dtype), field.to(basis.dtype), torch.cat([bone, *strip]).long()
    )


def _yz(y: float, z: float, unit: float) -> Tensor:
    return torch.tensor([0.0, y, z], dtype=torch.float64) * unit


def _under(tops: Tensor, thick: Tensor) -> Tensor:
    """Return the lower side [n, 3] of a tongue whose upper side is ``tops`` and that is ``thick`` [n]."""
    along = torch.empty_like(tops)
    along[1:-1] = tops[2:] - tops[:-2]
    along[0], along[-1] = tops[1] - tops[0], tops[-1] - tops[-2]
    along = torch.nn.functional.normalize(along, dim=1)
    # A quarter turn in the plane, from forwards to downwards.
    down = torch.stack([torch.zeros_like(thick), -along[:, 2], along[:, 1]], 1)
    return tops + down * thick[:, None]


def plane_weights(corners: Tensor, points: Tensor) -> Tensor:
    """Weights [..., 3], summing to one, that carry points by triangles that lie in a plane of constant x.

    Unlike barycentric weights held inside of a triangle they may be negative: what three points of a bone do
    says what all of the bone does.

    Args:
        corners: [..., 3, 3].
        points: [..., 3]; x does not count.
    """
    a, b, c = corners[..., 1:].unbind(-2)
    ab, ac, ap = b - a, c - a, points[..., 1:] - a
    area = ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]
    v = (ap[..., 0] * ac[..., 1] - ap[..., 1] * ac[..., 0]) / area
    w = (ab[..., 0] * ap[..., 1] - ab[..., 1] * ap[..., 0]) / area
    return torch.stack([1 - v - w, v, w], -1)


@dataclass(frozen=True)
class InsideMouth:
    """The first Gaussians inside the mouth."""

    means: Tensor
    """[n, 3] metres, head frame."""
    colours: Tensor
    """[n, 3] sRGB."""
    scale_m: Tensor
    """[n] standard deviations, metres."""
    triangle: Tensor
    """[n] int64."""
    weights: Tensor
    """[n, 3]."""
    follow: Tensor
    """[n]: 0 on upper teeth, 1 on lower teeth and tongue, rising from palate to floor on the wall."""


def fill_mouth(
    lattice: Tensor,
    triangles: Tensor,
    count: int,
    colour_of: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> InsideMouth:
    """Make teeth, tongue and the dark wall behind them.

    Args:
        lattice: [478 + INNER_POINTS, 3] a person's, with the points of ``inner_rig``.
        triangles: [T, 3] a person's, with those of ``inner_rig``.
        count: Gaussians in all, about.
        colour_of: colours [n, 3] of points [n, 3] of the skin in a picture; the tongue takes the lips'.
        generator: source of randomness.
    """
    lips = lattice[torch.tensor(INNER_LIPS)]
    upper, lower = lattice[UPPER_LIP], lattice[LOWER_LIP]
    half = float(lips[:, 0].max() - lips[:, 0].min()) / 2
    middle = lips.mean(0)
    front = float(torch.minimum(upper[2], lower[2]))
    corner = float(lips[[0, 10], 2].mean())
    teeth, tongue = round(0.2 * count), round(0.25 * count)
    wall = count - 2 * teeth - tongue
    # Teeth stand behind the lips on an arch that stays behind the corners of the mouth when they smile.
    bend = max(12.0, (front - 0.0045 - (corner - 0.014)) / half**2)

    def row(top: float, height: float, kind: str, colour: tuple[float, float, float], back: float):
        u = torch.rand(teeth, 2, generator=generator)
        x = (u[:, 0] * 2 - 1) * half * 0.85
        below = u[:, 1] * height  # from the cutting edge
        y = top + (below if kind == "upper" else -below)
        z = front - back - bend * x.square()
        edges = torch.tensor(_TOOTH_EDGES_MM[kind]) * 1e-3
        gap = (x.abs()[:, None] - edges).abs().amin(1)
        shade = 1 - 0.35 * torch.exp(-((gap / 0.0007) ** 2))
        rgb = torch.tensor(colour) * shade[:, None]
        gum = (below > _CROWN_MM * 1e-3)[:, None]
        rgb = torch.where(gum, torch.tensor([0.55, 0.28, 0.28]), rgb)
        area = 2 * half * 0.85 * height
        sigma = torch.full((teeth,), 0.6 * math.sqrt(area / max(1, teeth)))
        return torch.stack([x + middle[0], y, z], 1), rgb, sigma

    # Lips at rest show 3 mm of the upper teeth; lips that rest apart show what is between them.
    edge = float(upper[1]) - 0.003 - 0.5 * max(0.0, float(upper[1] - lower[1]))
    upper_row = row(edge, 0.014, "upper", (0.62, 0.54, 0.50), 0.0045)
    lower_row = row(edge - 0.001, 0.008, "lower", (0.55, 0.46, 0.43), 0.0105)

    # The wall is a bowl from the lips back, drawn as it is stretched with the jaw open.
    disc = torch.rand(wall, 2, generator=generator)
    radius, angle = disc[:, 0].sqrt(), disc[:, 1] * 2 * math.pi
    a, b = radius * angle.cos(), radius * angle.sin()
    depth = (1 - radius.square()).clamp(min=0).sqrt()
    bowl = torch.stack(
        [
            middle[0] + a * half * 1.15,
            middle[1] - 0.006 + b * 0.022,
            corner - 0.004 - depth * 0.042,
        ],
        1,
    )
    dark = torch.tensor([0.13, 0.06, 0.06]) * (0.6 + 0.4 * radius[:, None])
    wall_sigma = torch.full((wall,), 0.8 * math.sqrt(2 * math.pi * half * 0.040 / max(1, wall)))
    drawn = [upper_row, lower_row, (bowl, dark, wall_sigma)]
    means, colours, sigmas = (torch.cat(part) for part in zip(*drawn, strict=True))
    bone = skin_triangles()
    weights = plane_weights(lattice[triangles[bone]], means)
    follow = torch.cat([torch.zeros(teeth), torch.ones(teeth), (0.5 - 0.5 * b).clamp(0, 1)])
    triangle = torch.full((len(means),), bone)

    body = _tongue(lattice, triangles, tongue, colour_of, generator)
    return InsideMouth(
        torch.cat([means, body.means]),
        torch.cat([colours, body.colours]),
        torch.cat([sigmas, body.scale_m]),
        torch.cat([triangle, body.triangle]),
        torch.cat([weights, body.weights]),
        torch.cat([follow, body.follow]),
    )


def _tongue(
    lattice: Tensor,
    triangles: Tensor,
    count: int,
    colour_of: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> InsideMouth:
    """Cover the tongue: flattened across, rounded at its tip."""
    stations = len(_TONGUE_MM)
    tops = lattice[POINTS + 3 : POINTS + 3 + stations]
    bottoms = lattice[POINTS + 3 + stations : POINTS + 3 + 2 * stations]
    scale = float((tops[0] - bottoms[0]).norm()) / (_TONGUE_MM[0][2] * 1e-3)
    u = torch.rand(count, 2, generator=generator)
    # What comes out is seen, so it is covered more densely than the root.
    along = u[:, 0].sqrt() * (stations - 1) * 0.999
    cell = along.long()
    part = (along - cell)[:, None]
    round_ = u[:, 1] * 2 * math.pi
    share = along / (stations - 1)
    width = TONGUE_HALF_WIDTH_MM * 1e-3 * scale * (1 - (share - 0.45).clamp(min=0).div(0.56) ** 2.5)
    x = width.clamp(min=0.002) * round_.cos()
    top = torch.lerp(tops[cell], tops[cell + 1], part)
    bottom = torch.lerp(bottoms[cell], bottoms[cell + 1], part)
    means = torch.lerp(bottom, top, (round_.sin() + 1)[:, None] / 2)
    first = skin_triangles() + JAW_TRIANGLES
    corners = lattice[triangles[first:]]
    every = plane_weights(corners[None], means[:, None].expand(-1, len(corners), -1))
    best = every.amin(-1).argmax(1)
    weights = every[torch.arange(count), best]
    means[:, 0] += x
    lip = colour_of(lattice[torch.tensor(REGIONS["lip_lower_inner"][3:8])]).median(0).values
    red = torch.lerp(lip, torch.tensor([0.66, 0.34, 0.34]), 0.5)
    # A furrow along the middle, a darker underside and a dark root, where no light comes.
    light = 0.9 + 0.1 * round_.sin() - 0.12 * torch.exp(-((x / 0.0012) ** 2)) * (round_.sin() > 0)
    light = light * (0.45 + 0.55 * (share / 0.6).clamp(max=1))
    light = light + 0.03 * torch.randn(count, generator=generator)
    sigma = torch.full((count,), 1.7e-3 * math.sqrt(200 / max(1, count)) * scale)
    return InsideMouth(means, red * light[:, None], sigma, first + best, weights, torch.ones(count))
