"""An avatar's parameters and a state to the Gaussians that are drawn, in one pass over memory.

The plain torch twin is ``fused_reference.pose_reference``. float64 runs the same formulas for gradcheck;
the result is the same bit for bit for every number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avatar.raster.library import library, raise_on, run_settings

_INPUTS = (
    *("means", "quats", "log_scales", "logit_opacities", "colours", "torso_logits", "offsets"),
    *("units", "corners", "corner_weights", "eye", "displacement", "T_world_head"),
    *("T_world_torso", "eye_turns", "eye_centres"),
)
_LEARNED = 7
"""The first of the inputs: those that have a gradient."""


class _Pose(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "vertices")),
        *((name, ctypes.c_void_p) for name in _INPUTS),
    )


class _Posed(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("means", "quats", "scales", "opacities", "colours")
    )


class _Gradients(ctypes.Structure):
    _fields_ = tuple(
        (f"v_{name}", ctypes.c_void_p)
        for name in (
            *("means", "quats", "scales", "opacities", "colours"),
            *("local_means", "local_quats", "log_scales", "logit_opacities", "local_colours"),
            *("torso_logits", "offsets"),
        )
    )


def _pose_struct(arrays: Sequence[Tensor]) -> _Pose:
    """Point at the tensors in the order of ``_INPUTS``; the caller keeps them alive."""
    displacement = arrays[_INPUTS.index("displacement")]
    return _Pose(len(arrays[0]), len(displacement), *(a.data_ptr() for a in arrays))


@torch.library.custom_op("headsplat::pose", mutates_args=())
def _pose(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    logit_opacities: Tensor,
    colours: Tensor,
    torso_logits: Tensor,
    offsets: Tensor,
    units: Tensor,
    corners: Tensor,
    corner_weights: Tensor,
    eye: Tensor,
    displacement: Tensor,
    T_world_head: Tensor,
    T_world_torso: Tensor,
    eye_turns: Tensor,
    eye_centres: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return means, quats, scales, opacities, colours."""
    arrays = [
        a.contiguous()
        for a in (
            *(means, quats, log_scales, logit_opacities, colours, torso_logits, offsets),
            *(units, corners, corner_weights, eye, displacement, T_world_head, T_world_torso),
            *(eye_turns, eye_centres),
        )
    ]
    out = [torch.empty_like(arrays[i]) for i in range(5)]
    code = library().hs_pose(
        ctypes.byref(run_settings(means.dtype)),
        ctypes.byref(_pose_struct(arrays)),
        ctypes.byref(_Posed(*(a.data_ptr() for a in out))),
    )
    raise_on(code, "posing")
    return out[0], out[1], out[2], out[3], out[4]


@_pose.register_fake
def _(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    logit_opacities: Tensor,
    colours: Tensor,
    *rest: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = (means, quats, log_scales, logit_opacities, colours)
    out = [a.new_empty(a.shape) for a in like]
    return out[0], out[1], out[2], out[3], out[4]


@torch.library.custom_op("headsplat::pose_backward", mutates_args=())
def _pose_backward(arrays: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the gradients of the first seven inputs."""
    arrays = [a.contiguous() for a in arrays]
    incoming = [None if v is None else v.contiguous() for v in gradients]
    found = [torch.empty_like(a) for a in arrays[:_LEARNED]]
    code = library().hs_pose_backward(
        ctypes.byref(run_settings(arrays[0].dtype)),
        ctypes.byref(_pose_struct(arrays)),
        ctypes.byref(
            _Gradients(
                *(None if v is None else v.data_ptr() for v in incoming),
                *(v.data_ptr() for v in found),
            )
        ),
    )
    raise_on(code, "the gradient of posing")
    return found


@_pose_backward.register_fake
def _(arrays: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[Tensor]:
    return [a.new_empty(a.shape) for a in arrays[:_LEARNED]]


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    found = _pose_backward(list(ctx.saved_tensors), list(gradients))
    wanted = [v if ctx.needs_input_grad[i] else None for i, v in enumerate(found)]
    return (*wanted, *(None for _ in _INPUTS[_LEARNED:]))


_pose.register_autograd(_backward, setup_context=_setup)


def pose_native(**inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Pose on the CPU; shapes are checked by the caller, the numbers of corners by the kernel.

    Args:
        inputs: as ``fused_reference.pose_reference`` has them, all float of one precision, except
            ``corners`` int32 and ``eye`` int8. Gradients reach the first seven, ``means`` to
            ``offsets``.

    Returns:
        means [N, 3], quats [N, 4], scales [N, 3], opacities [N], colours [N, 3].
    """
    return _pose(*(inputs[name] for name in _INPUTS))
