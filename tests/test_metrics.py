"""Metrics: equal pictures, known offsets, the packages they must agree with, wrong shapes."""

from __future__ import annotations

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch
from skimage import data as skimage_data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from avatar.train.metrics import (
    MOUTH_POINTS,
    alpha_iou,
    find_lpips,
    flip,
    landmark_distance_px,
    lmd_px,
    lpips,
    psnr,
    ssim,
)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """A real photograph at 64 x 80."""
    return torch.from_numpy(skimage_data.astronaut()[100:228:2, 150:310:2].copy()).float() / 255


def noisy(picture: Tensor, amount: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(picture.shape, generator=generator)
    return (picture + amount * noise).clamp(0, 1)


def test_equal_pictures_are_perfect(picture: Tensor) -> None:
    assert psnr(picture, picture) == 100.0
    assert ssim(picture, picture) == pytest.approx(1, abs=1e-12)
    assert flip(picture, picture) == pytest.approx(0, abs=1e-6)


def test_psnr_of_a_known_offset() -> None:
    grey = torch.full((4, 5, 3), 0.5)
    assert psnr(grey + 0.1, grey) == pytest.approx(20, abs=1e-5)  # MSE 0.01, in single precision
    assert psnr(torch.zeros(4, 5, 3), torch.ones(4, 5, 3)) == pytest.approx(0, abs=1e-9)


def test_psnr_is_the_mean_over_frames_and_not_of_the_pooled_error() -> None:
    grey = torch.full((2, 4, 5, 3), 0.5)
    prediction = grey.clone()
    prediction[0] += 0.1
    prediction[1] += 0.01
    assert psnr(prediction, grey) == pytest.approx((20 + 40) / 2, abs=1e-4)


def test_psnr_agrees_with_skimage(picture: Tensor) -> None:
    other = noisy(picture, 0.1)
    expected = peak_signal_noise_ratio(
        picture.double().numpy(), other.double().numpy(), data_range=1
    )
    assert psnr(other, picture) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("amount", [0.01, 0.1, 0.5])
def test_ssim_agrees_with_skimage(picture: Tensor, amount: float) -> None:
    other = noisy(picture, amount)
    expected = structural_similarity(
        picture.double().numpy(),
        other.double().numpy(),
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(other, picture) == pytest.approx(float(expected), abs=1e-9)


def test_ssim_of_a_batch_is_the_mean_of_its_frames(picture: Tensor) -> None:
    a, b = noisy(picture, 0.05), noisy(picture, 0.3)
    batch = ssim(torch.stack([a, b]), torch.stack([picture, picture]))
    assert batch == pytest.approx((ssim(a, picture) + ssim(b, picture)) / 2, abs=1e-12)


def test_flip_grows_with_the_error_and_stays_in_its_range(picture: Tensor) -> None:
    small, large = (flip(noisy(picture, amount), picture) for amount in (0.02, 0.3))
    assert 0 < small < large <= 1


def test_flip_of_black_against_white_is_large() -> None:
    # FLIP of opposite extremes is near its maximum by construction (colour term 1, no features).
    assert flip(torch.zeros(32, 32, 3), torch.ones(32, 32, 3)) > 0.8


def test_flip_of_a_batch_is_the_mean_of_its_frames(picture: Tensor) -> None:
    a, b = noisy(picture, 0.05), noisy(picture, 0.3)
    batch = flip(torch.stack([a, b]), torch.stack([picture, picture]))
    assert batch == pytest.approx((flip(a, picture) + flip(b, picture)) / 2, abs=1e-6)


@pytest.fixture
def fresh_lpips():
    """Forget what an earlier call has found, before the test and behind it."""
    find_lpips.cache_clear()
    yield
    find_lpips.cache_clear()


@pytest.mark.usefixtures("fresh_lpips")
def test_lpips_is_absent_without_the_package(
    picture: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "alexnet-owt-7be5be79.pth").write_bytes(b"")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert find_lpips("alex") is None
    assert lpips(picture, picture) is None


@pytest.mark.usefixtures("fresh_lpips")
def test_lpips_is_absent_without_local_weights(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert find_lpips("alex") is None
    assert find_lpips("vgg") is None


def test_lpips_where_it_is_installed(picture: Tensor) -> None:
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("the optional package lpips is not installed")
    metric = find_lpips("alex")
    if metric is None:
        pytest.skip("torchvision's AlexNet weights are not on this machine")
    assert metric(picture, picture) == pytest.approx(0, abs=1e-6)
    assert metric(noisy(picture, 0.3), picture) > metric(noisy(picture, 0.02), picture)


def landmarks(frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(frames, 478, 2, generator=generator) * 512


def test_landmark_motion_ignores_a_shift_that_the_plain_distance_shows() -> None:
    target = landmarks(3)
    shifted = target + torch.tensor([3.0, 4.0])
    assert lmd_px(shifted, target) == pytest.approx(0, abs=1e-4)
    assert landmark_distance_px(shifted, target) == pytest.approx(5, abs=1e-4)


def test_landmark_motion_of_a_wider_mouth() -> None:
    target = landmarks(1)
    mouth = target[..., list(MOUTH_POINTS), :]
    centre = mouth.mean(-2, keepdim=True)
    wider = centre + 1.1 * (target - centre)
    expected = 0.1 * (mouth - centre).norm(dim=-1).mean()
    assert lmd_px(wider, target) == pytest.approx(float(expected), rel=1e-4)


def test_landmark_metrics_look_at_the_mouth_only() -> None:
    target = landmarks(1)
    other = torch.ones(478, dtype=torch.bool)
    other[list(MOUTH_POINTS)] = False
    moved = target.clone()
    moved[:, other] += 50
    assert lmd_px(moved, target) == 0
    assert landmark_distance_px(moved, target) == 0


def test_mouth_points_are_mediapipes_lips() -> None:
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_LIPS

    assert {i for edge in FACEMESH_LIPS for i in edge} == set(MOUTH_POINTS)


def test_alpha_iou_of_overlapping_squares() -> None:
    a, b = torch.zeros(10, 10), torch.zeros(10, 10)
    a[:, :6], b[:, 4:] = 0.9, 0.6
    assert alpha_iou(a, b) == pytest.approx(20 / 100)
    assert alpha_iou(a, a) == 1
    assert alpha_iou(torch.stack([a, a]), torch.stack([a, b])) == pytest.approx((1 + 0.2) / 2)


def test_alpha_iou_of_empty_masks_is_one_and_of_a_missed_person_zero() -> None:
    empty, full = torch.zeros(4, 4), torch.ones(4, 4)
    assert alpha_iou(empty, empty) == 1
    assert alpha_iou(empty, full) == 0


@pytest.mark.parametrize("metric", [psnr, ssim, flip])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((16, 16, 3), (16, 17, 3)),
        ((16, 16, 4), (16, 16, 4)),
        ((16, 16), (16, 16)),
        ((0, 16, 3), (0, 16, 3)),
    ],
)
def test_wrong_picture_shapes_are_refused(metric, a, b) -> None:
    with pytest.raises(ValueError, match="got"):
        metric(torch.zeros(a), torch.zeros(b))


def test_too_small_a_picture_for_ssim_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(torch.zeros(10, 20, 3), torch.zeros(10, 20, 3))


@pytest.mark.parametrize("metric", [lmd_px, landmark_distance_px])
def test_wrong_landmark_shapes_are_refused(metric) -> None:
    with pytest.raises(ValueError, match="478"):
        metric(torch.zeros(2, 468, 2), torch.zeros(2, 468, 2))
    with pytest.raises(ValueError, match="478"):
        metric(torch.zeros(2, 478, 2), torch.zeros(478, 2))


def test_wrong_mask_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="masks"):
        alpha_iou(torch.zeros(3, 4), torch.zeros(4, 3))


def test_metrics_of_a_nan_picture_are_nan_and_not_a_good_score(picture: Tensor) -> None:
    broken = picture.clone()
    broken[0, 0, 0] = math.nan
    assert math.isnan(psnr(broken, picture))
    assert np.isnan(ssim(broken, picture))
