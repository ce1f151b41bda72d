"""Soft person mask of every frame.

Two small segmentation models of the mediapipe wheel say roughly where the person is; the rest is
made from the picture: one connected person with the face in it, no holes at the neck, and edges
from how the colours around each border pixel mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import mediapipe as mp
import numpy as np

from capture.landmarks import quiet_native_output

FACE_OVAL = [
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
]  # fmt: skip
"""Face Mesh's outline of the face, in order."""

FOREHEAD, CHIN, EARS = 10, 152, [234, 454]

SEGMENT_SIDE = 512
"""Longer side of what the segmenters see, pixels; they work on 256x256 and 144x256 anyway."""

GRID = 256
"""Cells a side of the segmenters' output: what lies between two cells they do not know."""


class Segmenter:
    """Both selfie segmentation models on a stream of pictures. Close it, or use it in a ``with``."""

    def __init__(self) -> None:
        """Load the models."""
        with quiet_native_output():
            solutions: Any = mp.solutions  # type: ignore[attr-defined]
            self._models: list[Any] = [
                solutions.selfie_segmentation.SelfieSegmentation(model_selection=choice)
                for choice in (0, 1)
            ]
            for model in self._models:
                model.process(np.zeros((64, 64, 3), np.uint8))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the probability of person, float32 in [0, 1], of a uint8 [H, W, 3] sRGB picture.

        The result is [h, w] with the picture's aspect and a longer side of at most SEGMENT_SIDE.
        """
        scale = min(1.0, SEGMENT_SIDE / max(image.shape[:2]))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.ascontiguousarray(image)
        square, wide = (model.process(image).segmentation_mask for model in self._models)
        # The two rarely agree on a blob of background: the geometric mean keeps what both see
        # (on a rendered head with known mask: IoU 0.966 and 0.979 alone, 0.989 together).
        return np.sqrt(square * wide)

    def close(self) -> None:
        """Free the models."""
        for model in self._models:
            model.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def steady(window: Sequence[np.ndarray]) -> np.ndarray:
    """Return the pixelwise median of three neighbouring frames' probabilities.

    It drops what flickers for one frame and, unlike a mean, does not smear an edge that moves.
    """
    before, here, after = window
    return np.maximum(np.minimum(before, here), np.minimum(np.maximum(before, here), after))


def refine(image: np.ndarray, probability: np.ndarray, face: np.ndarray | None) -> np.ndarray:
    """Make a soft mask of a rough one.

    Args:
        image: uint8 [H, W, 3] sRGB.
        probability: float32 [h, w] in [0, 1], of any size.
        face: [478, 2 or 3] landmarks in pixels of ``image``; None where no face was found.

    Returns:
        uint8 [H, W], 255 on the person.
    """
    height, width = image.shape[:2]
    if probability.shape != (height, width):
        probability = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
    probability, face_area = _one_person(probability, face)
    cell = float(np.sqrt(height * width)) / GRID
    side = round(3.5 * cell) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    inner = cv2.erode((probability > 0.6).astype(np.uint8), kernel)
    outer = cv2.dilate((probability > 0.4).astype(np.uint8), kernel)
    alpha = inner.astype(np.float32)
    ys, xs = np.nonzero(outer > inner)
    if len(ys):
        fallback = cv2.ximgproc.guidedFilter(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), probability, max(2, round(2 * cell)), 65.0
        )
        mixed = _unmix(image, inner, 1 - outer, ys, xs, fallback[ys, xs], cell)
        # Stretch: compression noise and blur leave a veil of a few percent on both sides.
        alpha[ys, xs] = np.clip((mixed - 0.1) / 0.8, 0, 1)
    anchor = inner if face_area is None else cv2.bitwise_or(inner, face_area)
    body = _component_of((alpha > 0.35).astype(np.uint8), anchor)
    alpha *= cv2.dilate(body, np.ones((3, 3), np.uint8))
    return np.round(alpha * 255).astype(np.uint8)


def _one_person(
    probability: np.ndarray, face: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Keep the component with the face, add face and neck, fill holes.

    Returns:
        The probability, changed, and the face's area (uint8 [H, W] of 0 and 1; None without face).
    """
    shape = probability.shape
    solid = (probability > 0.5).astype(np.uint8)
    face_area = None
    if face is not None:
        face_area = np.zeros(shape, np.uint8)
        cv2.fillPoly(face_area, [np.round(face[FACE_OVAL, :2]).astype(np.int32)], (1,))
        surely = cv2.fillPoly(face_area.copy(), [_neck(face)], (1,))
        probability = np.where(surely > 0, np.float32(1), probability)
        solid = np.maximum(solid, surely)
    person = _component_of(solid, solid if face_area is None else face_area)
    # A hole is background inside the person. Small ones are the segmenters' mistakes; large ones
    # are seen through an arm or under long hair and stay if both are sure of it.
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - person, connectivity=4)
    small = 0.01 * float(np.prod(shape)) if face is None else (0.3 * float(np.ptp(face[:, 0]))) ** 2
    for label in range(1, count):
        x, y, w, h, area = stats[label]
        at_border = x == 0 or y == 0 or x + w == shape[1] or y + h == shape[0]
        if not at_border and (area < small or probability[labels == label].mean() > 0.2):
            person[labels == label] = 1
            probability = np.where(labels == label, np.float32(1), probability)
    near = cv2.dilate(person, np.ones((7, 7), np.uint8))
    return np.where(near > 0, probability, np.float32(0)), face_area


