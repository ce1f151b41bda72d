"""Where in a picture mouth, eyes, face, hair, neck and torso are, by the track and the mask alone.

The avatar is never asked, so that errors are booked alike for every avatar of a capture.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar.model.create_features import CHIN, EYE_CONTOURS
from avatar.rig.lattice import REGIONS, deform
from avatar.rotations import transform_points
from avatar.types import Camera, HeadState

REGION_NAMES = ("background", "face", "mouth", "eyes", "hair", "neck", "torso")
"""Names of the labels 0, 1, ...; hair is all of the head that is not face: ears and skull too."""

REGION_COLOURS = (
    *((255, 255, 255), (235, 180, 90), (220, 40, 60), (40, 110, 230)),
    *((120, 70, 160), (60, 180, 110), (90, 130, 140)),
)
"""sRGB colours [0, 255] of the labels in ``region_overlay``."""
REGION_LEGEND = "face yellow, mouth red, eyes blue, hair violet, neck green, torso grey"
"""The same in words."""

MARGIN = 8 / 512
"""Reach of the regions beyond the mask, share of the picture's longer side: most of an avatar's error
lies along the silhouette, on either side of it."""

OUTER_LIPS = REGIONS["lip_upper_outer"] + REGIONS["lip_lower_outer"]
FACE, MOUTH, EYES, HAIR, NECK, TORSO = range(1, len(REGION_NAMES))
MOUTH_GROWTH = 0.10
"""Growth of the lips' hull about its middle, share of its extent."""
EYE_GROWTH_M = 0.005
"""Growth of the lids' contours: lashes, folds of the lids. A shut eye has no area of its own."""

FACE_GROWTH_M = 0.006
"""Growth of the lattice's hull where it borders on hair or background: on a far cheek the mask tends to
end a little outside of it."""

# The neck is the hull of three rings: the upper moves with the head, the others with the torso.
NECK_TOP = (-0.045, -0.04, 0.07)
"""Height in the head frame, z of the axis, radius, metres: at the ear lobes; the jaw before it is face."""
NECK_RINGS = ((-0.02, -0.03, 0.07), (-0.06, -0.01, 0.05))
"""The same below the chin in the torso frame: where shoulders begin, and the pit of the throat."""
HAIR_REACH_M = 0.10
"""Beside the neck, below the ear lobes, hair hangs at most so far from the middle; what is beyond is a
shoulder."""
HAIR_END = 0.5
"""Where that hair ends, share of the way from the lobes down to the chin. Below it all is torso: the
track cannot tell long hair from a shirt, and a phone held low shows shoulders at the chin's height."""


def label_regions(
    state: HeadState, lattice: Tensor, basis: Tensor, camera: Camera, mask: np.ndarray
) -> np.ndarray:
    """Label every pixel of a frame with its region.

    Pixels up to ``MARGIN`` outside the mask take the label of the nearest region; all beyond is
    background. About 3 ms at 512 x 512.

    Args:
        state: single tracked state of the frame.
        lattice: [478, 3] neutral lattice, head frame, metres.
        basis: [E, 478, 3] its displacement at coefficient 1.
        camera: camera of the frame, at the mask's size.
        mask: uint8 [H, W], 255 on the person.

    Returns:
        uint8 [H, W], indices into ``REGION_NAMES``.

    Raises:
        ValueError: mask and camera differ in size.
    """
    if mask.shape != (camera.height, camera.width):
        raise ValueError(
            f"mask must be [{camera.height}, {camera.width}] as the camera is; got {list(mask.shape)}."
        )
    T_cam_head = camera.T_cam_world @ state.T_world_head
    T_cam_torso = camera.T_cam_world @ state.T_world_torso
    face = _project(camera, T_cam_head, deform(lattice, basis, state.expression))
    chin_m = float(lattice[CHIN, 1])

    px_per_m = float(camera.K[0, 0]) / max(float(T_cam_head[2, 3]), 1e-3)
    labels = np.full(mask.shape, HAIR, np.uint8)
    labels[_below_head(camera, T_cam_head, chin_m)] = TORSO
    _fill_hull(labels, face, FACE, grow_px=FACE_GROWTH_M * px_per_m)
    ends = [_project(camera, T_cam_head, _ring(*NECK_TOP))]
    for below_m, *rest in NECK_RINGS:
        ends.append(_project(camera, T_cam_torso, _ring(chin_m + below_m, *rest)))
    _fill_hull(labels, np.concatenate(ends), NECK)
    _fill_hull(labels, face, FACE)
    for contour in EYE_CONTOURS:
        lids = face[list(contour)]
        _fill_hull(labels, lids, EYES, grow_px=EYE_GROWTH_M * px_per_m)
    lips = face[list(OUTER_LIPS)]
    _fill_hull(labels, lips.mean(0) + (1 + MOUTH_GROWTH) * (lips - lips.mean(0)), MOUTH)
    labels[mask < 128] = 0
    return _spread(labels, math.ceil(MARGIN * max(mask.shape)))


