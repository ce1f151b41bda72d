"""One camera's pictures go by once, in order of time: each is stored, and the main person's points are found."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from avatar.capture_data import Landmarks, shrunk
from capture.folder import jpeg_options, working_size, write_image
from capture.landmarks import FaceDetector
from capture.people import FollowedFace, PersonFollower
from capture.scene import SceneWatch
from capture.threads import Writer, prefetched

QUEUE_BYTES = 96 << 20
"""Pictures that are decoded ahead take at most this much memory, six of Full HD or four of 4K, and
those that wait to be written as much again."""


class Picture(NamedTuple):
    """One picture in stored form."""

    rgb: np.ndarray
    """uint8 [H, W, 3] sRGB."""
    alpha: np.ndarray | None = None
    """uint8 [H, W], 255 on the person, where the picture has one."""
    copied: Path | None = None
    """The JPEG file that has these very pixels; None where they were changed."""


@dataclass(frozen=True)
class Followed:
    """What was seen in a camera's pictures."""

    frames: int
    """How many there were, with those that are missing."""
    face: FollowedFace
    """The main person, its points in pixels of the stored pictures."""
    cuts: list[int]
    """Frames with which another scene begins."""
    motion_levels: float
    """As ``SceneWatch.motion_levels``."""
    detecting_s: float
    """Seconds of the whole that looking for faces took."""


def store_and_follow(
    pictures: Iterable[Picture | None],
    size: tuple[int, int],
    folder: Path,
    report: Callable[[int], None],
    *,
    first: int = 0,
) -> Followed:
    """Write pictures to ``folder`` as 000000.jpg and so on; follow the main person through them.

    Faces are looked for at the working size. Reading runs ahead in a thread, and writing behind in another.

    Args:
        pictures: in order of time, read when asked for; None where a frame has none.
        size: (width, height) of them in pixels.
        folder: where they go; it is there and empty.
        report: called with the count of pictures so far after each.
        first: number of the first picture's file.
    """
    small_size = working_size(*size)
    follower, scene = PersonFollower(*small_size), SceneWatch()
    options = jpeg_options(*size)
    ahead = int(np.clip(QUEUE_BYTES // (size[0] * size[1] * 3), 1, 6))
    detecting = 0.0
    frames = 0
    cuts: list[int] = []
    with (
        FaceDetector() as detector,
        Writer(max(2, ahead)) as writer,
        prefetched(pictures, ahead) as line,
    ):
        for frames, picture in enumerate(line, 1):
            if picture is None:
                follower.add([])
            else:
                path = folder / f"{first + frames - 1:06d}.jpg"
                writer.put(_write_picture, path, picture, options)
                before = time.perf_counter()
                small = shrunk(picture.rgb, small_size)
                cut = scene.add(small)
                if cut:
                    cuts.append(frames - 1)
                follower.add(detector.faces(small), small, cut=cut)
                detecting += time.perf_counter() - before
            report(frames)
    face = follower.result()
    scale = max(small_size) / max(size)
    points = face.landmarks.points / scale
    face = replace(face, landmarks=Landmarks(points, face.landmarks.valid))
    return Followed(frames, face, cuts, scene.motion_levels, detecting)


def _write_picture(path: Path, picture: Picture, options: Sequence[int]) -> None:
    if picture.copied is not None:
        shutil.copyfile(picture.copied, path)  # a JPEG loses by being written again
    else:
        # Not image[..., ::-1]: OpenCV copies such a view three times slower than it encodes it.
        write_image(path, cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2BGR), options)
