"""The CUDA training kernels, run by the emulator on the CPU: each against plain torch in double."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys

import pytest
import torch
from emulator import ROOT, address_sanitizer, build_emulated, sanitizer_environment

from avatar.raster import cuda, cuda_fused, cuda_pose
from avatar.raster.cuda import Kernels
from avatar.raster.fused import (
    BETAS,
    EPSILON,
    FusedAdam,
    LowRankAdam,
    blend_offsets,
    l1_ssim_loss,
)
from avatar.raster.fused_reference import (
    blend_offsets_reference,
    l1_ssim_loss_reference,
    low_rank_gradient,
    pose_reference,
)
from avatar.raster.posing import _INPUTS, _LEARNED
from avatar.rotations import rigid, rotvec_to_matrix

SEEDS = (0, 1)
"""Orders in which the emulator runs threads and blocks."""
SANITIZED = "HEADSPLAT_EMULATOR_SANITIZED"
"""Set in the process that runs with libasan."""


@pytest.fixture(scope="module")
def emulated():
    sources = sorted((ROOT / "cuda_ext" / "cuda").glob("*.cu"))
    return build_emulated(sources, sanitize=SANITIZED in os.environ)


@pytest.fixture(params=SEEDS)
def kernels(request, emulated):
    """Run the test once for each order of threads."""
    emulated.hs_emulator_seed(ctypes.c_uint64(request.param))
    return Kernels(emulated)


@pytest.fixture
def pretend_gpu(emulated, monkeypatch):
    """Let the training classes take CPU tensors for tensors on a GPU."""
    monkeypatch.setattr(cuda, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(cuda_fused, "kernels_for", lambda tensor: Kernels(emulated))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(kind: str, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image and its target, [H, W, 3]."""
    g = torch.Generator().manual_seed(height * 1000 + width)
    noise = torch.rand(height, width, 3, generator=g)
    if kind == "noise":
        return noise, torch.rand(height, width, 3, generator=g)
    return 1 - 0.05 * noise, torch.ones(height, width, 3)


# -- Posing -------------------------------------------------------------------------------------------


def rest(count: int) -> dict[str, torch.Tensor]:
    """Random arguments of posing: eyeballs, a torso that turns far, every kind of offset."""
    g = torch.Generator().manual_seed(count)
    corners = torch.randint(0, 9, (count, 3), generator=g, dtype=torch.int32)
    turns = (torch.tensor([0.3, -0.4, 0.2]), torch.tensor([2.4, 1.2, -0.9]))
    T_head, T_torso = (rigid(rotvec_to_matrix(r), torch.tensor([0.1, 0.2, 0.3])) for r in turns)
    return {
        "means": normal(count, 3) * 0.1,
        "quats": normal(count, 4, seed=1),
        "log_scales": normal(count, 3, seed=2) - 5,
        "logit_opacities": normal(count, seed=3),
        "colours": normal(count, 3, seed=4),
        "torso_logits": normal(count, seed=5),
        "offsets": normal(count, 13, seed=6),
        "units": torch.rand(13, generator=g),
        "corners": corners,
        "corner_weights": torch.rand(count, 3, generator=g),
        "eye": torch.randint(-1, 2, (count,), generator=g).to(torch.int8),
        "displacement": normal(9, 3, seed=7) * 0.01,
        "T_world_head": T_head,
        "T_world_torso": T_torso,
        "eye_turns": torch.tensor([[0.2, -0.1], [0.0, 0.0]]),
        "eye_centres": normal(2, 3, seed=8) * 0.03,
    }


@pytest.mark.parametrize("count", [0, 1, 300])
def test_posing_and_its_gradients_agree_with_the_twin_in_double(kernels, count):
    inputs = rest(count)
    exact = {n: v.double() if v.is_floating_point() else v for n, v in inputs.items()}
    learned = [exact[name].requires_grad_(True) for name in _INPUTS[:_LEARNED]]
    expected = pose_reference(**exact)
    pulls = [normal(*t.shape, seed=20 + i) for i, t in enumerate(expected)]
    expected_gradients = torch.autograd.grad(expected, learned, [p.double() for p in pulls])
    arrays = [inputs[name] for name in _INPUTS]
    found = cuda_pose.pose(kernels, arrays)
    gradients = cuda_pose.pose_backward(kernels, arrays, pulls)
    for got, wanted in zip((*found, *gradients), (*expected, *expected_gradients), strict=True):
        scale = float(wanted.detach().abs().max()) if wanted.numel() else 0.0
        torch.testing.assert_close(got.double(), wanted.detach(), rtol=1e-5, atol=3e-6 * scale)
    # No gradient of an output that nobody pulls at.
    alone = cuda_pose.pose_backward(kernels, arrays, [None, None, None, None, pulls[4]])
    torch.testing.assert_close(alone[4], pulls[4], rtol=0, atol=0)
    assert all(not alone[i].any() for i in (0, 1, 2, 3, 5))


