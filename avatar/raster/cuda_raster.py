"""The CUDA backend: the CUDA library's rasterizer as the CUDA kernel of the ops in ``native``.

How many pairs of a Gaussian and a tile a picture has is known on the GPU only, and to wait for that number
would stall it. So room is made from what earlier pictures of the same size needed (``PairBudget``):

- a call without gradients waits for the count and draws again where the room was too small, so a picture
  is never incomplete in silence;
- a call with gradients never waits. Where the room was too small, the farthest Gaussians are left
  out of that step; the count arrives later, and a later call makes more room;
- while a CUDA graph is captured nothing is checked, and the room is what the calls before the capture
  taught. ``pairs_left_out`` reads from the outputs of a replay how many pairs there was no room for.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from avatar.raster.cuda import Kernels, is_capturing, kernels_for, on_device, pointer
from avatar.raster.native import (
    RECORD,
    _Gradients,
    _Picture,
    _rasterize,
    _rasterize_backward,
    _scene,
)

WARP, GAUSSIAN = 0, 1
"""How gradients are summed (HsCudaBackward in headsplat_cuda.h): over a warp's pixels for each Gaussian,
or by a lane for each Gaussian, which makes the forward pass leave checkpoints."""
TRAINING_VARIANT = WARP
"""For calls with gradients. By count of instructions the warp does half the work at 100k Gaussians and
512 pixels, and leaves no checkpoints; `avatar bench rasterizer --gpu` measures both."""

GROWTH = 1.5
"""Room that is made, as a multiple of the pairs that there were: Gaussians move and are added."""
FIRST_PAIRS = 1 << 16
FIRST_PAIRS_PER_GAUSSIAN = 8
"""Room for the first picture of a size; a trained head has about 3 pairs a Gaussian at 512 pixels."""
MOST_PAIRS = 0x7FFFFF00
"""What the kernels index."""


class Counts(Mapping[str, int]):
    """A picture's ``visible`` Gaussians and drawn ``pairs``, fetched from the GPU when first asked for."""

    def __init__(self, counts: Tensor) -> None:
        """Create from counts [3]: visible Gaussians, pairs that there are, pairs that were drawn."""
        self.counts = counts
        """[3] int64 on the picture's device, for reading without a wait."""
        self._values: dict[str, int] | None = None

    def _fetched(self) -> dict[str, int]:
        if self._values is None:
            visible, _, pairs = self.counts.tolist()
            self._values = {"visible": visible, "pairs": pairs}
        return self._values

    def __getitem__(self, key: str) -> int:
        return self._fetched()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("visible", "pairs"))

    def __len__(self) -> int:
        return 2


def pairs_left_out(stats: Mapping[str, int]) -> int:
    """Return how many pairs there was no room for in the latest picture, from its ``stats``.

    Waits for the device. For pictures drawn by a replayed CUDA graph: where it is not 0, draw once
    without gradients outside of the graph, which makes the room, and capture again.
    """
    if not isinstance(stats, Counts):
        return 0
    _, there, drawn = stats.counts.tolist()
    return there - drawn


