"""CPU tensors that pass for tensors on a GPU: the CUDA backend's Python side with emulated kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import pytest
import torch

from avatar.raster import cuda, cuda_fused, cuda_pose, cuda_raster, front
from avatar.raster.cuda import Kernels
from avatar.raster.cuda_raster import pair_budget
from avatar.raster.fused import _blend, _blend_backward, _l1_ssim
from avatar.raster.native import _rasterize, _rasterize_backward
from avatar.raster.posing import _pose, _pose_backward
from emulator import ROOT, build_emulated

_ALWAYS = ExitStack()
_LOSS_AND_BLEND = {
    _l1_ssim: cuda_fused.l1_ssim_op,
    _blend: cuda_fused.blend_op,
    _blend_backward: cuda_fused.blend_backward_op,
}
_OPS = (_rasterize, _rasterize_backward, _pose, _pose_backward, *_LOSS_AND_BLEND)


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

    def posed(*arrays):
        return cuda_pose.pose(emulated_kernels(), arrays)

    def posed_backward(arrays, gradients):
        return cuda_pose.pose_backward(emulated_kernels(), arrays, gradients)

    kernels = (draw, draw_backward, posed, posed_backward, *_LOSS_AND_BLEND.values())
    for op, kernel in zip(_OPS, kernels, strict=True):
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


@contextmanager
def pretend_to_train_on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let all kernels of a training step take CPU tensors for tensors on a GPU inside the block."""
    monkeypatch.setattr(cuda, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(cuda_fused, "kernels_for", lambda tensor: emulated_kernels())
    with pretend_gpu(monkeypatch), ExitStack() as stack:
        for op in _OPS:
            stack.enter_context(op.set_kernel_enabled("cpu"))
        yield
