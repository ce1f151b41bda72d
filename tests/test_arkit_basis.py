"""Do the drawn ARKit shapes mean what their names mean elsewhere, and are they sound as surfaces?

Sizes and directions are measured against the public ICT-FaceKit head, whose sculpted shapes carry
ARKit's names: our lattice is laid on its neutral face, our shapes are drawn on that lattice, and both
displacements are compared in millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import arkit_basis, generic_arkit_basis
from avatar.rig.lattice import (
    LOWER_LIP_COLUMNS,
    POINTS,
    REGIONS,
    SKIN_POINTS,
    UPPER_LIP_COLUMNS,
    lattice_table,
)
from avatar.rig.smooth_field import graph_laplacian, smooth_field

DRAWN = [n for n in ARKIT_NAMES if n != "tongueOut" and not n.endswith("Right")]
"""Left and middle shapes; right ones mirror them, which test_rig_lattice.py holds."""

SMALLEST_COSINE = 0.8
SIZES = (0.75, 1.3)

# Our points on the 51 inner points and the chin's tip of the 68 that the public head publishes, in
# the usual order of those 68, and its vertices there.
CHIN_AND_INNER = (
    152, 70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
PUBLIC_VERTICES = (
    966, 268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075,
    1147, 4269, 3360, 1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732,
    5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702, 5711, 5533, 6216,
    6207, 6470, 5517, 5966,
)  # fmt: skip
PUBLIC_FACE = 9409
"""Vertices of the public head's face, without neck, mouth cavity, teeth and eyeballs."""


def shape(name: str) -> Tensor:
    """One generic shape [478, 3] in millimetres."""
    return 1000 * generic_arkit_basis()[ARKIT_INDEX[name]].double()


def posed(**coefficients: float) -> Tensor:
    """The generic lattice [478, 3] in millimetres under named coefficients."""
    moved = 1000 * lattice_table().neutral.double()
    for name, value in coefficients.items():
        moved = moved + value * shape(name)
    return moved


# ------------------------------------------------------------------ against the public head


@dataclass(frozen=True)
class PublicHead:
    """The public head, carried by our lattice."""

    lattice: Tensor
    """[478, 3] millimetres: our points on its neutral face; irises beside their lids."""
    shapes: dict[str, Tensor]
    """Apple's name to its displacement at our points, [478, 3] millimetres; irises 0."""


