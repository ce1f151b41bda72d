"""Find the 478 face points of every face in a picture with MediaPipe Face Mesh.

The models travel in the mediapipe wheel. Points are pixels of the picture given, z in the same
unit (MediaPipe's relative depth, smaller is nearer).
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mediapipe as mp
import numpy as np

POINTS = 478
"""Face Mesh with refined eyes and lips: 468 points of the skin and two irises of five."""

SEARCH_EVERY = 3
"""Where no face is known, the slow finder of small faces runs on every so many pictures."""

# What MediaPipe, absl and TensorFlow Lite print while a graph starts.
NOISE = re.compile(
    r"^([IWEF]0000 |[IWE]\d{4} \d\d:|WARNING: All log messages before absl|INFO: Created TensorFlow)"
)


@contextmanager
def quiet_native_output() -> Iterator[None]:
    """Drop the start-up chatter that native libraries write to stderr; pass everything else on."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines():
                if line.strip() and not NOISE.match(line):
                    print(line, file=sys.stderr)


class FaceDetector:
    """Face Mesh on a stream of pictures of one scene, or on single unrelated pictures.

    Keeps MediaPipe's tracking state from picture to picture. Close it, or use it in a ``with``.
    """

    def __init__(self, *, max_faces: int = 3, single: bool = False) -> None:
        """Load the models (about 10 ms).

        Args:
            max_faces: how many faces ``faces`` returns at most.
            single: pictures have nothing to do with each other: search each one afresh.
        """
        self._small_models: tuple[Any, Any] | None = None
        self._small: list[np.ndarray] = []
        self._single = single
        self._started = False
        self._empty = 0
        self._last: np.ndarray | None = None
        with quiet_native_output():
            self._mesh: Any = mp.solutions.face_mesh.FaceMesh(  # type: ignore[attr-defined]
                static_image_mode=single,
                max_num_faces=max_faces,
                refine_landmarks=True,
                min_detection_confidence=0.5,
                min_tracking_confidence=0.5,
            )
            # The graph's threads go on printing after the constructor; a picture waits for them.
            self._mesh.process(np.zeros((64, 64, 3), np.uint8))

    def faces(self, image: np.ndarray) -> list[np.ndarray]:
        """Return every face found in a uint8 [H, W, 3] sRGB picture as float32 [478, 3] pixels."""
        found = self._process(self._mesh, image)
        if not found:
            # Face Mesh's own finder misses faces smaller than about a tenth of the picture.
            found = [face for last in self._small for face in self._face_in(image, box_of(last))]
            if not found and (self._single or self._empty % SEARCH_EVERY == 0):
                found = self._search(image)
            self._small = [] if self._single else found
        self._empty = 0 if found else self._empty + 1
        return found

    def detect(self, image: np.ndarray) -> np.ndarray | None:
        """Return one face, float32 [478, 3], or None: the one followed so far, else the main one."""
        faces = self.faces(image)
        if not faces:
            return None
        height, width = image.shape[:2]
        if self._last is None or self._single:
            best = max(faces, key=lambda face: prominence(face, width, height))
        else:
            last = self._last
            best = max(faces, key=lambda face: overlap(box_of(face), box_of(last)))
            if overlap(box_of(best), box_of(last)) == 0:
                best = max(faces, key=lambda face: prominence(face, width, height))
        self._last = best
        return best

    def close(self) -> None:
        """Free the models."""
        self._mesh.close()
        for model in self._small_models or ():
            model.close()
        self._small_models = None

    def __enter__(self) -> FaceDetector:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _process(self, mesh: Any, image: np.ndarray) -> list[np.ndarray]:
        image = np.ascontiguousarray(image)
        if self._started:
            result = mesh.process(image)
        else:
            with quiet_native_output():
                result = mesh.process(image)
            # Some models print at the first face only.
            self._started = result.multi_face_landmarks is not None
        height, width = image.shape[:2]
        size = np.array([width, height, width], np.float32)
        return [
            np.array([(p.x, p.y, p.z) for p in face.landmark], np.float32) * size
            for face in result.multi_face_landmarks or ()
        ]

    def _search(self, image: np.ndarray) -> list[np.ndarray]:
        """Find small faces with the full-range detector."""
        height, width = image.shape[:2]
        finder, _ = self._models_for_small_faces()
        found: list[np.ndarray] = []
        for detection in finder.process(np.ascontiguousarray(image)).detections or ():
            box = detection.location_data.relative_bounding_box
            corners = [box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height]
            found += self._face_in(image, np.array(corners) * [width, height, width, height])
        return found

    def _face_in(self, image: np.ndarray, box: np.ndarray) -> list[np.ndarray]:
        """Run the mesh on the surroundings of a box [x0, y0, x1, y1] in pixels."""
        height, width = image.shape[:2]
        centre, half = (box[:2] + box[2:]) / 2, 1.3 * float((box[2:] - box[:2]).max())
        x0, y0 = np.maximum(centre - half, 0).astype(int)
        x1, y1 = np.minimum(centre + half, (width, height)).astype(int)
        if min(x1 - x0, y1 - y0) < 32:
            return []
        _, mesh = self._models_for_small_faces()
        faces = self._process(mesh, image[y0:y1, x0:x1])
        return [face + np.array([x0, y0, 0], np.float32) for face in faces]

    def _models_for_small_faces(self) -> tuple[Any, Any]:
        if self._small_models is None:
            with quiet_native_output():
                solutions: Any = mp.solutions  # type: ignore[attr-defined]
                self._small_models = (
                    solutions.face_detection.FaceDetection(
                        min_detection_confidence=0.5, model_selection=1
                    ),
                    solutions.face_mesh.FaceMesh(
                        static_image_mode=True, max_num_faces=1, refine_landmarks=True
                    ),
                )
                for model in self._small_models:
                    model.process(np.zeros((64, 64, 3), np.uint8))
            self._started = False
        return self._small_models


def box_of(face: np.ndarray) -> np.ndarray:
    """Return [x0, y0, x1, y1] around a face's points."""
    return np.concatenate([face[:, :2].min(0), face[:, :2].max(0)])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes [x0, y0, x1, y1]."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - inter
    return inter / union if union > 0 else 0.0


def prominence(face: np.ndarray, width: int, height: int) -> float:
    """How much a face is the picture's subject: its area, halved at the picture's edge."""
    x0, y0, x1, y1 = box_of(face)
    away = np.hypot((x0 + x1) / width - 1, (y0 + y1) / height - 1)
    return float((x1 - x0) * (y1 - y0) * (1 - 0.5 * min(1.0, away)))


def describe_models() -> str:
    """Open the face and segmentation models once and say what they are.

    Raises:
        OSError, RuntimeError: a model is missing or cannot be opened.
    """
    with FaceDetector(), quiet_native_output():
        solutions: Any = mp.solutions  # type: ignore[attr-defined]
        with solutions.selfie_segmentation.SelfieSegmentation(model_selection=1) as segmenter:
            segmenter.process(np.zeros((64, 64, 3), np.uint8))
    return f"MediaPipe {mp.__version__}: face mesh ({POINTS} points), person mask"  # type: ignore[attr-defined]
