"""Exploded Gaussians are found, whatever slider they hide behind; views and slider states."""

from __future__ import annotations

import math

import pytest
import torch

from avatar.model.avatar import Avatar
from avatar.model.views import front_camera, head_camera, slider_state
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD
from avatar.rotations import rotvec_to_matrix, transform_points
from avatar.train.sanity import LARGEST, check_sliders, largest_extents
from avatar.types import Camera, Gaussians

TAME = ("neutral", *ARKIT_NAMES)


@pytest.fixture
def tame_avatar(tiny_avatar: Avatar) -> Avatar:
    """Nothing of it explodes."""
    with torch.no_grad():
        tiny_avatar.deformer.offsets.zero_()
        tiny_avatar.log_scales.fill_(math.log(0.004))
    return tiny_avatar


def one(mean=(0.0, 0.0, 0.0), scale=(0.01, 0.01, 0.01), opacity=0.5) -> Gaussians:
    turn = torch.tensor([[0.9, 0.1, -0.3, 0.2]])
    return Gaussians(
        torch.tensor([mean]), turn, torch.tensor([scale]), torch.tensor([opacity]), torch.ones(1, 3)
    )


@pytest.fixture
def camera() -> Camera:
    T = torch.eye(4)
    T[2, 3] = 0.5
    K = torch.tensor([[200.0, 0, 100], [0, 200.0, 50], [0, 0, 1]])
    return Camera(K, T, 200, 100)


def test_the_extent_is_six_standard_deviations_of_the_projection(camera) -> None:
    found = largest_extents(one(), camera, torch.zeros(3))
    assert found.worst == pytest.approx(6 * 0.01 * 200 / 0.5 / 100, rel=1e-5)
    assert not found.exploded.any()
    wide = largest_extents(one(scale=(0.012, 0.012, 0.012)), camera, torch.zeros(3))
    assert wide.exploded.all()
    assert wide.worst > LARGEST


def test_the_extent_agrees_with_samples(camera) -> None:
    g = one(mean=(0.03, -0.02, 0.1), scale=(0.004, 0.001, 0.008))
    from avatar.rotations import quat_to_matrix

    draw = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0)) * 1e-2
    points = g.means + draw * g.scales @ quat_to_matrix(g.quats)[0].T
    p = transform_points(camera.T_cam_world, points)
    uv = (p @ camera.K.T)[:, :2] / p[:, 2:]
    sigma = float(torch.linalg.eigvalsh(torch.cov(uv.T.double()))[-1].sqrt()) / 1e-2
    found = largest_extents(g, camera, torch.zeros(3))
    assert found.worst == pytest.approx(6 * sigma / camera.height, rel=0.01)


def test_what_is_not_seen_has_not_exploded(camera) -> None:
    head = torch.zeros(3)
    huge = (0.5, 0.5, 0.5)
    assert not largest_extents(one(scale=huge, opacity=0.04), camera, head).exploded.any()
    assert not largest_extents(one(mean=(0, 0, -0.9), scale=huge), camera, head).exploded.any()
    aside = one(mean=(0.9, 0.0, 0.0))
    assert largest_extents(aside, camera, head).worst == 0


@pytest.mark.parametrize("mean", [(0.0, 1.2, 0.0), (math.nan, 0.0, 0.0), (0.0, 0.0, -3.0)])
def test_what_flew_away_has_exploded(camera, mean) -> None:
    assert largest_extents(one(mean=mean), camera, torch.zeros(3)).exploded.all()


def test_a_known_extent_hides_neither_the_worse_nor_the_exploded(camera) -> None:
    g = [one(scale=(s, s, s)) for s in (0.005, 0.012)]
    both = Gaussians(
        *(
            torch.cat([getattr(x, name) for x in g])
            for name in ("means", "quats", "scales", "opacities", "colours")
        )
    )
    for known in (0.0, 0.1, 0.27, 0.9):
        found = largest_extents(both, camera, torch.zeros(3), known=known)
        assert found.exploded.tolist() == [False, True]
        assert found.worst == pytest.approx(6 * 0.012 * 4, rel=1e-5)


