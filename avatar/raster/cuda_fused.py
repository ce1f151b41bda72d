"""The training kernels of the CUDA library: the picture loss, the blend of offset shapes, and Adam.

``fused`` calls them for tensors on a GPU. They take the library and stream as an argument, so that the tests
run these very functions on CPU tensors with a library that emulates the GPU. None of them waits for
the device, so all may be captured in a CUDA graph.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avatar.raster.cuda import Kernels, is_capturing, kernels_for, on_device, pointer


class _Adam(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_double) for name in ("beta1", "beta2", "epsilon"))


class _AdamTensor(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in ("values", "gradients", "exp_avg", "exp_avg_sq", "rate", "steps")
        ),
    )


# -- Target pictures ----------------------------------------------------------------------------------


def unpack_target(rgba: Tensor, background: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return picture [H, W, 3] and mask [H, W] of bytes [H, W, 4] by torch's own kernels, bit for bit the CPU's."""
    # A number in device memory is divided by; by one that the host gives torch multiplies with its inverse.
    most = torch.full((), 255.0, device=rgba.device)
    numbers = rgba.float() / most
    picture, mask = numbers[..., :3].contiguous(), numbers[..., 3].contiguous()
    if background is not None:
        behind = (1 - mask)[..., None]
        picture = (picture - behind) + behind * background
    return picture, mask


# -- The picture loss and the blend -------------------------------------------------------------------


