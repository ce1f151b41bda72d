"""Soft person mask of every frame.

A small segmentation model of the mediapipe wheel says roughly where the person is, the clip as a
whole corrects it (``matte_background``), and the rest is made from the picture: one connected person
with the face in it, no holes at the neck, and edges from how the colours there mix
(``matte_border``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import mediapipe as mp
import numpy as np

from capture.landmarks import quiet_native_output
from capture.matte_border import (
    Backdrop,
    along_edges,
    enlarge,
    largest_channel,
    matte_size,
    shows,
    unmix,
)

FACE_OVAL = [
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
]  # fmt: skip
"""Face Mesh's outline of the face, in order."""

FOREHEAD, CHIN, EARS = 10, 152, [234, 454]

GRID = 256
"""Cells a side of a square picture's probability: what lies between two cells it does not know."""

HAIR = 5.0
"""Diameter, cells, of the surroundings of the rough person in which single hairs are looked for."""

HAIR_LEVELS = 16
"""Levels of 255 by which a hair differs from a known background: twice what compression does."""

LIMIT = 4.0
"""What one opinion may say at most, natural log of the odds of person (98 % sure)."""

MARGINS = (0.0, 0.125, 0.25, 0.39)
"""Shares of the width by which a picture is widened, on both sides, before it is segmented. The
last makes a square picture 16:9, which the model was trained on."""