def test_a_corner_that_is_no_vertex_spoils_its_own_gaussian_alone(kernels):
    inputs = rest(20)
    inputs["corners"][7, 1] = 9
    means = cuda_pose.pose(kernels, [inputs[name] for name in _INPUTS])[0]
    assert torch.isnan(means[7]).all()
    assert torch.isfinite(means[torch.arange(20) != 7]).all()


# -- The picture loss ---------------------------------------------------------------------------------


# Bounds as in test_kernels_fused.py, for the same reasons.
@pytest.mark.parametrize(("kind", "bound"), [("noise", 2e-6), ("white", 3e-4)])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (16, 16), (17, 33), (50, 31)], ids=str)
def test_loss_and_gradient_agree_with_the_twin_in_double(kernels, kind, bound, size):
    image, target = pictures(kind, *size)
    for weight in (0.0, 0.2, 1.0):
        loss, gradient = cuda_fused.l1_ssim(kernels, image, target, weight, True)
        exact = image.double().requires_grad_(True)
        expected = l1_ssim_loss_reference(exact, target.double(), weight)
        (expected_gradient,) = torch.autograd.grad(expected, exact)
        assert abs(float(loss) - float(expected.detach())) < 3e-6
        error = float((gradient - expected_gradient).abs().max())
        assert error < bound * float(expected_gradient.abs().max())
        alone, nothing = cuda_fused.l1_ssim(kernels, image, target, weight, False)
        assert abs(float(alone) - float(loss)) < 1e-7
        assert nothing.numel() == 0


def test_equal_pictures_have_neither_loss_nor_gradient(kernels):
    _, target = pictures("noise", 20, 35)
    loss, gradient = cuda_fused.l1_ssim(kernels, target.clone(), target, 0.2, True)
    assert float(loss) == 0
    assert torch.all(gradient == 0)


def test_a_nan_shows_in_the_loss(kernels):
    image, target = pictures("noise", 16, 16)
    image[3, 4, 1] = math.nan
    assert math.isnan(float(cuda_fused.l1_ssim(kernels, image, target, 0.2, True)[0]))


# -- The blend ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 7, 13), (9, 400, 13), (0, 5, 3), (4, 0, 3)], ids=str
)
def test_blend_and_the_gradient_of_its_weights_agree_with_the_twin(kernels, shape):
    offsets, weights, v_blend = normal(*shape), normal(shape[0], seed=1), normal(*shape[1:], seed=2)
    exact = weights.double().requires_grad_(True)
    expected = blend_offsets_reference(offsets.double(), exact)
    expected.backward(v_blend.double())
    blend = cuda_fused.blend(kernels, offsets, weights)
    v_weights = cuda_fused.blend_backward(kernels, offsets, v_blend)
    # Sums of up to 9 and 5200 numbers of size 1, each with a rounding error of 6e-8.
    torch.testing.assert_close(blend.double(), expected.detach(), rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(v_weights.double(), exact.grad, rtol=1e-6, atol=5e-5)


# -- Adam ---------------------------------------------------------------------------------------------


def assert_same_steps(got: torch.Tensor, expected: torch.Tensor, start: torch.Tensor) -> None:
    """Compare how far a float Adam has moved a tensor from ``start`` with a double one."""
    # A step is lr times a ratio of two rounded numbers, added to a rounded number.
    torch.testing.assert_close(got.double() - start, expected - start, rtol=2e-5, atol=2e-6)


def torch_adam(start: torch.Tensor, lr: float) -> tuple[torch.nn.Parameter, torch.optim.Adam]:
    parameter = torch.nn.Parameter(start.double())
    return parameter, torch.optim.Adam([parameter], lr=lr, betas=BETAS, eps=EPSILON)


@pytest.mark.parametrize("seed", SEEDS)
def test_fused_adam_on_a_gpu_is_torch_adam(emulated, pretend_gpu, seed):
    emulated.hs_emulator_seed(ctypes.c_uint64(seed))
    # More tensors than a launch takes, and one without elements.
    shapes = [(300, 3), (1500,), (0, 3), *[(7, i % 3 + 1) for i in range(34)]]
    starts = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    rates = [0.1 / (i + 1) for i in range(len(shapes))]
    ours = [torch.nn.Parameter(s.clone()) for s in starts]
    adam = FusedAdam([{"params": [p], "lr": lr} for p, lr in zip(ours, rates, strict=True)])
    theirs = [torch_adam(s, lr) for s, lr in zip(starts, rates, strict=True)]
    for step in range(6):
        for i, p in enumerate(ours):
            # Gradients of very different sizes, exact zeros, and a parameter that is left out at times.
            gradient = normal(*p.shape, seed=100 * step + i) * 10.0 ** (-6 * i % 13 - step % 4)
            gradient[::7] = 0
            p.grad = None if i == 1 and step % 3 == 1 else gradient
            theirs[i][0].grad = None if p.grad is None else gradient.double()
        for group in adam.param_groups:
            group["lr"] *= 0.9
        adam.step()
        for _, other in theirs:
            other.param_groups[0]["lr"] *= 0.9
            other.step()
    for i, (p, (q, other)) in enumerate(zip(ours, theirs, strict=True)):
        assert_same_steps(p.detach(), q.detach(), starts[i].double())
        assert int(adam.state[p]["step"]) == int(other.state[q]["step"])


def test_steps_taken_on_the_cpu_count_on_a_gpu(pretend_gpu, monkeypatch):
    start = normal(40, 3)
    p, q = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one, other = FusedAdam([p], lr=0.01), FusedAdam([q], lr=0.01)
    for step in range(6):
        # `one` changes sides twice, `other` never leaves the CPU.
        gradient = normal(40, 3, seed=step)
        for side, parameter, adam in ((step in (2, 3), p, one), (False, q, other)):
            monkeypatch.setattr(cuda, "on_gpu", lambda _, side=side: side)
            parameter.grad = gradient.clone()
            adam.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert int(one.state[p]["step"]) == 6


def test_a_rate_is_written_for_replays_and_never_inside_a_capture(pretend_gpu, monkeypatch):
    p = torch.nn.Parameter(normal(5))
    p.grad = torch.ones(5)
    adam = FusedAdam([p], lr=0.01)
    adam.step()
    adam.param_groups[0]["lr"] = 0.02
    monkeypatch.setattr(cuda_fused, "is_capturing", lambda tensor: True)
    with pytest.raises(RuntimeError, match="must not change while a CUDA graph is captured"):
        adam.step()
    monkeypatch.setattr(cuda_fused, "is_capturing", lambda tensor: False)
    adam.write_rates()
    (rate,) = adam._rates.values()
    assert float(rate.tensor) == pytest.approx(0.02)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 5, 7, 13), (3, 3, 150, 13)], ids=str)
