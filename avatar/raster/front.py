"""The rasterizer's front: one function, checked arguments, a choice of backends."""

from __future__ import annotations

import importlib.util
from typing import Literal, get_args

import torch
from torch import Tensor

from avatar.checks import InputError, check
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
    gsplat = "the package gsplat is not installed (and needs an NVIDIA GPU)"
    if importlib.util.find_spec("gsplat") is not None:
        gsplat = "gsplat is installed, but this version of headsplat has no adapter for it yet"
    return {
        "reference": "ok (plain torch, slow: for comparison)",
        "cpu": cpu,
        "cuda": "this version of headsplat has no CUDA kernels yet",
        "gsplat": gsplat,
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

    Differentiable in everything but K. A Gaussian with NaN or infinity in it is left out.

    Args:
        gaussians: what to draw; colours [N, C], or [N, S, 3] spherical harmonics.
        camera: from where.
        background: [C] or [H, W, C]; zero where None.
        sh_degree: 0 to 3, for colours [N, S, 3] with S >= (sh_degree + 1)^2.
        backend: auto takes the fastest that runs here; a named one never becomes another.

    Returns:
        rgb [H, W, C], alpha [H, W], depth [H, W]; stats has ``visible`` (Gaussians in the picture)
        and, on the CPU, ``pairs`` (of Gaussian and 16x16 tile).

    Raises:
        ValueError: a wrong shape, dtype or device; the sentence names the argument.
        InputError: the backend cannot run here; with the reason.
    """
    offset = torch.zeros(len(gaussians.means), 2, dtype=gaussians.means.dtype)
    return rasterize_with_means2d(
        gaussians, camera, offset, background=background, sh_degree=sh_degree, backend=backend
    )


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
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}; got {backend!r}.")
    means, colours = gaussians.means, gaussians.colours
    sizes = check("means", means, "N 3")
    check("quats", gaussians.quats, "N 4", sizes)
    check("scales", gaussians.scales, "N 3", sizes)
    check("opacities", gaussians.opacities, "N", sizes)
    check("means2d_offset", means2d_offset, "N 2", sizes)
    colours = _plain_colours(means, colours, camera, sh_degree)
    height, width, channels = camera.height, camera.width, colours.shape[1]
    if background is None:
        background = torch.zeros(channels, dtype=means.dtype)
    if tuple(background.shape) not in ((channels,), (height, width, channels)):
        raise ValueError(
            f"background must be [{channels}] or [{height}, {width}, {channels}]; "
            f"got {list(background.shape)}."
        )
    arrays = {
        "means": means,
        "quats": gaussians.quats,
        "scales": gaussians.scales,
        "opacities": gaussians.opacities,
        "colours": colours,
        "background": background,
        "means2d_offset": means2d_offset,
        "K": camera.K,
        "T_cam_world": camera.T_cam_world,
    }
    for name, value in arrays.items():
        if value.dtype != means.dtype or value.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name} must be float32 or float64 as means are ({means.dtype}); got {value.dtype}."
            )
        if value.device.type != "cpu":
            raise ValueError(
                f"{name} must be on the CPU, where this backend runs; got {value.device}."
            )
    for name in ("K", "T_cam_world"):
        if not torch.isfinite(arrays[name]).all():
            raise ValueError(f"camera.{name} holds NaN or infinity; expected finite numbers.")
    draw = rasterize_reference if _choose(backend) == "reference" else rasterize_native
    image, alpha, depth, counts = draw(**arrays, width=width, height=height)
    visible, _, pairs = counts.tolist()
    return RenderOutput(image, alpha, depth, {"visible": visible, "pairs": pairs})


def _choose(backend: Backend) -> str:
    if backend in ("auto", "cpu"):
        library()  # raises with the remedy where it is missing
        return "cpu"
    state = available_backends()[backend]
    if not state.startswith("ok"):
        raise InputError(f"The rasterizer backend '{backend}' cannot run here: {state}.")
    return backend


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
