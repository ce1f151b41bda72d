"""The CUDA backend's Python side: with the emulated library for a GPU, and what it says where there is none."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from emulator.gpu import emulated_kernels
from test_raster import a_camera, leaves, scene

from avatar.checks import InputError
from avatar.raster import available_backends, cuda, cuda_raster, front, rasterize
from avatar.raster import rasterize_with_means2d as rasterize_moved
from avatar.raster.cuda import Driver
from avatar.raster.cuda_raster import GAUSSIAN, WARP, PairBudget, pair_budget, pairs_left_out
from avatar.raster.gsplat_adapter import rasterize_gsplat
from avatar.types import Camera, Gaussians


def float_scene(count: int, seed: int = 0) -> tuple[Gaussians, Camera]:
    return scene(count, seed).to(torch.float32), a_camera(40, 30).to(torch.float32)


def picture_and_gradients(gaussians: Gaussians, camera: Camera, backend: str):
    """RGB and the gradients of a random linear loss of all outputs to all inputs."""
    parameters = leaves(gaussians)
    offset = torch.zeros(len(gaussians), 2, dtype=camera.K.dtype, requires_grad=True)
    background = torch.tensor([0.1, 0.6, 0.3], dtype=camera.K.dtype, requires_grad=True)
    T = camera.T_cam_world.clone().requires_grad_(True)
    view = replace(camera, T_cam_world=T)
    out = rasterize_moved(
        Gaussians(*parameters), view, offset, background=background, backend=backend
    )
    g = torch.Generator().manual_seed(3)
    loss = torch.zeros((), dtype=camera.K.dtype)
    for t in (out.rgb, out.alpha, out.depth):
        weights = torch.randn(t.shape, generator=g, dtype=torch.float64)
        loss = loss + (weights.to(t.dtype) * t).sum()
    loss.backward()
    return out.rgb.detach(), [p.grad for p in (*parameters, offset, background, T)]


@pytest.mark.parametrize("variant", [WARP, GAUSSIAN])
def test_the_front_draws_on_a_gpu_with_all_gradients(gpu, monkeypatch, variant):
    monkeypatch.setattr(front, "TRAINING_VARIANT", variant)
    gaussians, camera = scene(60, seed=4), a_camera(40, 30)
    rgb, gradients = picture_and_gradients(
        gaussians.to(torch.float32), camera.to(torch.float32), "auto"
    )
    monkeypatch.setattr(front, "on_gpu", lambda tensor: False)
    expected, expected_gradients = picture_and_gradients(gaussians, camera, "reference")
    # The bounds of the CPU's float path, see test_raster.py.
    error = (rgb.double() - expected).abs()
    assert error.max() < 5e-3
    assert (error > 2e-5).double().mean() < 2e-3
    for a, b in zip(gradients, expected_gradients, strict=True):
        assert a is not None
        assert b is not None
        assert torch.linalg.norm(a.double() - b) < 2e-3 * torch.linalg.norm(b)


def test_views_that_begin_anywhere_in_memory_are_as_good_as_copies(gpu):
    gaussians, camera = float_scene(20)
    expected = rasterize(gaussians, camera, backend="cuda")
    shifted = Gaussians(*(torch.cat([t[:1], t])[1:] for t in vars(gaussians).values()))
    assert torch.equal(rasterize(shifted, camera, backend="cuda").rgb, expected.rgb)


def test_a_picture_is_never_incomplete_in_silence(gpu, monkeypatch):
    gaussians, camera = float_scene(200, seed=2)
    whole = rasterize(gaussians, camera)
    assert pairs_left_out(whole.stats) == 0
    pair_budget.cache_clear()
    for name in ("FIRST_PAIRS", "FIRST_PAIRS_PER_GAUSSIAN"):
        monkeypatch.setattr(cuda_raster, name, 1)
    assert torch.equal(rasterize(gaussians, camera).rgb, whole.rgb)
    budget = pair_budget(torch.device("cpu"), 40, 30)
    assert budget.room(200) >= whole.stats["pairs"]


def test_training_does_not_wait_and_makes_room_for_the_next_step(gpu, monkeypatch):
    gaussians, camera = float_scene(200, seed=2)
    whole = rasterize(gaussians, camera)
    pair_budget.cache_clear()
    for name in ("FIRST_PAIRS", "FIRST_PAIRS_PER_GAUSSIAN"):
        monkeypatch.setattr(cuda_raster, name, 1)
    waits = []
    monkeypatch.setattr(PairBudget, "fetch", lambda *_: waits.append(1))
    first = rasterize(Gaussians(*leaves(gaussians)), camera)
    assert pairs_left_out(first.stats) == whole.stats["pairs"] - first.stats["pairs"] > 0
    second = rasterize(Gaussians(*leaves(gaussians)), camera)
    assert pairs_left_out(second.stats) == 0
    torch.testing.assert_close(second.rgb.detach(), whole.rgb, rtol=0, atol=1e-6)
    assert not waits


def test_nothing_is_checked_while_a_graph_is_captured(gpu, monkeypatch):
    gaussians, camera = float_scene(50)
    monkeypatch.setattr(cuda_raster, "is_capturing", lambda tensor: True)
    monkeypatch.setattr(front, "is_capturing", lambda tensor: True)
    monkeypatch.setattr(cuda_raster, "FIRST_PAIRS", 1)
    monkeypatch.setattr(cuda_raster, "FIRST_PAIRS_PER_GAUSSIAN", 0)
    K = camera.K.clone()
    K[0, 0] = torch.nan
    rasterize(gaussians, replace(camera, K=K))
    assert pairs_left_out(rasterize(gaussians, camera).stats) > 0


def test_room_grows_with_the_gaussians_and_never_shrinks():
    budget = PairBudget()
    assert budget.room(1000) == cuda_raster.FIRST_PAIRS
    budget.expect(torch.tensor([100_000]))
    assert budget.room(1000) == 150_000
    budget.expect(torch.tensor([10]))
    assert budget.room(1000) == 150_000
    assert budget.room(2000) == 300_000
    assert budget.fetch(torch.tensor([400_000])) == 400_000
    assert budget.room(10) == 600_000


def test_the_counts_are_numbers_like_any_other(gpu):
    gaussians, camera = float_scene(30)
    stats = rasterize(gaussians, camera).stats
    assert set(stats) == {"visible", "pairs"}
    assert 0 < stats["visible"] <= 30
    assert dict(stats)["pairs"] >= stats["visible"]


def test_a_gpu_takes_float_alone_and_names_what_is_elsewhere(gpu, monkeypatch):
    gaussians, camera = scene(4), a_camera()
    with pytest.raises(ValueError, match=r"means must be float32 for the backend 'cuda'; got .*64"):
        rasterize(gaussians, camera)
    with pytest.raises(ValueError, match=r"means must be on the CPU, where the backend 'cpu' runs"):
        rasterize(gaussians, camera, backend="cpu")
    with pytest.raises(ValueError, match="means must be on the CPU, where the backend 'reference'"):
        rasterize(gaussians, camera, backend="reference")


def test_gpu_backends_refuse_tensors_of_the_cpu(monkeypatch):
    gaussians, camera = float_scene(4)
    monkeypatch.setattr(front, "missing", tuple)
    with pytest.raises(ValueError, match=r"means must be on an NVIDIA GPU.*got cpu\. Move"):
        rasterize(gaussians, camera, backend="cuda")
    monkeypatch.setattr(front, "gsplat_state", lambda: "ok")
    with pytest.raises(ValueError, match="means must be on an NVIDIA GPU"):
        rasterize(gaussians, camera, backend="gsplat")


def test_tensors_of_two_devices_and_a_gradient_of_K_are_refused():
    gaussians, camera = float_scene(4)
    elsewhere = replace(gaussians, scales=gaussians.scales.to("meta"))
    with pytest.raises(ValueError, match=r"scales must be on cpu as means are; got meta"):
        rasterize(elsewhere, camera)
    with pytest.raises(ValueError, match="means must be on the CPU or an NVIDIA GPU; got meta"):
        rasterize(replace(gaussians, means=gaussians.means.to("meta")), camera)
    with pytest.raises(ValueError, match=r"means must be float32 or float64; got torch\.int64"):
        rasterize(replace(gaussians, means=gaussians.means.long()), camera)
    with pytest.raises(TypeError, match="background must be a tensor or None; got tuple"):
        rasterize(gaussians, camera, background=(1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"camera\.K must not require a gradient"):
        rasterize(gaussians, replace(camera, K=camera.K.requires_grad_(True)))


def test_gsplat_has_no_place_for_an_offset(monkeypatch):
    gaussians, camera = float_scene(4)
    monkeypatch.setattr(front, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(front, "gsplat_state", lambda: "ok")
    with pytest.raises(ValueError, match="means2d_offset must be left out with the backend 'gspl"):
        rasterize_moved(gaussians, camera, torch.zeros(4, 2), backend="gsplat")


@pytest.fixture
def fresh_state():
    """What CUDA lacks is found out once a process; here it is found out anew."""
    cuda.missing.cache_clear()
    yield
    cuda.missing.cache_clear()


@pytest.mark.parametrize(
    ("library", "driver", "torch_cuda", "words"),
    [
        (False, None, None, ("libheadsplat_cuda", "nvcc", "make wheel", "no NVIDIA driver", "CPU")),
        (True, None, None, ("no NVIDIA driver", "a CPU build")),
        (True, Driver(13000, 0), "13.0", ("sees no GPU. Run nvidia-smi",)),
        (True, Driver(13000, 1), None, ("is a CPU build. Install a CUDA build",)),
        (
            True,
            Driver(12040, 1),
            "13.0",
            ("built for CUDA 13.0, and NVIDIA's driver runs 12.4", "install"),
        ),
    ],
)
def test_what_cuda_lacks_is_said_with_the_remedy(
    monkeypatch, fresh_state, library, driver, torch_cuda, words
):
    def load():
        if not library:
            raise InputError(f"libheadsplat_cuda.so is missing. {cuda.GET_LIBRARY}")

    monkeypatch.setattr(cuda, "cuda_library", load)
    monkeypatch.setattr(cuda, "driver", lambda: driver)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state = available_backends()["cuda"]
    assert not state.startswith("ok")
    for word in words:
        assert word in state
    assert ("make wheel" in state) == (not library)


def test_a_failing_kernel_says_what_cuda_says():
    kernels = emulated_kernels()
    with pytest.raises(RuntimeError, match=r"hs_cuda_state_bytes failed: room was asked for more"):
        arrays = [t for t in vars(float_scene(1)[0]).values()]
        camera = a_camera().to(torch.float32)
        arrays += [torch.zeros(3), torch.zeros(1, 2), camera.K, camera.T_cam_world]
        cuda_raster.draw(kernels, arrays, 24, 20, 1 << 31, WARP)


def fake_gsplat(*, means, quats, scales, opacities, colors, viewmats, Ks, width, height, **other):
    """What gsplat.rasterization returns, drawn by the reference."""
    assert other["render_mode"] == "RGB+ED"
    camera = Camera(Ks[0], viewmats[0], width, height)
    gaussians = Gaussians(means, quats, scales, opacities, colors)
    out = rasterize(gaussians, camera, backend="reference")
    pictures = torch.cat([out.rgb, out.depth[..., None]], -1)[None]
    radii = torch.ones(1, len(means), 2, dtype=torch.int32)
    radii[0, 0, 1] = 0
    return pictures, out.alpha[None, ..., None], {"radii": radii, "isect_ids": torch.zeros(77)}


@pytest.mark.parametrize("background", [(3,), (30, 40, 3)])
def test_the_gsplat_adapter_keeps_the_contract(monkeypatch, background):
    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=fake_gsplat))
    gaussians, camera = float_scene(20)
    opacities = gaussians.opacities.clone()
    opacities[3] = torch.nan
    gaussians = replace(gaussians, opacities=opacities)
    behind = torch.rand(background, generator=torch.Generator().manual_seed(0))
    expected = rasterize(gaussians, camera, background=behind, backend="reference")
    image, alpha, depth, counts = rasterize_gsplat(
        *vars(gaussians).values(), behind, camera.K, camera.T_cam_world, 40, 30
    )
    torch.testing.assert_close(image, expected.rgb)
    torch.testing.assert_close(alpha, expected.alpha)
    torch.testing.assert_close(depth, expected.depth)
    assert dict(counts) == {"visible": 19, "pairs": 77}


def test_gsplat_takes_the_arguments_that_the_adapter_gives():
    gsplat = pytest.importorskip("gsplat", reason="gsplat is not installed")
    import inspect

    names = set(inspect.signature(gsplat.rasterization).parameters)
    given = "means quats scales opacities colors viewmats Ks width height near_plane eps2d packed"
    assert {*given.split(), "render_mode", "rasterize_mode"} <= names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
@pytest.mark.parametrize("backend", ["cuda", "gsplat"])
def test_on_a_real_gpu_backends_agree_with_the_oracle(backend):
    if not available_backends()[backend].startswith("ok"):
        pytest.skip(available_backends()[backend])
    gaussians, camera = scene(300, seed=1), a_camera(70, 41)
    out = rasterize(
        gaussians.to("cuda", torch.float32), camera.to("cuda", torch.float32), backend=backend
    )
    expected = rasterize(gaussians, camera, backend="reference")
    error = (out.rgb.cpu().double() - expected.rgb).abs()
    assert error.max() < 5e-3
    assert (error > 2e-5).double().mean() < 2e-3
