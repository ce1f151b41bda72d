"""The avatar: posing is pure and rigid where it must be; its file is checked."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies

from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.model.create_features import barycentric_weights
from avatar.rotations import rigid, rotvec_to_matrix, transform_points
from avatar.types import HeadState


def a_state(avatar: Avatar, seed: int = 3) -> HeadState:
    generator = torch.Generator().manual_seed(seed)
    T = rigid(
        rotvec_to_matrix(torch.randn(3, generator=generator) * 0.2),
        torch.randn(3, generator=generator) * 0.02,
    )
    expression = torch.rand(len(avatar.expression_names), generator=generator)
    return HeadState(expression, torch.randn(2, 2, generator=generator) * 0.1, T, T)


def test_pose_is_a_pure_function_of_the_state(tiny_avatar):
    state = a_state(tiny_avatar)
    first = tiny_avatar.pose(state)
    tiny_avatar.pose(tiny_avatar.rest)
    again = tiny_avatar.pose(state)
    for name in ("means", "quats", "scales", "opacities", "colours"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name


def test_head_and_torso_moving_together_is_a_rigid_motion_of_everything(tiny_avatar):
    # Pose features see the motion, so the offsets are taken out: what is left must be rigid.
    with torch.no_grad():
        tiny_avatar.deformer.offsets.zero_()
    rest = tiny_avatar.rest
    T = a_state(tiny_avatar).T_world_head
    moved = HeadState(rest.expression, rest.gaze, T @ rest.T_world_head, T @ rest.T_world_torso)
    expected = transform_points(T, tiny_avatar.pose(rest).means)
    # float32 on coordinates below a metre.
    torch.testing.assert_close(tiny_avatar.pose(moved).means, expected, atol=1e-6, rtol=0)


def test_torso_gaussians_stay_when_the_head_turns(tiny_avatar):
    with torch.no_grad():
        tiny_avatar.deformer.offsets.zero_()
        tiny_avatar.torso_logits.fill_(40.0)
    rest = tiny_avatar.rest
    turned = HeadState(
        rest.expression, rest.gaze, a_state(tiny_avatar).T_world_head, rest.T_world_torso
    )
    torch.testing.assert_close(tiny_avatar.pose(turned).means, tiny_avatar.pose(rest).means)


def test_looking_left_moves_the_front_of_the_eyeballs_left_and_nothing_else(tiny_avatar):
    with torch.no_grad():
        tiny_avatar.deformer.offsets.zero_()
        rows = torch.nonzero(tiny_avatar.eye >= 0)[:, 0]
        front = tiny_avatar.eyeballs[tiny_avatar.eye[rows]] + torch.tensor([0.0, 0.0, 0.012])
        tiny_avatar.means[rows] = front
    rest = tiny_avatar.rest
    left = HeadState(
        rest.expression,
        rest.gaze + torch.tensor([0.3, 0.0]),
        rest.T_world_head,
        rest.T_world_torso,
    )
    up = HeadState(
        rest.expression,
        rest.gaze + torch.tensor([0.0, 0.3]),
        rest.T_world_head,
        rest.T_world_torso,
    )
    base = tiny_avatar.pose(rest).means
    moved_left, moved_up = tiny_avatar.pose(left).means - base, tiny_avatar.pose(up).means - base
    assert (moved_left[rows, 0] > 0.002).all()  # x points to the subject's left
    assert (moved_up[rows, 1] > 0.002).all()
    others = tiny_avatar.eye < 0
    assert moved_left[others].abs().max() == 0


def test_an_expression_moves_skin_by_the_lattice(tiny_avatar):
    with torch.no_grad():
        tiny_avatar.deformer.offsets.zero_()
        tiny_avatar.torso_logits.fill_(-40.0)
    rest = tiny_avatar.rest
    expression = rest.expression.clone()
    expression[17] = 1.0
    state = HeadState(expression, rest.gaze, rest.T_world_head, rest.T_world_torso)
    moved = tiny_avatar.pose(state).means - tiny_avatar.pose(rest).means
    corners = tiny_avatar.triangles[tiny_avatar.triangle]
    skin = (tiny_avatar.basis[17][corners] * tiny_avatar.barycentric[..., None]).sum(1)
    expected = skin * tiny_avatar.follow[:, None]
    torch.testing.assert_close(moved, expected, atol=1e-7, rtol=1e-4)


def test_a_state_of_another_rig_is_refused(tiny_avatar):
    rest = tiny_avatar.rest
    state = HeadState(torch.zeros(52), rest.gaze, rest.T_world_head, rest.T_world_torso)
    with pytest.raises(ValueError, match="expression must have shape"):
        tiny_avatar.pose(state)


def test_barycentric_weights_recover_points_of_the_triangle():
    generator = torch.Generator().manual_seed(0)
    corners = torch.randn(50, 3, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(50, 3, generator=generator, dtype=torch.float64)
    weights = weights / weights.sum(1, keepdim=True)
    points = (corners * weights[..., None]).sum(1)
    torch.testing.assert_close(barycentric_weights(corners, points), weights)


def test_the_file_gives_the_same_picture_back(tiny_avatar, tmp_path):
    path = tmp_path / "me.avatar"
    tiny_avatar.header["source_sha256"] = "abc"
    tiny_avatar.save(path)
    loaded = Avatar.load(path)
    assert loaded.header["source_sha256"] == "abc"
    assert loaded.expression_names == tiny_avatar.expression_names
    state = a_state(tiny_avatar)
    a, b = tiny_avatar.pose(state), loaded.pose(state)
    # Offsets are stored in half precision: 1e-3 of offsets of about 0.05 x 0.02 m.
    torch.testing.assert_close(a.means, b.means, atol=3e-6, rtol=0)
    torch.testing.assert_close(a.colours, b.colours, atol=1e-3, rtol=0)
    # A second round trip changes nothing more.
    loaded.save(path)
    again = Avatar.load(path).pose(state)
    assert torch.equal(b.means, again.means)


def test_a_truncated_file_is_refused(tiny_avatar, tmp_path):
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=r"me\.avatar is damaged"):
        Avatar.load(path)


def test_nan_in_the_file_is_refused(tiny_avatar, tmp_path):
    with torch.no_grad():
        tiny_avatar.means[7, 1] = float("nan")
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    with pytest.raises(InputError, match=r"gaussians\.means.*NaN"):
        Avatar.load(path)


def test_another_header_is_refused(tiny_avatar, tmp_path):
    path = tmp_path / "me.avatar"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        Avatar.load(path)
    path.write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(InputError, match=r"not a headsplat\.avatar file"):
        Avatar.load(path)
    with pytest.raises(InputError, match="does not exist"):
        Avatar.load(tmp_path / "none.avatar")


def test_a_newer_version_is_refused_and_says_so(tiny_avatar, tmp_path):
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    content = path.read_bytes()
    newer = content.replace(b'\\"version\\": 1,', b'\\"version\\": 9,', 1)
    assert newer != content
    path.write_bytes(newer)
    with pytest.raises(InputError, match="version 9"):
        Avatar.load(path)


def test_indices_that_point_nowhere_are_refused(tiny_avatar, tmp_path):
    tiny_avatar.triangle[0] = 100_000
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    with pytest.raises(InputError, match=r"binding\.triangle"):
        Avatar.load(path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=strategies.floats(0, 1), value=strategies.binary(min_size=1, max_size=8))
def test_random_damage_is_refused_or_harmless(tiny_avatar, tmp_path, position, value):
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    content = bytearray(path.read_bytes())
    at = int(position * (len(content) - len(value)))
    content[at : at + len(value)] = value
    path.write_bytes(bytes(content))
    try:
        Avatar.load(path)
    except InputError as error:
        assert "me.avatar" in str(error)
