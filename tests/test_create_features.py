"""What a first avatar has in its mouth and behind its lids moves as anatomy does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avatar.model.avatar import Avatar, Person
from avatar.model.create import create_avatar
from avatar.model.create_features import (
    EYE_CONTOURS,
    Part,
    bind,
    clear_openings,
    eyeball,
    largest_areas,
    mouth,
    near_openings,
    with_inner_rig,
)
from avatar.model.mouth import inner_rig, skin_triangles
from avatar.model.stretch import MOST, Stretch
from avatar.model.views import slider_state
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.lattice import (
    LOWER_LIP_COLUMNS,
    REGIONS,
    UPPER_LIP_COLUMNS,
    eyeball_centres,
    lattice_table,
)
from avatar.rotations import invert_rigid, transform_points
from avatar.train.placement import EDGE_REACH_M, TONGUE_RED, WALL_BRIGHTEST, Placement
from avatar.types import Camera, HeadState

BONE = skin_triangles()
MM = 0.001


def pink(points: Tensor) -> Tensor:
    return torch.tensor([0.8, 0.5, 0.5]).expand(len(points), 3)


@pytest.fixture(scope="module")
def person() -> Person:
    """The generic face with the project's own shapes, and one of its own: a jaw half open."""
    neutral, shapes = lattice_table().neutral, generic_arkit_basis()
    names = (*ARKIT_NAMES, "residual00")
    basis = torch.cat([shapes, 0.5 * shapes[ARKIT_INDEX["jawOpen"]][None]])
    T_cam_world = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    T_cam_world[2, 3] = 0.6
    K = torch.tensor([[140.0, 0, 48], [0, 140.0, 48], [0, 0, 1]])
    made = Person(
        lattice=neutral,
        basis=basis,
        triangles=lattice_table().triangles,
        eyeballs=eyeball_centres(neutral),
        expression_names=names,
        expression_low=torch.zeros(len(names)),
        expression_high=torch.full((len(names),), 0.1),
        rest=HeadState(torch.zeros(len(names)), torch.zeros(2, 2), torch.eye(4), torch.eye(4)),
        camera=Camera(K, T_cam_world, 96, 96),
        fps=25.0,
    )
    return with_inner_rig(made, inner_rig(neutral, basis, names))


def avatar_of(person: Person, part: Part) -> Avatar:
    count = len(part.means)
    eye = torch.full((count,), part.eye)
    binding = bind(person, part.means, part.follow, eye, part.triangle, part.weights)
    parameters = {
        "means": part.means,
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        "log_scales": torch.as_tensor(part.scale_m).expand(count).log()[:, None].repeat(1, 3),
        "logit_opacities": torch.zeros(count),
        "colours": part.colours.clone(),
        "torso_logits": part.torso_logits,
    }
    return Avatar(person, binding, parameters).requires_grad_(False)


@pytest.fixture(scope="module")
def inside(person: Person) -> Avatar:
    """An avatar that is nothing but the inside of a mouth."""
    return avatar_of(person, mouth(person, 800, pink, torch.Generator().manual_seed(0)))


def posed(avatar: Avatar, **values: float) -> Tensor:
    """Means [N, 3] in the head frame."""
    state = slider_state(avatar, values)
    return transform_points(invert_rigid(state.T_world_head), avatar.pose(state).means)


def parts_of(avatar: Avatar) -> dict[str, Tensor]:
    bone = avatar.triangle == BONE
    return {
        "upper": bone & (avatar.follow == 0),
        "lower": bone & (avatar.follow == 1),
        "wall": bone & (avatar.follow > 0) & (avatar.follow < 1),
        "tongue": avatar.triangle > BONE,
    }


@pytest.mark.parametrize("name", ["jawOpen", "jawForward", "jawLeft", "jawRight"])
def test_lower_teeth_move_with_the_jaw_as_a_bone_does_and_upper_teeth_never(inside, name):
    part = parts_of(inside)
    before, after = inside.means, posed(inside, **{name: 1.0})
    assert (after - before)[part["upper"]].abs().max() < 1e-6
    moved = (after - before)[part["lower"]].norm(dim=1)
    assert moved.min() > 0.003
    apart = torch.cdist(before[part["lower"]], before[part["lower"]])
    apart_after = torch.cdist(after[part["lower"]], after[part["lower"]])
    # Weights on three points in a plane cannot swing what is aside of it: a millimetre at most.
    limit = 1e-4 if name in ("jawOpen", "jawForward") else 0.001
    assert (apart_after - apart).abs().max() < limit


def test_teeth_move_as_far_as_the_chin(inside, person):
    lower = parts_of(inside)["lower"]
    teeth = (posed(inside, jawOpen=1.0) - inside.means)[lower].norm(dim=1)
    chin = person.basis[ARKIT_INDEX["jawOpen"], 152].norm()
    assert 0.6 * chin < teeth.min()
    assert teeth.max() < chin


def test_lips_and_cheeks_do_not_stir_teeth(inside):
    for name in ARKIT_NAMES:
        if name.startswith("jaw") or name == "tongueOut":
            continue
        assert (posed(inside, **{name: 1.0}) - inside.means).abs().max() < 1e-6, name


