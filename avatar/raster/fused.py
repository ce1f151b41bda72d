"""What a training step needs beside the rasterizer, as single passes over memory, on the CPU and on a GPU.

Target pictures, the picture loss, the blend of offset shapes, and Adam. All are float32 and give the same result bit
for bit for every number of threads; plain torch twins are in ``fused_reference``. Numbers below
1.2e-38 count as zero.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from avatar.checks import check
from avatar.raster import cuda, cuda_fused
from avatar.raster.library import library, raise_on, run_settings

BETAS = (0.9, 0.999)
EPSILON = 1e-15
"""Adam's settings as 3D Gaussian splatting has them: with the usual 1e-8 the small gradients of means
and opacities would hardly move anything."""


class _Adam(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_double) for name in ("beta1", "beta2", "epsilon"))


class _AdamTensor(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        *((n, ctypes.c_void_p) for n in ("values", "gradients", "exp_avg", "exp_avg_sq")),
        *((n, ctypes.c_double) for n in ("step_size", "root_correction")),
    )


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _check_float(
    name: str, value: Tensor, *, contiguous: bool = False, like: Tensor | None = None
) -> None:
    """Raise unless ``value`` is a float32 tensor of the CPU or a GPU, the device of ``like`` where given."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(value).__name__}.")
    if value.dtype != torch.float32:
        raise ValueError(f"{name} must be float32; got {value.dtype}. Convert it with .float().")
    expected = "CPU or CUDA" if like is None else str(like.device).replace("cpu", "CPU")
    wrong = (
        value.device.type not in ("cpu", "cuda") if like is None else value.device != like.device
    )
    if wrong or value.layout != torch.strided:
        raise ValueError(
            f"{name} must be a dense {expected} tensor; got {value.layout}, {value.device}. "
            "Move it with .to(device)."
        )
    if contiguous and not value.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous; got strides {value.stride()} for shape "
            f"{list(value.shape)}. Make it so with .contiguous()."
        )


# -- Target pictures ----------------------------------------------------------------------------------


