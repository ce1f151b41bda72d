"""Posing on a GPU: the CUDA library's kernels for the ops of ``posing``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from avatar.raster.cuda import Kernels, kernels_for, on_device
from avatar.raster.posing import (
    _INPUTS,
    _LEARNED,
    _Gradients,
    _pose,
    _pose_backward,
    _pose_struct,
    _Posed,
)


def pose(
    kernels: Kernels, arrays: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Put posing on the stream; arguments and results as ``headsplat::pose``."""
    arrays = [a.contiguous() for a in arrays]
    out = [torch.empty_like(arrays[i]) for i in range(5)]
    kernels.call(
        "hs_cuda_pose",
        ctypes.byref(_pose_struct(arrays)),
        ctypes.byref(_Posed(*(a.data_ptr() for a in out))),
    )
    return out[0], out[1], out[2], out[3], out[4]


def pose_backward(
    kernels: Kernels, arrays: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> list[Tensor]:
    """Put the gradients of the first seven inputs on the stream."""
    arrays = [a.contiguous() for a in arrays]
    incoming = [None if v is None else v.contiguous() for v in gradients]
    found = [torch.empty_like(a) for a in arrays[:_LEARNED]]
    pointers = _Gradients(
        *(None if v is None else v.data_ptr() for v in incoming), *(v.data_ptr() for v in found)
    )
    kernels.call(
        "hs_cuda_pose_backward", ctypes.byref(_pose_struct(arrays)), ctypes.byref(pointers)
    )
    return found


@_pose.register_kernel("cuda")
def _(*arrays: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    with on_device(arrays[0]):
        return pose(kernels_for(arrays[0]), arrays)


@_pose_backward.register_kernel("cuda")
def _(arrays: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[Tensor]:
    with on_device(arrays[0]):
        return pose_backward(kernels_for(arrays[0]), arrays, gradients)


def pose_cuda(**inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Pose on the GPU without waiting for it: as ``posing.pose_native``, in float32 alone.

    A corner that is no vertex makes its Gaussian NaN, which is not drawn.
    """
    return _pose(*(inputs[name] for name in _INPUTS))
