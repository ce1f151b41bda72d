"""The CPU backend, and the torch custom ops that it shares with the CUDA backend (``cuda_raster``).

``headsplat::rasterize`` is differentiable in means, quats, scales, opacities, colours, background,
``means2d_offset`` and ``T_cam_world``. float32 runs on the best instruction set of the machine,
float64 on the plain path (for gradcheck: the very same formulas). The result is the same bit for bit
for every number of threads (``library.kernel_threads`` says how many are used).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avatar.raster.library import library, raise_on, run_settings
from avatar.types import Camera, Gaussians

RECORD = 16
"""Numbers in a projected Gaussian's record."""


class _Scene(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "channels", "width", "height")),
        *(
            (name, ctypes.c_void_p)
            for name in ("means", "quats", "scales", "opacities", "colours", "background")
        ),
        ("background_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("means2d_offset", "K", "T_cam_world")),
    )


class _Picture(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("image", "alpha", "depth"))


class _Gradients(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            *("v_image", "v_alpha", "v_depth", "v_means", "v_quats", "v_scales", "v_opacities"),
            *("v_colours", "v_means2d", "v_background", "v_T_cam_world"),
        )
    )


def _scene(arrays: Sequence[Tensor], width: int, height: int) -> _Scene:
    """Point at nine tensors in the order of the op's arguments; the caller keeps them alive."""
    means, _, _, _, colours, background = arrays[:6]
    channels = colours.shape[1]
    pointers = [a.data_ptr() for a in arrays]
    stride = channels if background.ndim == 3 else 0
    return _Scene(len(means), channels, width, height, *pointers[:6], stride, *pointers[6:])


@torch.library.custom_op("headsplat::rasterize", mutates_args=())
def _rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colours: Tensor,
    background: Tensor,
    means2d_offset: Tensor,
    K: Tensor,
    T_cam_world: Tensor,
    width: int,
    height: int,
    capacity: int = 0,
    variant: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return image [H, W, C], alpha, depth [H, W]; records, boxes, state for the way back; counts [3].

    ``capacity`` and ``variant`` are for the CUDA kernels alone: room for that many pairs of a Gaussian and a
    tile, and how gradients are summed.
    """
    arrays = (means, quats, scales, opacities, colours, background, means2d_offset, K, T_cam_world)
    arrays = [a.contiguous() for a in arrays]
    count, channels = colours.shape
    scene = _scene(arrays, width, height)
    run = run_settings(means.dtype)
    records = means.new_empty(count, RECORD)
    boxes = torch.empty(count, 4, dtype=torch.int16)
    counts = torch.zeros(3, dtype=torch.int64)  # visible, bound of pairs, pairs
    kernels, ref = library(), ctypes.byref
    raise_on(
        kernels.hs_project(
            ref(run),
            ref(scene),
            ctypes.c_void_p(records.data_ptr()),
            ctypes.c_void_p(boxes.data_ptr()),
            ctypes.c_void_p(counts.data_ptr()),
        ),
        "projecting Gaussians",
    )
    bound = ctypes.c_int64(int(counts[1]))
    state = torch.empty(int(kernels.hs_state_bytes(ref(scene), bound)), dtype=torch.uint8)
    image = means.new_empty(height, width, channels)
    alpha, depth = means.new_empty(height, width), means.new_empty(height, width)
    picture = _Picture(image.data_ptr(), alpha.data_ptr(), depth.data_ptr())
    raise_on(
        kernels.hs_rasterize(
            ref(run),
            ref(scene),
            ctypes.c_void_p(records.data_ptr()),
            ctypes.c_void_p(boxes.data_ptr()),
            bound,
            ctypes.c_void_p(state.data_ptr()),
            ref(picture),
            ctypes.c_void_p(counts[2:].data_ptr()),
        ),
        "rasterizing",
    )
    return image, alpha, depth, records, boxes, state, counts


@_rasterize.register_fake
def _(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colours: Tensor,
    background: Tensor,
    means2d_offset: Tensor,
    K: Tensor,
    T_cam_world: Tensor,
    width: int,
    height: int,
    capacity: int = 0,
    variant: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    count, channels = colours.shape
    state = torch.library.get_ctx().new_dynamic_size()
    return (
        means.new_empty(height, width, channels),
        means.new_empty(height, width),
        means.new_empty(height, width),
        means.new_empty(count, RECORD),
        means.new_empty(count, 4, dtype=torch.int16),
        means.new_empty(state, dtype=torch.uint8),
        means.new_empty(3, dtype=torch.int64),
    )


@torch.library.custom_op("headsplat::rasterize_backward", mutates_args=())
def _rasterize_backward(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colours: Tensor,
    background: Tensor,
    means2d_offset: Tensor,
    K: Tensor,
    T_cam_world: Tensor,
    width: int,
    height: int,
    image: Tensor,
    alpha: Tensor,
    depth: Tensor,
    records: Tensor,
    boxes: Tensor,
    state: Tensor,
    counts: Tensor,
    v_image: Tensor | None,
    v_alpha: Tensor | None,
    v_depth: Tensor | None,
    want_background: bool,
    want_camera: bool,
    capacity: int = 0,
    variant: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of means, quats, scales, opacities, colours, background, offset, T_cam_world."""
    arrays = (means, quats, scales, opacities, colours, background, means2d_offset, K, T_cam_world)
    arrays = [a.contiguous() for a in arrays]
    scene = _scene(arrays, width, height)
    run = run_settings(means.dtype)
    picture = _Picture(image.data_ptr(), alpha.data_ptr(), depth.data_ptr())
    incoming = [None if v is None else v.contiguous() for v in (v_image, v_alpha, v_depth)]
    found = [torch.empty_like(a) for a in arrays[:5]]
    v_means2d = torch.empty_like(arrays[6])
    v_pixels = image.new_empty(image.shape if want_background else 0)
    v_T = T_cam_world.new_zeros(4, 4)
    gradients = _Gradients(
        *(None if v is None else v.data_ptr() for v in incoming),
        *(v.data_ptr() for v in found),
        v_means2d.data_ptr(),
        v_pixels.data_ptr() if want_background else None,
        v_T.data_ptr() if want_camera else None,
    )
    ref = ctypes.byref
    raise_on(
        library().hs_rasterize_backward(
            ref(run),
            ref(scene),
            ctypes.c_void_p(records.data_ptr()),
            ctypes.c_int64(int(counts[1])),
            ctypes.c_void_p(state.data_ptr()),
            ref(picture),
            ref(gradients),
        ),
        "the gradient of rasterizing",
    )
    v_background = torch.zeros_like(background)
    if want_background:
        v_background = v_pixels if background.ndim == 3 else v_pixels.sum((0, 1))
    means_, quats_, scales_, opacities_, colours_ = found
    return means_, quats_, scales_, opacities_, colours_, v_background, v_means2d, v_T