def test_a_shape_of_the_persons_own_that_opens_the_jaw_moves_the_teeth(inside):
    half = posed(inside, jawOpen=0.5) - inside.means
    own = posed(inside, residual00=1.0) - inside.means
    torch.testing.assert_close(own, half, atol=2e-4, rtol=0)


def test_teeth_and_tongue_rest_behind_the_lips(inside, person):
    lips = person.lattice[list(REGIONS["lip_upper_inner"] + REGIONS["lip_lower_inner"])]
    for points in (inside.means, posed(inside, jawOpen=1.0)[parts_of(inside)["upper"]]):
        nearest = (points[:, None, 0] - lips[:, 0]).abs().argmin(1)
        assert (points[:, 2] < lips[nearest, 2] - 2 * MM).all()


def test_the_tongue_comes_out_between_the_lips(inside, person):
    tongue = parts_of(inside)["tongue"]
    out = posed(inside, tongueOut=1.0)[tongue]
    before_lips = out[:, 2] > person.lattice[[0, 17], 2].max() + 2 * MM
    assert 0.2 < float(before_lips.float().mean()) < 0.9
    # Where it passes them it lies at their seam, and all of it is narrower than the mouth.
    passing = (out[:, 2] - person.lattice[[13, 14], 2].mean()).abs() < 2 * MM
    assert (out[passing, 1] - person.lattice[[13, 14], 1].mean()).abs().max() < 0.009
    assert (out[:, 0].abs() < person.lattice[308, 0]).all()
    # It stays in one piece: nothing of it moves when others do.
    assert (posed(inside, tongueOut=1.0) - inside.means)[~tongue].abs().max() < 1e-6


def test_the_wall_fills_the_open_mouth_behind_teeth_and_tongue(inside, person):
    part = parts_of(inside)
    after = posed(inside, jawOpen=1.0)
    jaw = person.basis[ARKIT_INDEX["jawOpen"]]
    top = float(person.lattice[13, 1])
    bottom = float((person.lattice + jaw)[14, 1])
    wall = after[part["wall"]]
    for x in (-0.012, 0.0, 0.012):
        for y in torch.linspace(bottom, top, 7).tolist():
            near = (wall[:, :2] - torch.tensor([x, y])).norm(dim=1).min()
            assert near < 0.006, f"a hole at {x}, {y}"
    assert inside.colours[part["wall"]].max() < 0.2


def test_eyeballs_lie_behind_the_shut_lid(person):
    table = lattice_table()
    generator = torch.Generator().manual_seed(0)
    for side, name in enumerate(("eyeBlinkLeft", "eyeBlinkRight")):
        part = eyeball(person, side, 200, pink, generator)
        assert len(part.means) > 100
        shut = (person.lattice + person.basis[ARKIT_INDEX[name]])[:478]
        near = torch.isin(table.triangles, torch.tensor(EYE_CONTOURS[side])).any(1)
        corners = shut[table.triangles[near]]
        r = torch.rand(60, 3, generator=generator)
        surface = torch.einsum("gk,tkc->tgc", r / r.sum(1, keepdim=True), corners).reshape(-1, 3)
        apart = torch.cdist(part.means[:, :2], surface[:, :2])
        beside, nearest = apart.min(1)
        covered = beside < 0.0005
        assert covered.float().mean() > 0.5
        assert (part.means[covered, 2] < surface[nearest[covered], 2]).float().mean() > 0.98


def test_skin_hangs_on_the_triangle_that_it_was_drawn_on(small_capture):
    avatar = create_avatar(
        small_capture, torch.arange(*small_capture.splits.train), generator=torch.Generator()
    )
    skin = (avatar.follow == 1) & (avatar.triangle < BONE)
    corners = avatar.lattice[avatar.triangles[avatar.triangle]]
    anchor = (corners * avatar.barycentric[..., None]).sum(1)
    assert skin.sum() > 5000
    assert (anchor - avatar.means)[skin].norm(dim=1).max() < 1e-5
    # So lips do not tear: what lies on one lip has no corner on the other.
    corner = set(UPPER_LIP_COLUMNS[0] + UPPER_LIP_COLUMNS[-1])
    upper = [p for column in UPPER_LIP_COLUMNS for p in column if p not in corner]
    lower = [p for column in LOWER_LIP_COLUMNS for p in column if p not in corner]
    used = avatar.triangles[avatar.triangle[skin]]
    on_upper = torch.isin(used, torch.tensor(upper)).any(1)
    on_lower = torch.isin(used, torch.tensor(lower)).any(1)
    assert on_upper.sum() > 300
    assert on_lower.sum() > 300
    assert not (on_upper & on_lower).any()


def test_lids_get_gaussians_for_when_they_are_shut(person):
    skin = lattice_table().triangles
    rest = largest_areas(person.lattice, torch.zeros_like(person.basis), skin)
    most = largest_areas(person.lattice, person.basis, skin)
    assert (most >= rest).all()
    lids = torch.isin(skin, torch.tensor(REGIONS["lid_left_upper"])).any(1)
    assert most[lids].sum() > 1.5 * rest[lids].sum()
    assert near_openings()[lids].all()
    assert near_openings().float().mean() < 0.4


