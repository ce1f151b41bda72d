"""A whole training step of an avatar with the default deformer, for ``avatar bench rasterizer``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from avatar.model.avatar import FEATURES
from avatar.model.binding import Binding
from avatar.model.create import CreateConfig
from avatar.model.deform import Setup
from avatar.model.deformers.blendshapes import BlendshapeDeformer
from avatar.raster import rasterize
from avatar.raster.fused import FusedAdam, LowRankAdam, blend_offsets, l1_ssim_loss
from avatar.raster.posing import pose_native
from avatar.rig.lattice import lattice_table
from avatar.train.config import TrainConfig
from avatar.types import Camera, Gaussians


def avatar_step(gaussians: Gaussians, camera: Camera, target: Tensor) -> Callable[[], None]:
    """Return a training step of an avatar whose Gaussians rest where those given are.

    What a step of the fit computes: the network, the blend of offset shapes, posing, drawing, L1 + SSIM
    and coverage, every gradient, and Adam on all of it, the deformer's over several frames at a
    time as the fit has it. Left out are reading the target from bytes, the pull on large Gaussians
    and the hold on hidden ones, half a millisecond or so at 512 pixels. Rates are zero, so that
    every step is the same work.

    Args:
        gaussians: N Gaussians in the world.
        camera: from where.
        target: [H, W, 3] picture to be like.

    Returns:
        A function that takes one step.
    """
    config = TrainConfig()
    count, vertices = len(gaussians.means), 478
    random = torch.Generator().manual_seed(0)
    face = lattice_table()
    zero = torch.zeros(count)
    setup = Setup(
        features=FEATURES,
        lattice=face.neutral,
        basis=torch.zeros(52, vertices, 3),
        triangles=face.triangles,
        binding=Binding(zero.long(), torch.full((count, 3), 1 / 3), zero, zero.long() - 1),
        means=gaussians.means.detach(),
    )
    deformer = BlendshapeDeformer(setup, {"shapes": CreateConfig().shapes})
    deformer.draw(random, setup)
    deformer.offsets.requires_grad_(False).normal_(0, 1e-3, generator=random)
    parameters = {
        "means": gaussians.means.clone(),
        "quats": gaussians.quats.clone(),
        "log_scales": gaussians.scales.log(),
        "logit_opacities": gaussians.opacities.clamp(1e-3, 1 - 1e-3).logit(),
        "colours": gaussians.colours.clone(),
        "torso_logits": torch.full((count,), -4.0),
    }
    for value in parameters.values():
        value.requires_grad_()
    fixed = {
        "units": deformer.unit,
        "corners": torch.randint(0, vertices, (count, 3), generator=random, dtype=torch.int32),
        "corner_weights": torch.full((count, 3), 1 / 3),
        "eye": torch.full((count,), -1, dtype=torch.int8),
        "displacement": torch.zeros(vertices, 3),
        "T_world_head": torch.eye(4),
        "T_world_torso": torch.eye(4),
        "eye_turns": torch.zeros(2, 2),
        "eye_centres": torch.zeros(2, 3),
    }
    features = torch.randn(FEATURES, generator=random)
    mask = torch.ones(target.shape[:2])
    adam = FusedAdam(parameters.values(), lr=0.0)
    network_adam = FusedAdam(deformer.network.parameters(), lr=0.0, eps=1e-8)
    offset_adam = LowRankAdam(deformer.offsets, lr=0.0)
    pending: list[Tensor] = []

    def step() -> None:
        with torch.no_grad():
            weights = deformer.weights(features)
            blend = blend_offsets(deformer.offsets, weights).requires_grad_()
        posed = Gaussians(*pose_native(**parameters, **fixed, offsets=blend))
        picture = rasterize(posed, camera, background=torch.ones(3))
        loss = l1_ssim_loss(picture.rgb, target, config.ssim_weight)
        loss = loss + config.alpha_weight * (picture.alpha - mask).abs().mean()
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        assert blend.grad is not None
        pending.append(blend.grad)
        if len(pending) == config.deformer_frames:
            weights = deformer.weights(features.expand(len(pending), -1))
            weights.backward(offset_adam.step(weights.detach(), torch.stack(pending)))
            network_adam.step()
            network_adam.zero_grad(set_to_none=True)
            pending.clear()

    return step
