"""Plain torch twins of the fused kernels: any dtype and device, autograd does the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.rotations import (
    matrix_to_quat,
    quat_multiply,
    rotvec_to_matrix,
    transform_points,
)

SSIM_RADIUS = 5
SSIM_SIGMA = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def unpack_target_reference(
    rgba: Tensor, background: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return picture [H, W, 3] and mask [H, W] of bytes [H, W, 4], each / 255, white recoloured."""
    numbers = rgba.float() / 255
    picture, mask = numbers[..., :3].contiguous(), numbers[..., 3].contiguous()
    if background is not None:
        behind = (1 - mask)[..., None]
        picture = (picture - behind) + behind * background
    return picture, mask


def ssim_map_reference(image: Tensor, target: Tensor) -> Tensor:
    """Return the structural similarity [H, W, 3] of pictures [H, W, 3] in [0, 1].

    Wang et al. 2004, equation 13, with a Gaussian window of 11x11 and sigma 1.5; beyond the border
    the pictures are zero, as in the code of 3D Gaussian splatting.
    """
    at = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=image.dtype)
    window = torch.exp(-0.5 * (at / SSIM_SIGMA) ** 2)
    window = window / window.sum()
    kernel = torch.outer(window, window).expand(3, 1, -1, -1)

    def blur(field: Tensor) -> Tensor:
        planes = field.permute(2, 0, 1)[None]
        planes = torch.nn.functional.conv2d(planes, kernel, padding=SSIM_RADIUS, groups=3)
        return planes[0].permute(1, 2, 0)

    mean_x, mean_y = blur(image), blur(target)
    variance_x = blur(image * image) - mean_x * mean_x
    variance_y = blur(target * target) - mean_y * mean_y
    covariance = blur(image * target) - mean_x * mean_y
    above = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    below = (mean_x * mean_x + mean_y * mean_y + SSIM_C1) * (variance_x + variance_y + SSIM_C2)
    return above / below


def l1_ssim_loss_reference(image: Tensor, target: Tensor, ssim_weight: float) -> Tensor:
    """Return (1 - w) mean|image - target| + w (1 - mean SSIM) of pictures [H, W, 3]."""
    l1 = (image - target).abs().mean()
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim_map_reference(image, target).mean())


def blend_offsets_reference(offsets: Tensor, weights: Tensor) -> Tensor:
    """Return sum_k weights[k] offsets[k]: [K, N, C] and [K] to [N, C]."""
    return torch.einsum("k,knc->nc", weights, offsets)


def low_rank_gradient(weights: Tensor, blend_gradient: Tensor) -> Tensor:
    """Return the gradient [K, N, C] of the offsets that R frames' blends imply: [R, K], [R, N, C]."""
    return torch.einsum("rk,rnc->knc", weights, blend_gradient)


def pose_reference(
    *,
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
    """Return the posed, activated Gaussians of one state.

    A Gaussian rests in the head frame on a neutral face. Its offsets move it, the lattice carries it,
    an eyeball may turn it about its centre, and then it moves with a mixture of head and torso: points
    by linear blend skinning, rotations by the same mixture of the two quaternions.

    Args:
        means: [N, 3] metres, head frame.
        quats: [N, 4] wxyz, any length.
        log_scales: [N, 3] of metres.
        logit_opacities: [N].
        colours: [N, 3].
        torso_logits: [N] of the share of the torso's motion.
        offsets: [N, 13] of mean, quaternion, log scale and colour, in units of ``units``.
        units: [13].
        corners: [N, 3] integer, the vertices that a Gaussian follows.
        corner_weights: [N, 3].
        eye: [N] integer: 0 or 1 for a Gaussian of that eyeball, else -1.
        displacement: [V, 3] metres, of the lattice from neutral.
        T_world_head: [4, 4].
        T_world_torso: [4, 4].
        eye_turns: [2, 2] yaw to the left and pitch up from rest, radians.
        eye_centres: [2, 3] metres, head frame.

    Returns:
        means [N, 3] metres, world; quats [N, 4]; scales [N, 3] metres; opacities [N]; colours [N, 3].
    """
    offsets = offsets * units
    follow = (displacement[corners.long()] * corner_weights[..., None]).sum(1)
    means = means + offsets[:, 0:3] + follow
    quats = torch.nn.functional.normalize(quats + offsets[:, 3:7], dim=-1)
    for side in (0, 1):
        rows = torch.nonzero(eye == side)[:, 0]
        turn = eye_turns[side]
        R = rotvec_to_matrix(torch.stack([-turn[1], turn[0], torch.zeros_like(turn[0])]))
        turned = (means[rows] - eye_centres[side]) @ R.T + eye_centres[side]
        means = means.index_copy(0, rows, turned)
        q_eye = matrix_to_quat(R).expand(len(rows), 4)
        quats = quats.index_copy(0, rows, quat_multiply(q_eye, quats[rows]))
    share = torch.sigmoid(torso_logits)[:, None]
    q_head, q_torso = (matrix_to_quat(T[:3, :3]) for T in (T_world_head, T_world_torso))
    q_torso = torch.where((q_head * q_torso).sum() < 0, -q_torso, q_torso)
    head, torso = (transform_points(T, means) for T in (T_world_head, T_world_torso))
    return (
        torch.lerp(head, torso, share),
        quat_multiply(torch.lerp(q_head, q_torso, share), quats),
        torch.exp(log_scales + offsets[:, 7:10]),
        torch.sigmoid(logit_opacities),
        colours + offsets[:, 10:13],
    )