class Segmenter:
    """The wide selfie segmentation model on a stream of pictures. Close it, or use a ``with``.

    On rendered heads with known masks one look of this model overlaps the truth by 0.966, two
    different looks by 0.972. The square model leaks more (0.868) and, averaged in, costs overlap.
    """

    def __init__(self) -> None:
        """Load the model."""
        with quiet_native_output():
            solutions: Any = mp.solutions  # type: ignore[attr-defined]
            self._model: Any = solutions.selfie_segmentation.SelfieSegmentation(model_selection=1)
            self._model.process(np.zeros((64, 64, 3), np.uint8))

    def __call__(self, image: np.ndarray, *, looks: int = 2) -> np.ndarray:
        """Return the probability of person, float32 in (0, 1), of a uint8 [H, W, 3] sRGB picture.

        Args:
            image: of any size; the result is [h, w] with its aspect and GRID^2 pixels at most.
            looks: how often to look (2.2 ms each), in another way each time: mirrored, and with
                the person smaller between stretched edges. What the model takes for person by
                mistake, it seldom does in all.
        """
        scale = min(1.0, GRID / float(np.sqrt(image.shape[0] * image.shape[1])))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = image.shape[:2]
        odds = np.zeros((height, width), np.float32)
        for look in range(looks):
            # First mirrored as it is, then smaller as it is, then smaller still, mirrored...
            side = round(MARGINS[look % len(MARGINS)] * width)
            top = round(0.5 * side)
            wide = cv2.copyMakeBorder(image, top, 0, side, side, cv2.BORDER_REPLICATE)
            mirrored = look % 2 == 0
            wide = cv2.flip(wide, 1) if mirrored else np.ascontiguousarray(wide)
            found = self._model.process(wide).segmentation_mask
            found = cv2.flip(found, 1) if mirrored else found
            odds += log_odds(found[top : top + height, side : side + width])
        return probability_of(odds / looks)

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Return log odds, float32 within +-LIMIT, of probabilities in [0, 1]."""
    bound = 1 / (1 + np.exp(-LIMIT))
    inside = np.clip(probability, 1 - bound, bound).astype(np.float32)
    return np.log(inside / (1 - inside))


def probability_of(odds: np.ndarray) -> np.ndarray:
    """Return the probabilities, float32 in (0, 1), of log odds."""
    return 1 / (1 + np.exp(-odds.astype(np.float32)))


def steady(window: Sequence[np.ndarray]) -> np.ndarray:
    """Return the pixelwise median of three neighbouring frames' probabilities.

    It drops what flickers for one frame and, unlike a mean, does not smear an edge that moves.
    """
    before, here, after = window
    return np.maximum(np.minimum(before, here), np.minimum(np.maximum(before, here), after))


def follow(here: np.ndarray, there: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Carry values, float32 [h, w], of a neighbouring picture to where they are in this one.

    Args:
        here: uint8 [h, w, 3] sRGB, this picture.
        there: the neighbouring one.
        values: [h, w] of the neighbouring one.
    """
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (here, there)]
    flow = finder.calc(greys[0], greys[1], None)  # type: ignore[call-overload]
    height, width = values.shape
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    return cv2.remap(
        values, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


def refine(
    image: np.ndarray,
    probability: np.ndarray,
    face: np.ndarray | None,
    background: Backdrop | None = None,
) -> np.ndarray:
    """Make a soft mask of a rough one.

    Args:
        image: uint8 [H, W, 3] sRGB.
        probability: float32 [h, w] in [0, 1], of any size.
        face: [478, 2 or 3] landmarks in pixels of ``image``; None where no face was found.
        background: what is behind the person, of ``matte_size``; None where not known.

    Returns:
        uint8 [H, W], 255 on the person.
    """
    height, width = image.shape[:2]
    size = matte_size(width, height)
    if size != (width, height):
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        scale = np.array([size[0] / width, size[1] / height], np.float32)
        alpha = _refine(
            small, probability, None if face is None else face[:, :2] * scale, background
        )
        return enlarge(image, small, alpha)
    return np.round(255 * _refine(image, probability, face, background)).astype(np.uint8)


def refine_with_render(
    image: np.ndarray, mask: np.ndarray, rendered_alpha: np.ndarray
) -> np.ndarray:
    """Let a fitted avatar vote on a frame's mask.

    An avatar agrees with all frames at once: a leak or a cut of a single frame is not in it. It has
    no single hairs and its edge may be off by a little: there the picture decides.

    Args:
        image: uint8 [H, W, 3] sRGB.
        mask: uint8 [H, W], 255 on the person.
        rendered_alpha: float32 [H, W] in [0, 1], the avatar's coverage in the same frame.

    Returns:
        uint8 [H, W], 255 on the person.
    """
    # Two to one for the avatar where both are sure of opposites.
    odds = (log_odds(mask.astype(np.float32) / 255) + 2 * log_odds(rendered_alpha)) / 3
    return refine(image, probability_of(odds), None)


def _refine(
    image: np.ndarray,
    probability: np.ndarray,
    face: np.ndarray | None,
    background: Backdrop | None,
) -> np.ndarray:
    """Return coverage, float32 [h, w], of a picture of the working size."""
    height, width = image.shape[:2]
    if probability.shape != (height, width):
        probability = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
    bare = np.zeros((height, width), bool) if background is None else shows(background, image)
    probability, face_area = _one_person(probability, face, bare)
    cell = float(np.sqrt(height * width)) / GRID
    side = round(3.5 * cell) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    inner = cv2.erode((probability > 0.6).astype(np.uint8), kernel)
    outer = cv2.dilate((probability > 0.4).astype(np.uint8), kernel)
    if background is not None:
        # Single hairs leave the head by more than the segmenter sees; where the background's own
        # colour is known they can be told from it.
        side = round(HAIR * cell) | 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        away = largest_channel(cv2.absdiff(image, background.colour)) > HAIR_LEVELS
        hairs = (background.known > 0) & away
        outer = np.maximum(outer, cv2.dilate(outer, kernel) * hairs.astype(np.uint8))
    alpha = inner.astype(np.float32)
    ys, xs = np.nonzero(outer > inner)
    if len(ys):
        fallback = along_edges(image, probability, ys, xs, max(2, round(2 * cell)))
        mixed = unmix(image, inner, 1 - outer, ys, xs, fallback, cell, background)
        # Stretch: compression noise and blur leave a veil of a few percent on both sides.
        alpha[ys, xs] = np.clip((mixed - 0.1) / 0.8, 0, 1)
    anchor = inner if face_area is None else cv2.bitwise_or(inner, face_area)
    body = _component_of((alpha > 0.35).astype(np.uint8), anchor)
    return alpha * cv2.dilate(body, np.ones((3, 3), np.uint8))


def _one_person(
    probability: np.ndarray, face: np.ndarray | None, bare: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Keep the component with the face, add face and neck, fill holes.

    Args:
        probability: float32 [h, w].
        face: landmarks.
        bare: bool [h, w], where the known background shows: face and neck are not added there,
            for in a profile view the landmarks reach beyond the face.

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
        surely[bare] = 0
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
