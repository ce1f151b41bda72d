"""Deformers: one protocol, kept by every kind, in the model and in the file."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import get_args

import pytest
import torch
from conftest import of_kind

from avatar import cli
from avatar.checks import InputError
from avatar.model.avatar import FEATURES, Avatar
from avatar.model.binding import HEAD, MOUTH, TORSO
from avatar.model.deform import CHANNELS, Setup
from avatar.model.deformers import DEFORMERS, DeformerKind, make_deformer
from avatar.model.store import AVATAR_FORMAT, AVATAR_VERSION
from avatar.raster import one_torch_thread
from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.lattice import lattice_table
from avatar.rotations import (
    quat_multiply,
    quat_to_matrix,
    rigid,
    rotvec_to_matrix,
    transform_points,
)
from avatar.tensorfile import read_tensors, write_tensors

KINDS = sorted(DEFORMERS)
LEARNED = [kind for kind in KINDS if kind != "rigid"]
JAW = ARKIT_INDEX["jawOpen"]


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=KINDS)
def avatar(request, tiny_avatar) -> Avatar:
    """An avatar of each kind, its deformer's parameters moved from where they start."""
    made = of_kind(tiny_avatar, request.param)
    with torch.no_grad():
        for index, parameter in enumerate(made.deformer.parameters()):
            parameter += 0.05 * normal(*parameter.shape, seed=index)
    return made.requires_grad_(False)


# -- the protocol -------------------------------------------------------------------------------


def test_the_command_line_knows_every_kind():
    assert set(get_args(DeformerKind)) == set(get_args(cli.Deformer)) == set(DEFORMERS)
    assert all(kind == deformer.kind for kind, deformer in DEFORMERS.items())


def test_a_batch_is_its_single_frames(avatar):
    features = normal(3, FEATURES)
    batch = avatar.deformer(features)
    assert batch.shape == (3, len(avatar), CHANNELS)
    for each, offsets in zip(features, batch, strict=True):
        single = avatar.deformer(each)
        assert single.shape == (len(avatar), CHANNELS)
        # Sums of float32 in another order.
        torch.testing.assert_close(offsets, single, atol=1e-5, rtol=1e-5)
    assert (batch[0] - batch[1]).abs().max() > 1e-3


