"""The viewer's logic without a browser: controls to states, playback, cameras, presets."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from avatar.capture_data import Track
from avatar.export.render import front_camera
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD
from avatar.rig.gaze import gaze_of, look_weights
from avatar.rotations import matrix_to_quat, rotvec_to_matrix
from avatar.types import HeadState, look_at
from viewer.cameras import VIEWPOINTS, ClientView, camera_of, picture_size, viewpoint
from viewer.presets import PRESETS
from viewer.render_loop import next_resolution
from viewer.state import (
    Controls,
    Playback,
    captured_motion,
    neutral,
    posed,
)


@pytest.fixture
def rest(tiny_avatar) -> HeadState:
    """A rest state that is zero nowhere: the head turned, the eyes a little down."""
    R = rotvec_to_matrix(torch.tensor([0.1, 0.3, -0.05]))
    T = torch.eye(4)
    T[:3, :3], T[:3, 3] = R, torch.tensor([0.02, -0.01, 0.03])
    gaze = torch.tensor([[0.05, -0.1], [0.02, -0.1]])
    return replace(tiny_avatar.rest, gaze=gaze, T_world_head=T)


@pytest.fixture
def captured(rest) -> HeadState:
    """A captured state with residuals and a coefficient beyond its nominal range."""
    expression = torch.linspace(-0.05, 1.1, len(rest.expression))
    gaze = torch.tensor([[-0.2, 0.1], [-0.15, 0.1]])
    return HeadState(expression, gaze, rest.T_world_head, rest.T_world_torso)


def weight(state: HeadState, name: str) -> float:
    return float(state.expression[ARKIT_INDEX[name]])


def test_controls_at_zero_leave_the_captured_state_as_it_was(captured):
    state = posed(captured, Controls())
    for name in ("expression", "gaze", "T_world_head", "T_world_torso"):
        assert torch.equal(getattr(state, name), getattr(captured, name)), name


def test_by_hand_the_sliders_are_the_coefficients_and_residuals_are_zero(rest):
    rest = replace(rest, expression=torch.full_like(rest.expression, 0.3))
    state = posed(neutral(rest), Controls({"jawOpen": 0.4, "mouthSmileLeft": 1.0}))
    looks = {name for name in ARKIT_NAMES if name.startswith("eyeLook")}
    expected = {"jawOpen": 0.4, "mouthSmileLeft": 1.0}
    for name in set(ARKIT_NAMES) - looks:
        assert weight(state, name) == pytest.approx(expected.get(name, 0.0))
    assert torch.equal(state.expression[52:], torch.zeros(len(rest.expression) - 52))
    assert torch.equal(state.gaze, rest.gaze)


def test_sliders_add_to_the_captured_motion_and_stay_in_range(captured):
    state = posed(captured, Controls({"jawOpen": 0.25, "tongueOut": 1.0}))
    assert weight(state, "jawOpen") == pytest.approx(weight(captured, "jawOpen") + 0.25)
    assert weight(captured, "tongueOut") > 1.0
    assert weight(state, "tongueOut") == weight(captured, "tongueOut")  # it was beyond 1 before
    assert weight(state, "cheekPuff") == weight(captured, "cheekPuff") < 1.0
    full = posed(captured, Controls({"cheekPuff": 1.0}))
    assert weight(full, "cheekPuff") == 1.0
    assert torch.equal(state.expression[52:], captured.expression[52:])


@pytest.mark.parametrize("name", ["rest", "captured"])
def test_lids_follow_the_gaze_sliders(name, rest, captured):
    base = (
        neutral(rest)
        if name == "rest"
        else replace(captured, expression=neutral(captured).expression)
    )
    state = posed(base, Controls(gaze_deg=(12.0, -9.0)))
    turn = torch.tensor([12.0, -9.0]).deg2rad()
    assert torch.allclose(state.gaze, base.gaze + turn, atol=1e-6)
    # The coefficients mean the gaze, for both eyes, whatever the gaze was before.
    assert torch.allclose(gaze_of(state.expression[:52]), state.gaze, atol=1e-6)


def test_full_look_is_the_gaze_that_the_basis_was_made_for(rest):
    straight = replace(rest, gaze=torch.zeros(2, 2))
    state = posed(neutral(straight), Controls(gaze_deg=(30.0, 25.0)))
    assert torch.allclose(state.gaze, torch.tensor([GAZE_SIDE_RAD, GAZE_UP_RAD]).expand(2, 2))
    for name in ("eyeLookOutLeft", "eyeLookInRight", "eyeLookUpLeft", "eyeLookUpRight"):
        assert weight(state, name) == pytest.approx(1.0)
    for name in ("eyeLookInLeft", "eyeLookOutRight", "eyeLookDownLeft", "eyeLookDownRight"):
        assert weight(state, name) == 0.0


def test_eyes_follow_the_look_coefficients(rest):
    straight = replace(rest, gaze=torch.zeros(2, 2))
    state = posed(neutral(straight), Controls(PRESETS["look left"]))
    assert torch.allclose(state.gaze[:, 0], torch.full((2,), 0.8 * GAZE_SIDE_RAD))
    assert weight(state, "eyeLookOutLeft") == pytest.approx(0.8)
    crossed = posed(neutral(straight), Controls({"eyeLookInLeft": 0.5, "eyeLookInRight": 0.5}))
    assert float(crossed.gaze[0, 0]) < 0 < float(crossed.gaze[1, 0])


def test_sliders_and_look_coefficients_together_turn_the_eyes_no_further_than_eyes_turn(rest):
    straight = replace(rest, gaze=torch.zeros(2, 2))
    state = posed(neutral(straight), Controls(PRESETS["look up"], gaze_deg=(0.0, 25.0)))
    assert float(state.gaze[0, 1]) == pytest.approx(GAZE_UP_RAD)
    assert weight(state, "eyeLookUpLeft") == pytest.approx(1.0)


def test_gaze_survives_the_way_through_the_coefficients():
    gaze = torch.tensor([[0.2, -0.1], [-0.3, 0.4]])
    assert torch.allclose(gaze_of(look_weights(gaze)), gaze)


def test_head_sliders_turn_the_head_about_its_own_axes_and_leave_the_torso(rest):
    state = posed(neutral(rest), Controls(head_deg=(20.0, 0.0, 0.0)))
    turn = rest.T_world_head[:3, :3].T @ state.T_world_head[:3, :3]
    assert torch.allclose(
        turn, rotvec_to_matrix(torch.tensor([0.0, math.radians(20), 0.0])), atol=1e-6
    )
    assert torch.equal(state.T_world_torso, rest.T_world_torso)
    up = posed(neutral(rest), Controls(head_deg=(0.0, 15.0, 0.0)))
    turn = rest.T_world_head[:3, :3].T @ up.T_world_head[:3, :3]
    assert float(turn[1, 2]) > 0.2  # the face's axis (z) rises


def test_presets_name_known_coefficients_in_range_and_mirror_each_other():
    for name, weights in PRESETS.items():
        assert set(weights) <= set(ARKIT_NAMES), name
        assert all(0 < value <= 1 for value in weights.values()), name

    def mirrored(weights: dict[str, float]) -> dict[str, float]:
        swap = {"Left": "Right", "Right": "Left"}
        return {
            next((n.removesuffix(s) + t for s, t in swap.items() if n.endswith(s)), n): v
            for n, v in weights.items()
        }

    assert mirrored(PRESETS["wink left"]) == PRESETS["wink right"]
    assert mirrored(PRESETS["look left"]) == PRESETS["look right"]
    for name in set(PRESETS) - {"wink left", "wink right", "look left", "look right"}:
        assert mirrored(PRESETS[name]) == PRESETS[name], name


def test_playback_goes_round_keeps_its_place_and_seeks():
    still = Playback(frames=10, fps=25.0)
    assert still.frame(100.0) == 0
    playing = still.changed(100.0, playing=True)
    assert [playing.frame(100.0 + f / 25 + 1e-6) for f in (0, 1, 9, 10, 23)] == [0, 1, 9, 0, 3]
    half = playing.changed(100.0 + 4 / 25 + 1e-6, speed=0.5)
    assert half.frame(100.0 + 6 / 25 + 1e-5) == 5
    paused = half.changed(100.0 + 6 / 25 + 1e-5, playing=False)
    assert paused.frame(500.0) == 5
    assert paused.changed(500.0, frame=7).frame(900.0) == 7
    assert paused.changed(500.0, frame=7, playing=True).frame(500.0 + 2 / 12.5 + 1e-6) == 9


def test_missing_and_unfitting_motion_are_explained(tiny_avatar):
    states, text = captured_motion(tiny_avatar, None)
    assert states is None
    assert "No captured motion" in text
    track = make_track(tiny_avatar)
    states, text = captured_motion(tiny_avatar, track)
    assert states is not None
    assert len(states) == 5
    assert "5 frames" in text
    other = replace(track, expression_names=track.expression_names[:-1])
    states, text = captured_motion(tiny_avatar, other)
    assert states is None
    assert "Train the avatar again" in text
    unseen = replace(track, valid=torch.zeros(5, dtype=torch.bool))
    states, text = captured_motion(tiny_avatar, unseen)
    assert states is None
    assert "no face" in text


def test_the_browsers_camera_becomes_ours():
    eye, target = torch.tensor([0.3, 0.2, 0.9]), torch.tensor([0.0, 0.05, 0.0])
    T_cam_world = look_at(eye, target)
    wxyz = matrix_to_quat(T_cam_world[:3, :3].T).tolist()
    view = ClientView(tuple(wxyz), tuple(eye.tolist()), 0.6, 1280, 720)
    camera = camera_of(view, 360)
    assert (camera.width, camera.height) == (640, 360)
    assert torch.allclose(camera.T_cam_world, T_cam_world, atol=1e-6)
    pixel = camera.K @ (camera.T_cam_world[:3, :3] @ target + camera.T_cam_world[:3, 3])
    assert torch.allclose(pixel[:2] / pixel[2], torch.tensor([320.0, 180.0]), atol=1e-3)
    # Half the picture's height is half the field of view.
    assert float(torch.atan(180 / camera.K[1, 1])) == pytest.approx(0.3, abs=1e-6)
    assert float(camera.K[0, 0]) == pytest.approx(float(camera.K[1, 1]))


@pytest.mark.parametrize(
    ("canvas", "resolution", "expected"),
    [
        ((1000, 500), 250, (500, 250)),
        ((1000, 500), 2000, (1000, 500)),  # never more than the browser shows
        ((400, 800), 400, (200, 400)),
        ((4000, 500), 250, (1000, 125)),  # as many pixels as twice as wide as high
        ((3, 1000), 100, (1, 100)),
    ],
)
def test_pictures_have_the_canvas_shape_and_a_limited_size(canvas, resolution, expected):
    view = ClientView((1.0, 0, 0, 0), (0.0, 0, 0), 1.0, *canvas)
    assert picture_size(view, resolution) == expected


def test_every_viewpoint_looks_at_the_head_from_where_it_says(tiny_avatar):
    centre = tiny_avatar.rest.T_world_head[:3, 3]
    for name, angles in VIEWPOINTS.items():
        point = viewpoint(tiny_avatar, name)
        eye, target = torch.tensor(point.position), torch.tensor(point.look_at)
        camera = front_camera(tiny_avatar, (512, 512))
        assert float((target - centre).norm()) < 0.2, name
        assert 0.1 < point.fov < 1.5, name
        if angles is not None:
            sideways = math.degrees(math.atan2(eye[0] - target[0], eye[2] - target[2]))
            assert sideways == pytest.approx(angles[0], abs=0.1), name
        if name == "front":
            assert torch.allclose(look_at(eye, target), camera.T_cam_world, atol=1e-5)


def test_resolution_settles_where_the_picture_takes_its_budget():
    # A machine on which a picture costs 2 ms and 1 ms for each 20 000 pixels.
    def cost_s(resolution: float) -> float:
        return 0.002 + resolution**2 / 20000 * 1e-3

    for start in (160.0, 1400.0):
        resolution = start
        for _ in range(60):
            resolution = next_resolution(resolution, cost_s(resolution), 0.04)
        assert 0.6 * 0.04 < cost_s(resolution) <= 0.04
        assert next_resolution(resolution, cost_s(resolution), 0.04) == resolution


def make_track(avatar, frames: int = 5) -> Track:
    """A track of an avatar whose jaw opens and whose head turns."""
    share = torch.linspace(0, 1, frames)
    expression = torch.zeros(frames, len(avatar.expression_names))
    expression[:, ARKIT_INDEX["jawOpen"]] = share
    T_world_head = torch.eye(4).repeat(frames, 1, 1)
    turn = torch.stack([0 * share, 0.4 * share, 0 * share], -1)
    T_world_head[:, :3, :3] = rotvec_to_matrix(turn)
    return Track(
        K=avatar.camera.K[None],
        T_cam_world=avatar.camera.T_cam_world[None],
        lattice=avatar.lattice,
        basis=avatar.basis,
        eyeballs=avatar.eyeballs,
        expression=expression,
        gaze=torch.zeros(frames, 2, 2),
        T_world_head=T_world_head,
        T_world_torso=torch.eye(4).repeat(frames, 1, 1),
        landmarks_px=torch.zeros(frames, 478, 2),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
        expression_names=avatar.expression_names,
        rig="lattice",
        fps=25.0,
    )