def region_overlay(picture: np.ndarray, labels: np.ndarray, strength: float = 0.45) -> np.ndarray:
    """Tint a picture uint8 [H, W, 3] with the colours of its labels uint8 [H, W]; background stays."""
    colours = np.array(REGION_COLOURS, np.float32)[labels]
    share = np.where(labels > 0, strength, 0.0)[..., None].astype(np.float32)
    return np.round(picture * (1 - share) + colours * share).astype(np.uint8)


class RegionErrors:
    """Sums of squared error a region, frame by frame."""

    def __init__(self) -> None:
        """Start without a frame."""
        count = len(REGION_NAMES)
        self._errors, self._pixels = np.zeros(count), np.zeros(count)
        self._psnr: list[list[float]] = [[] for _ in range(count)]

    def add(self, picture: Tensor, truth: Tensor, labels: np.ndarray) -> None:
        """Count a frame: picture and truth float [H, W, 3] in [0, 1], labels uint8 [H, W]."""
        difference = (picture - truth).numpy()
        squares = np.einsum("hwc,hwc->hw", difference, difference) / 3
        flat = labels.ravel()
        errors = np.bincount(flat, squares.ravel(), minlength=len(REGION_NAMES))
        pixels = np.bincount(flat, minlength=len(REGION_NAMES))
        self._errors += errors
        self._pixels += pixels
        for label in np.flatnonzero(pixels):
            mse = max(errors[label] / pixels[label], 1e-10)  # equality is 100 dB, as in ``psnr``
            self._psnr[label].append(-10 * math.log10(mse))

    def result(self) -> dict[str, dict[str, float | None]]:
        """Return ``psnr`` [dB], ``error_share`` and ``pixel_share`` of each region by its name."""
        error, pixels = self._errors.sum() or 1.0, self._pixels.sum() or 1.0
        return {
            name: {
                "psnr": round(float(np.mean(values)), 3) if values else None,
                "error_share": round(float(self._errors[label] / error), 4),
                "pixel_share": round(float(self._pixels[label] / pixels), 4),
            }
            for label, (name, values) in enumerate(zip(REGION_NAMES, self._psnr, strict=True))
        }


def _project(camera: Camera, T_cam: Tensor, points: Tensor) -> np.ndarray:
    """Pixels float32 [n, 2] of points [n, 3] under T_cam [4, 4]."""
    p = transform_points(T_cam, points)
    uv = p[:, :2] / p[:, 2:].clamp(min=1e-3)
    uv = uv * camera.K.diag()[:2] + camera.K[:2, 2]
    return uv.numpy().astype(np.float32)


def _ring(y_m: float, z_m: float, radius_m: float) -> Tensor:
    """Points [8, 3] on a circle about the neck's axis at height ``y_m``."""
    turn = torch.arange(8) * (math.pi / 4)
    height = torch.full((8,), y_m)
    return torch.stack([radius_m * turn.sin(), height, z_m + radius_m * turn.cos()], 1)


def _below_head(camera: Camera, T_cam_head: Tensor, chin_m: float) -> np.ndarray:
    """Whether pixels [H, W] lie below the ear lobes and beside the head, or near the chin and below.

    Heights are measured along the head's upright in the picture, through its middle.
    """
    axis_z = NECK_TOP[1]
    heights = torch.tensor([[0.0, 0.0, axis_z], [0.0, NECK_TOP[0], axis_z], [0.0, chin_m, axis_z]])
    middle, lobes, chin = _project(camera, T_cam_head, heights)
    down = (chin - middle) / max(float(np.linalg.norm(chin - middle)), 1e-6)
    px_per_m = float(camera.K[0, 0]) / max(float(T_cam_head[2, 3]), 1e-3)
    x = np.arange(camera.width, dtype=np.float32) + 0.5 - middle[0]
    y = np.arange(camera.height, dtype=np.float32)[:, None] + 0.5 - middle[1]
    below = x * down[0] + y * down[1]
    aside = np.abs(x * down[1] - y * down[0]) > HAIR_REACH_M * px_per_m
    lobes_px, chin_px = float((lobes - middle) @ down), float((chin - middle) @ down)
    return (below > lobes_px + HAIR_END * (chin_px - lobes_px)) | (aside & (below > lobes_px))


def _fill_hull(labels: np.ndarray, points: np.ndarray, label: int, grow_px: float = 0.0) -> None:
    """Draw the convex hull of pixels [n, 2] into ``labels``, made larger by ``grow_px`` all around."""
    limit = 4 * max(labels.shape)  # OpenCV's fixed point overflows far beyond the picture
    hull = cv2.convexHull(np.clip(np.round(points - 0.5), -limit, limit).astype(np.int32))
    cv2.fillConvexPoly(labels, hull, (label,))
    if grow_px >= 0.5:
        cv2.polylines(labels, [hull], True, (label,), max(1, round(2 * grow_px)))


def _spread(labels: np.ndarray, reach_px: int) -> np.ndarray:
    """Give unlabelled pixels the label of the nearest labelled one, a pixel further at each turn."""
    kernel = np.ones((3, 3), np.uint8)
    for _ in range(reach_px):
        labels = cv2.copyTo(labels, labels, cv2.dilate(labels, kernel))  # what has a label keeps it
    return labels
