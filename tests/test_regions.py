"""Regions of a picture: they are where the track says, and errors are booked where they lie."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from avatar.model.avatar import Avatar
from avatar.model.create_features import CHIN, EYE_CONTOURS
from avatar.model.mouth import INNER_LIPS
from avatar.rotations import rigid, rotvec_to_matrix, transform_points
from avatar.train.evaluate import EvaluateConfig, evaluate
from avatar.train.loop import fit
from avatar.train.metrics import psnr
from avatar.train.regions import (
    MARGIN,
    REGION_NAMES,
    RegionErrors,
    label_regions,
    region_overlay,
)
from avatar.types import Camera, HeadState
from configs import PRESETS

SIDE = 384
NOSE, FOREHEAD = 1, 10


@pytest.fixture
def camera(tiny_avatar: Avatar) -> Camera:
    return tiny_avatar.camera.scaled(SIDE, SIDE)


@pytest.fixture
def mask(tiny_avatar: Avatar, camera: Camera) -> np.ndarray:
    """A person drawn by hand: head, neck, shoulders."""
    points = torch.tensor([[0.0, 0.04, 0.0], [0.11, 0, 0], [0, 0.18, 0], [0.055, -0.12, 0]])
    head, side, top, neck = at(camera, torch.eye(4), points)
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    axes = (round(side[0] - head[0]), round(head[1] - top[1]))
    cv2.ellipse(drawn, tuple(int(v) for v in head), axes, 0, 0, 360, (255,), -1)
    cv2.rectangle(
        drawn, (round(2 * head[0] - neck[0]), int(head[1])), (int(neck[0]), SIDE), (255,), -1
    )
    shoulders = at(camera, torch.eye(4), torch.tensor([[-0.17, -0.16, 0.0], [0.17, -0.16, 0.0]]))
    left, right = shoulders
    cv2.rectangle(drawn, (int(left[0]), int(left[1])), (int(right[0]), SIDE), (255,), -1)
    return drawn


def at(camera: Camera, T_world: torch.Tensor, points: torch.Tensor) -> np.ndarray:
    """Pixels [n, 2] of points of the head."""
    p = transform_points(camera.T_cam_world @ T_world, points)
    return ((p @ camera.K.T)[:, :2] / p[:, 2:]).numpy()


def labels_at(labels: np.ndarray, pixels: np.ndarray) -> list[str]:
    return [REGION_NAMES[labels[int(y), int(x)]] for x, y in np.atleast_2d(pixels)]


def places(avatar: Avatar) -> dict[str, torch.Tensor]:
    lattice = avatar.lattice
    chin = float(lattice[CHIN, 1])
    return {
        "mouth": lattice[list(INNER_LIPS)].mean(0),
        "eyes": lattice[list(EYE_CONTOURS[0])].mean(0),
        "face": lattice[NOSE],
        "hair": lattice[FOREHEAD] + torch.tensor([0.0, 0.06, -0.05]),
        "neck": torch.tensor([0.0, chin - 0.03, 0.03]),
        "torso": torch.tensor([0.13, chin - 0.085, 0.0]),
    }


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (0.0, 0.5, 0.0), (0.25, -0.4, 0.15)])
def test_regions_go_with_the_head(tiny_avatar, camera, turn) -> None:
    T = rigid(rotvec_to_matrix(torch.tensor(turn)), torch.tensor([0.015, 0.01, 0.0]))
    torso = rigid(torch.eye(3), torch.tensor([0.015, 0.01, 0.0]))
    state = replace(tiny_avatar.rest, T_world_head=T, T_world_torso=torso)
    whole = np.full((SIDE, SIDE), 255, np.uint8)
    labels = label_regions(state, tiny_avatar.lattice, tiny_avatar.basis, camera, whole)
    for name, point in places(tiny_avatar).items():
        pixel = at(camera, torso if name in ("neck", "torso") else T, point[None])
        assert labels_at(labels, pixel) == [name]


def test_the_mouth_opens_with_the_track(tiny_avatar, camera, mask) -> None:
    """Labels follow the expression, not the neutral face."""
    lattice, basis = tiny_avatar.lattice, torch.zeros_like(tiny_avatar.basis)
    lower = [17, 84, 314, 181, 405, 14, 87, 317]
    basis[0, lower, 1] = -0.02
    shut = tiny_avatar.rest
    opened = replace(shut, expression=torch.eye(len(basis))[0])
    sizes = [
        np.count_nonzero(
            label_regions(s, lattice, basis, camera, mask) == REGION_NAMES.index("mouth")
        )
        for s in (shut, opened)
    ]
    assert sizes[1] > 1.5 * sizes[0]


def test_just_outside_the_mask_is_the_nearest_region_and_beyond_is_background(
    tiny_avatar, camera, mask
) -> None:
    labels = label_regions(tiny_avatar.rest, tiny_avatar.lattice, tiny_avatar.basis, camera, mask)
    assert (labels[mask > 127] > 0).all()
    reach = MARGIN * SIDE
    distance = cv2.distanceTransform((mask <= 127).astype(np.uint8), cv2.DIST_L2, 5)
    assert (labels[distance <= reach - 1] > 0).all()
    assert (labels[distance > 1.5 * reach + 1] == 0).all()  # the diagonal of a square ring
    crown = int(np.flatnonzero(mask[:, SIDE // 2])[0])
    assert labels_at(labels, np.array([SIDE // 2, crown - 3])) == ["hair"]


def test_an_error_in_the_mouth_shows_in_the_mouth_only(tiny_avatar, camera, mask) -> None:
    labels = label_regions(tiny_avatar.rest, tiny_avatar.lattice, tiny_avatar.basis, camera, mask)
    truth = torch.full((SIDE, SIDE, 3), 0.5)
    picture = truth.clone()
    picture[torch.from_numpy(labels == REGION_NAMES.index("mouth"))] += 0.1
    errors = RegionErrors()
    errors.add(picture, truth, labels)
    result = errors.result()
    assert result["mouth"]["error_share"] == 1
    assert result["mouth"]["psnr"] == pytest.approx(20, abs=1e-3)
    for name in set(REGION_NAMES) - {"mouth"}:
        assert result[name]["error_share"] == 0
        assert result[name]["psnr"] == 100
    assert sum(r["pixel_share"] or 0 for r in result.values()) == pytest.approx(1, abs=1e-3)


def test_regions_together_are_the_whole_frame(tiny_avatar, camera, mask) -> None:
    labels = label_regions(tiny_avatar.rest, tiny_avatar.lattice, tiny_avatar.basis, camera, mask)
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(SIDE, SIDE, 3, generator=generator)
    picture = (truth + 0.1 * torch.randn(SIDE, SIDE, 3, generator=generator)).clamp(0, 1)
    errors = RegionErrors()
    errors.add(picture, truth, labels)
    mse = sum(
        float(r["pixel_share"] or 0) * 10 ** (-float(r["psnr"] or 0) / 10)
        for r in errors.result().values()
    )
    assert -10 * np.log10(mse) == pytest.approx(psnr(picture, truth), abs=0.01)


def test_a_region_that_no_frame_shows_has_no_psnr() -> None:
    errors = RegionErrors()
    assert errors.result()["mouth"] == {"psnr": None, "error_share": 0.0, "pixel_share": 0.0}
    errors.add(torch.zeros(4, 4, 3), torch.zeros(4, 4, 3), np.zeros((4, 4), np.uint8))
    assert errors.result()["eyes"]["psnr"] is None
    assert errors.result()["background"] == {"psnr": 100.0, "error_share": 0.0, "pixel_share": 1.0}


def test_a_face_turned_out_of_the_picture_leaves_labels_finite(tiny_avatar, camera, mask) -> None:
    T = rigid(torch.eye(3), torch.tensor([0.0, 0.0, 0.599]))  # a millimetre before the camera
    state: HeadState = replace(tiny_avatar.rest, T_world_head=T)
    labels = label_regions(state, tiny_avatar.lattice, tiny_avatar.basis, camera, mask)
    assert labels.shape == mask.shape
    assert labels.max() < len(REGION_NAMES)


def test_a_mask_of_another_size_is_refused(tiny_avatar, camera) -> None:
    with pytest.raises(ValueError, match=r"mask must be \[384, 384\]"):
        label_regions(
            tiny_avatar.rest,
            tiny_avatar.lattice,
            tiny_avatar.basis,
            camera,
            np.zeros((5, 5), np.uint8),
        )


def test_the_overlay_leaves_the_background(tiny_avatar, camera, mask) -> None:
    labels = label_regions(tiny_avatar.rest, tiny_avatar.lattice, tiny_avatar.basis, camera, mask)
    picture = np.full((SIDE, SIDE, 3), 90, np.uint8)
    tinted = region_overlay(picture, labels)
    assert (tinted[labels == 0] == 90).all()
    assert all((tinted[labels == k] != 90).any() for k in range(1, len(REGION_NAMES)))


def test_an_evaluation_has_regions_and_sliders(small_capture, tmp_path) -> None:
    avatar = fit(small_capture, tmp_path / "me.run", replace(PRESETS["smoke"], steps=1))
    quick = EvaluateConfig(flip_frames=1, speed_frames=1)
    result = evaluate(avatar, small_capture, config=quick)
    regions = result["regions"]
    assert set(regions) == set(REGION_NAMES)
    for key in ("error_share", "pixel_share"):
        assert sum(r[key] for r in regions.values()) == pytest.approx(1, abs=1e-3)
    # An avatar that was hardly fitted is wrong about the person, not about what is around.
    assert regions["background"]["psnr"] > regions["hair"]["psnr"]
    assert all(r["pixel_share"] > 0 for r in regions.values())
    assert set(result["sliders"]) == {"exploded", "worst", "worst_extent", "exploded_in"}