def test_a_deformer_is_pure_and_may_run_in_threads(avatar):
    features = normal(8, FEATURES)
    with one_torch_thread():
        expected = [avatar.deformer(each) for each in features]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(avatar.deformer, [*features, *features]))
    for a, b in zip([*expected, *expected], found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_the_neutral_face_starts_without_offsets(tiny_avatar, kind):
    deformer = of_kind(tiny_avatar, kind).deformer
    neutral = torch.zeros(FEATURES)
    # A rigid deformer's are those of triangles that have not moved.
    assert deformer(neutral).abs().max() < 1e-5
    if kind in LEARNED:
        assert deformer(normal(FEATURES)).abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_drawn_from_torchs_own_generator(tiny_avatar, kind):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = of_kind(tiny_avatar, kind, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = of_kind(tiny_avatar, kind, seed=3), of_kind(tiny_avatar, kind, seed=4)
    state = first.deformer.state_dict()
    for name, value in again.deformer.state_dict().items():
        assert torch.equal(value, state[name]), name
    if kind in LEARNED:
        changed = other.deformer.state_dict().items()
        assert any(not torch.equal(value, state[name]) for name, value in changed)


def test_selected_rows_keep_their_offsets(avatar):
    features = normal(FEATURES)
    before = avatar.deformer(features)
    twice = torch.tensor([4, 4, 8, 200, 299])
    source = torch.cat([torch.arange(0, len(avatar), 2), twice]).sort().values  # sorted by part
    avatar.set_binding(avatar.binding()[source])
    avatar.deformer.select(source)
    after = avatar.deformer(features)
    assert after.shape == (len(source), CHANNELS)
    torch.testing.assert_close(after, before[source], atol=1e-6, rtol=1e-6)
    rows = {len(source), *torch.bincount(avatar.part).tolist()}
    for name, dim in avatar.deformer.gaussian_dims.items():
        assert getattr(avatar.deformer, name).shape[dim] in rows


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_with_a_row_a_gaussian_is_named(tiny_avatar, kind):
    """Or densification would leave it behind: nothing else is as large as all Gaussians or a part."""
    deformer = of_kind(tiny_avatar, kind).deformer
    rows = sizes_of(tiny_avatar)
    found = {
        name: dim
        for name, value in deformer.state_dict().items()
        for dim, size in enumerate(value.shape)
        if size in rows
    }
    assert found == dict(deformer.gaussian_dims)


def sizes_of(avatar: Avatar) -> set[int]:
    """The numbers of Gaussians: in all and by part."""
    return {len(avatar), *torch.bincount(avatar.part).tolist()}


def test_an_unknown_kind_or_setting_is_refused(tiny_avatar):
    with pytest.raises(InputError, match=r"no deformer 'jelly'; choose one of blendshapes, "):
        of_kind(tiny_avatar, "jelly")
    setup = setup_of(tiny_avatar)
    with pytest.raises(InputError, match=r"'rigid' has no setting shapes; it has: none"):
        make_deformer("rigid", setup, {"shapes": 3})
    for value in (0, 10**9, 2.0, True, "8"):
        with pytest.raises(InputError, match=r"shapes must be an integer from 1 to 512; got"):
            make_deformer("blendshapes", setup, {"shapes": value})


def setup_of(avatar: Avatar) -> Setup:
    return Setup(
        FEATURES,
        avatar.lattice,
        avatar.basis[:52],
        avatar.triangles,
        avatar.binding(),
        avatar.means.detach(),
    )


# -- the file -----------------------------------------------------------------------------------


def test_the_file_gives_the_same_offsets_back(avatar, tmp_path):
    path = tmp_path / "me.avatar"
    avatar.save(path)
    loaded = Avatar.load(path)
    assert loaded.deformer.kind == avatar.deformer.kind
    assert loaded.deformer.settings() == avatar.deformer.settings()
    features = normal(FEATURES)
    # A byte a number, or half precision: a hundredth of values below one.
    torch.testing.assert_close(
        loaded.deformer(features), avatar.deformer(features), atol=1e-2, rtol=1e-2
    )
    loaded.save(path)
    again = Avatar.load(path)
    assert torch.equal(again.deformer(features), loaded.deformer(features))
    assert torch.equal(again.pose(again.rest).means, loaded.pose(loaded.rest).means)


def rewrite(path, change, version: int = AVATAR_VERSION) -> None:
    """Change tensors and header of an avatar file in place."""
    tensors, header = read_tensors(path, format=AVATAR_FORMAT, version=AVATAR_VERSION)
    header = {k: v for k, v in header.items() if k not in ("format", "version")}
    change(tensors, header)
    write_tensors(path, tensors, format=AVATAR_FORMAT, version=version, header=header)


def test_a_file_from_before_there_were_kinds_has_blendshapes(tiny_avatar, tmp_path):
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    features = normal(FEATURES)
    expected = Avatar.load(path).deformer(features)

    def older(tensors, header) -> None:
        header["counts"] |= header.pop("deformer")["settings"]

    rewrite(path, older)
    loaded = Avatar.load(path)
    assert loaded.deformer.kind == "blendshapes"
    assert torch.equal(loaded.deformer(features), expected)


def test_tensors_that_do_not_fit_are_named(avatar, tmp_path):
    path = tmp_path / "me.avatar"
    name, dim = next(iter(avatar.deformer.gaussian_dims.items()))
    key = f"deformer.{name}"

    def shorten(tensors, header) -> None:
        tensors[key] = tensors[key].narrow(dim, 0, tensors[key].shape[dim] - 1)

    def drop(tensors, header) -> None:
        del tensors[key]

    for change, found in ((shorten, r"found \["), (drop, "found None")):
        avatar.save(path)
        rewrite(path, change)
        with pytest.raises(InputError, match=rf"me\.avatar: 'deformer\.{name}' must be .*{found}"):
            Avatar.load(path)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "jelly", "settings": {}}, "no deformer 'jelly'"),
        ({"kind": "latent", "settings": {"latent": 10**12}}, "latent must be an integer"),
        ({"kind": "latent"}, "header is damaged"),
        (["latent"], "header is damaged"),
        ({"kind": "latent", "settings": 7}, "header is damaged"),
    ],
)
def test_a_damaged_header_is_refused(tiny_avatar, tmp_path, section, message):
    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    rewrite(path, lambda tensors, header: header.update(deformer=section))
    with pytest.raises(InputError, match=message):
        Avatar.load(path)


# -- what each kind does ------------------------------------------------------------------------


