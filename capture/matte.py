"""Person mask of every frame: MediaPipe's selfie segmenter, kept to one person, sharpened on the picture."""

from __future__ import annotations

from typing import Any

import cv2
import mediapipe as mp
import numpy as np

from capture.landmarks import quiet_native_output

FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""Face Mesh's outline of the face, in order."""


class Segmenter:
    """Both selfie segmentation models on a stream of pictures. Close it, or use it in a ``with``."""

    def __init__(self) -> None:
        """Load the models."""
        with quiet_native_output():
            solutions = mp.solutions  # type: ignore[attr-defined]
            self._models: list[Any] = [
                solutions.selfie_segmentation.SelfieSegmentation(model_selection=choice)
                for choice in (0, 1)
            ]
            for model in self._models:
                model.process(np.zeros((64, 64, 3), np.uint8))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the probability of person, float32 [H, W], of a uint8 [H, W, 3] sRGB picture."""
        image = np.ascontiguousarray(image)
        square, wide = (model.process(image).segmentation_mask for model in self._models)
        # They rarely agree on a blob of background: the geometric mean keeps what both see.
        return np.sqrt(square * wide)

    def close(self) -> None:
        """Free the models."""
        for model in self._models:
            model.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def refine(image: np.ndarray, probability: np.ndarray, face: np.ndarray | None) -> np.ndarray:
    """Make a soft mask, uint8 [H, W], of a coarse probability [H, W] and the picture [H, W, 3]."""
    height, width = probability.shape
    solid = (probability > 0.5).astype(np.uint8)
    if face is not None:
        oval = np.round(face[FACE_OVAL, :2]).astype(np.int32)
        cv2.fillPoly(solid, [oval], 1)
        probability = np.where(cv2.fillPoly(np.zeros_like(solid), [oval], 1) > 0, 1.0, probability)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    if count > 1:
        if face is not None:
            inside = labels[cv2.fillPoly(np.zeros_like(solid), [oval], 1) > 0]
            keep = int(np.bincount(inside, minlength=count)[1:].argmax()) + 1
        else:
            keep = int(stats[1:, cv2.CC_STAT_AREA].argmax()) + 1
        person = (labels == keep).astype(np.uint8)
    else:
        person = solid
    reach = max(3, round(0.012 * max(height, width))) | 1
    near = cv2.dilate(person, np.ones((reach, reach), np.uint8))
    kept = np.where(near > 0, probability, 0).astype(np.float32)
    radius = max(2, round(0.008 * max(height, width)))
    alpha = cv2.ximgproc.guidedFilter(image, kept, radius, 1e-4 * 255**2)
    alpha = np.clip((alpha - 0.1) / 0.8, 0, 1)
    return np.round(alpha * 255).astype(np.uint8)
