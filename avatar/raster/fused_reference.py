"""Plain torch twins of the fused training kernels: any dtype, autograd does the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

SSIM_RADIUS = 5
SSIM_SIGMA = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


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


def rank_one_gradient(weights: Tensor, blend_gradient: Tensor) -> Tensor:
    """Return the gradient [K, N, C] of the offsets that the gradient [N, C] of their blend implies."""
    return weights[:, None, None] * blend_gradient