def test_rigid_gaussians_turn_with_their_triangle(tiny_avatar):
    """A basis that swings the whole face by 0.3 radians at jawOpen 1 turns what is bound to it so."""
    T = rigid(rotvec_to_matrix(torch.tensor([0.3, 0.1, 0.0])), torch.tensor([0.01, 0.0, 0.02]))
    with torch.no_grad():
        tiny_avatar.basis.zero_()
        tiny_avatar.basis[JAW] = transform_points(T, tiny_avatar.lattice) - tiny_avatar.lattice
        tiny_avatar.torso_logits.fill_(-40.0)
        tiny_avatar.follow[10:] = 1.0
        tiny_avatar.set_binding(tiny_avatar.binding())
    avatar = of_kind(tiny_avatar, "rigid").requires_grad_(False)
    expression = avatar.rest.expression.clone()
    expression[JAW] = 1.0
    moved = avatar.pose(replace(avatar.rest, expression=expression))
    rest = avatar.pose(avatar.rest)
    skin = avatar.eye < 0
    torch.testing.assert_close(
        moved.means[skin], transform_points(T, rest.means[skin]), atol=1e-5, rtol=0
    )
    expected = T[:3, :3] @ quat_to_matrix(rest.quats[skin])
    torch.testing.assert_close(quat_to_matrix(moved.quats[skin]), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(moved.scales[skin], rest.scales[skin], rtol=1e-3, atol=0)


def test_rigid_gaussians_grow_with_their_triangle_up_to_a_limit(tiny_avatar):
    with torch.no_grad():
        tiny_avatar.basis.zero_()
        tiny_avatar.basis[JAW] = tiny_avatar.lattice * 0.2
        tiny_avatar.basis[0] = tiny_avatar.lattice * 9.0
        tiny_avatar.follow[10:] = 1.0
        tiny_avatar.set_binding(tiny_avatar.binding())
    deformer = of_kind(tiny_avatar, "rigid").deformer
    for index, factor in ((JAW, 1.2), (0, 1.5)):
        features = torch.zeros(FEATURES)
        features[index] = 1.0
        growth = deformer(features)[tiny_avatar.eye < 0, 7:10]
        torch.testing.assert_close(growth, torch.full_like(growth, math.log(factor)))


def test_an_offset_that_turns_reaches_the_gradient_of_the_rotation(tiny_avatar):
    """Posing turned quaternions is posing quaternions that were turned by hand, gradient included."""
    avatar = of_kind(tiny_avatar, "rigid").requires_grad_(True)
    offsets = torch.zeros(len(avatar), CHANNELS)
    offsets[:, 3:7] = 0.2 * normal(len(avatar), 4)
    turn = offsets[:, 3:7] + torch.tensor([1.0, 0, 0, 0])
    weights = normal(len(avatar), 4, seed=2)
    (avatar.assemble(avatar.rest, offsets).quats * weights).sum().backward()
    by_hand = quat_multiply(turn, avatar.quats.detach()).requires_grad_()
    (torch.nn.functional.normalize(by_hand, dim=1) * weights)[avatar.eye < 0].sum().backward()
    conjugate = turn * torch.tensor([1.0, -1, -1, -1])
    # q -> t q is linear, and its transpose is multiplication by the conjugate.
    expected = quat_multiply(conjugate, by_hand.grad)
    skin = avatar.eye < 0
    torch.testing.assert_close(avatar.quats.grad[skin], expected[skin], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("feature", "stirred"),
    [
        (ARKIT_INDEX["browInnerUp"], {HEAD}),
        (JAW, {HEAD, MOUTH}),
        (52, {HEAD, TORSO}),  # the head turns
        (58, {HEAD}),  # it looks aside
        (62, {TORSO}),  # the torso turns
        (67, {TORSO}),
    ],
)
def test_each_branch_is_stirred_by_what_can_move_it(tiny_avatar, feature, stirred):
    """The collar does not slide when the mouth opens, nor do brows stir the teeth."""
    avatar = of_kind(tiny_avatar, "branches").requires_grad_(False)
    for index, parameter in enumerate(avatar.deformer.parameters()):
        parameter += 0.3 * normal(*parameter.shape, seed=index)
    still = avatar.deformer(torch.zeros(FEATURES))
    moved = avatar.deformer(torch.eye(FEATURES)[feature])
    for part in (HEAD, MOUTH, TORSO):
        rows = avatar.part == part
        if part in stirred:
            assert (still[rows] - moved[rows]).abs().max() > 1e-3
        else:
            assert torch.equal(still[rows], moved[rows])


def test_a_person_without_a_part_is_posed_all_the_same(tiny_avatar):
    for part in (HEAD, MOUTH, TORSO):
        binding = replace(tiny_avatar.binding(), part=torch.full_like(tiny_avatar.part, part))
        tiny_avatar.set_binding(binding)
        avatar = of_kind(tiny_avatar, "branches").requires_grad_(False)
        for index, parameter in enumerate(avatar.deformer.parameters()):
            parameter += 0.3 * normal(*parameter.shape, seed=index)
        offsets = avatar.deformer(normal(FEATURES))
        assert offsets.shape == (300, CHANNELS)
        assert (offsets.abs().amax(1) > 0).all()


def test_the_map_has_a_place_for_every_gaussian_and_neighbours_share_it(tiny_avatar):
    uv = of_kind(tiny_avatar, "uvmap").deformer.uv
    assert uv.abs().max() <= 1
    # The tip of the nose is nearer to the middle of the head's part than the cheeks are.
    points = tiny_avatar.means.detach()
    below = points[:, 1] < lattice_table().neutral[152, 1] - 0.01
    mouth = tiny_avatar.part == MOUTH
    assert (uv[~below & ~mouth, 0] <= 0.3).all()
    assert (uv[below | mouth, 0] >= 0.39).all()
    face = ~below & ~mouth
    apart = torch.cdist(points[face], points[face]) + torch.eye(int(face.sum()))
    nearest = apart.argmin(1)
    assert (uv[face] - uv[face][nearest]).norm(dim=1).median() < 0.06