def _neck(face: np.ndarray) -> np.ndarray:
    """Corners, int32 [4, 2], of a narrow column from the jaw to a little below the chin.

    Whatever covers it (collar, scarf, beard) is person too. It hangs from the middle between the
    ears, which stays over the neck as the head turns, where the chin does not.
    """
    down = face[CHIN, :2] - face[FOREHEAD, :2]
    length = max(float(np.hypot(*down)), 1e-6)
    down, across = down / length, np.array([down[1], -down[0]]) / length
    top = face[EARS, :2].mean(0)
    reach = float((face[CHIN, :2] - top) @ down) + 0.2 * length
    half, bottom = 0.13 * length * across, top + max(reach, 0.0) * down
    return np.round([top - half, top + half, bottom + half, bottom - half]).astype(np.int32)


def _component_of(solid: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """Return the component, uint8 [H, W], of ``solid`` that shares the most pixels with ``anchor``."""
    count, labels = cv2.connectedComponents(solid, connectivity=4)
    if count < 2:
        return solid
    shared = np.bincount(labels[anchor > 0], minlength=count)
    shared[0] = 0
    return (labels == shared.argmax()).astype(np.uint8)


def _unmix(
    image: np.ndarray,
    inner: np.ndarray,
    beyond: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    fallback: np.ndarray,
    cell: float,
) -> np.ndarray:
    """Estimate coverage [n] of the border pixels (ys, xs) from colours.

    A border pixel is taken as a mix of the mean colour of the sure person near it and that of the
    sure background near it; its coverage is where it lies between the two. That is trusted where
    the two colours differ and explain the pixel, else ``fallback`` [n] stands.
    """
    height, width = inner.shape
    down = 4  # local means vary slowly: a quarter of the size costs a sixteenth
    size = (max(1, width // down), max(1, height // down))
    reach = 2 * max(1, round(7.5 * cell / down)) + 1

    def local_mean(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        masked = cv2.bitwise_and(image, image, mask=where)
        colour = cv2.resize(masked, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        weight = cv2.resize(where * np.uint8(255), size, interpolation=cv2.INTER_AREA)
        colour = cv2.blur(colour, (reach, reach), borderType=cv2.BORDER_REPLICATE)
        weight = cv2.blur(
            weight.astype(np.float32) / 255, (reach, reach), borderType=cv2.BORDER_REPLICATE
        )
        colour /= weight[..., None] + 1e-4
        return (
            cv2.resize(colour, (width, height))[ys, xs],
            cv2.resize(weight, (width, height))[ys, xs],
        )

    person, person_weight = local_mean(inner)
    background, background_weight = local_mean(beyond)
    offset = image[ys, xs].astype(np.float32) - background
    axis = person - background
    contrast = np.einsum("nc,nc->n", axis, axis)
    coverage = np.clip(np.einsum("nc,nc->n", offset, axis) / (contrast + 1), 0, 1)
    residual = offset - coverage[:, None] * axis
    unexplained = np.einsum("nc,nc->n", residual, residual)
    # 45 levels of colour difference are half trusted; a residual of 15 % of it, or of 12 levels
    # (noise), halves the trust again. Chosen on a rendered head, looked at on real clips.
    trust = contrast / (contrast + 45.0**2) / (1 + unexplained / (0.15**2 * contrast + 12.0**2))
    trust *= (person_weight > 0.02) & (background_weight > 0.02)
    return trust * coverage + (1 - trust) * fallback
