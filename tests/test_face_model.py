"""Face models: what the tracker asks of a rig, and that the default one changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import arkit_basis
from avatar.rig.face_model import DrawnFace, FaceModel, SculptedFace
from avatar.rig.lattice import REGIONS, SKIN_POINTS, lattice_table
from avatar.rig.similarity import similarity
from avatar.rotations import rotvec_to_matrix

SKIN = slice(0, SKIN_POINTS)


def sculpted() -> SculptedFace:
    """The drawn face as an external rig would bring it, with three identities."""
    neutral = lattice_table().neutral
    basis = arkit_basis(neutral)
    basis[:, SKIN_POINTS:] = 0
    identity = torch.stack([0.04 * neutral * torch.eye(3)[axis] for axis in range(3)])
    return SculptedFace("ict", neutral, ARKIT_NAMES, basis, identity)


def person(*coefficients: float) -> Tensor:
    face = sculpted()
    return face.neutral + torch.einsum("i,ilc->lc", torch.tensor(coefficients), face.identity)


def test_the_default_is_the_drawn_lattice_bit_for_bit() -> None:
    face, lattice = DrawnFace(), person(0.5, -1.0, 0.3)
    assert isinstance(face, FaceModel)
    assert isinstance(sculpted(), FaceModel)
    assert torch.equal(face.shapes(lattice), arkit_basis(lattice))
    assert face.likely(lattice) is lattice_table().neutral


def test_shapes_of_its_own_face_are_its_own() -> None:
    face = sculpted()
    torch.testing.assert_close(
        face.shapes(face.neutral), arkit_basis(face.neutral), atol=1e-6, rtol=0
    )


def test_the_likely_face_is_the_one_that_is_there() -> None:
    """Whatever its size and place: both are found with the identity."""
    face, lattice = sculpted(), person(1.0, -1.5, 0.5)
    R = rotvec_to_matrix(torch.tensor([0.05, -0.1, 0.02]))
    found = face.likely(1.1 * lattice @ R.T + torch.tensor([0.01, 0.0, -0.02]))
    turn, scale, shift = similarity(found[SKIN], lattice[SKIN])
    assert float((scale * found @ turn.T + shift - lattice)[SKIN].norm(dim=-1).max()) < 0.0008
    generic = (face.neutral - lattice)[SKIN].norm(dim=-1).mean()
    assert float(generic) > 0.002, "the mean face would not do"


def test_identity_is_bounded() -> None:
    """A face far outside the family does not drag it along."""
    lattice = person(0.0, 14.0, 0.0)
    found = sculpted().likely(lattice)
    height = [float((p[10] - p[152])[1]) for p in (found, lattice_table().neutral)]
    assert height[0] / height[1] < 1.35


def test_without_identities_it_is_the_neutral() -> None:
    face = sculpted()
    alone = SculptedFace("ict", face.neutral, ARKIT_NAMES, face.basis, face.identity[:0])
    assert alone.likely(person(1.0, 1.0, 1.0)) is alone.neutral


@pytest.mark.parametrize("size", [0.8, 1.0, 1.25])
def test_shapes_grow_and_turn_with_the_face(size: float) -> None:
    face = sculpted()
    R = rotvec_to_matrix(torch.tensor([0.0, 0.2, 0.0]))
    shapes = face.shapes(size * face.neutral @ R.T)
    k = ARKIT_INDEX["mouthSmileLeft"]
    torch.testing.assert_close(shapes[k], size * face.basis[k] @ R.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_lids_meet_on_every_face(side: str) -> None:
    """Eyes twice as wide open as the family's are still shut by its blink."""
    face = sculpted()
    lattice = face.neutral.clone()
    upper, lower = list(REGIONS[f"lid_{side}_upper"]), list(REGIONS[f"lid_{side}_lower"])
    lattice[upper] += 0.7 * (lattice[upper] - lattice[lower])
    k = ARKIT_INDEX[f"eyeBlink{side.title()}"]
    shut = lattice + face.shapes(lattice)[k]
    gap = (shut[upper] - shut[lower]).norm(dim=-1)
    sculpted_gap = (face.neutral + face.basis[k])[upper] - (face.neutral + face.basis[k])[lower]
    torch.testing.assert_close(gap, sculpted_gap.norm(dim=-1), atol=3e-4, rtol=0)
    without = lattice + face.basis[k]
    assert float((without[upper] - without[lower]).norm(dim=-1).max()) > 0.003


def test_irises_turn_about_the_persons_eyes() -> None:
    lattice = person(1.0, 0.0, 0.0)
    shapes, drawn = sculpted().shapes(lattice), arkit_basis(lattice)
    for look in ("Up", "Down", "In", "Out"):
        for side in ("Left", "Right"):
            k = ARKIT_INDEX[f"eyeLook{look}{side}"]
            iris = list(REGIONS[f"iris_{side.lower()}"])
            torch.testing.assert_close(shapes[k, iris], drawn[k, iris], atol=1e-6, rtol=0)
            assert float(shapes[k, iris].norm(dim=-1).min()) > 0.002


def test_avatars_carry_the_rigs_name(tiny_avatar, tmp_path) -> None:
    """The head model itself is not needed to open them."""
    assert tiny_avatar.header.get("rig", "lattice") == "lattice"
    kept = tiny_avatar.header.copy()
    tiny_avatar.header["rig"] = "ict"
    try:
        tiny_avatar.save(tmp_path / "me.avatar")
    finally:
        tiny_avatar.header = kept
    assert Avatar.load(tmp_path / "me.avatar").header["rig"] == "ict"