@_rasterize_backward.register_fake
def _(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colours: Tensor,
    background: Tensor,
    means2d_offset: Tensor,
    K: Tensor,
    T_cam_world: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    like = (means, quats, scales, opacities, colours, background, means2d_offset, T_cam_world)
    return tuple(t.new_empty(t.shape) for t in like)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *arrays, ctx.width, ctx.height, ctx.capacity, ctx.variant = inputs
    ctx.save_for_backward(*arrays, *output)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[3:])


def _backward(ctx: Any, v_image: Any, v_alpha: Any, v_depth: Any, *_: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    found = _rasterize_backward(
        *saved[:9],
        ctx.width,
        ctx.height,
        *saved[9:],
        v_image,
        v_alpha,
        v_depth,
        bool(wanted[5]),
        bool(wanted[8]),
        ctx.capacity,
        ctx.variant,
    )
    *first, v_T = found
    return (*first, None, v_T if wanted[8] else None, None, None, None, None)


_rasterize.register_autograd(_backward, setup_context=_setup)


def rasterize_native(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colours: Tensor,
    background: Tensor,
    means2d_offset: Tensor,
    K: Tensor,
    T_cam_world: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw on the CPU; arguments are checked by the caller.

    Returns:
        image [H, W, C], alpha [H, W], depth [H, W], counts [3] (visible Gaussians, bound of pairs,
        pairs of Gaussian and 16x16 tile).
    """
    out = _rasterize(
        means,
        quats,
        scales,
        opacities,
        colours,
        background,
        means2d_offset,
        K,
        T_cam_world,
        width,
        height,
    )
    return out[0], out[1], out[2], out[6]


def count_lanes(gaussians: Gaussians, camera: Camera) -> tuple[int, int]:
    """Return what drawing blends: lanes, and those of them that a Gaussian really reaches.

    A lane is one pixel of a 4x4 block, for each Gaussian that the block is blended with.
    """
    means = gaussians.means
    background, offset = means.new_zeros(3), means.new_zeros(len(means), 2)
    arrays = [
        a.contiguous()
        for a in (
            *(means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colours),
            *(background, offset, camera.K, camera.T_cam_world),
        )
    ]
    scene = _scene(arrays, camera.width, camera.height)
    run, kernels, ref = run_settings(means.dtype), library(), ctypes.byref
    records = means.new_empty(len(means), RECORD)
    boxes = torch.empty(len(means), 4, dtype=torch.int16)
    counts = (ctypes.c_int64 * 2)()
    pointers = (ctypes.c_void_p(records.data_ptr()), ctypes.c_void_p(boxes.data_ptr()))
    raise_on(kernels.hs_project(ref(run), ref(scene), *pointers, counts), "projecting Gaussians")
    bound = ctypes.c_int64(counts[1])
    state = torch.empty(int(kernels.hs_state_bytes(ref(scene), bound)), dtype=torch.uint8)
    pictures = [means.new_empty(camera.height, camera.width, c) for c in (3, 1, 1)]
    work = (ctypes.c_int64 * 2)()
    code = kernels.hs_count_work(
        ref(run),
        ref(scene),
        *pointers,
        bound,
        ctypes.c_void_p(state.data_ptr()),
        ref(_Picture(*(p.data_ptr() for p in pictures))),
        work,
    )
    raise_on(code, "counting lanes")
    return work[0], work[1]