def test_nothing_of_the_hull_shines_through_the_mouth(person):
    lips = person.lattice[[13, 14]].mean(0)
    points = torch.stack(
        [
            lips - torch.tensor([0.0, 0.01, 0.04]),
            person.eyeballs[0] - torch.tensor([0.0, 0.0, 0.01]),
            torch.tensor([0.0, 0.1, -0.05]),
            person.lattice[152] - torch.tensor([0.0, 0.0, 0.03]),
        ]
    )
    part = Part(points, pink(points), 0.006, torch.zeros(4), torch.full((4,), float("nan")))
    assert torch.equal(clear_openings(person, part).means, points[2:])


def test_means_are_held_within_reach(person, inside):
    generator = torch.Generator().manual_seed(1)
    skin = int(near_openings().nonzero()[0, 0])
    centre = person.lattice[person.triangles[skin]].mean(0)
    hair = torch.tensor([0.0, 0.12, 0.0])
    eyes = eyeball(person, 0, 30, pink, generator)
    lip = Part(
        torch.stack([centre, hair]),
        torch.ones(2, 3),
        0.002,
        torch.zeros(2),
        torch.tensor([1.0, float("nan")]),
        triangle=torch.tensor([skin, -1]),
        weights=torch.full((2, 3), 1 / 3),
    )
    placement = Placement()
    avatar = avatar_of(person, lip)
    with torch.no_grad():
        avatar.means.add_(torch.tensor([0.01, 0.01, 0.0]))
    moved = avatar.means.clone()
    placement.hold(avatar)
    assert (avatar.means[0] - centre).norm() == pytest.approx(EDGE_REACH_M, rel=1e-4)
    assert torch.equal(avatar.means[1], moved[1]), "hair is free"

    avatar = avatar_of(person, eyes)
    with torch.no_grad():
        avatar.means[:, 2] += 0.004
    placement.hold(avatar)
    distance = (avatar.means - person.eyeballs[0]).norm(dim=1)
    assert distance.max() < 1.01 * (eyes.means - person.eyeballs[0]).norm(dim=1).max()

    held = avatar_of(person, mouth(person, 300, pink, generator))
    part = parts_of(held)
    before = held.means.clone()
    with torch.no_grad():
        held.colours.fill_(0.7)
    placement.hold(held)
    torch.testing.assert_close(held.means, before, atol=1e-6, rtol=0)
    assert held.colours[part["wall"]].max() <= WALL_BRIGHTEST
    assert (held.colours[part["upper"]] == 0.7).all()
    red, others = held.colours[part["tongue"]][:, :1], held.colours[part["tongue"]][:, 1:]
    assert (others <= TONGUE_RED[1] * red + 1e-6).all()


def test_mouth_close_alone_only_shuts_what_was_parted(inside):
    rest = torch.zeros(len(inside.expression_names))
    close, jaw = ARKIT_INDEX["mouthClose"], ARKIT_INDEX["jawOpen"]

    def shut(jaw_open: float) -> float:
        wanted = rest.clone()
        wanted[close], wanted[jaw] = 1.0, jaw_open
        found = inside.feasible(wanted)
        assert found[jaw] == pytest.approx(jaw_open)
        return float(found[close])

    # 0.1 is what was filmed.
    assert shut(0.0) == pytest.approx(0.1)
    assert shut(0.5) == pytest.approx(0.6)
    assert shut(1.0) == 1.0
    small = slider_state(inside, {"mouthClose": 0.05})
    assert torch.equal(inside.feasible(small.expression), small.expression)


def test_gaussians_grow_with_skin_that_stretches_and_keep_their_size_where_it_folds(person):
    lattice, triangles = person.lattice[:478], lattice_table().triangles
    stretch = Stretch(lattice, triangles)
    assert (stretch.log_growth(torch.zeros_like(lattice)) == 0).all()
    scaled = stretch.log_growth(0.5 * lattice).exp()
    torch.testing.assert_close(scaled, torch.full_like(scaled, 1.5), atol=1e-3, rtol=0)
    assert stretch.log_growth(9 * lattice).exp().max() == pytest.approx(MOST)
    assert (stretch.log_growth(-0.5 * lattice) == 0).all()
    avatar = avatar_of(
        person,
        Part(
            lattice[triangles].mean(1),
            torch.ones(len(triangles), 3),
            0.001,
            torch.zeros(len(triangles)),
            torch.ones(len(triangles)),
            triangle=torch.arange(len(triangles)),
            weights=torch.full((len(triangles), 3), 1 / 3),
        ),
    )
    blink = avatar.pose(slider_state(avatar, {"eyeBlinkLeft": 1.0})).scales[:, 0] / 0.001
    lid = torch.isin(triangles, torch.tensor(REGIONS["lid_left_upper"])).any(1)
    assert blink[lid].max() > 1.3
    other = torch.isin(triangles, torch.tensor(REGIONS["jaw_line"])).any(1)
    torch.testing.assert_close(blink[other], torch.ones(int(other.sum())), atol=0.02, rtol=0)
