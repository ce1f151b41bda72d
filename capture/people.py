"""Who is in a clip: faces collected frame by frame into stretches, stretches into people.

A stretch ends where the face is lost for a while or the scene is cut. Stretches are joined to one
person if they never share a frame and their faces look the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from avatar.capture_data import Landmarks
from avatar.types import Progress, Reporter, ignore_progress
from capture.face_look import DARK_LENS, FaceLook, look_at, same_face
from capture.landmarks import POINTS, FaceDetector, box_of, overlap, prominence

GAP_FRAMES = 12
"""A face that was lost for longer than this many frames is looked at anew: it may be another's."""

LOOK_EVERY = 5
"""Every so many frames of a stretch the face is looked at."""

LOOKS = 12
"""The most frontal looks that a stretch keeps."""

FRONTAL_DEG = 40.0
"""Looks turned further than this do not say who it is: half of the face is hidden."""

SAME_PLACE = 0.1
"""Overlap of boxes in consecutive frames from which on they may be one face."""

DOUBLE = 0.5
"""Overlap from which on two faces of one picture are one face found twice."""


@dataclass
class _Stretch:
    """One face in consecutive frames (but for short gaps)."""

    frames: list[int] = field(default_factory=list)
    faces: list[np.ndarray] = field(default_factory=list)
    weight: float = 0.0
    looks: list[FaceLook] = field(default_factory=list)
    lens_levels: list[float] = field(default_factory=list)

    @property
    def width_px(self) -> float:
        return float(np.median([np.ptp(face[:, 0]) for face in self.faces]))


@dataclass(frozen=True)
class FollowedFace:
    """The main person's points, and how often others were in the picture."""

    landmarks: Landmarks
    """Points and valid flags of every frame."""
    frames_with_others: int
    """Frames in which another face was seen too."""
    frames_of_others: tuple[int, ...]
    """Frames that show only somebody else's face."""
    dark_glasses: float
    """Share of the looked-at frames in which the eyes are darker than glass lets skin be, [0, 1]."""


class PersonFollower:
    """Collects all faces of a clip frame by frame and at the end picks the main person."""

    def __init__(self, width: int, height: int) -> None:
        """Follow faces in pictures of ``width`` x ``height`` pixels."""
        self._width, self._height = width, height
        self._open: list[_Stretch] = []
        self._closed: list[_Stretch] = []
        self._frames = 0

    def add(
        self, faces: list[np.ndarray], image: np.ndarray | None = None, *, cut: bool = False
    ) -> None:
        """Take the faces of the next frame.

        Args:
            faces: [478, 3] pixels each; possibly none.
            image: the picture they were found in; without pictures, people are told by size alone.
            cut: another scene begins with this frame.
        """
        frame = self._frames
        self._frames += 1
        still_open = []
        for stretch in self._open:
            ended = cut or frame - stretch.frames[-1] > GAP_FRAMES
            (self._closed if ended else still_open).append(stretch)
        self._open = still_open
        faces = _without_doubles(faces)
        free = list(range(len(faces)))
        # Faces go to whom they overlap best; the best match of all first.
        pairs = sorted(
            (
                (overlap(box_of(faces[i]), box_of(stretch.faces[-1])), i, k)
                for k, stretch in enumerate(self._open)
                for i in free
            ),
            reverse=True,
        )
        taken: set[int] = set()
        for value, i, k in pairs:
            if value > SAME_PLACE and i in free and k not in taken:
                self._extend(self._open[k], frame, faces[i], image)
                free.remove(i)
                taken.add(k)
        for i in free:
            self._open.append(_Stretch())
            self._extend(self._open[-1], frame, faces[i], image)

    def _extend(
        self, stretch: _Stretch, frame: int, face: np.ndarray, image: np.ndarray | None
    ) -> None:
        looked = len(stretch.frames) % LOOK_EVERY == 0
        stretch.frames.append(frame)
        stretch.faces.append(face)
        # By its width and not its area: who comes near for a moment is not the clip's subject.
        stretch.weight += prominence(face, self._width, self._height) ** 0.5
        look = look_at(image, face) if image is not None and looked else None
        if look is not None and look.turn_deg <= FRONTAL_DEG:
            stretch.lens_levels.append(look.lens_level)
            stretch.looks.append(look)
            stretch.looks = _most_frontal(stretch.looks)

    def result(self) -> FollowedFace:
        """Return the main person's points, and in how many frames somebody else was seen."""
        points = np.zeros((self._frames, POINTS, 3), np.float32)
        valid = np.zeros(self._frames, bool)
        others = np.zeros(self._frames, bool)
        people = _join(self._closed + self._open)
        main = max(people, key=lambda person: sum(s.weight for s in person), default=[])
        for person in people:
            for stretch in person:
                if person is main:
                    points[stretch.frames] = np.stack(stretch.faces)
                    valid[stretch.frames] = True
                else:
                    others[stretch.frames] = True
        levels = np.array([level for stretch in main for level in stretch.lens_levels])
        return FollowedFace(
            landmarks=Landmarks(torch.from_numpy(points), torch.from_numpy(valid)),
            frames_with_others=int(others.sum()),
            frames_of_others=tuple(np.flatnonzero(others & ~valid).tolist()),
            dark_glasses=float((levels < DARK_LENS).mean()) if len(levels) else 0.0,
        )


def _without_doubles(faces: list[np.ndarray]) -> list[np.ndarray]:
    kept: list[np.ndarray] = []
    for face in faces:
        if all(overlap(box_of(face), box_of(other)) < DOUBLE for other in kept):
            kept.append(face)
    return kept


def _most_frontal(looks: list[FaceLook]) -> list[FaceLook]:
    return sorted(looks, key=lambda look: look.turn_deg)[:LOOKS]


def _join(stretches: list[_Stretch]) -> list[list[_Stretch]]:
    """Sort stretches into people; the weightiest stretch of a person comes first."""
    people: list[list[_Stretch]] = []
    # Stable and by weight: who is seen best decides what a person looks like.
    for stretch in sorted(stretches, key=lambda s: (-s.weight, s.frames[0])):
        for person in people:
            if _one_person(person, stretch):
                person.append(stretch)
                break
        else:
            people.append([stretch])
    return people


def _one_person(person: list[_Stretch], stretch: _Stretch) -> bool:
    if any(not set(stretch.frames).isdisjoint(known.frames) for known in person):
        return False
    known = _most_frontal([look for s in person for look in s.looks])
    if known and stretch.looks:
        return same_face(known, stretch.looks)
    return 0.6 < stretch.width_px / person[0].width_px < 1.7


def detect_landmarks(
    images: Iterable[np.ndarray],
    width: int,
    height: int,
    report: Reporter = ignore_progress,
    *,
    total: int = 0,
) -> FollowedFace:
    """Detect the main person's face points in the pictures of a clip.

    Args:
        images: uint8 [height, width, 3] sRGB, in order of time.
        width: pixels.
        height: pixels.
        report: progress listener.
        total: number of images where known, for the progress bar.
    """
    follower = PersonFollower(width, height)
    with FaceDetector() as detector:
        for count, image in enumerate(images, 1):
            follower.add(detector.faces(image), image)
            report(Progress("landmarks", count, total))
    return follower.result()