def test_a_sound_avatar_passes_and_a_gaussian_made_to_explode_is_found(
    tame_avatar, monkeypatch
) -> None:
    sound = check_sliders(tame_avatar)
    assert sound["exploded"] == 0
    assert sound["exploded_in"] == []
    assert sound["worst"] in TAME
    assert 0 < sound["worst_extent"] < LARGEST
    # Posing holds sizes within a limit; without it, what is found is what the limit prevents.
    monkeypatch.setattr("avatar.model.avatar.LARGEST_M", 1.0)
    with torch.no_grad():
        tame_avatar.log_scales[7] = math.log(0.3)
        tame_avatar.logit_opacities[7] = 2.0
        tame_avatar.log_scales[8] = math.log(0.3)
        tame_avatar.logit_opacities[8] = -5.0  # too faint to be seen
    broken = check_sliders(tame_avatar)
    assert broken["exploded"] == 1
    assert broken["exploded_in"] == list(TAME)
    assert broken["worst_extent"] > LARGEST
    monkeypatch.undo()
    assert check_sliders(tame_avatar)["exploded"] == 0


def test_a_gaussian_that_explodes_with_one_slider_is_found_there(tame_avatar) -> None:
    with torch.no_grad():
        index = tame_avatar.expression_names.index("mouthFunnel")
        corners = tame_avatar.triangles[tame_avatar.triangle[50]]
        tame_avatar.basis[index, corners] += torch.tensor([0.0, 3.0, 0.0])
        tame_avatar.follow[50] = 1.0
        tame_avatar.logit_opacities[50] = 2.0
        tame_avatar.set_binding(tame_avatar.binding())
    found = check_sliders(tame_avatar)
    assert found["exploded"] >= 1
    assert found["exploded_in"] == ["mouthFunnel"]


def test_a_slider_moves_itself_alone_and_eyes_turn_with_theirs(tiny_avatar) -> None:
    rest = tiny_avatar.rest
    state = slider_state(tiny_avatar, {"jawOpen": 0.5})
    assert state.expression.sum() == 0.5
    assert torch.equal(state.gaze, rest.gaze)
    looking = slider_state(tiny_avatar, {"eyeLookOutLeft": 1.0, "eyeLookUpRight": 0.5})
    turn = looking.gaze - rest.gaze
    expected = torch.tensor([[GAZE_SIDE_RAD, 0.0], [0.0, 0.5 * GAZE_UP_RAD]])
    torch.testing.assert_close(turn, expected)
    with pytest.raises(KeyError, match="jawOpened"):
        slider_state(tiny_avatar, {"jawOpened": 1.0})


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.4), (-0.5, -0.4)])
def test_cameras_stand_where_their_angles_say(tiny_avatar, yaw, pitch) -> None:
    R = rotvec_to_matrix(torch.tensor([0.2, 0.5, 0.1]))
    tiny_avatar.rest.T_world_head[:3, :3] = R
    for camera in (
        front_camera(tiny_avatar, None, yaw, pitch),
        head_camera(tiny_avatar, 64, yaw, pitch),
    ):
        T = camera.T_cam_world
        eye = R.T @ (-T[:3, :3].T @ T[:3, 3])  # in the head's frame, whose origin is the world's
        assert float(torch.linalg.norm(eye)) == pytest.approx(0.6, abs=1e-4)
        eye = eye / torch.linalg.norm(eye)
        assert math.asin(float(eye[1])) == pytest.approx(pitch, abs=1e-5)
        assert math.atan2(float(eye[0]), float(eye[2])) == pytest.approx(yaw, abs=1e-5)


def test_the_head_fills_its_tile(tiny_avatar) -> None:
    camera = head_camera(tiny_avatar, 200)
    p = transform_points(camera.T_cam_world @ tiny_avatar.rest.T_world_head, tiny_avatar.lattice)
    uv = (p @ camera.K.T)[:, :2] / p[:, 2:]
    assert float(uv.min()) > 20
    assert float(uv.max()) < 190
    assert float(uv[:, 1].max() - uv[:, 1].min()) > 80
