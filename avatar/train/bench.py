"""A whole training step of an avatar with the default deformer, for ``avatar bench rasterizer``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from avatar.model.avatar import FEATURES, GAUSSIAN_PARAMETERS, Avatar, Person
from avatar.model.binding import HEAD, MOUTH, TORSO, Binding
from avatar.model.create import CreateConfig
from avatar.raster import rasterize
from avatar.raster.fused import FusedAdam, l1_ssim_loss
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rig.lattice import lattice_table
from avatar.train.config import RateConfig, TrainConfig
from avatar.train.deformer_step import make_deformer_step
from avatar.types import Camera, Gaussians, HeadState


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
    random = torch.Generator().manual_seed(0)
    avatar = _resting_avatar(gaussians, camera, random).requires_grad_(True)
    state = avatar.rest
    features = torch.randn(FEATURES, generator=random)
    mask = torch.ones(target.shape[:2])
    adam = FusedAdam([getattr(avatar, name) for name in GAUSSIAN_PARAMETERS], lr=0.0)
    with torch.no_grad():
        for name in avatar.deformer.gaussian_dims:
            getattr(avatar.deformer, name).normal_(0, 1e-3, generator=random)
    deformer_step = make_deformer_step(avatar, replace(RateConfig(), offsets=0.0, network=0.0))
    pending: list[Tensor] = []

    def step() -> None:
        with torch.no_grad():
            blend = avatar.deformer(features)
        blend.requires_grad_()
        picture = rasterize(avatar.assemble(state, blend), camera, background=torch.ones(3))
        loss = l1_ssim_loss(picture.rgb, target, config.ssim_weight)
        loss = loss + config.alpha_weight * (picture.alpha - mask).abs().mean()
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        assert blend.grad is not None
        pending.append(blend.grad)
        if len(pending) == config.deformer_frames:
            deformer_step.step(features.expand(len(pending), -1), torch.stack(pending))
            pending.clear()

    return step


def _resting_avatar(gaussians: Gaussians, camera: Camera, random: torch.Generator) -> Avatar:
    """Return an avatar of the default kind whose Gaussians rest where those given are, any binding."""
    face = lattice_table()
    count, expressions = len(gaussians.means), len(ARKIT_NAMES)
    zeros, unit = torch.zeros(expressions), torch.eye(4)
    rest = HeadState(zeros, torch.zeros(2, 2), unit, unit)
    person = Person(
        lattice=face.neutral,
        basis=torch.zeros(expressions, len(face.neutral), 3),
        triangles=face.triangles,
        eyeballs=torch.zeros(2, 3),
        expression_names=ARKIT_NAMES,
        expression_low=zeros,
        expression_high=zeros + 1,
        rest=rest,
        camera=camera,
        fps=30.0,
    )
    # As many in each part as a draft begins with.
    first = CreateConfig()
    inside = round(count * first.mouth / (first.face + first.hair + first.torso))
    torso = round(count * first.torso / (first.face + first.hair + first.torso))
    binding = Binding(
        triangle=torch.randint(0, len(face.triangles), (count,), generator=random),
        barycentric=torch.full((count, 3), 1 / 3),
        follow=torch.ones(count),
        eye=torch.full((count,), -1),
        part=torch.tensor([HEAD, MOUTH, TORSO]).repeat_interleave(
            torch.tensor([count - inside - torso, inside, torso])
        ),
    )
    parameters = {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "log_scales": gaussians.scales.log(),
        "logit_opacities": gaussians.opacities.clamp(1e-3, 1 - 1e-3).logit(),
        "colours": gaussians.colours,
        "torso_logits": torch.full((count,), -4.0),
    }
    return Avatar(person, binding, parameters, deformer=first.deformer, generator=random)
