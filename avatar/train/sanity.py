"""Whether an avatar holds together beyond what was filmed: every slider fully up, from several sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.model.views import front_camera, slider_state
from avatar.raster import one_torch_thread
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rotations import quat_to_matrix
from avatar.types import Camera, Gaussians

VIEWPOINTS_DEG = ((0.0, 0.0), (-40.0, 0.0), (40.0, 0.0), (0.0, -25.0), (0.0, 25.0))
"""Yaw and pitch of the cameras about the head."""
VISIBLE = 0.05
"""Opacity above which a Gaussian is seen."""
SIGMAS = 3.0
"""Standard deviations to either side that a Gaussian's extent counts."""
LARGEST = 0.25
"""Extent, share of the picture's height, above which a Gaussian has exploded."""
FURTHEST_M = 1.0
"""Distance from the head beyond which a Gaussian has flown away."""
NEAREST_M = 0.05
"""What lies nearer to the camera's plane than this is not drawn."""


@dataclass(frozen=True)
class Extents:
    """What ``largest_extents`` finds of one posed avatar from one camera."""

    exploded: Tensor
    """[N] bool: too large in the picture, too far from the head, or not a number."""
    worst: float
    """Largest extent of a visible Gaussian, share of the picture's height; 0 where none is in it."""


def check_sliders(avatar: Avatar) -> dict[str, Any]:
    """Look for exploded Gaussians with each of the 52 sliders at 1.0, and with none.

    A Gaussian has exploded that is visible (opacity above ``VISIBLE``) and whose projection is more
    than a quarter of the picture's height wide at three standard deviations to either side, whose
    mean is over a metre from the head, or that is not finite. About a second for 30 thousand.

    Returns:
        ``exploded``: number of Gaussians that explode anywhere; ``worst``: the slider (or "neutral")
        with the largest extent, and ``worst_extent`` that extent as a share of the picture's height;
        ``exploded_in``: names of all sliders with an exploded Gaussian.
    """
    cameras = [
        front_camera(avatar, yaw=math.radians(yaw), pitch=math.radians(pitch))
        for yaw, pitch in VIEWPOINTS_DEG
    ]
    head = avatar.rest.T_world_head[:3, 3]
    exploded = torch.zeros(len(avatar), dtype=torch.bool)
    worst, worst_extent, exploded_in = "neutral", 0.0, []
    with torch.no_grad(), one_torch_thread():
        for name in ("neutral", *ARKIT_NAMES):
            values = {} if name == "neutral" else {name: 1.0}
            gaussians = avatar.pose(slider_state(avatar, values))
            broken = torch.zeros_like(exploded)
            for camera in cameras:
                found = largest_extents(gaussians, camera, head, known=worst_extent)
                broken |= found.exploded
                if found.worst > worst_extent:
                    worst, worst_extent = name, found.worst
            if broken.any():
                exploded_in.append(name)
            exploded |= broken
    return {
        "exploded": int(exploded.sum()),
        "worst": worst,
        "worst_extent": round(worst_extent, 4),
        "exploded_in": exploded_in,
    }


def largest_extents(
    gaussians: Gaussians, camera: Camera, head: Tensor, *, known: float = 0.0
) -> Extents:
    """Measure how large Gaussians are in a picture.

    The projected covariance is J W S W^T J^T (Zwicker et al., EWA splatting, 2001, eq. 31); the
    extent is 2 x 3 standard deviations along its longer axis.

    Args:
        gaussians: N posed Gaussians, world.
        camera: from where.
        head: [3] middle of the head, world.
        known: an extent that is of no interest where nothing exceeds it; saves time.
    """
    visible = gaussians.opacities > VISIBLE
    values = torch.cat([gaussians.means, gaussians.quats, gaussians.scales], 1)
    broken = ~torch.isfinite(values).all(1) | ~torch.isfinite(gaussians.opacities)
    away = torch.linalg.norm(gaussians.means - head, dim=1) > FURTHEST_M
    R, t = camera.T_cam_world[:3, :3], camera.T_cam_world[:3, 3]
    x, y, z = (gaussians.means @ R.T + t).unbind(1)
    shown = visible & ~broken & (z > NEAREST_M)
    # No direction projects longer than the largest scale at the Jacobian's largest gain.
    fx, fy = float(camera.K[0, 0]), float(camera.K[1, 1])
    gain = max(fx, fy) / z * torch.sqrt(1 + (x / z).square() + (y / z).square())
    bound = 2 * SIGMAS * gaussians.scales.amax(1) * gain / camera.height
    large = torch.nonzero(shown & (bound > min(known, LARGEST)))[:, 0]
    x, y, z = x[large], y[large], z[large]
    zero = torch.zeros_like(z)
    J = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * x / z.square()], 1),
            torch.stack([zero, fy / z, -fy * y / z.square()], 1),
        ],
        1,
    )
    half = J @ R @ quat_to_matrix(gaussians.quats[large]) * gaussians.scales[large, None, :]
    a, b = half.square().sum(2).unbind(1)
    c = (half[:, 0] * half[:, 1]).sum(1)
    variance = (a + b) / 2 + torch.sqrt(((a - b) / 2).square() + c.square())
    extent_px = 2 * SIGMAS * variance.sqrt()
    u, v = fx * x / z + camera.K[0, 2], fy * y / z + camera.K[1, 2]
    reach = extent_px / 2
    inside = (u > -reach) & (u < camera.width + reach) & (v > -reach) & (v < camera.height + reach)
    extent = torch.where(inside, extent_px / camera.height, 0)
    exploded = broken | (visible & away)
    exploded[large] |= extent > LARGEST
    return Extents(exploded, float(extent.max()) if len(extent) else 0.0)
