"""What only a real GPU can show: the CUDA kernels against the CPU's, streams, and CUDA graphs.

All of it under NVIDIA's checker of memory and races: compute-sanitizer python -m pytest tests/test_cuda_gpu.py
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_cuda_train import normal, pictures, rest

from avatar.raster import available_backends, rasterize, rasterize_with_means2d
from avatar.raster.bench import standard_scene
from avatar.raster.cuda_pose import pose_cuda
from avatar.raster.cuda_raster import pairs_left_out
from avatar.raster.fused import FusedAdam, LowRankAdam, blend_offsets, l1_ssim_loss
from avatar.raster.posing import pose_native
from avatar.train.device import compute_device
from avatar.train.graph import PLAIN
from avatar.train.loop import Trainer, fit
from avatar.train.rollback import read_metrics
from avatar.train.speed import frame_rates
from avatar.types import Camera, Gaussians, HeadState
from configs import PRESETS

FIT = replace(PRESETS["smoke"], steps=60)
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


# -- the fit ----------------------------------------------------------------------------------


def pictures_of(trainer: Trainer) -> torch.Tensor:
    """What the avatar looks like in some training rows, drawn on the CPU: [R, H, W, 3]."""
    avatar, store = trainer.snapshot(), trainer.store
    with torch.no_grad():
        return torch.stack(
            [
                rasterize(avatar.pose(store.states[k]), store.camera(k)).rgb.clamp(0, 1)
                for k in range(0, len(store), 7)
            ]
        )


def trained(capture, folder, device: str, config=FIT, until: int | None = None) -> Trainer:
    trainer = Trainer(
        capture, folder, config, device=device, resume=(folder / "config.json").is_file()
    )
    for report in trainer.steps():
        if report.step == until:
            break
    return trainer


def test_a_fit_on_a_gpu_is_as_good_as_the_cpus(small_capture, tmp_path):
    cpu, gpu = (trained(small_capture, tmp_path / name, name) for name in ("cpu", "cuda"))
    assert gpu.runner.captures
    assert len(gpu.runner._graphs) >= 2
    assert gpu.avatar.means.is_cuda
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("cpu", "cuda")]
    for a, b in zip(*rows, strict=True):
        assert a["step"] == b["step"]
        assert abs(a["gaussians"] - b["gaussians"]) <= 0.01 * a["gaussians"]
        assert abs(a["psnr"] - b["psnr"]) < 0.5
    a, b = pictures_of(cpu), pictures_of(gpu)
    assert -10 * math.log10(float((a - b).square().mean())) > 30
    gpu.finish(tmp_path / "me.avatar")
    assert not gpu.avatar.means.is_cuda


def test_replayed_steps_of_a_fit_are_the_plain_ones(small_capture, tmp_path, monkeypatch):
    replayed = trained(small_capture, tmp_path / "replayed", "cuda")._state()[0]
    monkeypatch.setenv(PLAIN, "1")
    plain = trained(small_capture, tmp_path / "plain", "cuda")
    assert not plain.runner.captures
    for name, value in plain._state()[0].items():
        assert torch.equal(value, replayed[name]), name


@pytest.mark.parametrize("kind", ["rigid", "latent", "uvmap"])
def test_every_kind_of_deformer_is_captured(small_capture, tmp_path, kind):
    config = replace(FIT, steps=30, create=replace(FIT.create, deformer=kind))
    trainer = trained(small_capture, tmp_path, "cuda", config)
    assert trainer.runner.captures
    assert trainer.rollbacks == 0


@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_a_fit_goes_on_on_another_device(small_capture, tmp_path, first):
    second = {"cpu": "cuda", "cuda": "cpu"}[first]
    begun = trained(small_capture, tmp_path, first, until=33)
    assert begun.save_checkpoint() is not None
    expected = begun._state()[0]
    resumed = Trainer(small_capture, tmp_path, FIT, resume=True, device=second)
    assert resumed.step == 33
    found = resumed._state()[0]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    for _ in resumed.steps():
        pass
    assert resumed.step == FIT.steps
    assert resumed.rollbacks == 0


def test_a_resumed_fit_on_a_gpu_is_the_one_that_was_not_interrupted(small_capture, tmp_path):
    whole = trained(small_capture, tmp_path / "whole", "cuda")._state()[0]
    trained(small_capture, tmp_path / "broken", "cuda", until=33).save_checkpoint()
    resumed = trained(small_capture, tmp_path / "broken", "cuda")._state()[0]
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_fit_that_falls_apart_on_a_gpu_goes_back_and_writes_nothing_bad(small_capture, tmp_path):
    trainer = Trainer(small_capture, tmp_path, replace(FIT, checkpoint_seconds=1e9), device="cuda")
    for report in trainer.steps():
        if report.step == 20 and trainer.rollbacks == 0:
            assert trainer.save_checkpoint() is not None
        if report.step == 30 and trainer.rollbacks == 0:
            with torch.no_grad():
                trainer.avatar.log_scales[::3] = math.nan
        if report.step == 32 and trainer.rollbacks == 0:
            assert trainer.save_checkpoint() is None
    assert trainer.rollbacks == 1
    assert all(v.isfinite().all() for v in trainer._state()[0].values() if v.is_floating_point())


def test_replayed_steps_do_not_wait_for_the_device(small_capture, tmp_path):
    trainer = trained(small_capture, tmp_path, "cuda", until=57)  # long after the last capture
    row, runner = 0, trainer.runner
    with trainer.lane.entered():
        rgba = trainer.store.pixels(row, False)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(2 * trainer.config.deformer_frames):
                runner.take(row, rgba, torch.ones(3), half=False, measure=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert runner.captures


def test_frames_a_second_are_measured_on_a_gpu(small_capture, tmp_path):
    avatar = fit(small_capture, tmp_path / "me.run", replace(FIT, steps=5))
    states = HeadState.stacked([avatar.rest, avatar.rest])
    draw, both = frame_rates(avatar, states, avatar.camera, 50, compute_device("cuda"))
    assert min(draw, both) > 0
    assert not avatar.means.is_cuda
