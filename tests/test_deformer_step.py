"""Training deformers: every kind follows its gradient, keeps its moments, and resumes exactly."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import of_kind

from avatar.checks import InputError
from avatar.model.avatar import FEATURES, GAUSSIAN_PARAMETERS, Avatar
from avatar.model.create import CreateConfig
from avatar.model.deform import CHANNELS
from avatar.model.deformers import DEFORMERS
from avatar.train.config import RateConfig
from avatar.train.deformer_step import NETWORK_EPSILON, make_deformer_step
from avatar.train.evaluate import EvaluateConfig, evaluate
from avatar.train.laplacian import Laplacian, nearest_neighbours
from avatar.train.loop import Trainer, fit
from configs import PRESETS

KINDS = sorted(DEFORMERS)
LEARNED = [kind for kind in KINDS if kind != "rigid"]
WHOLE_FITS = [
    # A whole fit of each takes its time; the default's is among the fast tests.
    kind if kind == CreateConfig().deformer else pytest.param(kind, marks=pytest.mark.slow)
    for kind in KINDS
]
QUICK = replace(PRESETS["smoke"], steps=40)


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def config_of(kind: str, base=QUICK):
    return replace(base, create=replace(base.create, deformer=kind))


def test_neighbours_are_the_nearest_others():
    points = normal(50, 3)
    points[7] = points[8] = points[9] = points[10]
    found = nearest_neighbours(points, 2)
    assert found.shape == (50, 2)
    assert (found != torch.arange(50)[:, None]).all()
    expected = (torch.cdist(points, points) + 1e9 * torch.eye(50)).topk(2, largest=False).values
    distance = (points[:, None] - points[found]).norm(dim=2)
    torch.testing.assert_close(distance, expected, atol=1e-3, rtol=0)
    assert nearest_neighbours(points[:1], 4).shape == (1, 0)


def test_the_laplacian_is_value_minus_mean_of_neighbours_with_its_gradient():
    neighbours = nearest_neighbours(normal(40, 3), 5)
    laplacian = Laplacian(neighbours)
    values = normal(40, 4).requires_grad_()
    twin = values.detach().clone().requires_grad_()
    weights = normal(40, 4, seed=3)
    found, expected = laplacian(values), twin - twin[neighbours].mean(1)
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(values.grad, twin.grad)


def test_the_regularisers_pull_towards_the_neighbours(tiny_avatar):
    avatar = of_kind(tiny_avatar, "rigid").requires_grad_(True)
    step = make_deformer_step(avatar, RateConfig())
    with torch.no_grad():
        avatar.log_scales.fill_(-5.0)
    assert step.term().item() == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        avatar.means[30, 0] += 0.005
        avatar.log_scales[40] += 1.0
    step.term().backward()
    assert avatar.means.grad[30, 0] > 0
    assert avatar.means.grad[30, 0] > 2 * avatar.means.grad[:30, 0].abs().max()
    assert (avatar.log_scales.grad[40] > 0).all()


@pytest.mark.parametrize("kind", LEARNED)
def test_steps_along_the_gradient_fit_offsets_that_are_asked_for(tiny_avatar, kind):
    """Targets that the kind can reach: those of another of its kind."""
    avatar, wanted = of_kind(tiny_avatar, kind), of_kind(tiny_avatar, kind, seed=9)
    avatar.requires_grad_(True)
    with torch.no_grad():
        for index, parameter in enumerate(wanted.deformer.parameters()):
            parameter += 0.05 * normal(*parameter.shape, seed=index)
        features = normal(4, FEATURES)
        target = wanted.deformer(features)
    step = make_deformer_step(avatar, RateConfig(network=1e-2, offsets=1e-2))
    losses = []
    for _ in range(80):
        with torch.no_grad():
            error = avatar.deformer(features) - target
        losses.append(error.square().mean().item())
        step.step(features, 2 * error / error.numel())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("kind", LEARNED)
def test_a_step_is_adams_on_the_gradient_of_the_loss(tiny_avatar, kind):
    """Against torch's own Adam and autograd through the loss that the gradients stand for."""
    avatar, twin = of_kind(tiny_avatar, kind), of_kind(tiny_avatar, kind)
    for each in (avatar, twin):
        each.requires_grad_(True)
        with torch.no_grad():
            for index, parameter in enumerate(each.deformer.parameters()):
                parameter += 0.05 * normal(*parameter.shape, seed=index)
    start = {n: p.detach().clone() for n, p in avatar.deformer.named_parameters()}
    features, gradients = normal(3, FEATURES), normal(3, len(avatar), CHANNELS, seed=2)
    rates = RateConfig()
    step = make_deformer_step(avatar, rates)
    step.set_factor(0.5)
    step.step(features, gradients)
    loss = (twin.deformer(features) * gradients).sum()
    if twin.deformer.neighbours:
        laplacian = Laplacian(nearest_neighbours(twin.means, twin.deformer.neighbours))
        loss = loss + 3 * twin.deformer.penalty(laplacian)
    loss.backward()
    own = twin.deformer.gaussian_dims
    for name, parameter in twin.deformer.named_parameters():
        lr, eps = (rates.offsets, 1e-15) if name in own else (rates.network, NETWORK_EPSILON)
        before = parameter.detach().clone()
        adam = torch.optim.Adam([parameter], lr=0.5 * lr, eps=eps)
        adam.step()
        stepped = dict(avatar.deformer.named_parameters())[name]
        assert torch.equal(before, start[name])
        # The first step of Adam is the gradient's sign, wherever that is sure.
        sure = parameter.grad.abs() > 1e-4 * parameter.grad.abs().max()
        assert sure.float().mean() > 0.2, name
        torch.testing.assert_close(stepped[sure], parameter[sure], atol=1e-4 * lr, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_rows_start_without_moments_and_kept_ones_keep_theirs(tiny_avatar, kind):
    avatar = of_kind(tiny_avatar, kind).requires_grad_(True)
    step = make_deformer_step(avatar, RateConfig())
    features = normal(2, FEATURES)
    for seed in (1, 2):
        step.step(features, normal(2, len(avatar), CHANNELS, seed=seed))
    before = step.state()
    # Sorted by part: two kept and two halves in each of head, mouth and torso.
    source = torch.tensor([5, 9, 100, 100, 200, 210, 215, 215, 240, 250, 299, 299])
    fresh = torch.tensor([False, False, True, True] * 3)
    with torch.no_grad():
        for name in GAUSSIAN_PARAMETERS:
            setattr(avatar, name, torch.nn.Parameter(getattr(avatar, name)[source]))
    avatar.set_binding(avatar.binding()[source])
    before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in before.items()}
    step.select(source, fresh)
    seen = 0
    # First row of what has a row for each Gaussian, or for each of a part, by the number of rows.
    counts = torch.bincount(tiny_avatar.part).tolist()
    first = {300: 0, counts[0]: 0, counts[1]: counts[0], counts[2]: counts[0] + counts[1]}
    for name, value in step.state().items():
        size = set(before[name].shape) & first.keys() if "exp" in name else set()
        if size:
            (size,) = size
            dim = list(before[name].shape).index(size)
            own = (source >= first[size]) & (source < first[size] + size)
            old, new = before[name].index_select(dim, source[own] - first[size]), fresh[own]
            assert torch.equal(value.movedim(dim, 0)[~new], old.movedim(dim, 0)[~new]), name
            assert value.movedim(dim, 0)[new].abs().max() == 0, name
            seen += len(new)
        elif not isinstance(value, torch.Tensor) or "exp" in name:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(before[name])), name
    assert seen == (2 * len(source) if kind in LEARNED else 0)
    step.step(features, normal(2, len(source), CHANNELS))
    assert avatar.deformer(features).shape == (2, len(source), CHANNELS)


