"""gsplat 1.5.3 on the contract of ``front``, for comparison and for users who have it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping

import torch
from torch import Tensor

from avatar.raster.cuda import GET_TORCH, driver
from avatar.raster.cuda_raster import Counts
from avatar.raster.reference import EPS2D, NEAR_PLANE

VERSION = "1.5.3"
"""Others differ in what they draw: 1.6 clamps alpha at 0.99 rather than 0.999."""


def gsplat_state() -> str:
    """Return "ok", or all that gsplat lacks here and how to get it."""
    found: list[str] = []
    if importlib.util.find_spec("gsplat") is None:
        found.append("gsplat is not installed. Run: pip install 'headsplat[gsplat]'")
    else:
        version = importlib.metadata.version("gsplat").split("+")[0]
        if version != VERSION:
            found.append(f"gsplat is {version}. Run: pip install gsplat=={VERSION}")
    if torch.version.cuda is None:
        found.append(f"gsplat needs torch with CUDA, and this is a CPU build. {GET_TORCH}")
    elif not torch.cuda.is_available():
        here = driver()
        lacking = "driver" if here is None else "GPU that torch can use"
        found.append(f"gsplat needs an NVIDIA GPU, and there is no {lacking}")
    return "; ".join(found) or f"ok (gsplat {VERSION})"


def rasterize_gsplat(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colours: Tensor,
    background: Tensor,
    K: Tensor,
    T_cam_world: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor, Mapping[str, int]]:
    """Draw with gsplat's classic mode; arguments are checked by the caller.

    gsplat draws a Gaussian with NaN, and so spoils pixels; the contract leaves it out, hence the mask.

    Returns:
        image [H, W, C], alpha [H, W], depth [H, W], counts.
    """
    rasterization = importlib.import_module("gsplat").rasterization
    values = (means, quats, scales, opacities[:, None], colours)
    finite = torch.stack([torch.isfinite(v).all(1) for v in values]).all(0)[:, None]
    means, quats, scales, opacities, colours = (torch.where(finite, v, 0.0) for v in values)
    channels = colours.shape[1]
    pictures, alphas, meta = rasterization(
        means=means,
        quats=quats,
        scales=scales,
        opacities=opacities[:, 0],
        colors=colours,
        viewmats=T_cam_world[None],
        Ks=K[None],
        width=width,
        height=height,
        near_plane=NEAR_PLANE,
        eps2d=EPS2D,
        packed=False,
        render_mode="RGB+ED",
        rasterize_mode="classic",
    )
    alpha = alphas[0, ..., 0]
    # gsplat takes one background a camera; ours may be a picture.
    image = pictures[0, ..., :channels] + (1 - alpha)[..., None] * background
    visible = (meta["radii"][0] > 0).all(-1).sum()
    pairs = torch.full_like(visible, meta["isect_ids"].numel())
    return image, alpha, pictures[0, ..., channels], Counts(torch.stack([visible, pairs, pairs]))
