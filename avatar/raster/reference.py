"""The oracle of the other backends: plain torch, any dtype, one dense [N] x [pixels] sum per strip.

Semantics are gsplat 1.5.3's classic mode. Nothing here is shared with the kernels, so that an error in
one shows against the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avatar.rotations import quat_to_matrix

EPS2D = 0.3
"""Pixels squared added to the diagonal of the projected covariance."""
ALPHA_THRESHOLD = 1 / 255
"""A Gaussian below it does not touch the pixel."""
MAX_ALPHA = 0.999
"""Alpha is clamped here."""
STOP_TRANSMITTANCE = 1e-4
"""A pixel ends before its transmittance would fall to this or below."""
NEAR_PLANE = 0.01
"""Metres along the optical axis."""
TANGENT_MARGIN = 0.3
"""Share of the field of view beyond the border at which the Jacobian's tangents are clamped."""
STRIP_PIXELS = 2048
"""Pixels that are drawn at a time, to bound memory at N x this."""


def project(
    means: Tensor, quats: Tensor, scales: Tensor, K: Tensor, T: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Project Gaussians (Zwicker et al. 2001, EWA splatting; Jacobian as in 3DGS, tangent clamped).

    Returns:
        Centres [N, 2] in pixels, covariances [N, 2, 2] in pixels squared with the blur, depths [N].
    """
    R, t = T[:3, :3], T[:3, 3]
    cam = means @ R.T + t
    z = cam[:, 2]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    centres = torch.stack([fx * cam[:, 0] / z + cx, fy * cam[:, 1] / z + cy], 1)
    half_x, half_y = 0.5 * width / fx, 0.5 * height / fy
    high_x = (width - cx) / fx + TANGENT_MARGIN * half_x
    low_x = -(cx / fx + TANGENT_MARGIN * half_x)
    high_y = (height - cy) / fy + TANGENT_MARGIN * half_y
    low_y = -(cy / fy + TANGENT_MARGIN * half_y)
    tx = torch.minimum(high_x, torch.maximum(low_x, cam[:, 0] / z))
    ty = torch.minimum(high_y, torch.maximum(low_y, cam[:, 1] / z))
    zero = torch.zeros_like(z)
    J = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * tx / z], 1),
            torch.stack([zero, fy / z, -fy * ty / z], 1),
        ],
        1,
    )
    M = J @ R @ quat_to_matrix(quats) * scales[:, None, :]
    covariance = M @ M.transpose(1, 2) + EPS2D * torch.eye(2, dtype=M.dtype)
    return centres, covariance, z


def rasterize_reference(
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
    """Draw slowly and plainly; arguments and results as ``native.rasterize_native``."""
    finite = torch.ones(len(means), dtype=torch.bool)
    for value in (means, quats, scales, opacities[:, None], colours, means2d_offset):
        finite &= torch.isfinite(value).all(1)
    depths = (means @ T_cam_world[:3, :3].T + T_cam_world[:3, 3])[:, 2]
    usable = finite & (depths >= NEAR_PLANE) & (opacities >= ALPHA_THRESHOLD)
    usable &= torch.linalg.norm(quats, dim=1) > 0
    index = torch.nonzero(usable)[:, 0]
    centres, covariance, z = project(
        means[index], quats[index], scales[index], K, T_cam_world, width, height
    )
    centres = centres + means2d_offset[index]
    order = torch.argsort(z.detach(), stable=True)
    index, centres, covariance, z = (v[order] for v in (index, centres, covariance, z))
    opacity, colour = opacities[index], colours[index]
    conic = torch.linalg.inv(covariance)

    x = torch.arange(width, dtype=means.dtype) + 0.5
    y = torch.arange(height, dtype=means.dtype) + 0.5
    pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
    images, alphas, depth_sums = [], [], []
    touched = torch.zeros(len(index), dtype=torch.bool)
    for strip in pixels.split(STRIP_PIXELS):
        d = strip[:, None] - centres[None]  # [P, N, 2]
        power = -0.5 * torch.einsum("pni,nij,pnj->pn", d, conic, d)
        raw = opacity * torch.exp(power)
        alpha = torch.where(raw >= ALPHA_THRESHOLD, raw.clamp(max=MAX_ALPHA), 0.0)
        touched |= (alpha > 0).any(0).detach()
        through = torch.cumprod(1 - alpha, 1)
        before = torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], 1)
        # Transmittance only falls, so one comparison finds all that lies behind the stop.
        weight = torch.where(through > STOP_TRANSMITTANCE, alpha * before, 0.0)
        images.append(weight @ colour)
        alphas.append(weight.sum(1))
        depth_sums.append(weight @ z)
    alpha = torch.cat(alphas).reshape(height, width)
    image = torch.cat(images).reshape(height, width, -1)
    image = image + (1 - alpha)[..., None] * background
    covered = alpha > 0
    depth_sum = torch.cat(depth_sums).reshape(height, width)
    depth = torch.where(covered, depth_sum / torch.where(covered, alpha, 1.0), 0.0)
    counts = torch.tensor([int(touched.sum()), 0, 0])
    return image, alpha, depth, counts


def spherical_harmonics(directions: Tensor, coefficients: Tensor, degree: int) -> Tensor:
    """Evaluate real spherical harmonics as 3DGS stores colour: 0.5 + sum of Y c, held at 0 from below.

    Args:
        directions: [N, 3] unit vectors from the camera to the Gaussians.
        coefficients: [N, S, 3] with S >= (degree + 1)^2.
        degree: 0 to 3.

    Returns:
        [N, 3] colours.
    """
    x, y, z = directions.unbind(1)
    Y = [torch.full_like(x, 0.5 / math.sqrt(math.pi))]
    if degree >= 1:
        a = math.sqrt(3 / (4 * math.pi))
        Y += [-a * y, a * z, -a * x]
    if degree >= 2:
        b = 0.5 * math.sqrt(15 / math.pi)
        Y += [
            b * x * y,
            -b * y * z,
            0.25 * math.sqrt(5 / math.pi) * (3 * z * z - 1),
            -b * x * z,
            0.5 * b * (x * x - y * y),
        ]
    if degree >= 3:
        c, d = 0.25 * math.sqrt(35 / (2 * math.pi)), 0.25 * math.sqrt(21 / (2 * math.pi))
        e = 0.5 * math.sqrt(105 / math.pi)
        Y += [
            -c * y * (3 * x * x - y * y),
            e * x * y * z,
            -d * y * (5 * z * z - 1),
            0.25 * math.sqrt(7 / math.pi) * z * (5 * z * z - 3),
            -d * x * (5 * z * z - 1),
            0.5 * e * z * (x * x - y * y),
            -c * x * (x * x - 3 * y * y),
        ]
    basis = torch.stack(Y, 1)
    total = torch.einsum("ns,nsc->nc", basis, coefficients[:, : len(Y)])
    return (total + 0.5).clamp(min=0)