def test_low_rank_adam_on_a_gpu_is_torch_adam(emulated, pretend_gpu, shape, seed):
    emulated.hs_emulator_seed(ctypes.c_uint64(seed))
    rank, *rest = shape
    start = normal(*rest)
    parameter = start.clone()
    ours = LowRankAdam(parameter, lr=0.02)
    theirs, adam = torch_adam(start, 0.02)
    for step in range(8):
        weights = normal(rank, rest[0], seed=2 * step)
        v_blend = normal(rank, *rest[1:], seed=2 * step + 1) * 10.0 ** (-(step % 5))
        ours.lr = adam.param_groups[0]["lr"] = 0.02 * 0.9**step
        expected = torch.einsum("knc,rnc->rk", parameter.double(), v_blend.double())
        v_weights = ours.step(weights, v_blend)
        torch.testing.assert_close(v_weights.double(), expected, rtol=1e-5, atol=1e-5)
        theirs.grad = low_rank_gradient(weights.double(), v_blend.double())
        adam.step()
    assert_same_steps(parameter, theirs.detach(), start.double())
    assert ours.steps == ours.state_dict()["steps"] == 8
    resumed = LowRankAdam(parameter.clone(), lr=0.02)
    resumed.load_state_dict(ours.state_dict())
    assert resumed.steps == 8


# -- All of them --------------------------------------------------------------------------------------


def test_the_order_of_threads_changes_no_bit(emulated):
    image, target = pictures("noise", 33, 35)
    offsets, weights, v_blend = normal(5, 300, 13), normal(5, seed=1), normal(300, 13, seed=2)
    results = []
    for seed in range(4):
        emulated.hs_emulator_seed(ctypes.c_uint64(seed))
        kernels = Kernels(emulated)
        parameter, moments = offsets.clone(), {}
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = torch.zeros_like(offsets)
        moments["step"] = cuda_fused.new_counter(offsets)
        work = cuda_fused.AdamWork(parameter, None, moments, torch.tensor([0.1]))
        ticket = cuda_fused.new_ticket(offsets)
        results.append(
            (
                *cuda_fused.l1_ssim(kernels, image, target, 0.2, True),
                cuda_fused.blend(kernels, offsets, weights),
                cuda_fused.blend_backward(kernels, offsets, v_blend),
                cuda_fused.adam_low_rank(
                    kernels, work, weights[None], v_blend[None], ticket, BETAS, EPSILON
                ),
                parameter,
            )
        )
        assert int(ticket) == 0
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.skipif(address_sanitizer() is None, reason="g++ has no libasan here")
def test_no_memory_out_of_bounds():
    names = "0 and (noise and 17 or twin and 400 or low_rank and 150 or posing and 300)"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider"),
            *(__file__, "-k", names),
        ],
        env={**sanitizer_environment(), SANITIZED: "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR: AddressSanitizer" not in done.stderr


def test_tensors_of_two_devices_are_refused():
    meta = torch.zeros(4, 4, 3, device="meta")
    with pytest.raises(ValueError, match=r"target must be a dense CPU tensor; got .*meta"):
        l1_ssim_loss(torch.zeros(4, 4, 3), meta, 0.2)
    with pytest.raises(ValueError, match="weights must be a dense CPU tensor"):
        blend_offsets(torch.zeros(2, 4, 3), torch.zeros(2, device="meta"))


def test_the_ops_have_kernels_for_cuda():
    for name in ("l1_ssim", "blend_offsets", "blend_offsets_backward", "pose", "pose_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"headsplat::{name}", "CUDA")
