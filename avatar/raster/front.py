"""The rasterizer's front: one function, checked arguments, a choice of backends."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from avatar.checks import InputError, check
from avatar.raster.cuda import cuda_state, is_capturing, missing, on_gpu
from avatar.raster.cuda_raster import TRAINING_VARIANT, rasterize_cuda
from avatar.raster.gsplat_adapter import gsplat_state, rasterize_gsplat
from avatar.raster.library import kernel_threads, library, simd_name
from avatar.raster.native import rasterize_native
from avatar.raster.reference import rasterize_reference, spherical_harmonics
from avatar.types import Camera, Gaussians, RenderOutput

Backend = Literal["auto", "reference", "cpu", "cuda", "gsplat"]


def available_backends() -> dict[str, str]:
    """Return for each backend "ok" (and what it runs on) or the reason why it cannot run here."""
    try:
        library()
        cpu = f"ok ({simd_name()}, {kernel_threads()} threads)"
    except InputError as error:
        cpu = str(error)
    return {
        "reference": "ok (plain torch, slow: for comparison)",
        "cpu": cpu,
        "cuda": cuda_state(),
        "gsplat": gsplat_state(),
    }


def rasterize(
    gaussians: Gaussians,
    camera: Camera,
    *,
    background: Tensor | None = None,
    sh_degree: int = 0,
    backend: Backend = "auto",
) -> RenderOutput:
    """Draw Gaussians with alpha blending, front to back, as gsplat 1.5.3's classic mode does.

    Differentiable in everything but K. A Gaussian with NaN or infinity in it is left out. All tensors are on
    one device, and the picture is too.

    Args:
        gaussians: what to draw; colours [N, C], or [N, S, 3] spherical harmonics.
        camera: from where.
        background: [C] or [H, W, C]; zero where None.
        sh_degree: 0 to 3, for colours [N, S, 3] with S >= (sh_degree + 1)^2.
        backend: auto takes our kernels for the tensors' device; a named one never becomes another.
            On a GPU, a call with gradients does not wait for the device: see ``cuda_raster``.

    Returns:
        rgb [H, W, C], alpha [H, W], depth [H, W]; stats has ``visible`` (Gaussians in the picture)
        and ``pairs`` (of Gaussian and 16x16 tile; 0 for the reference). On a GPU to read them waits.

    Raises:
        ValueError: a wrong shape, dtype or device; the sentence names the argument.
        InputError: the backend cannot run here; with the reason.
    """
    return _rasterize(gaussians, camera, None, background, sh_degree, backend)


def rasterize_with_means2d(
    gaussians: Gaussians,
    camera: Camera,
    means2d_offset: Tensor,
    *,
    background: Tensor | None = None,
    sh_degree: int = 0,
    backend: Backend = "auto",
) -> RenderOutput:
    """Draw as ``rasterize``, with projected centres moved by ``means2d_offset`` [N, 2] pixels.

    Give zeros that require a gradient: theirs is the loss's pull at each Gaussian in the picture,
    which tells densification where detail is missing (Kerbl et al. 2023, section 5.2).

    Raises:
        ValueError: as ``rasterize``; and the backend is gsplat, which cannot move centres.
    """
    check("means2d_offset", means2d_offset, "N 2", {"N": len(gaussians.means)})
    return _rasterize(gaussians, camera, means2d_offset, background, sh_degree, backend)


def _rasterize(
    gaussians: Gaussians,
    camera: Camera,
    means2d_offset: Tensor | None,
    background: Tensor | None,
    sh_degree: int,
    backend: Backend,
) -> RenderOutput:
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}; got {backend!r}.")
    means, colours = gaussians.means, gaussians.colours
    sizes = check("means", means, "N 3")
    check("quats", gaussians.quats, "N 4", sizes)
    check("scales", gaussians.scales, "N 3", sizes)
    check("opacities", gaussians.opacities, "N", sizes)
    colours = _plain_colours(means, colours, camera, sh_degree)
    height, width, channels = camera.height, camera.width, colours.shape[1]
    if means.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"means must be float32 or float64; got {means.dtype}. Convert them with .float()."
        )
    if background is None:
        background = means.new_zeros(channels)
    if not isinstance(background, Tensor):
        raise TypeError(f"background must be a tensor or None; got {type(background).__name__}.")
    if tuple(background.shape) not in ((channels,), (height, width, channels)):
        raise ValueError(
            f"background must be [{channels}] or [{height}, {width}, {channels}]; "
            f"got {list(background.shape)}."
        )
    chosen = _choose(backend, means)
    if chosen == "gsplat" and means2d_offset is not None:
        raise ValueError(
            "means2d_offset must be left out with the backend 'gsplat', which has no place for it. Take "
            "backend='cuda'."
        )
    arrays = {
        "means": means,
        "quats": gaussians.quats,
        "scales": gaussians.scales,
        "opacities": gaussians.opacities,
        "colours": colours,
        "background": background,
        "means2d_offset": means.new_zeros(len(means), 2)
        if means2d_offset is None
        else means2d_offset,
        "K": camera.K,
        "T_cam_world": camera.T_cam_world,
    }
    for name, value in arrays.items():
        if value.dtype != means.dtype:
            raise ValueError(
                f"{name} must be float32 or float64 as means are ({means.dtype}); got {value.dtype}. "
                "Convert it with .to(means.dtype)."
            )
        if value.device != means.device:
            raise ValueError(
                f"{name} must be on {means.device} as means are; got {value.device}. "
                "Move it with .to(means.device)."
            )
    if camera.K.requires_grad:
        raise ValueError(
            "camera.K must not require a gradient, since the rasterizer has none for it. "
            "Pass camera.K.detach()."
        )
    _check_finite(arrays)
    if chosen == "gsplat":
        arrays.pop("means2d_offset")
        return RenderOutput(*rasterize_gsplat(**arrays, width=width, height=height))
    if chosen == "cuda":
        return RenderOutput(
            *rasterize_cuda(**arrays, width=width, height=height, training_variant=TRAINING_VARIANT)
        )
    draw = rasterize_reference if chosen == "reference" else rasterize_native
    image, alpha, depth, counts = draw(**arrays, width=width, height=height)
    visible, _, pairs = counts.tolist()
    return RenderOutput(image, alpha, depth, {"visible": visible, "pairs": pairs})


@torch.compiler.assume_constant_result  # tracing has nothing to look for in how a library is found
def _cpu_ready() -> bool:
    library()  # raises with the remedy where it is missing
    return True


def _choose(backend: Backend, means: Tensor) -> str:
    """Return the backend that draws Gaussians with these means.

    Raises:
        InputError: it cannot run here; with the reason.
        ValueError: the means are on another device than the backend's, or of a type that it does not take.
    """
    gpu = on_gpu(means)
    if not gpu and means.device.type != "cpu":
        raise ValueError(
            f"means must be on the CPU or an NVIDIA GPU; got {means.device}. Move all with .to()."
        )
    chosen = backend
    if backend == "auto":
        chosen = "cuda" if gpu else "cpu"
    if chosen == "cpu":
        _cpu_ready()
    elif chosen == "cuda":
        if missing():
            raise InputError(f"The rasterizer backend 'cuda' cannot run here: {cuda_state()}.")
    elif chosen == "gsplat" and not gsplat_state().startswith("ok"):
        raise InputError(f"The rasterizer backend 'gsplat' cannot run here: {gsplat_state()}.")
    wants_gpu = chosen in ("cuda", "gsplat")
    if gpu != wants_gpu:
        place, move = ("an NVIDIA GPU", "cuda") if wants_gpu else ("the CPU", "cpu")
        raise ValueError(
            f"means must be on {place}, where the backend '{chosen}' runs; got {means.device}. "
            f"Move Gaussians and camera with .to('{move}')."
        )
    if wants_gpu and means.dtype != torch.float32:
        raise ValueError(
            f"means must be float32 for the backend '{chosen}'; got {means.dtype}. "
            "Convert Gaussians and camera with .to(torch.float32), or draw on the CPU."
        )
    return chosen


def _check_finite(arrays: dict[str, Tensor]) -> None:
    """Refuse a camera with NaN: on a GPU only where the call waits for the device anyway."""
    if on_gpu(arrays["means"]):
        training = torch.is_grad_enabled() and any(a.requires_grad for a in arrays.values())
        if training or is_capturing(arrays["means"]):
            return
    for name in ("K", "T_cam_world"):
        if not torch.isfinite(arrays[name]).all():
            raise ValueError(f"camera.{name} holds NaN or infinity; expected finite numbers.")


def _plain_colours(means: Tensor, colours: Tensor, camera: Camera, sh_degree: int) -> Tensor:
    """Return colours [N, C], evaluating spherical harmonics where they are given."""
    if colours.ndim == 2 and sh_degree == 0:
        check("colours", colours, "N C", {"N": len(means)})
        return colours
    check("colours", colours, "N S 3", {"N": len(means)})
    if not 0 <= sh_degree <= 3 or colours.shape[1] < (sh_degree + 1) ** 2:
        raise ValueError(
            f"sh_degree must be 0 to 3 with colours [N, (sh_degree + 1)^2, 3]; "
            f"got sh_degree {sh_degree} and {list(colours.shape)}."
        )
    R, t = camera.T_cam_world[:3, :3], camera.T_cam_world[:3, 3]
    directions = torch.nn.functional.normalize(means - (-R.T @ t), dim=1)
    return spherical_harmonics(directions, colours, sh_degree)
