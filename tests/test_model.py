"""The avatar: posing is pure and rigid where it must be; its file is checked."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import torch
from conftest import of_kind
from hypothesis import HealthCheck, given, settings, strategies
from safetensors import safe_open
from safetensors.torch import load_file

from avatar.checks import InputError
from avatar.model.avatar import GAUSSIAN_PARAMETERS, LARGEST_M, Avatar
from avatar.model.create_features import barycentric_weights
from avatar.model.deformers import DEFORMERS
from avatar.model.store import AVATAR_FORMAT, AVATAR_VERSION
from avatar.model.stretch import MOST
from avatar.raster import one_torch_thread, rasterize
from avatar.rotations import rigid, rotvec_to_matrix, transform_points
from avatar.tensorfile import read_tensors, write_tensors
from avatar.train.metrics import psnr
from avatar.types import Gaussians, HeadState

GOLDEN = Path(__file__).parent / "golden"


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


def a_batch(avatar: Avatar, count: int) -> HeadState:
    return HeadState.stacked([a_state(avatar, seed) for seed in range(count)])


def equal(a: Gaussians, b: Gaussians) -> bool:
    names = ("means", "quats", "scales", "opacities", "colours")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.fixture(params=sorted(DEFORMERS))
def of_each_kind(request, tiny_avatar) -> Avatar:
    """An avatar of each kind of deformer, those that turn Gaussians among them, with offsets."""
    avatar = of_kind(tiny_avatar, request.param).requires_grad_(False)
    for parameter in avatar.deformer.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator())
    return avatar


def test_a_batch_is_posed_as_its_single_states(of_each_kind):
    states = a_batch(of_each_kind, 5)
    batch = of_each_kind.pose_batch(states)
    assert len(batch) == 5
    for index, gaussians in enumerate(batch):
        assert equal(gaussians, of_each_kind.pose(states[index]))
    assert not equal(batch[0], batch[1])
    assert of_each_kind.pose_batch(states[:0]) == []


def test_threads_pose_one_avatar_as_one_after_another_would(of_each_kind):
    states = a_batch(of_each_kind, 24)
    with one_torch_thread():
        expected = of_each_kind.pose_batch(states)
        # All at once: each thread begins when all are there.
        together = Barrier(4)

        def pose(first: int) -> list[Gaussians]:
            together.wait(timeout=60)
            return [of_each_kind.pose(states[i]) for i in range(first, 24, 4)]

        with ThreadPoolExecutor(4) as pool:
            for first, found in enumerate(pool.map(pose, range(4))):
                for a, b in zip(found, expected[first::4], strict=True):
                    assert equal(a, b)


def test_what_is_no_batch_is_refused(tiny_avatar):
    states = a_batch(tiny_avatar, 3)
    with pytest.raises(ValueError, match="expression must have shape"):
        tiny_avatar.pose_batch(tiny_avatar.rest)
    with pytest.raises(ValueError, match="gaze must have shape"):
        tiny_avatar.pose_batch(replace(states, gaze=states.gaze[:2]))
    with pytest.raises(ValueError, match="expression must have shape"):
        tiny_avatar.pose(states)


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
    # Offsets are stored in a byte a number: 1e-2 of offsets of about 0.05 x 0.02 m.
    torch.testing.assert_close(a.means, b.means, atol=2e-5, rtol=0)
    torch.testing.assert_close(a.colours, b.colours, atol=2e-3, rtol=0)
    white = torch.ones(3)
    with torch.no_grad():
        first, second = (rasterize(x, tiny_avatar.camera, background=white).rgb for x in (a, b))
    assert psnr(first, second) > 45
    # A second round trip changes nothing more.
    again = tmp_path / "again.avatar"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_an_exact_file_gives_every_bit_back(tiny_avatar, tmp_path):
    path = tmp_path / "me.avatar"
    for kind in DEFORMERS:
        avatar = of_kind(tiny_avatar, kind)
        with torch.no_grad():
            for parameter in avatar.deformer.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator())
        avatar.save(path, exact=True)
        loaded = Avatar.load(path)
        for name, value in avatar.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), (kind, name)


def test_a_file_of_a_draft_is_small(tiny_avatar, tmp_path):
    """12 MB at most; what grows is what there is of each Gaussian, which is counted here."""
    avatar = of_kind(tiny_avatar, "branches")
    sizes = []
    for times in (1, 3):
        rows = torch.arange(len(avatar)).repeat(times).sort().values
        person = {name: getattr(avatar, name).detach()[rows] for name in GAUSSIAN_PARAMETERS}
        made = of_kind(tiny_avatar, "branches")
        for name, value in person.items():
            setattr(made, name, torch.nn.Parameter(value))
        made.set_binding(avatar.binding()[rows])
        made.deformer.select(rows)
        made.save(tmp_path / "me.avatar")
        sizes.append((tmp_path / "me.avatar").stat().st_size)
    each = (sizes[1] - sizes[0]) / (2 * len(avatar))
    assert each * 40_000 + sizes[0] < 12e6  # the standard preset's Gaussians


def test_a_file_of_version_1_poses_as_it_did():
    """Written, and posed, by the last program that wrote version 1."""
    avatar = Avatar.load(GOLDEN / "avatar_v1.avatar")
    assert avatar.deformer.kind == "blendshapes"
    assert avatar.header["source_sha256"] == "abc"
    stored = load_file(GOLDEN / "avatar_v1_posed.safetensors")
    names = ("expression", "gaze", "T_world_head", "T_world_torso")
    posed = avatar.pose(HeadState(*(stored[f"state.{name}"] for name in names)))
    for name in ("means", "quats", "opacities", "colours"):
        # Other processors round sums in another order.
        torch.testing.assert_close(getattr(posed, name), stored[f"posed.{name}"], msg=name)
    # Gaussians have since learnt to grow with stretched skin, and to stop growing.
    then = stored["posed.scales"].clamp(max=LARGEST_M)
    assert (posed.scales >= then * 0.9999).all()
    assert (posed.scales <= torch.clamp(MOST * then, max=LARGEST_M) * 1.0001).all()
    # Offsets matter in it: the test would not pass without the network.
    with torch.no_grad():
        avatar.deformer.offsets.zero_()
    rigid_only = avatar.pose(HeadState(*(stored[f"state.{name}"] for name in names)))
    assert (rigid_only.means - posed.means).abs().max() > 1e-4


def test_a_file_of_version_1_is_written_as_todays(tmp_path):
    avatar = Avatar.load(GOLDEN / "avatar_v1.avatar")
    avatar.save(tmp_path / "me.avatar")
    again = Avatar.load(tmp_path / "me.avatar")
    torch.testing.assert_close(
        again.pose(avatar.rest).means, avatar.pose(avatar.rest).means, atol=2e-5, rtol=0
    )
    with safe_open(tmp_path / "me.avatar", "pt") as file:
        header = json.loads(file.metadata()["header"])
        assert header["version"] == 2
        assert file.get_tensor("deformer.offsets").dtype == torch.int8


def test_a_companded_tensor_without_its_scale_is_refused(tiny_avatar, tmp_path):
    path = tmp_path / "me.avatar"
    for change in ("drop", "shorten", "spoil"):
        tiny_avatar.save(path)
        tensors, header = read_tensors(path, format=AVATAR_FORMAT, version=AVATAR_VERSION)
        scale = tensors.pop("deformer.offsets.scale")
        if change == "shorten":
            tensors["deformer.offsets.scale"] = scale[:, :12]
        if change == "spoil":
            tensors["deformer.offsets.scale"] = scale * float("nan")
        fields = {k: v for k, v in header.items() if k not in ("format", "version")}
        write_tensors(path, tensors, format=AVATAR_FORMAT, version=AVATAR_VERSION, header=fields)
        with pytest.raises(InputError, match=r"me\.avatar: 'deformer\.offsets\.scale'"):
            Avatar.load(path)


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
    newer = content.replace(b'\\"version\\": 2,', b'\\"version\\": 9,', 1)
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


@pytest.mark.parametrize("name", ["colours", "log_scales", "logit_opacities", "follow", "offsets"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_lost_on_the_way_to_the_file(tiny_avatar, tmp_path, name, value):
    with torch.no_grad():
        held = tiny_avatar.deformer.offsets if name == "offsets" else getattr(tiny_avatar, name)
        held[2] = value
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    with pytest.raises(InputError, match=rf"{name}.*NaN"):
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
