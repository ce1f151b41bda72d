"""One step of the Gaussians on one picture, free of decisions that would make a GPU's owner wait.

``picture_step`` reads its inputs from ``StepInputs`` and leaves what it measures in tensors; nothing in it reads a
number back. So a CUDA graph may replay it: between replays the inputs are written to the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.model.avatar import GAUSSIAN_PARAMETERS
from avatar.raster import rasterize_with_means2d
from avatar.raster.cuda_raster import Counts
from avatar.raster.fused import l1_ssim_loss, unpack_target
from avatar.train.config import TrainConfig
from avatar.train.fit_state import FitState
from avatar.types import Camera, HeadState, RenderOutput

_ALIGNED = 4
"""Each of a row's inputs begins at a multiple of so many floats: kernels read 16 bytes at a time."""


class InputRows:
    """Features, state and camera of every training row, packed: a row is written with one copy."""

    def __init__(
        self, features: Tensor, states: HeadState, cameras: Sequence[tuple[Camera, Camera]]
    ) -> None:
        """Pack.

        Args:
            features: [R, D] driving features.
            states: R of them.
            cameras: for each row that of the whole picture and that of the half one.
        """
        self._layout: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        both = []
        for half in (False, True):
            parts = {
                "features": features,
                "expression": states.expression,
                "gaze": states.gaze,
                "T_world_head": states.T_world_head,
                "T_world_torso": states.T_world_torso,
                "K": torch.stack([pair[half].K for pair in cameras]),
                "T_cam_world": torch.stack([pair[half].T_cam_world for pair in cameras]),
            }
            both.append(self._pack(parts))
        self.packed = torch.stack(both)
        """[2, R, P] whole and half."""

    def _pack(self, parts: dict[str, Tensor]) -> Tensor:
        columns, at = [], 0
        for name, value in parts.items():
            flat = value.float().flatten(1)
            self._layout[name] = (at, at + flat.shape[1], tuple(value.shape[1:]))
            columns += [flat, flat.new_zeros(len(flat), -flat.shape[1] % _ALIGNED)]
            at += flat.shape[1] + columns[-1].shape[1]
        return torch.cat(columns, 1)

    def to(self, device: torch.device) -> InputRows:
        """Move the numbers to ``device``; returns itself."""
        self.packed = self.packed.to(device)
        return self

    def view(self, packed: Tensor, name: str) -> Tensor:
        """Return one input by name as a view into a row [P]."""
        begin, end, shape = self._layout[name]
        return packed[begin:end].reshape(shape)

    def features(self, rows: Sequence[int]) -> Tensor:
        """Return the driving features [n, D] of some rows."""
        return torch.stack([self.view(self.packed[0, row], "features") for row in rows])


@dataclass
class StepInputs:
    """What a step on a picture of one size reads; on a GPU always the same memory."""

    features: Tensor
    """[D]"""
    state: HeadState
    camera: Camera
    rgba: Tensor
    """[H, W, 4] uint8: the person on white, and the mask."""
    background: Tensor
    """[3] what white is changed to."""
    pairs: Tensor
    """[2] int64: the most pairs of Gaussian and tile since it was zero, and the most left out for want of
    room; on a GPU only."""


def inputs_of(
    rows: InputRows, packed: Tensor, rgba: Tensor, background: Tensor, pairs: Tensor
) -> StepInputs:
    """Return the inputs that lie in ``packed`` [P], a row of ``rows`` or a copy of one."""
    names = ("expression", "gaze", "T_world_head", "T_world_torso")
    state = HeadState(*(rows.view(packed, name) for name in names))
    height, width = rgba.shape[:2]
    camera = Camera(rows.view(packed, "K"), rows.view(packed, "T_cam_world"), width, height)
    return StepInputs(rows.view(packed, "features"), state, camera, rgba, background, pairs)


def picture_loss(
    picture: RenderOutput, target: Tensor, mask: Tensor, config: TrainConfig
) -> Tensor:
    """Return the loss of a picture against its target [H, W, 3] and mask [H, W]."""
    loss = l1_ssim_loss(picture.rgb, target, config.ssim_weight)
    return loss + config.alpha_weight * (picture.alpha - mask).abs().mean()