def closest(points: Tensor, vertices: Tensor, triangles: Tensor, allowed: Tensor):
    """Find the nearest places of a mesh: (triangle [P], barycentric [P, 3]) among allowed [P, V]."""
    grid = torch.tensor([(i / 8, j / 8, 1 - (i + j) / 8) for i in range(9) for j in range(9 - i)])
    grid = grid.to(points)
    far = torch.cdist(points, vertices[triangles].mean(1))
    far = far.masked_fill(~allowed[:, triangles].all(-1), torch.inf)
    near = far.topk(10, dim=1, largest=False)
    places = torch.einsum("gk,ptkc->ptgc", grid, vertices[triangles[near.indices]])
    gap = (places - points[:, None, None]).square().sum(-1)
    gap = gap.masked_fill(near.values.isinf()[..., None], torch.inf)
    best = gap.flatten(1).argmin(1)
    which = near.indices.gather(1, (best // len(grid))[:, None])[:, 0]
    return which, grid[best % len(grid)]


@pytest.fixture(scope="module")
def public_head(data) -> PublicHead:
    """Lay the lattice on the public head: by its published points, then smoothly onto its skin."""
    with np.load(data("ict_facekit_light.npz")) as file:
        vertices = torch.from_numpy(10.0 * file["neutral"][:PUBLIC_FACE]).double()
        triangles = torch.from_numpy(file["tri"]).long()
        moves = torch.from_numpy(10.0 * file["expr"][:, :PUBLIC_FACE].astype(np.float64))
        names = [str(n).replace("_L", "Left").replace("_R", "Right") for n in file["names"]]
    triangles = triangles[(triangles < PUBLIC_FACE).all(1)]
    public = dict(zip(names, moves, strict=True))
    for name in ("browInnerUp", "cheekPuff"):
        public[name] = public.pop(f"{name}Left") + public.pop(f"{name}Right")
    # Lips touch and lids are thin: which of the two a place belongs to shows in what moves it.
    jaw = public["jawOpen"].norm(dim=-1)
    jaw = jaw / jaw[PUBLIC_VERTICES[-2]]
    shut = (public["eyeBlinkLeft"] + public["eyeBlinkRight"])[:, 1]
    allowed = torch.ones(POINTS, PUBLIC_FACE, dtype=torch.bool)
    for k in range(1, 10):
        u = abs(k / 5 - 1)
        allowed[list(UPPER_LIP_COLUMNS[k])] = jaw < 0.45
        allowed[list(LOWER_LIP_COLUMNS[k])] = jaw > 0.45 - 0.3 * u * u
    for side in ("left", "right"):
        allowed[list(REGIONS[f"lid_{side}_lower"])] = shut > -2

    table = lattice_table()
    ours, theirs = torch.tensor(CHIN_AND_INNER), vertices[list(PUBLIC_VERTICES)]
    eyes = [CHIN_AND_INNER.index(p) for p in (33, 263)]
    start = 1000 * table.neutral.double()
    start *= (theirs[eyes[0]] - theirs[eyes[1]]).norm() / (start[33] - start[263]).norm()
    start += theirs[eyes].mean(0) - start[[33, 263]].mean(0)
    points = start + smooth_field(start, table.triangles, ours, theirs - start[ours], decay=0.005)
    bend = graph_laplacian(start, table.triangles)
    bend = bend.T @ bend
    weight = torch.full((POINTS,), 0.3, dtype=torch.float64)
    weight[ours], weight[SKIN_POINTS:] = 1.0, 0.0
    for round_ in range(4):
        which, at = closest(points, vertices, triangles, allowed)
        target = torch.einsum("pk,pkc->pc", at, vertices[triangles[which]])
        target[ours] = theirs
        near = torch.where((target - points).norm(dim=-1) > 6, 0.0, weight)
        stiff = 3.0 / (1 + round_) * bend
        system = stiff + torch.diag(near + 1e-9)
        points = torch.linalg.solve(system, stiff @ points + near[:, None] * target)
    which, at = closest(points, vertices, triangles, allowed)
    lattice = torch.einsum("pk,pkc->pc", at, vertices[triangles[which]])
    for side, corners in (("left", (263, 362)), ("right", (33, 133))):
        iris = list(REGIONS[f"iris_{side}"])
        lattice[iris] = start[iris] + lattice[list(corners)].mean(0) - start[list(corners)].mean(0)
    shapes = {n: torch.einsum("pk,pkc->pc", at, m[triangles[which]]) for n, m in public.items()}
    for move in shapes.values():
        move[SKIN_POINTS:] = 0
    return PublicHead(lattice, shapes)


@pytest.fixture(scope="module")
def drawn_on_it(public_head: PublicHead) -> Tensor:
    """Our shapes on that head [52, 478, 3], millimetres, without the irises."""
    basis = 1000 * arkit_basis(public_head.lattice / 1000)
    basis[:, SKIN_POINTS:] = 0
    return basis


def areas(lattice: Tensor) -> Tensor:
    """Skin area of each point [478, 1]."""
    table = lattice_table()
    a, b, c = lattice[table.triangles].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1) / 6
    total = lattice.new_zeros(POINTS)
    for k in range(3):
        total.index_add_(0, table.triangles[:, k], area)
    return total[:, None]


def test_the_lattice_lies_on_the_public_head(public_head: PublicHead) -> None:
    points = public_head.lattice
    assert float((points[33] - points[263]).norm()) == pytest.approx(89, abs=1)
    # It is symmetric, and so must be what lies on it: a slip to a wrong part of it would show.
    mirrored = points[lattice_table().partner] * points.new_tensor([-1.0, 1.0, 1.0])
    assert float((points - mirrored)[:SKIN_POINTS].norm(dim=-1).quantile(0.99)) < 1.0


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("weighting", ["area", "points"])
def test_shape_means_what_it_means_elsewhere(
    public_head: PublicHead, drawn_on_it: Tensor, name: str, weighting: str
) -> None:
    """By area the skin counts, by points the lids and lips, where the lattice is dense."""
    ours, theirs = drawn_on_it[ARKIT_INDEX[name]], public_head.shapes[name]
    weight = areas(public_head.lattice) if weighting == "area" else torch.ones(POINTS, 1).double()

    def dot(a: Tensor, b: Tensor) -> float:
        return float((weight * a * b).sum())

    cosine = dot(ours, theirs) / (dot(ours, ours) * dot(theirs, theirs)) ** 0.5
    size = (dot(ours, ours) / dot(theirs, theirs)) ** 0.5
    assert cosine >= SMALLEST_COSINE
    assert SIZES[0] <= size <= SIZES[1]


@pytest.mark.parametrize("name", DRAWN)
def test_peak_is_as_large_as_elsewhere(
    public_head: PublicHead, drawn_on_it: Tensor, name: str
) -> None:
    peaks = [
        float(move.norm(dim=-1).topk(10).values.mean())
        for move in (drawn_on_it[ARKIT_INDEX[name]], public_head.shapes[name])
    ]
    assert SIZES[0] <= peaks[0] / peaks[1] <= SIZES[1]


# ------------------------------------------------------------------ soundness, without any data

TOGETHER = [
    *({name: 1.0} for name in DRAWN if name != "mouthClose"),
    {"jawOpen": 1.0, "mouthClose": 1.0},
    {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0},
    {"mouthPressLeft": 1.0, "mouthPressRight": 1.0},
    {"eyeBlinkLeft": 1.0, "eyeSquintLeft": 1.0, "cheekSquintLeft": 1.0},
    {"browInnerUp": 1.0, "browOuterUpLeft": 1.0, "browOuterUpRight": 1.0},
    {"jawOpen": 0.7, "mouthSmileLeft": 0.8, "mouthSmileRight": 0.8},
    {"mouthPucker": 0.6, "mouthFunnel": 0.6},
]
"""Single shapes (mouthClose belongs to an open jaw), and neighbours that faces use together."""


def named(coefficients: dict[str, float]) -> str:
    return "+".join(coefficients)


@pytest.mark.parametrize("coefficients", TOGETHER, ids=named)
def test_no_triangle_flips(coefficients: dict[str, float]) -> None:
    rest, moved = posed(), posed(**coefficients)
    triangles = lattice_table().triangles

    def normals(points: Tensor) -> Tensor:
        a, b, c = points[triangles].unbind(1)
        return torch.linalg.cross(b - a, c - a)

    before, after = normals(rest), normals(moved)
    sides = rest[triangles] - rest[triangles.roll(1, 1)]
    # At the corners of the mouth some triangles are slivers under a millimetre high whose points lie
    # all but on a line: they say nothing of the skin's direction.
    sound = before.norm(dim=-1) / sides.norm(dim=-1).amax(1) > 1.0
    assert float(sound.double().mean()) > 0.96
    turned = torch.cosine_similarity(before, after, dim=-1)
    flipped = triangles[sound & (turned < 0)].tolist()
    if "eyeBlinkLeft" in coefficients:
        # The skin above a shut lid folds away under the brow.
        flipped = [t for t in flipped if not set(t) & set(REGIONS["lid_left_upper"])]
    assert flipped == []


@pytest.mark.parametrize("coefficients", TOGETHER, ids=named)
def test_lips_do_not_pass_through_each_other(coefficients: dict[str, float]) -> None:
    moved = posed(**coefficients)
    upper = moved[[column[-1] for column in UPPER_LIP_COLUMNS]]
    lower = moved[[column[-1] for column in LOWER_LIP_COLUMNS]]
    overlap = (lower - upper)[:, 1]
    # A lip may slide over the other: then it lies at least as far in front of it as it overlaps.
    before = (lower - upper)[:, 2]
    assert float(torch.where(before > overlap, 0, overlap).max()) < 0.5


@pytest.mark.parametrize("side", ["left", "right"])
def test_blink_shuts_the_whole_lid(side: str) -> None:
    shut = posed(**{f"eyeBlink{side.title()}": 1.0})
    gap = shut[list(REGIONS[f"lid_{side}_upper"])] - shut[list(REGIONS[f"lid_{side}_lower"])]
    assert float(gap.norm(dim=-1).max()) < 1.2
    assert float(gap[:, 1].abs().max()) < 0.3


def test_lids_follow_the_eye() -> None:
    upper, lower = list(REGIONS["lid_left_upper"]), list(REGIONS["lid_left_lower"])
    for name, axis, sign in (
        ("eyeLookUpLeft", 1, 1), ("eyeLookDownLeft", 1, -1),
        ("eyeLookOutLeft", 0, 1), ("eyeLookInLeft", 0, -1),
    ):  # fmt: skip
        lids = sign * shape(name)[:, axis]
        assert lids[upper].max() > 1.2
        assert lids[lower].max() > 0.9
        assert lids[upper].max() < sign * shape(name)[473, axis] * 1.6, "no further than the eye"
    # Looking down leaves the eye open: that is no blink.
    down = posed(eyeLookDownLeft=1.0)
    assert float((down[386] - down[374])[1]) > 2


def test_closed_lips_over_an_open_jaw() -> None:
    rest, open_, closed = (
        posed(), posed(jawOpen=1.0), posed(jawOpen=1.0, mouthClose=1.0),
    )  # fmt: skip
    lips = [p for column in (*UPPER_LIP_COLUMNS, *LOWER_LIP_COLUMNS) for p in column]
    assert float((closed - rest)[lips].norm(dim=-1).max()) < 1.0, "lips rest where they were"
    assert float((closed - open_)[152].norm()) < 0.2 * float((open_ - rest)[152].norm())


def test_opening_draws_the_corners_in() -> None:
    width = [float((p[291] - p[61])[0]) for p in (posed(), posed(jawOpen=1.0))]
    assert 0.85 < width[1] / width[0] < 0.95


def test_neighbours_add_up() -> None:
    smile = posed(mouthSmileLeft=1.0, mouthSmileRight=1.0)
    assert 8 < float((smile[291] - smile[61])[0] - (posed()[291] - posed()[61])[0]) < 20
    # The middle of the mouth belongs to both sides alike and goes up no further than the corners.
    raised = (smile - posed())[:, 1]
    assert 0 < raised[13] < raised[291]
    brows = (posed(browInnerUp=1.0, browOuterUpLeft=1.0, browOuterUpRight=1.0) - posed())[:, 1]
    row = brows[[285, 295, 282, 283, 276]]
    assert float(row.min()) > 0.55 * float(row.max()), "a raised brow rises along its length"
    round_ = posed(mouthPucker=0.6, mouthFunnel=0.6) - posed()
    assert 8 < float(round_[[0, 17], 2].max()) < 16


def test_shapes_fit_a_face_of_other_proportions() -> None:
    """A long, narrow and lopsided face: sizes stay, lids still meet, nothing blows up."""
    neutral = lattice_table().neutral.double()
    face = neutral * neutral.new_tensor([0.94, 1.1, 1.03])
    face[:, 0] += 0.03 * face[:, 1]
    basis = arkit_basis(face)
    size = basis[:, :SKIN_POINTS].norm(dim=-1).amax(1)
    generic = generic_arkit_basis()[:, :SKIN_POINTS].double().norm(dim=-1).amax(1)
    drawn = [k for k, name in enumerate(ARKIT_NAMES) if name != "tongueOut"]
    assert float((size / generic)[drawn].min()) > 0.85
    assert float((size / generic)[drawn].max()) < 1.25
    shut = face + basis[ARKIT_INDEX["eyeBlinkRight"]]
    gap = shut[list(REGIONS["lid_right_upper"])] - shut[list(REGIONS["lid_right_lower"])]
    assert float(gap.norm(dim=-1).max()) < 0.0015
