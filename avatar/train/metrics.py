"""Picture, landmark and mask metrics of eval.json: how close rendered frames are to the filmed.

Pictures are ``[..., H, W, 3]`` tensors, sRGB in [0, 1]; leading dims are frames, and a metric is
the mean over frames of the frame's value, as the field reports it. ``lmd_px`` is the LMD of
TalkingGaussian and ER-NeRF and goes into ``eval.json``; ``landmark_distance_px`` is the plain
distance.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import flip_evaluator
import numpy as np
import torch
from torch import Tensor

MSE_FLOOR = 1e-10
"""Two equal pictures have 100 dB instead of infinity, which JSON cannot hold."""

SSIM_RADIUS = 5
SSIM_SIGMA = 1.5

MOUTH_POINTS: tuple[int, ...] = (
    0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181,
    185, 191, 267, 269, 270, 291, 308, 310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405,
    409, 415,
)  # fmt: skip
"""The 40 points of MediaPipe's face mesh on the outer and inner lip lines (``FACEMESH_LIPS``)."""

LPIPS_WEIGHTS: dict[str, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}
"""torchvision's file names of the backbones under the LPIPS heads."""


def _check_pair(prediction: Tensor, target: Tensor) -> None:
    """Raise ValueError unless both are pictures [..., H, W, 3] of one shape."""
    if prediction.shape != target.shape or prediction.ndim < 3 or prediction.shape[-1] != 3:
        raise ValueError(
            f"prediction and target must both be [..., H, W, 3] pictures of one shape; got "
            f"{list(prediction.shape)} and {list(target.shape)}."
        )
    if prediction.numel() == 0:
        raise ValueError(f"a metric needs at least one pixel; got {list(prediction.shape)}.")


def psnr(prediction: Tensor, target: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB: the mean over frames of each full frame's value.

    Higher is better; 0 dB is black against white, 100 dB (the cap) is equality.

    Args:
        prediction: [..., H, W, 3] sRGB in [0, 1].
        target: the same shape.
    """
    _check_pair(prediction, target)
    mse = (prediction.double() - target.double()).square().mean((-3, -2, -1))
    return float((-10 * torch.log10(mse.clamp_min(MSE_FLOOR))).mean())


def ssim(prediction: Tensor, target: Tensor) -> float:
    """Return the mean structural similarity in [-1, 1]; 1 is equality.

    Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004),
    eq. 13, with its Gaussian window (11 x 11, sigma 1.5), K1 = 0.01, K2 = 0.03 and data range 1, each
    channel by itself. Only windows that lie wholly inside the picture count. The sums run in double
    precision: in flat regions the variances are differences of nearly equal numbers.

    Args:
        prediction: [..., H, W, 3] sRGB in [0, 1]; H and W at least 11.
        target: the same shape.
    """
    _check_pair(prediction, target)
    height, width = prediction.shape[-3:-1]
    size = 2 * SSIM_RADIUS + 1
    if height < size or width < size:
        raise ValueError(
            f"SSIM needs pictures of at least {size} x {size} pixels; got {width} x {height}."
        )
    frames = [
        t.detach().double().cpu().reshape(-1, height, width, 3).numpy()
        for t in (prediction, target)
    ]
    return float(np.mean([_ssim_of_frame(x, y) for x, y in zip(*frames, strict=True)]))


def _ssim_of_frame(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean SSIM of two pictures, float64 [H, W, 3]."""
    # OpenCV's separable filter: about ten times as fast in double precision as torch's convolutions.
    window = cv2.getGaussianKernel(2 * SSIM_RADIUS + 1, SSIM_SIGMA, cv2.CV_64F)
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(values, cv2.CV_64F, window, window)[inside, inside]

    mx, my = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mx * my + c1) * (2 * xy + c2)
    return float((numerator / ((mx * mx + my * my + c1) * (xx + yy + c2))).mean())


def flip(prediction: Tensor, target: Tensor) -> float:
    """Return the mean LDR-FLIP error in [0, 1]; 0 is equality, lower is better.

    Andersson et al., "FLIP: A Difference Evaluator for Alternating Images" (2020), computed by its
    authors' package at its default 67 pixels a degree (a 4K monitor of 0.7 m seen from 0.7 m).
    About 0.2 s for a frame of 512 x 512.

    Args:
        prediction: [..., H, W, 3] sRGB; values outside [0, 1] are clamped.
        target: the same shape.
    """
    _check_pair(prediction, target)
    height, width = prediction.shape[-3:-1]
    pairs = [
        np.ascontiguousarray(
            t.detach().float().clamp(0, 1).reshape(-1, height, width, 3).cpu().numpy()
        )
        for t in (prediction, target)
    ]
    errors = [
        flip_evaluator.evaluate(reference, test, "LDR", applyMagma=False, parameters={})[1]
        for test, reference in zip(*pairs, strict=True)
    ]
    return float(np.mean(errors))