def step_loss(
    fit: FitState, blend: Tensor, picture: RenderOutput, target: Tensor, mask: Tensor
) -> Tensor:
    """Return what a step descends: the picture's loss, and what holds Gaussians and offsets in shape."""
    config = fit.config
    loss = picture_loss(picture, target, mask, config)
    # Large Gaussians look well from the training view only.
    excess = (fit.avatar.log_scales - math.log(config.scale_limit_m)).clamp(min=0)
    loss = loss + 0.1 * excess.square().mean()
    if config.offset_decay:
        loss = loss + config.offset_decay * blend.square().mean()
    if (term := fit.deformer_step.term()) is not None:
        loss = loss + term
    return loss


def picture_step(fit: FitState, inputs: StepInputs, *, measure: bool) -> Tensor | None:
    """Step the Gaussians on a picture; nothing in it waits for a GPU.

    Args:
        fit: is changed: parameters, moments, and what it sums up.
        inputs: what is read.
        measure: also measure the picture's error, which reads every pixel once more: 3 % of a step.

    Returns:
        [N, 13], the gradient of the loss to the deformer's offsets, for its own step; None where no
        Gaussian was drawn.
    """
    avatar, camera = fit.avatar, inputs.camera
    target, mask = unpack_target(inputs.rgba, inputs.background)
    with torch.no_grad():
        blend = avatar.deformer(inputs.features).requires_grad_()
    gaussians = avatar.assemble(inputs.state, blend)
    shift = torch.zeros(len(avatar), 2, device=blend.device, requires_grad=True)
    picture = rasterize_with_means2d(
        gaussians, camera, shift, background=inputs.background, backend="auto"
    )
    loss = step_loss(fit, blend, picture, target, mask)
    loss.backward()
    _hold_hidden(fit, blend, shift)
    fit.adam.step()
    fit.placement.hold(avatar)
    _limit_scales(fit)
    fit.adam.zero_grad(set_to_none=True)
    sums = fit.sums
    with torch.no_grad():
        sums.loss.copy_(loss)
        # Not a number stays one.
        torch.maximum(sums.worst, loss, out=sums.worst)
        if measure:
            error = (picture.rgb.clamp(0, 1) - target).square().mean().clamp(min=1e-10)
            sums.error.copy_(error)
        if shift.grad is not None:
            sums.pull += torch.linalg.norm(shift.grad, dim=1) * max(camera.width, camera.height)
        if isinstance(picture.stats, Counts):
            _, there, drawn = picture.stats.counts.unbind()
            torch.maximum(inputs.pairs, torch.stack([there, there - drawn]), out=inputs.pairs)
    return blend.grad


def _hold_hidden(fit: FitState, *others: Tensor) -> None:
    """Drop what the loss says to hidden Gaussians, and to ``others`` of one row a Gaussian.

    Through chest and neck, which are not quite opaque, they get a trace of a gradient. Adam takes
    as long a step on a trace as on any other, so they would grow and whiten to brighten what is
    before them, and be seen as blobs as soon as the view or the neck moves.
    """
    parameters = (getattr(fit.avatar, name) for name in GAUSSIAN_PARAMETERS)
    # By a product, a third of what masks cost; and a bool index on a GPU would count the rows first, and wait.
    shown = (~fit.hidden).float()
    for tensor in (*parameters, *others):
        if tensor.grad is not None:
            tensor.grad.mul_(shown.reshape(-1, *[1] * (tensor.ndim - 1)))


@torch.no_grad()
def _limit_scales(fit: FitState) -> None:
    """Cut off Gaussians that explode: a term of the loss pulls large ones back, but a few harder the other way."""
    scales = fit.avatar.log_scales
    limited = scales.clamp(max=math.log(fit.config.scale_limit_m))
    scales.copy_(torch.where(fit.hidden[:, None], scales, limited))