def l1_ssim(
    kernels: Kernels, image: Tensor, target: Tensor, ssim_weight: float, want_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss [] and its gradient to the image [H, W, 3], which is empty if not wanted."""
    image, target = image.contiguous(), target.contiguous()
    height, width, _ = image.shape
    loss = image.new_empty(())
    gradient = image.new_empty(image.shape if want_gradient else 0)
    sizes = (ctypes.c_int64(height), ctypes.c_int64(width))
    scratch = kernels.scratch(image, "hs_cuda_l1_ssim_bytes", *sizes, ctypes.c_int32(want_gradient))
    kernels.call(
        "hs_cuda_l1_ssim",
        *sizes,
        pointer(image),
        pointer(target),
        ctypes.c_double(ssim_weight),
        pointer(loss),
        pointer(gradient) if want_gradient else None,
        pointer(scratch),
    )
    return loss, gradient


def blend(kernels: Kernels, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return sum_k weights[k] offsets[k], [N, C] of [K, N, C]."""
    offsets, weights = offsets.contiguous(), weights.contiguous()
    result = offsets.new_empty(offsets.shape[1:])
    kernels.call(
        "hs_cuda_blend",
        ctypes.c_int64(len(offsets)),
        ctypes.c_int64(result.numel()),
        pointer(offsets),
        pointer(weights),
        pointer(result),
    )
    return result


def blend_backward(kernels: Kernels, offsets: Tensor, v_blend: Tensor) -> Tensor:
    """Return the gradient [K] of the weights."""
    offsets, v_blend = offsets.contiguous(), v_blend.contiguous()
    sizes = (ctypes.c_int64(len(offsets)), ctypes.c_int64(v_blend.numel()))
    v_weights = offsets.new_empty(len(offsets))
    scratch = kernels.scratch(offsets, "hs_cuda_blend_backward_bytes", *sizes)
    kernels.call(
        "hs_cuda_blend_backward",
        *sizes,
        pointer(offsets),
        pointer(v_blend),
        pointer(v_weights),
        pointer(scratch),
    )
    return v_weights


# -- Adam ---------------------------------------------------------------------------------------------


class DeviceRate:
    """A learning rate in device memory, written only when it changes."""

    def __init__(self, like: Tensor) -> None:
        """Create on the device of ``like``."""
        self.value = math.nan
        """What is in device memory once its stream gets there."""
        self.tensor = torch.zeros(1, dtype=torch.float32, device=like.device)

    def write(self, value: float) -> None:
        """Set the rate, also for the replays of a captured step that come after.

        Raises:
            RuntimeError: the rate changed while a graph is captured, which would fix it for good.
        """
        if value == self.value:
            return
        if is_capturing(self.tensor):
            raise RuntimeError(
                f"the learning rate must not change while a CUDA graph is captured; got {value} after "
                f"{self.value}. Take a step or call write_rates() before the capture."
            )
        self.tensor.fill_(value)
        self.value = value


def new_counter(like: Tensor, steps: int = 0) -> Tensor:
    """Return a counter of steps [] on the device of ``like``."""
    return torch.full((), steps, dtype=torch.int64, device=like.device)


def new_ticket(like: Tensor) -> Tensor:
    """Return what the kernels of Adam find their last block with; all steps of a stream may share it."""
    return torch.zeros(1, dtype=torch.int32, device=like.device)


@dataclass(frozen=True)
class AdamWork:
    """One tensor of a step."""

    parameter: Tensor
    gradient: Tensor | None
    """None for ``adam_low_rank``."""
    state: dict[str, Any]
    """Holds ``step`` (int64 []), ``exp_avg`` and ``exp_avg_sq``, all on the parameter's device."""
    rate: Tensor
    """[1]"""

    def describe(self) -> _AdamTensor:
        """Point at the tensors; the caller keeps them alive."""
        return _AdamTensor(
            self.parameter.numel(),
            self.parameter.data_ptr(),
            None if self.gradient is None else self.gradient.data_ptr(),
            self.state["exp_avg"].data_ptr(),
            self.state["exp_avg_sq"].data_ptr(),
            self.rate.data_ptr(),
            self.state["step"].data_ptr(),
        )


def adam(
    kernels: Kernels,
    work: Sequence[AdamWork],
    ticket: Tensor,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """Take a step on each tensor and advance its counter."""
    tensors = (_AdamTensor * len(work))(*(w.describe() for w in work))
    settings = _Adam(*betas, epsilon)
    kernels.call(
        "hs_cuda_adam", ctypes.byref(settings), ctypes.c_int64(len(work)), tensors, pointer(ticket)
    )


def adam_low_rank(
    kernels: Kernels,
    work: AdamWork,
    weights: Tensor,
    v_blend: Tensor,
    ticket: Tensor,
    betas: tuple[float, float],
    epsilon: float,
) -> Tensor:
    """Take a step on the gradient sum_r weights[r, k] v_blend[r, n, c] and advance the counter.

    Returns:
        [R, K], the gradient of the weights at the parameter before the step.
    """
    tensor, settings = work.describe(), _Adam(*betas, epsilon)
    v_weights = torch.empty_like(weights)
    sizes = [ctypes.c_int64(size) for size in (*weights.shape, v_blend[0].numel())]
    scratch = kernels.scratch(weights, "hs_cuda_adam_low_rank_bytes", *sizes)
    kernels.call(
        "hs_cuda_adam_low_rank",
        ctypes.byref(settings),
        ctypes.byref(tensor),
        *sizes,
        pointer(weights),
        pointer(v_blend),
        pointer(v_weights),
        pointer(scratch),
        pointer(ticket),
    )
    return v_weights


# -- What ``fused`` runs on a GPU ---------------------------------------------------------------------


def count_on_device(state: dict[str, Any], parameter: Tensor) -> None:
    """Bring the state's count of steps to the parameter's device, as an int or from elsewhere."""
    step = state["step"]
    if not isinstance(step, Tensor) or step.device != parameter.device:
        state["step"] = new_counter(parameter, int(step))


def adam_op(
    work: Sequence[AdamWork],
    tickets: dict[torch.device, Tensor],
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """Take a step on each tensor, on the current stream of its device; tickets are kept for the next."""
    for device in {w.parameter.device for w in work}:
        own = [w for w in work if w.parameter.device == device]
        first = own[0].parameter
        if device not in tickets:
            tickets[device] = new_ticket(first)
        with on_device(first):
            adam(kernels_for(first), own, tickets[device], betas, epsilon)
    _tell_autograd(work)


class LowRankDevice:
    """What LowRankAdam keeps on the GPU of its parameter: counter, rate and ticket."""

    def __init__(self, parameter: Tensor) -> None:
        """Create for a new parameter."""
        self.steps = new_counter(parameter)
        self.rate = DeviceRate(parameter)
        self._ticket = new_ticket(parameter)

    def step(
        self,
        parameter: Tensor,
        moments: dict[str, Any],
        weights: Tensor,
        v_blend: Tensor,
        betas: tuple[float, float],
        epsilon: float,
    ) -> Tensor:
        """Take a step as ``adam_low_rank`` does; the rate has been written."""
        work = AdamWork(parameter, None, {**moments, "step": self.steps}, self.rate.tensor)
        with on_device(parameter):
            kernels = kernels_for(parameter)
            v_weights = adam_low_rank(kernels, work, weights, v_blend, self._ticket, betas, epsilon)
        _tell_autograd([work])
        return v_weights


def _tell_autograd(work: Sequence[AdamWork]) -> None:
    for w in work:
        changed = (w.parameter, w.state["exp_avg"], w.state["exp_avg_sq"], w.state["step"])
        torch.autograd.graph.increment_version(changed)


def l1_ssim_op(
    image: Tensor, target: Tensor, ssim_weight: float, want_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Run ``l1_ssim`` on the device and stream of its tensors."""
    with on_device(image):
        return l1_ssim(kernels_for(image), image, target, ssim_weight, want_gradient)


def blend_op(offsets: Tensor, weights: Tensor) -> Tensor:
    """Run ``blend`` on the device and stream of its tensors."""
    with on_device(offsets):
        return blend(kernels_for(offsets), offsets, weights)


def blend_backward_op(offsets: Tensor, v_blend: Tensor) -> Tensor:
    """Run ``blend_backward`` on the device and stream of its tensors."""
    with on_device(offsets):
        return blend_backward(kernels_for(offsets), offsets, v_blend)
