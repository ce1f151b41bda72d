"""CPU tensors that pass for tensors on a GPU: the CUDA backend's Python side with emulated kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import pytest
import torch

from avatar.raster import cuda_raster, front
from avatar.raster.cuda import Kernels
from avatar.raster.cuda_raster import pair_budget
from avatar.raster.native import _rasterize, _rasterize_backward
from emulator import ROOT, build_emulated

_ALWAYS = ExitStack()


@cache
def emulated_kernels() -> Kernels:
    """Return the whole CUDA library, emulated."""
    return Kernels(build_emulated(sorted((ROOT / "cuda_ext" / "cuda").glob("*.cu"))))


@cache
def _register() -> None:
    """Give the ops a CPU kernel that takes the place of the GPU's; off unless ``pretend_gpu`` turns it on."""

    # torch leaves out trailing arguments that have their default value. Doubles stay on the CPU.
    def draw(*arguments):
        if arguments[0].dtype == torch.float64:
            return _rasterize._init_fn(*arguments)
        a = (*arguments, 0, 0)[:13]
        return cuda_raster.draw(emulated_kernels(), a[:9], *a[9:])

    def draw_backward(*arguments):
        if arguments[0].dtype == torch.float64:
            return _rasterize_backward._init_fn(*arguments)
        a = (*arguments, 0, 0)[:25]
        return cuda_raster.draw_backward(
            emulated_kernels(), a[:9], *a[9:11], a[11:18], a[18:21], *a[21:]
        )

    for op, kernel in ((_rasterize, draw), (_rasterize_backward, draw_backward)):
        op.register_kernel("cpu")(kernel)
        _ALWAYS.enter_context(op.set_kernel_enabled("cpu", enabled=False))


@contextmanager
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the front take CPU tensors for tensors on a GPU inside the block."""
    _register()
    pair_budget.cache_clear()
    monkeypatch.setattr(front, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(front, "missing", tuple)
    with _rasterize.set_kernel_enabled("cpu"), _rasterize_backward.set_kernel_enabled("cpu"):
        yield
    pair_budget.cache_clear()