class _Reading:
    """A number on its way from the device."""

    def __init__(self, number: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._copy = number
        if number.is_cuda:
            self._copy = torch.empty(number.shape, dtype=number.dtype, pin_memory=True)
            self._copy.copy_(number, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(number.device))

    def ready(self) -> bool:
        return self._event is None or self._event.query()

    def wait(self) -> int:
        if self._event is not None:
            self._event.synchronize()
        return int(self._copy)


class PairBudget:
    """How many pairs pictures of one size on one device are given room for."""

    def __init__(self) -> None:
        """Create without experience."""
        self._learned = 0
        self._gaussians = 0  # the most that any picture had
        self._pending: deque[_Reading] = deque()

    def room(self, gaussians: int, *, capturing: bool = False) -> int:
        """Return the room for a picture of that many Gaussians, by all counts that have arrived.

        While a CUDA graph is captured no news is taken in: to ask for it would break the capture.
        """
        while not capturing and self._pending and self._pending[0].ready():
            self.learn(self._pending.popleft().wait())
        if self._gaussians > 0 and gaussians > self._gaussians:
            self._learned = self._learned * gaussians // self._gaussians
        self._gaussians = max(self._gaussians, gaussians)
        first = max(FIRST_PAIRS, FIRST_PAIRS_PER_GAUSSIAN * gaussians)
        return min(self._learned or first, MOST_PAIRS)

    def expect(self, number: Tensor) -> None:
        """Let the count [1] of a picture come in without waiting for it."""
        self._pending.append(_Reading(number))

    def fetch(self, number: Tensor) -> int:
        """Wait for the count [1] of a picture."""
        needed = _Reading(number).wait()
        self.learn(needed)
        return needed

    def learn(self, needed: int) -> None:
        """Make room for as many pairs, and more, from the next picture on."""
        # Never less than before: views of a clip differ, and memory that comes and goes costs time.
        self._learned = max(self._learned, int(GROWTH * needed), FIRST_PAIRS)


@cache
def pair_budget(device: torch.device, width: int, height: int) -> PairBudget:
    """Return the one budget of pictures of that size on that device."""
    return PairBudget()


# -- Calls of the library -----------------------------------------------------------------------------


def _dense(tensor: Tensor) -> Tensor:
    """Return the tensor as the kernels read it: contiguous, from a multiple of 16 bytes on."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def draw(
    kernels: Kernels, arrays: Sequence[Tensor], width: int, height: int, capacity: int, variant: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Put a picture on the stream; arguments and results as ``headsplat::rasterize``."""
    arrays = [_dense(a) for a in arrays]
    means, colours = arrays[0], arrays[4]
    count, channels = colours.shape
    scene = _scene(arrays, width, height)
    records = means.new_empty(count, RECORD)
    boxes = means.new_empty(count, 4, dtype=torch.int16)
    image = means.new_empty(height, width, channels)
    alpha, depth = means.new_empty(height, width), means.new_empty(height, width)
    counts = means.new_empty(4, dtype=torch.int64)
    size = (ctypes.byref(scene), ctypes.c_int64(capacity))
    state = kernels.scratch(means, "hs_cuda_state_bytes", *size, ctypes.c_int32(variant))
    scratch = kernels.scratch(means, "hs_cuda_scratch_bytes", *size)
    picture = _Picture(image.data_ptr(), alpha.data_ptr(), depth.data_ptr())
    kernels.call(
        "hs_cuda_rasterize",
        *size,
        ctypes.c_int32(variant),
        *(pointer(t) for t in (records, boxes, state, scratch)),
        ctypes.byref(picture),
        pointer(counts),
    )
    return image, alpha, depth, records, boxes, state, counts[:3]


def draw_backward(
    kernels: Kernels,
    arrays: Sequence[Tensor],
    width: int,
    height: int,
    outputs: Sequence[Tensor],
    incoming: Sequence[Tensor | None],
    want_background: bool,
    want_camera: bool,
    capacity: int,
    variant: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Put the gradients on the stream; ``outputs`` are those of ``draw``, ``incoming`` of its pictures."""
    arrays = [_dense(a) for a in arrays]
    background, T_cam_world = arrays[5], arrays[8]
    image, alpha, depth, records, _, state, _ = outputs
    scene = _scene(arrays, width, height)
    incoming = [None if v is None else _dense(v) for v in incoming]
    found = [torch.empty_like(a) for a in arrays[:5]]
    v_means2d = torch.empty_like(arrays[6])
    v_pixels = image.new_empty(image.shape if want_background else 0)
    v_T = T_cam_world.new_zeros(4, 4)
    size = (ctypes.byref(scene), ctypes.c_int64(capacity))
    scratch = kernels.scratch(image, "hs_cuda_scratch_bytes", *size)
    picture = _Picture(image.data_ptr(), alpha.data_ptr(), depth.data_ptr())
    gradients = _Gradients(
        *(None if v is None else v.data_ptr() for v in incoming),
        *(v.data_ptr() for v in found),
        v_means2d.data_ptr(),
        v_pixels.data_ptr() if want_background else None,
        v_T.data_ptr() if want_camera else None,
    )
    kernels.call(
        "hs_cuda_rasterize_backward",
        *size,
        ctypes.c_int32(variant),
        *(pointer(t) for t in (records, state, scratch)),
        ctypes.byref(picture),
        ctypes.byref(gradients),
    )
    v_background = torch.zeros_like(background)
    if want_background:
        v_background = v_pixels if background.ndim == 3 else v_pixels.sum((0, 1))
    means, quats, scales, opacities, colours = found
    return means, quats, scales, opacities, colours, v_background, v_means2d, v_T


# -- The ops on a GPU ---------------------------------------------------------------------------------


@_rasterize.register_kernel("cuda")
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
    arrays = (means, quats, scales, opacities, colours, background, means2d_offset, K, T_cam_world)
    with on_device(means):
        return draw(kernels_for(means), arrays, width, height, capacity, variant)


@_rasterize_backward.register_kernel("cuda")
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
    arrays = (means, quats, scales, opacities, colours, background, means2d_offset, K, T_cam_world)
    outputs = (image, alpha, depth, records, boxes, state, counts)
    with on_device(means):
        return draw_backward(
            kernels_for(means),
            arrays,
            width,
            height,
            outputs,
            (v_image, v_alpha, v_depth),
            want_background,
            want_camera,
            capacity,
            variant,
        )


def rasterize_cuda(
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
    *,
    training_variant: int = TRAINING_VARIANT,
) -> tuple[Tensor, Tensor, Tensor, Counts]:
    """Draw on the GPU; arguments are checked by the caller.

    Waits for the device only where no gradient is asked for; see the top of this module.

    Returns:
        image [H, W, C], alpha [H, W], depth [H, W], counts.
    """
    arrays = (means, quats, scales, opacities, colours, background, means2d_offset, K, T_cam_world)
    training = torch.is_grad_enabled() and any(a.requires_grad for a in arrays)
    variant = training_variant if training else WARP
    budget = pair_budget(means.device, width, height)
    capturing = is_capturing(means)
    while True:
        capacity = budget.room(len(means), capturing=capturing)
        out = _rasterize(*arrays, width, height, capacity, variant)
        counts = out[6]
        if capturing:
            break
        if training:
            budget.expect(counts[1:2])
            break
        if budget.fetch(counts[1:2]) <= capacity or capacity == MOST_PAIRS:
            break
    return out[0], out[1], out[2], Counts(counts)