def unpack_target(rgba: Tensor, background: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return a training picture and its mask as numbers in [0, 1]: bytes / 255.

    Args:
        rgba: [H, W, 4] uint8: red, green, blue of the person on white, mask.
        background: [3] float32, the colour that white is changed to where nobody stands.

    Returns:
        picture [H, W, 3] float32, mask [H, W] float32.

    Raises:
        ValueError: a wrong shape, dtype or device.
    """
    sizes = check("rgba", rgba, "H W 4")
    if rgba.dtype != torch.uint8:
        raise ValueError(f"rgba must be uint8; got {rgba.dtype}. Pass bytes from 0 to 255.")
    if rgba.device.type not in ("cpu", "cuda") or rgba.layout != torch.strided:
        raise ValueError(
            f"rgba must be a dense CPU or CUDA tensor; got {rgba.layout}, {rgba.device}. "
            "Move it with .to(device)."
        )
    if background is not None:
        check("background", background, "3")
        _check_float("background", background, like=rgba)
        background = background.contiguous()
    if cuda.on_gpu(rgba):
        return cuda_fused.unpack_target(rgba, background)
    rgba = rgba.contiguous()
    picture = torch.empty(sizes["H"], sizes["W"], 3, dtype=torch.float32)
    mask = torch.empty(sizes["H"], sizes["W"], dtype=torch.float32)
    code = library().hs_unpack_target(
        ctypes.byref(run_settings(torch.float32)),
        ctypes.c_int64(mask.numel()),
        _pointer(rgba),
        None if background is None else _pointer(background),
        _pointer(picture),
        _pointer(mask),
    )
    raise_on(code, "unpacking a target picture")
    return picture, mask


# -- The picture loss ---------------------------------------------------------------------------------


@torch.library.custom_op("headsplat::l1_ssim", mutates_args=())
def _l1_ssim(
    image: Tensor, target: Tensor, ssim_weight: float, want_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss [] and its gradient to the image [H, W, 3], which is empty if not wanted."""
    image, target = image.contiguous(), target.contiguous()
    height, width, _ = image.shape
    loss = image.new_empty(())
    gradient = image.new_empty(image.shape if want_gradient else 0)
    code = library().hs_l1_ssim(
        ctypes.byref(run_settings(torch.float32)),
        ctypes.c_int64(height),
        ctypes.c_int64(width),
        _pointer(image),
        _pointer(target),
        ctypes.c_double(ssim_weight),
        _pointer(loss),
        _pointer(gradient) if want_gradient else None,
    )
    raise_on(code, "the picture loss")
    return loss, gradient


@_l1_ssim.register_fake
def _(
    image: Tensor, target: Tensor, ssim_weight: float, want_gradient: bool
) -> tuple[Tensor, Tensor]:
    return image.new_empty(()), image.new_empty(image.shape if want_gradient else 0)


_l1_ssim.register_kernel("cuda")(cuda_fused.l1_ssim_op)


@torch.library.custom_op("headsplat::l1_ssim_backward", mutates_args=())
def _l1_ssim_backward(v_loss: Tensor, gradient: Tensor, image: Tensor) -> Tensor:
    """Return v_loss times the gradient.

    An op of its own, and with the image among its inputs, so that a second derivative is refused:
    to autograd the stored gradient is a constant.
    """
    return gradient * v_loss


@_l1_ssim_backward.register_fake
def _(v_loss: Tensor, gradient: Tensor, image: Tensor) -> Tensor:
    return torch.empty_like(gradient)


def _l1_ssim_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _l1_ssim_grad(ctx: Any, v_loss: Any, _: Any) -> tuple[Any, ...]:
    image, gradient = ctx.saved_tensors
    if v_loss is None or not ctx.needs_input_grad[0]:
        return None, None, None, None
    # The usual case, a loss that is differentiated as it is, needs no pass over the picture. (With
    # gradients on, somebody wants a second derivative, which the op below refuses; a tracer's tensor
    # is no plain one and has no value.)
    plain = type(v_loss) is Tensor and not torch.is_grad_enabled()
    if plain and not cuda.on_gpu(v_loss) and v_loss.item() == 1:
        return gradient, None, None, None
    return _l1_ssim_backward(v_loss, gradient, image), None, None, None


_l1_ssim.register_autograd(_l1_ssim_grad, setup_context=_l1_ssim_setup)


def l1_ssim_loss(image: Tensor, target: Tensor, ssim_weight: float) -> Tensor:
    """Return (1 - w) mean|image - target| + w (1 - mean SSIM), and keep its gradient for backward.

    SSIM as ``fused_reference.ssim_map_reference`` has it. Differentiable once, in ``image`` only;
    where the pictures are equal, the gradient of |image - target| counts as zero.

    Args:
        image: [H, W, 3] float32 in [0, 1], at least one pixel.
        target: [H, W, 3] float32 in [0, 1]; a constant.
        ssim_weight: w in [0, 1].

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: a wrong shape, dtype, device or weight, or a target that requires a gradient.
    """
    sizes = check("image", image, "H W 3")
    check("target", target, "H W 3", sizes)
    _check_float("image", image)
    _check_float("target", target, like=image)
    if image.numel() == 0:
        raise ValueError(f"image must have at least 1 pixel; got {list(image.shape)}.")
    if target.requires_grad:
        raise ValueError(
            "target must not require a gradient, since the loss has none for it; got one that does. "
            "Pass target.detach(), or swap the pictures."
        )
    if not 0 <= ssim_weight <= 1:
        raise ValueError(f"ssim_weight must be in [0, 1]; got {ssim_weight}.")
    want_gradient = image.requires_grad and torch.is_grad_enabled()
    return _l1_ssim(image, target, float(ssim_weight), want_gradient)[0]


# -- The blend of offset shapes -----------------------------------------------------------------------


@torch.library.custom_op("headsplat::blend_offsets", mutates_args=())
def _blend(offsets: Tensor, weights: Tensor) -> Tensor:
    """Return sum_k weights[k] offsets[k]."""
    offsets, weights = offsets.contiguous(), weights.contiguous()
    blend = offsets.new_empty(offsets.shape[1:])
    code = library().hs_blend(
        ctypes.byref(run_settings(torch.float32)),
        ctypes.c_int64(len(offsets)),
        ctypes.c_int64(blend.numel()),
        _pointer(offsets),
        _pointer(weights),
        _pointer(blend),
    )
    raise_on(code, "blending offsets")
    return blend


@_blend.register_fake
def _(offsets: Tensor, weights: Tensor) -> Tensor:
    return offsets.new_empty(offsets.shape[1:])


_blend.register_kernel("cuda")(cuda_fused.blend_op)


@torch.library.custom_op("headsplat::blend_offsets_backward", mutates_args=())
def _blend_backward(offsets: Tensor, v_blend: Tensor) -> Tensor:
    """Return the gradient [K] of the weights."""
    offsets, v_blend = offsets.contiguous(), v_blend.contiguous()
    v_weights = offsets.new_empty(len(offsets))
    code = library().hs_blend_backward(
        ctypes.byref(run_settings(torch.float32)),
        ctypes.c_int64(len(offsets)),
        ctypes.c_int64(v_blend.numel()),
        _pointer(offsets),
        _pointer(v_blend),
        _pointer(v_weights),
    )
    raise_on(code, "the gradient of blending offsets")
    return v_weights


@_blend_backward.register_fake
def _(offsets: Tensor, v_blend: Tensor) -> Tensor:
    return offsets.new_empty(offsets.shape[:1])


_blend_backward.register_kernel("cuda")(cuda_fused.blend_backward_op)


def _blend_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _blend_grad(ctx: Any, v_blend: Tensor) -> tuple[Tensor | None, Tensor | None]:
    offsets, weights = ctx.saved_tensors
    want_offsets, want_weights = ctx.needs_input_grad
    v_offsets = weights[:, None, None] * v_blend if want_offsets else None
    return v_offsets, _blend_backward(offsets, v_blend) if want_weights else None


_blend.register_autograd(_blend_grad, setup_context=_blend_setup)


def blend_offsets(offsets: Tensor, weights: Tensor) -> Tensor:
    """Return sum_k weights[k] offsets[k].

    Differentiable once. The gradient of the offsets has the size of the offsets, so do not ask for it
    where ``LowRankAdam`` can do without.

    Args:
        offsets: [K, N, C] float32, contiguous (it is the largest tensor of an avatar; a silent copy
            would cost more than the blend).
        weights: [K] float32.

    Returns:
        [N, C].

    Raises:
        ValueError: a wrong shape, dtype, device or memory layout.
    """
    sizes = check("offsets", offsets, "K N C")
    check("weights", weights, "K", sizes)
    _check_float("offsets", offsets, contiguous=True)
    _check_float("weights", weights, like=offsets)
    return _blend(offsets, weights)


# -- Adam ---------------------------------------------------------------------------------------------


def _adam_tensor(
    values: Tensor, gradients: Tensor | None, moments: dict[str, Any], lr: float, step: int
) -> _AdamTensor:
    """Describe a tensor's step number ``step`` (from 1); the caller keeps the tensors alive."""
    return _AdamTensor(
        values.numel(),
        values.data_ptr(),
        None if gradients is None else gradients.data_ptr(),
        moments["exp_avg"].data_ptr(),
        moments["exp_avg_sq"].data_ptr(),
        lr / (1 - BETAS[0] ** step),
        math.sqrt(1 - BETAS[1] ** step),
    )


def _check_moments(name: str, moments: dict[str, Any], like: Tensor) -> None:
    for key in ("exp_avg", "exp_avg_sq"):
        moment = moments[key]
        _check_float(f"{name}'s {key}", moment, contiguous=True, like=like)
        if moment.shape != like.shape:
            raise ValueError(
                f"{name}'s {key} must have shape {list(like.shape)} as the parameter has; got "
                f"{list(moment.shape)}. Were Gaussians added without it?"
            )


class FusedAdam(torch.optim.Optimizer):
    """Adam over all parameters in one call: torch.optim.Adam with betas (0.9, 0.999).

    A parameter's state is {"step": int, "exp_avg": Tensor, "exp_avg_sq": Tensor}, the moments shaped
    as the parameter; whoever replaces a parameter may index, replace or drop them. On a GPU ``step`` is
    an int64 tensor [] there, which a step captured in a CUDA graph advances at each replay.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, eps: float = EPSILON) -> None:
        """Create for parameters or groups {"params": [...], "lr": float, "name": str}.

        Args:
            params: parameters or groups.
            lr: learning rate of groups that name none.
            eps: what is added to the root of the second moment.

        Raises:
            ValueError: a parameter that is not a contiguous float32 tensor of the CPU or a GPU, or a
                rate < 0.
        """
        self.eps = eps
        self._rates: dict[tuple[int, torch.device], cuda_fused.DeviceRate] = {}
        self._tickets: dict[torch.device, Tensor] = {}
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its parameters and rate."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            if not group["lr"] >= 0:
                raise ValueError(f"lr must be at least 0; got {group['lr']}.")
            for index, parameter in enumerate(group["params"]):
                _check_float(self._name(group, index), parameter, contiguous=True)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @staticmethod
    def _name(group: dict[str, Any], index: int) -> str:
        name = group.get("name", "parameter")
        return name if len(group["params"]) == 1 else f"{name}[{index}]"

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step on every parameter that has a gradient; return what ``closure`` returns, if any.

        Raises:
            ValueError: a parameter, gradient or moment of another dtype, shape or memory layout.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work: list[tuple[Tensor, Tensor, dict[str, Any], float]] = []
        on_gpu: list[cuda_fused.AdamWork] = []
        for number, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                name = self._name(group, index)
                _check_float(name, parameter, contiguous=True)
                _check_float(f"{name}'s gradient", parameter.grad, like=parameter)
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                _check_moments(name, state, parameter)
                gradient = parameter.grad.contiguous()
                if cuda.on_gpu(parameter):
                    rate = self._rate(number, float(group["lr"]), parameter)
                    cuda_fused.count_on_device(state, parameter)
                    on_gpu.append(cuda_fused.AdamWork(parameter, gradient, state, rate))
                else:
                    work.append((parameter, gradient, state, float(group["lr"])))
        if on_gpu:
            cuda_fused.adam_op(on_gpu, self._tickets, BETAS, self.eps)
        if not work:
            return loss
        tensors = (_AdamTensor * len(work))()
        for index, (parameter, gradient, state, lr) in enumerate(work):
            state["step"] += 1
            tensors[index] = _adam_tensor(parameter, gradient, state, lr, int(state["step"]))
        code = library().hs_adam(
            ctypes.byref(run_settings(torch.float32)),
            ctypes.byref(_Adam(*BETAS, self.eps)),
            ctypes.c_int64(len(work)),
            tensors,
        )
        raise_on(code, "a step of Adam")
        for parameter, _, state, _ in work:
            torch.autograd.graph.increment_version(
                (parameter, state["exp_avg"], state["exp_avg_sq"])
            )
        return loss

    def take_state(self, parameter: Tensor, state: dict[str, Any]) -> None:
        """Take over a parameter's state, of whichever device it was, on the parameter's own."""
        self.state[parameter] = {
            name: value.to(parameter.device) if isinstance(value, Tensor) else value
            for name, value in state.items()
        }

    def write_rates(self) -> None:
        """Hand the groups' rates to the GPU: to be called between replays of a captured step."""
        for (number, _), rate in self._rates.items():
            rate.write(float(self.param_groups[number]["lr"]))

    def _rate(self, number: int, lr: float, parameter: Tensor) -> Tensor:
        """Return group ``number``'s rate in the memory of the parameter's GPU."""
        key = (number, parameter.device)
        if key not in self._rates:
            self._rates[key] = cuda_fused.DeviceRate(parameter)
        self._rates[key].write(lr)
        return self._rates[key].tensor


class LowRankAdam:
    """Adam for offset shapes, whose gradient is weights[k] times the gradient of their blend.

    The same numbers as torch.optim.Adam (betas 0.9 and 0.999, eps 1e-15) with that gradient, which is
    never written to memory: a step reads and writes parameter and moments once. One step may take the
    sum of several frames' gradients; the offsets are by far the largest tensor of an avatar, and what
    a step costs is the way through memory.
    """

    def __init__(self, parameter: Tensor, lr: float) -> None:
        """Create for ``parameter`` [K, N, C], float32, contiguous; steps change it in place.

        Raises:
            ValueError: another shape, dtype, device or memory layout.
        """
        check("parameter", parameter, "K N C")
        _check_float("parameter", parameter, contiguous=True)
        self.parameter = parameter
        self.lr = lr
        """Learning rate; may be set between steps."""
        self._moments: dict[str, Any] = {
            name: torch.zeros_like(parameter, requires_grad=False)
            for name in ("exp_avg", "exp_avg_sq")
        }
        self._steps = 0
        self._device = cuda_fused.LowRankDevice(parameter) if cuda.on_gpu(parameter) else None

    @property
    def steps(self) -> int:
        """Steps taken; on a GPU it is read from there, which waits for it."""
        return self._steps if self._device is None else int(self._device.steps)

    def write_rate(self) -> None:
        """Hand ``lr`` to the GPU: to be called between replays of a captured step."""
        if self._device is not None:
            self._device.rate.write(float(self.lr))

    @torch.no_grad()
    def step(self, weights: Tensor, blend_gradient: Tensor) -> Tensor:
        """Take a step on the gradient sum_r weights[r, k] blend_gradient[r, n, c].

        Args:
            weights: [R, K] float32, the weights of the blend in each of R frames.
            blend_gradient: [R, N, C] float32, the gradient of the loss to each frame's blend.

        Returns:
            [R, K], the gradient of the loss to the weights: the offsets pass through the processor here
            anyway. It is taken at the offsets before the step.

        Raises:
            ValueError: a wrong shape, dtype or device, or no frame.
        """
        shapes, count, channels = self.parameter.shape
        sizes = check("weights", weights, "R K", {"K": shapes})
        check("blend_gradient", blend_gradient, "R N C", {**sizes, "N": count, "C": channels})
        if sizes["R"] == 0:
            raise ValueError("weights must hold at least 1 frame; got [0, K].")
        _check_float("weights", weights, like=self.parameter)
        _check_float("blend_gradient", blend_gradient, like=self.parameter)
        weights, blend_gradient = weights.contiguous(), blend_gradient.contiguous()
        if self._device is not None:
            self.write_rate()
            return self._device.step(
                self.parameter, self._moments, weights, blend_gradient, BETAS, EPSILON
            )
        v_weights = torch.empty_like(weights)
        self._steps += 1
        tensor = _adam_tensor(self.parameter, None, self._moments, float(self.lr), self._steps)
        code = library().hs_adam_low_rank(
            ctypes.byref(run_settings(torch.float32)),
            ctypes.byref(_Adam(*BETAS, EPSILON)),
            ctypes.byref(tensor),
            ctypes.c_int64(sizes["R"]),
            ctypes.c_int64(shapes),
            ctypes.c_int64(count * channels),
            _pointer(weights),
            _pointer(blend_gradient),
            _pointer(v_weights),
        )
        raise_on(code, "a step of Adam on the offsets")
        torch.autograd.graph.increment_version((self.parameter, *self._moments.values()))
        return v_weights

    def state_dict(self) -> dict[str, Any]:
        """Return {"exp_avg": [K, N, C], "exp_avg_sq": [K, N, C], "steps": int}; the next step changes it."""
        return {**self._moments, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a copy of what ``state_dict`` returned, also for another count of Gaussians.

        Raises:
            ValueError: a key is missing, or a moment has not the parameter's shape and dtype.
        """
        missing = {"exp_avg", "exp_avg_sq", "steps"} - state.keys()
        if missing:
            raise ValueError(
                f"state must hold exp_avg, exp_avg_sq and steps; {missing} is missing."
            )
        moments = {
            name: state[name].detach().clone(memory_format=torch.contiguous_format)
            for name in ("exp_avg", "exp_avg_sq")
        }
        _check_moments("state", moments, self.parameter)
        self._moments, self._steps = moments, int(state["steps"])
        if self._device is not None:
            self._device.steps.fill_(self._steps)
