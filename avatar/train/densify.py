"""Densification: split the Gaussians that the loss keeps pulling at, drop the faint, find the hidden."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.raster import rasterize
from avatar.raster.reference import EPS2D, NEAR_PLANE
from avatar.rotations import quat_to_matrix, transform_points
from avatar.train.config import DensifyConfig
from avatar.types import Camera, Gaussians, HeadState

LEAST_FRAMED = 0.005
"""Share of a Gaussian that a picture must frame for that to count as all there is to see."""
SPLIT_SHRINK = 1.6
"""A split's halves are this much smaller (Kerbl et al. 2023, section 5.2)."""


@dataclass(frozen=True)
class Plan:
    """What becomes of the rows: new row i is a copy of old row ``source[i]``."""

    source: Tensor
    """[M] int64 old rows; within a part of the person kept ones first, in order."""
    fresh: Tensor
    """[M] bool: the row is half of a split and starts without optimiser state."""
    shift: Tensor
    """[M, 3] metres added to the mean."""
    shrink: Tensor
    """[M] taken from the log scales."""

    def to(self, device: torch.device) -> Plan:
        """Move all rows to ``device``."""
        return Plan(*(getattr(self, field.name).to(device) for field in fields(self)))


def plan_densification(
    avatar: Avatar, pull: Tensor, config: DensifyConfig, generator: torch.Generator
) -> Plan:
    """Decide which Gaussians split and which go: on the CPU, wherever the avatar is.

    Args:
        avatar: the avatar; not changed.
        pull: [N] mean magnitude of the loss's gradient with respect to the picture position.
        config: budget and thresholds.
        generator: source of randomness.
    """
    count = len(avatar)
    log_scales, quats = avatar.log_scales.detach().cpu(), avatar.quats.detach().cpu()
    opacity = torch.sigmoid(avatar.logit_opacities.detach().cpu())
    keep = opacity >= config.prune_opacity
    room = max(0, config.maximum - int(keep.sum()))
    number = min(int(config.growth * count), room, int(keep.sum()))
    score = torch.where(keep, pull, torch.full_like(pull, -1.0))
    split = torch.zeros(count, dtype=torch.bool)
    split[score.topk(number).indices] = True
    kept = torch.nonzero(keep)[:, 0]
    halves = torch.nonzero(split)[:, 0]
    source = torch.cat([kept, halves])
    is_half = torch.cat([split[kept], torch.ones(len(halves), dtype=torch.bool)])
    # The two halves stand on either side of the middle along a draw from the Gaussian itself.
    draw = torch.randn(count, 3, generator=generator) * log_scales.exp() * 0.7
    shift = torch.einsum("nij,nj->ni", quat_to_matrix(quats), draw)
    sign = torch.cat([torch.ones(len(kept)), -torch.ones(len(halves))])
    shift = shift[source] * sign[:, None] * is_half[:, None]
    shrink = is_half.float() * torch.log(torch.tensor(SPLIT_SHRINK))
    plan = (source, is_half, shift, shrink)
    # Gaussians are sorted by the part that they belong to.
    by_part = torch.argsort(avatar.part.cpu()[source], stable=True)
    return Plan(*(rows[by_part] for rows in plan))


def densify_steps(config: DensifyConfig, steps: int) -> set[int]:
    """Return the steps, of a fit of ``steps``, after which Gaussians are added and dropped."""
    if config.rounds < 1:
        return set()
    at = torch.linspace(config.start, config.stop, config.rounds) * steps
    return {max(1, int(s)) for s in at}


def apply_plan(avatar: Avatar, adam: torch.optim.Optimizer, plan: Plan) -> None:
    """Let the Gaussians' parameters and their moments become what is planned.

    Args:
        avatar: gets new parameters; binding and deformer are left for the caller to follow.
        adam: has one group for each of ``GAUSSIAN_PARAMETERS``, named so.
        plan: what becomes of the rows.
    """
    source, kept = plan.source, (~plan.fresh).float()
    states = {}
    for group in adam.param_groups:
        (old,) = group["params"]
        values = old.detach()[source]
        if group["name"] == "means":
            values = values + plan.shift
        if group["name"] == "log_scales":
            values = values - plan.shrink[:, None]
        new = torch.nn.Parameter(values)
        state = adam.state.pop(old, {})
        for name, moment in state.items():
            if isinstance(moment, Tensor) and moment.shape == old.shape:
                state[name] = moment[source] * kept.reshape(-1, *[1] * (moment.ndim - 1))
        states[new] = state
        setattr(avatar, group["name"], new)
        group["params"] = [new]
    adam.state.update(states)


def shown_share(
    avatar: Avatar, states: Iterable[HeadState], camera: Camera, *, framed: bool = False
) -> Tensor:
    """Return the share [N] of each Gaussian's picture that the best of the states shows.

    That is its weight in the picture, summed over pixels, by what the sum would be if nothing stood
    before it: 1 is in full view, 0 is behind opaque others or outside of the picture in every state.

    Args:
        avatar: whose Gaussians.
        states: in which they are posed.
        camera: that looks on.
        framed: count only what the picture frames. With several cameras, what one frames whole stands at
            the edge of another's picture, and shows there.
    """
    device = avatar.means.device
    camera, best = camera.to(device), torch.zeros(len(avatar), device=device)
    for state in states:
        with torch.no_grad():
            gaussians = avatar.pose(state.to(device))
            alone = _weight_alone(gaussians, camera, framed)
            if device.type == "cuda":
                # Makes room for all pairs: a call with gradients would rather leave some out than wait.
                rasterize(gaussians, camera)
        # The gradient of the pictures' sum to a colour is the weight that the colour has in it.
        probe = torch.zeros(len(avatar), 1, device=device, requires_grad=True)
        rasterize(replace(gaussians, colours=probe), camera).rgb.sum().backward()
        if probe.grad is not None:
            best = torch.maximum(best, probe.grad[:, 0] / alone)
    return best


def _weight_alone(gaussians: Gaussians, camera: Camera, framed: bool) -> Tensor:
    """Sum over pixels [N] of each Gaussian's opacity, alone; as if it were whole in the picture, if not framed."""
    p = transform_points(camera.T_cam_world, gaussians.means)
    axes = torch.nn.functional.normalize(p, dim=1) @ camera.T_cam_world[:3, :3]
    axes = torch.einsum("nij,ni->nj", quat_to_matrix(gaussians.quats), axes)
    # An ellipsoid's shadow along a direction: the shadows of its three faces, projected.
    a, b, c = gaussians.scales.unbind(1)
    shadow = torch.linalg.norm(axes * torch.stack([b * c, a * c, a * b], 1), dim=1)
    pixels = shadow * camera.K[0, 0] * camera.K[1, 1] / p[:, 2].clamp(min=NEAR_PLANE).square()
    # The rasterizer widens every Gaussian by that variance.
    whole = 2 * math.pi * gaussians.opacities * (pixels + EPS2D)
    if not framed:
        return whole
    # Taken for round, which is near enough to tell the edge's from those far outside.
    sigma = (pixels + EPS2D).sqrt()
    z = p[:, 2].clamp(min=NEAR_PLANE)
    for axis, size in ((0, camera.width), (1, camera.height)):
        at = p[:, axis] / z * camera.K[axis, axis] + camera.K[axis, 2]
        ends = torch.special.ndtr((size - at) / sigma) - torch.special.ndtr(-at / sigma)
        whole = whole * ends.clamp(min=LEAST_FRAMED)
    return whole
