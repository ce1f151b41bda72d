"""What only a real GPU can show: the CUDA kernels against the CPU's, streams, and CUDA graphs.

All of it under NVIDIA's checker of memory and races: compute-sanitizer python -m pytest tests/test_cuda_gpu.py
"""

from __future__ import annotations

import pytest
import torch
from test_cuda_train import normal, pictures, rest

from avatar.raster import available_backends, rasterize, rasterize_with_means2d
from avatar.raster.bench import standard_scene
from avatar.raster.cuda_pose import pose_cuda
from avatar.raster.cuda_raster import pairs_left_out
from avatar.raster.fused import FusedAdam, LowRankAdam, blend_offsets, l1_ssim_loss
from avatar.raster.posing import pose_native
from avatar.types import Camera, Gaussians

NAMES = ("means", "quats", "scales", "opacities", "colours")

pytestmark = pytest.mark.skipif(
    not available_backends()["cuda"].startswith("ok"), reason="CUDA kernels cannot run here"
)


def on_both(work):
    """What ``work(device)`` gives on the CPU and on the GPU, as lists of tensors of the CPU."""
    return [[t.detach().cpu() for t in work(device)] for device in ("cpu", "cuda")]


def assert_alike(both, rtol: float, atol: float) -> None:
    for a, b in zip(*both, strict=True):
        scale = float(a.abs().max()) if a.numel() else 0.0
        torch.testing.assert_close(b, a, rtol=rtol, atol=atol * max(scale, 1e-30))


def test_the_picture_loss_is_the_cpus():
    def work(device):
        image, target = (p.to(device) for p in pictures("noise", 130, 71))
        image.requires_grad_(True)
        loss = l1_ssim_loss(image, target, 0.2)
        loss.backward()
        return loss, image.grad

    assert_alike(on_both(work), rtol=1e-4, atol=1e-5)


def test_the_blend_is_the_cpus():
    def work(device):
        offsets, v_blend = normal(20, 3000, 13).to(device), normal(3000, 13, seed=2).to(device)
        weights = normal(20, seed=1).to(device).requires_grad_(True)
        blend = blend_offsets(offsets, weights)
        blend.backward(v_blend)
        return blend, weights.grad

    assert_alike(on_both(work), rtol=1e-5, atol=1e-5)


def test_adam_is_the_cpus():
    def work(device):
        p = torch.nn.Parameter(normal(5000, 3).to(device))
        q = normal(4, 700, 13, seed=1).to(device)
        adam, low_rank = FusedAdam([p], lr=0.01), LowRankAdam(q, lr=0.01)
        for step in range(5):
            p.grad = normal(5000, 3, seed=2 + step).to(device)
            adam.step()
            v_weights = low_rank.step(
                normal(2, 4, seed=10 + step).to(device),
                normal(2, 700, 13, seed=20 + step).to(device),
            )
        assert low_rank.steps == 5
        return p, q, v_weights

    assert_alike(on_both(work), rtol=1e-5, atol=1e-5)


def test_posing_is_the_cpus():
    def work(device):
        inputs = {name: value.to(device) for name, value in rest(2000).items()}
        pose = pose_native if device == "cpu" else pose_cuda
        return pose(**inputs)

    assert_alike(on_both(work), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "size"), [(0, 64), (65, 33), (30_000, 512), (100_000, 1024)])
def test_pictures_and_gradients_are_the_cpus(n, size):
    gaussians, camera = standard_scene(n, size)

    def work(device):
        there = gaussians.to(device)
        parameters = [getattr(there, name).clone().requires_grad_(True) for name in NAMES]
        offset = torch.zeros(n, 2, device=device, requires_grad=True)
        view = camera.to(device)
        rasterize(there, view)  # without gradients: makes room for all pairs
        out = rasterize_with_means2d(Gaussians(*parameters), view, offset)
        assert pairs_left_out(out.stats) == 0
        weights = torch.cos(0.7 * torch.arange(out.rgb.numel())).reshape(out.rgb.shape).to(device)
        (weights * out.rgb).sum().backward()
        return out.rgb, out.alpha, *(p.grad for p in (*parameters, offset))

    cpu, gpu = on_both(work)
    for a, b in zip(cpu[:2], gpu[:2], strict=True):
        # A pair within rounding of 1/255 may flip: a pixel moves by 1/255 at most, and few do.
        error = (a - b).abs()
        assert error.max() < 5e-3
        assert (error > 2e-5).double().mean() < 2e-3
    for a, b in zip(cpu[2:], gpu[2:], strict=True):
        assert torch.linalg.norm(a - b) <= 2e-3 * torch.linalg.norm(a)


def small_scene() -> tuple[Gaussians, Camera]:
    gaussians, camera = standard_scene(2000, 96)
    return gaussians.to("cuda"), camera.to("cuda")


def test_a_captured_training_step_is_the_eager_one():
    gaussians, camera = small_scene()
    target = pictures("noise", 96, 96)[1].cuda()

    def train(captured: bool) -> list[torch.Tensor]:
        parameters = {n: getattr(gaussians, n).clone().requires_grad_(True) for n in NAMES}
        adam = FusedAdam(
            [{"params": [p], "lr": 1e-3, "name": name} for name, p in parameters.items()]
        )

        def step() -> None:
            adam.zero_grad(set_to_none=True)
            out = rasterize(Gaussians(**parameters), camera)
            l1_ssim_loss(out.rgb, target, 0.2).backward()
            adam.step()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        # The rate changes once, before the last three steps.
        for group in adam.param_groups:
            group["lr"] = 2e-3
        adam.write_rates()
        if captured:
            adam.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            for _ in range(3):
                graph.replay()
        else:
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        for p in parameters.values():
            assert int(adam.state[p]["step"]) == 6
        return [p.detach() for p in parameters.values()]

    for a, b in zip(train(False), train(True), strict=True):
        assert torch.equal(a, b)


def test_another_stream_and_the_same_bits():
    gaussians, camera = small_scene()
    expected = rasterize(gaussians, camera).rgb
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        again = rasterize(gaussians, camera).rgb
    torch.cuda.synchronize()
    assert torch.equal(again, expected)


def test_training_does_not_wait_for_the_device():
    gaussians, camera = small_scene()
    parameters = [getattr(gaussians, n).clone().requires_grad_(True) for n in NAMES]
    target = pictures("noise", 96, 96)[1].cuda()
    adam = FusedAdam(parameters, lr=1e-3)
    for quiet in (False, True):
        # The first step makes memory and loads kernels; after it torch raises at anything that waits.
        torch.cuda.set_sync_debug_mode("error" if quiet else "default")
        try:
            out = rasterize(Gaussians(*parameters), camera)
            l1_ssim_loss(out.rgb, target, 0.2).backward()
            adam.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert out.stats["visible"] > 0