@pytest.mark.parametrize("kind", WHOLE_FITS)
def test_an_interrupted_fit_of_any_kind_resumes_bit_for_bit(small_capture, tmp_path, kind):
    config = config_of(kind)
    whole = fit(small_capture, tmp_path / "whole", config).state_dict()
    trainer = Trainer(small_capture, tmp_path / "broken", config)
    for report in trainer.steps():
        if report.step == 17:  # past densification, and between two steps of the deformer
            trainer.save_checkpoint()
        if report.step == 23:
            break
    resumed = fit(small_capture, tmp_path / "broken", config, resume=True).state_dict()
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("kind", WHOLE_FITS)
def test_a_fit_of_any_kind_beats_its_start_on_frames_it_never_saw(small_capture, tmp_path, kind):
    quick = EvaluateConfig(flip_frames=1, speed_frames=1)
    config = config_of(kind, PRESETS["smoke"])
    start = fit(small_capture, tmp_path / "start", replace(config, steps=1))
    before = evaluate(start, small_capture, config=quick)["psnr"]
    fit(small_capture, tmp_path / "me.run", config)
    avatar = Avatar.load(tmp_path / "me.run" / "avatar.avatar")
    assert avatar.deformer.kind == kind
    assert evaluate(avatar, small_capture, config=quick)["psnr"] > before + 3


def test_a_run_of_another_kind_is_not_resumed(small_capture, tmp_path):
    fit(small_capture, tmp_path / "me.run", replace(QUICK, steps=2))
    with pytest.raises(InputError, match="other settings"):
        fit(small_capture, tmp_path / "me.run", replace(config_of("rigid"), steps=2), resume=True)


def test_the_command_line_takes_the_kind(small_capture, tmp_path):
    run = tmp_path / "me.run"
    command = [sys.executable, "-m", "avatar.cli", "train", str(small_capture.path), "-o", str(run)]
    command += ["--preset", "smoke", "--steps", "5", "--deformer", "rigid"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Avatar.load(run / "avatar.avatar").deformer.kind == "rigid"