@cache
def find_lpips(net: Literal["alex", "vgg"] = "alex") -> Callable[[Tensor, Tensor], float] | None:
    """Return an LPIPS v0.1 metric, or None where it cannot run without a download.

    It runs where the ``lpips`` package is installed and torchvision's backbone weights lie already
    in torch's hub folder; nothing is ever downloaded. The answer is kept for the process: loading
    the network takes longer than many frames.

    Args:
        net: the backbone; papers use both and the values do not compare.

    Returns:
        A function of prediction and target [..., H, W, 3] in [0, 1] that gives the mean distance
        over frames (0 is equality, lower is better), or None.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_WEIGHTS[net]
    if not weights.is_file():
        return None
    try:
        if importlib.util.find_spec("lpips") is None:
            return None
    except ValueError:  # the module is blocked (its entry in sys.modules is None)
        return None
    import lpips  # pyright: ignore[reportMissingImports]  # optional, and slow to import

    model = lpips.LPIPS(net=net, version="0.1", verbose=False).eval().requires_grad_(False)

    def measure(prediction: Tensor, target: Tensor) -> float:
        _check_pair(prediction, target)
        height, width = prediction.shape[-3:-1]
        x, y = (
            t.detach().float().reshape(-1, height, width, 3).permute(0, 3, 1, 2)
            for t in (prediction, target)
        )
        return float(model(x, y, normalize=True).mean())

    return measure


def lpips(prediction: Tensor, target: Tensor, net: Literal["alex", "vgg"] = "alex") -> float | None:
    """Return the learned perceptual distance, or None where it cannot run; see ``find_lpips``.

    Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018).
    """
    _check_pair(prediction, target)
    measure = find_lpips(net)
    return None if measure is None else measure(prediction, target)


def _check_landmarks(prediction: Tensor, target: Tensor) -> None:
    """Raise ValueError unless both are [..., 478, 2] point sets of one shape."""
    if prediction.shape != target.shape or tuple(prediction.shape[-2:]) != (478, 2):
        raise ValueError(
            f"prediction and target must both be [..., 478, 2] landmarks in pixels; got "
            f"{list(prediction.shape)} and {list(target.shape)}."
        )


def lmd_px(prediction: Tensor, target: Tensor) -> float:
    """Return the mouth's landmark distance LMD in pixels: shape and size of the lips, not place.

    The protocol of ER-NeRF and TalkingGaussian: each set of mouth points minus its own mean, the
    mean Euclidean distance, the mean over frames; here on MediaPipe's 40 lip points instead of the
    20 of a 68-point detector. It scales with the picture: compare values at one resolution only
    (512 x 512 is the field's). This is ``lmd_px`` of eval.json.

    Args:
        prediction: [..., 478, 2] points found in the rendered frames, pixels.
        target: [..., 478, 2] points found in the filmed frames, pixels.
    """
    _check_landmarks(prediction, target)
    points = list(MOUTH_POINTS)
    a, b = prediction[..., points, :].double(), target[..., points, :].double()
    difference = (a - a.mean(-2, keepdim=True)) - (b - b.mean(-2, keepdim=True))
    return float(difference.norm(dim=-1).mean())


def landmark_distance_px(prediction: Tensor, target: Tensor) -> float:
    """Return the mean Euclidean distance of the mouth points in pixels, place included.

    Args:
        prediction: [..., 478, 2] points found in the rendered frames, pixels.
        target: [..., 478, 2] points found in the filmed frames, pixels.
    """
    _check_landmarks(prediction, target)
    points = list(MOUTH_POINTS)
    difference = prediction[..., points, :].double() - target[..., points, :].double()
    return float(difference.norm(dim=-1).mean())


def alpha_iou(prediction: Tensor, target: Tensor) -> float:
    """Return the intersection over union of two soft masks at the level 0.5, the mean over frames.

    In [0, 1]; 1 is equality, and two empty masks are equal.

    Args:
        prediction: [..., H, W] coverage in [0, 1].
        target: the same shape.
    """
    if prediction.shape != target.shape or prediction.ndim < 2 or prediction.numel() == 0:
        raise ValueError(
            f"prediction and target must both be [..., H, W] masks of one shape; got "
            f"{list(prediction.shape)} and {list(target.shape)}."
        )
    a, b = prediction >= 0.5, target >= 0.5
    both = (a & b).sum((-2, -1)).double()
    either = (a | b).sum((-2, -1)).double()
    return float(torch.where(either > 0, both / either.clamp_min(1), 1.0).mean())
