"""The face lattice and the drawn ARKit shapes: symmetric, complete, and each does what its name says."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import (
    GAZE_SIDE_RAD,
    GAZE_UP_RAD,
    HINGE_MM,
    JAW_OPEN_RAD,
    arkit_basis,
    generic_arkit_basis,
)
from avatar.rig.arkit_drawing import DECAY, Drawing
from avatar.rig.lattice import (
    EYEBALL_TO_IRIS_M,
    IRIS_DIAMETER_M,
    REGIONS,
    deform,
    eyeball_centres,
    lattice_table,
    point_normals,
)
from avatar.rig.smooth_field import smooth_field

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


def shape(name: str) -> torch.Tensor:
    """One generic shape [478, 3] in millimetres."""
    return 1000 * generic_arkit_basis()[ARKIT_INDEX[name]]


def posed(**coefficients: float) -> torch.Tensor:
    """The generic lattice [478, 3] in millimetres under named coefficients."""
    expression = torch.zeros(52)
    for name, value in coefficients.items():
        expression[ARKIT_INDEX[name]] = value
    return 1000 * deform(lattice_table().neutral, generic_arkit_basis(), expression)


def lid_gap(points: torch.Tensor, side: str) -> float:
    upper, lower = REGIONS[f"lid_{side}_upper"][3], REGIONS[f"lid_{side}_lower"][3]
    return float((points[upper] - points[lower])[1])


def test_names_are_apples_52_in_order() -> None:
    assert len(ARKIT_NAMES) == 52 == len(set(ARKIT_NAMES))
    assert ARKIT_NAMES[0] == "eyeBlinkLeft"
    assert ARKIT_NAMES[17] == "jawOpen"
    assert ARKIT_NAMES[-1] == "tongueOut"
    assert sum(len(group) for group in ARKIT_GROUPS.values()) == 52


def test_neutral_is_metric_symmetric_and_in_the_head_frame() -> None:
    table = lattice_table()
    neutral = table.neutral
    assert torch.allclose(neutral, neutral[table.partner] * MIRROR, atol=1e-7)
    assert float((neutral[474] - neutral[476]).norm()) == pytest.approx(IRIS_DIAMETER_M, abs=1e-5)
    assert neutral[473, 0] > 0.025  # the subject's left eye lies on +x
    assert neutral[10, 1] > neutral[152, 1] + 0.11  # forehead above chin
    assert neutral[1, 2] > neutral[454, 2] + 0.06  # nose before ears
    assert abs(float(neutral[[454, 234], 2].mean())) < 0.015  # origin between the ears


def test_mesh_is_a_disk_with_three_holes_and_its_own_mirror_image() -> None:
    table = lattice_table()
    triangles = {tuple(sorted(t)) for t in table.triangles.tolist()}
    assert {tuple(sorted(table.partner[list(t)].tolist())) for t in triangles} == triangles
    assert torch.equal(table.partner[table.partner], torch.arange(478))
    # Euler: V - E + F = 1 - holes, with the two eyes and the mouth open.
    assert 468 - len(table.edges) + len(triangles) == 1 - 3
    count = Counter(
        tuple(sorted(side)) for a, b, c in triangles for side in ((a, b), (b, c), (a, c))
    )
    assert max(count.values()) == 2


def test_openings_fill_the_holes_of_the_skin() -> None:
    table = lattice_table()
    every = torch.cat([table.triangles, table.eye_triangles, table.mouth_triangles]).tolist()
    count = Counter(tuple(sorted(side)) for a, b, c in every for side in ((a, b), (b, c), (a, c)))
    border = {point for side, uses in count.items() if uses == 1 for point in side}
    assert border == set(REGIONS["face_oval"])


def test_triangles_face_outwards() -> None:
    table = lattice_table()
    a, b, c = table.neutral[table.triangles].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    outward = (normal * ((a + b + c) / 3)).sum(-1) > 0
    # The underside of nose and nostrils looks down and back: a few point towards the origin.
    assert outward.float().mean() > 0.95
    assert point_normals(table.neutral)[[10, 280, 50], 2].min() > 0.5


def test_regions_are_mirror_images() -> None:
    partner = lattice_table().partner
    for name, region in REGIONS.items():
        other = name.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
        assert set(partner[list(region)].tolist()) == set(REGIONS[other]), name


@pytest.mark.parametrize("name", [n for n in ARKIT_NAMES if n != "tongueOut"])
def test_every_shape_moves_the_face_and_is_local(name: str) -> None:
    size = shape(name).norm(dim=-1)
    assert 1.5 < float(size.max()) < 45, "a shape moves millimetres, not fractions and not the head"
    assert float((size < 0.05 * size.max()).float().mean()) > 0.25, (
        "a quarter of the face holds still"
    )
    assert float(size[[10, 338, 109]].max()) < 1.0, "the top of the forehead is the skull"


def test_tongue_has_no_point_on_the_lattice() -> None:
    assert float(shape("tongueOut").abs().max()) == 0.0


@pytest.mark.parametrize("name", [n for n in ARKIT_NAMES if n.endswith("Left")])
def test_left_and_right_are_mirror_images(name: str) -> None:
    other = shape(name[:-4] + "Right")
    mirrored = shape(name)[lattice_table().partner] * MIRROR
    assert torch.allclose(other, mirrored, atol=1e-4)  # a tenth of a micrometre


@pytest.mark.parametrize(
    "name",
    [n for n in ARKIT_NAMES if not n.endswith(("Left", "Right"))],
)
def test_shapes_of_the_middle_prefer_no_side(name: str) -> None:
    mirrored = shape(name)[lattice_table().partner] * MIRROR
    assert torch.allclose(shape(name), mirrored, atol=1e-4)


def test_jaw_opens_about_the_ears() -> None:
    open_ = shape("jawOpen")
    assert open_[152, 1] < -12
    assert open_[152, 2] < 0  # the chin swings down and back
    assert open_[14, 1] < -15  # the lower lip goes with it
    assert open_[13].abs().max() < 2.5  # the upper lip stays with the skull
    assert open_[454].abs().max() < 0.5
    hinge = 1000 * lattice_table().neutral[[454, 234]].mean(0) + torch.tensor(HINGE_MM)
    before = posed()[152] - hinge
    after = posed(jawOpen=1.0)[152] - hinge
    assert float(after.norm()) == pytest.approx(float(before.norm()), rel=1e-3)
    turned = torch.arccos((before @ after) / (before.norm() * after.norm()))
    assert float(turned) == pytest.approx(JAW_OPEN_RAD, abs=1e-3)


def test_mouth_close_shuts_an_open_jaw() -> None:
    def gap(points: torch.Tensor) -> float:
        return float((points[13] - points[14]).norm())

    rest, open_, closed = posed(), posed(jawOpen=1.0), posed(jawOpen=1.0, mouthClose=1.0)
    assert gap(open_) > 15
    assert gap(closed) < gap(rest) + 1.5


@pytest.mark.parametrize("side", ["Left", "Right"])
def test_blink_shuts_the_lids_of_its_own_eye_only(side: str) -> None:
    shut = posed(**{f"eyeBlink{side}": 1.0})
    other = "right" if side == "Left" else "left"
    assert abs(lid_gap(shut, side.lower())) < 0.5
    assert lid_gap(shut, other) == pytest.approx(lid_gap(posed(), other), abs=0.2)


def test_wide_opens_squint_narrows() -> None:
    rest = lid_gap(posed(), "left")
    assert lid_gap(posed(eyeWideLeft=1.0), "left") > rest + 2
    assert lid_gap(posed(eyeSquintLeft=1.0), "left") < rest - 2


def test_smile_pulls_its_corner_out_and_up_and_frown_down() -> None:
    smile, frown = shape("mouthSmileLeft"), shape("mouthFrownLeft")
    assert smile[291, 0] > 4
    assert smile[291, 1] > 4
    assert smile[61].norm() < 0.5
    assert frown[291, 1] < -4
    assert shape("mouthSmileRight")[61, 0] < -4


def test_pucker_narrows_and_funnel_opens() -> None:
    pucker, funnel = shape("mouthPucker"), shape("mouthFunnel")
    assert pucker[291, 0] < -4
    assert pucker[61, 0] > 4
    assert pucker[[0, 17], 2].min() > 4
    assert (funnel[13] - funnel[14])[1] > 5
    assert funnel[[0, 17], 2].min() > 3


def test_sideways_names_are_the_subjects() -> None:
    assert shape("mouthLeft")[[0, 17], 0].min() > 5
    assert shape("jawLeft")[152, 0] > 3
    assert shape("jawRight")[152, 0] < -3
    assert shape("jawForward")[152, 2] > 4


def test_rolls_and_presses_hide_the_lips() -> None:
    def red(points: torch.Tensor, outer: int, inner: int) -> float:
        return float((points[outer] - points[inner]).abs()[1])

    assert red(posed(mouthRollUpper=1.0), 0, 13) < 0.8 * red(posed(), 0, 13)
    assert red(posed(mouthRollLower=1.0), 17, 14) < 0.8 * red(posed(), 17, 14)
    assert shape("mouthRollLower")[14, 2] < -3
    assert shape("mouthPressLeft")[269, 1] < 0 < shape("mouthPressLeft")[405, 1]
    assert shape("mouthUpperUpLeft")[269, 1] > 3
    assert shape("mouthLowerDownLeft")[405, 1] < -3
    assert shape("mouthShrugLower")[17, 1] > 3
    assert shape("mouthShrugUpper")[0, 1] > 3


def test_brows_cheeks_and_nose_go_where_their_names_say() -> None:
    assert shape("browDownLeft")[[285, 295], 1].max() < -2.5
    assert shape("browDownLeft")[[285, 295], 0].max() < -1.5
    assert shape("browInnerUp")[[285, 55], 1].min() > 5
    assert shape("browOuterUpLeft")[300, 1] > 5
    assert shape("browOuterUpLeft")[285].norm() < 0.25 * shape("browOuterUpLeft")[300].norm()
    assert shape("cheekPuff")[427, 2] > 5
    assert shape("cheekSquintLeft")[330, 1] > 3
    assert shape("noseSneerLeft")[278, 1] > 3


@pytest.mark.parametrize(
    ("name", "axis", "sign", "angle"),
    [
        ("eyeLookOutLeft", 0, 1, GAZE_SIDE_RAD),
        ("eyeLookInLeft", 0, -1, GAZE_SIDE_RAD),
        ("eyeLookUpLeft", 1, 1, GAZE_UP_RAD),
        ("eyeLookDownLeft", 1, -1, GAZE_UP_RAD),
    ],
)
def test_eyes_turn_about_their_balls(name: str, axis: int, sign: int, angle: float) -> None:
    centre = 1000 * eyeball_centres(lattice_table().neutral)[0]
    before, after = posed()[473] - centre, posed(**{name: 1.0})[473] - centre
    assert sign * float(after[axis]) > 3
    assert float(after.norm()) == pytest.approx(1000 * EYEBALL_TO_IRIS_M, rel=1e-3)
    turned = torch.rad2deg(torch.arccos((before @ after) / (before.norm() * after.norm())))
    assert float(turned) == pytest.approx(torch.rad2deg(torch.tensor(angle)).item(), abs=0.1)


def test_shapes_scale_with_the_face() -> None:
    large = arkit_basis(1.2 * lattice_table().neutral)
    # The skin's part only: an eyeball has one size, whatever the face.
    assert torch.allclose(large[:, :468], 1.2 * generic_arkit_basis()[:, :468], atol=1e-6)


def test_shapes_are_drawn_by_the_smooth_field() -> None:
    """Drawing inverts the field's energy once for all shapes: the result is the same field."""
    table = lattice_table()
    draw = Drawing(table.neutral)
    moves = {152: (1.0, 2.0, 3.0), 291: (-1.0, 0.0, 0.5), 386: (0.0, 0.0, 0.0)}
    handles = torch.tensor(list(moves))
    values = torch.tensor(list(moves.values()), dtype=torch.float64) / 1000
    expected = smooth_field(table.neutral.double(), table.triangles, handles, values, decay=DECAY)
    drawn = draw.field({152: moves[152], 291: moves[291]}, still=[386])
    assert torch.allclose(drawn, expected, atol=1e-9)


def test_smooth_field_keeps_its_handles_and_fades() -> None:
    table = lattice_table()
    handles, values = torch.tensor([1, 152]), torch.tensor([[0.0, 0.0, 0.01], [0.0, 0.0, 0.0]])
    field = smooth_field(table.neutral, table.triangles, handles, values, decay=0.1)
    assert torch.allclose(field[handles], values, atol=1e-9)
    assert float(field[468:].abs().max()) == 0.0
    assert float(field[[10, 454, 234]].norm(dim=-1).max()) < 0.002


def test_deform_is_linear_and_batched() -> None:
    neutral, basis = lattice_table().neutral, generic_arkit_basis()
    expression = torch.rand(2, 3, 52, generator=torch.Generator().manual_seed(0))
    points = deform(neutral, basis, expression)
    assert points.shape == (2, 3, 478, 3)
    one = neutral + torch.einsum("e,evc->vc", expression[1, 2], basis)
    assert torch.allclose(points[1, 2], one, atol=1e-6)
