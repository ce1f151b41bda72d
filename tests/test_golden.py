"""Every backend that runs here against stored pictures and gradients of the reference in double."""

from __future__ import annotations

import pytest
import torch
from golden.make import HERE, INPUTS, PICTURES, SCENES, draw_golden
from safetensors.torch import load_file

from avatar.raster.library import SIMD, library

LEVELS = [name for name, code in SIMD.items() if library().hs_has_simd(code)]


def assert_golden(name: str, backend: str, dtype: torch.dtype = torch.float32) -> None:
    """Draw a scene and compare it with its file."""
    _, width, height = SCENES[name]
    stored = load_file(HERE / f"{name}.safetensors")
    inputs = {key: stored[key].to(dtype) for key in INPUTS}
    pictures, gradients = draw_golden(inputs, width, height, backend)
    # The files are float32 (6e-8), and so is the arithmetic but for double: 2e-5 as in test_raster.py.
    exact = dtype == torch.float64
    for key in PICTURES:
        scale = max(1.0, float(stored[key].abs().max()))
        error = (pictures[key].double() - stored[key]).abs() / scale
        # In float, a pair within rounding of 1/255 may flip; that moves a pixel by 1/255 at most.
        assert error.max() < (1e-6 if exact else 5e-3), key
        assert (error > (1e-6 if exact else 2e-5)).double().mean() < 2e-3, key
    for key, gradient in gradients.items():
        expected = stored[f"v_{key}"].double()
        distance = torch.linalg.norm(gradient.double() - expected)
        assert distance < (1e-6 if exact else 2e-3) * torch.linalg.norm(expected), key


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_set_draws_the_golden_pictures(name, level, monkeypatch):
    monkeypatch.setenv("HEADSPLAT_SIMD", level)
    assert_golden(name, "cpu")


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_double_draws_the_golden_pictures(name, backend):
    assert_golden(name, backend, torch.float64)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("variant", [0, 1], ids=["warp", "gaussian"])
def test_emulated_cuda_kernels_draw_the_golden_pictures(name, variant, gpu, monkeypatch):
    monkeypatch.setattr("avatar.raster.front.TRAINING_VARIANT", variant)
    assert_golden(name, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
@pytest.mark.parametrize("name", SCENES)
def test_a_real_gpu_draws_the_golden_pictures(name):
    _, width, height = SCENES[name]
    stored = load_file(HERE / f"{name}.safetensors")
    inputs = {key: stored[key].cuda() for key in INPUTS}
    pictures, _ = draw_golden(inputs, width, height, "cuda")
    for key in PICTURES:
        error = (pictures[key].cpu().double() - stored[key]).abs()
        assert error.max() < 5e-3, key


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in HERE.glob("*.safetensors")) < 200_000
