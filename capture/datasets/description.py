"""What a reader says of a data set: cameras, time line, split, head parameters. No picture is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from avatar.capture_data import Splits
from avatar.checks import InputError

Part = Literal["train", "test", "val"]
"""What a data set uses a picture for, the first of them where it says several."""
PARTS: tuple[Part, ...] = ("train", "test", "val")

DEFAULT_FPS = 25.0
"""Frames a second of a data set that states none: what the public head data sets were filmed at."""

SAME_POSE = 1e-5
"""Cameras whose matrices differ by less (rotation, or position in units of their distance) stand still."""


@dataclass(frozen=True)
class Lens:
    """How a camera draws: pinhole with OpenCV's radial and tangential distortion."""

    K: np.ndarray
    """[3, 3] float64 pixels of pictures of ``size``."""
    size: tuple[int, int]
    """(width, height) in pixels for which K stands; the pictures may have another size of this aspect."""
    distortion: tuple[float, ...] = ()
    """k1, k2, p1, p2, k3 as OpenCV has them; () for none."""


@dataclass(frozen=True)
class Shot:
    """One picture."""

    picture: Path
    lens: Lens | None
    """None where the data set states none: it is found from the face."""
    T_cam_world: np.ndarray
    """[4, 4] float64, OpenCV axes; the identity of a single camera of which nothing is stated."""
    mask: Path | None = None
    """A picture that is white on the person, or has the person's alpha."""
    part: Part = "train"


@dataclass(frozen=True)
class DataCamera:
    """One camera."""

    name: str
    lens: Lens | None
    T_cam_world: np.ndarray | None
    """[4, 4] float64, OpenCV axes; None where it moves."""


@dataclass(frozen=True)
class HeadParameters:
    """FLAME parameters of F frames, float32; meanings as in ``avatar.flame_data.FlameTrack``."""

    shape: np.ndarray
    """[S]"""
    expr: np.ndarray
    """[F, X]"""
    rotation: np.ndarray
    """[F, 3]"""
    neck_pose: np.ndarray
    """[F, 3]"""
    jaw_pose: np.ndarray
    """[F, 3]"""
    eyes_pose: np.ndarray
    """[F, 6]"""
    translation: np.ndarray
    """[F, 3]"""
    valid: np.ndarray
    """[F] bool"""
    static_offset: np.ndarray | None = None
    """[V, 3]"""


@dataclass(frozen=True)
class DataSet:
    """A data set as it lies on disk."""

    layout: str
    """Name of its reader."""
    folder: Path
    cameras: tuple[DataCamera, ...]
    shots: tuple[tuple[Shot | None, ...], ...]
    """[F][C]; None where a camera has no picture of a frame."""
    fps: float
    metric: bool = False
    """Whether its unit of length is the metre."""
    head: HeadParameters | None = None
    notes: tuple[str, ...] = ()
    """Sentences on what was assumed or left out."""

    def __len__(self) -> int:
        return len(self.shots)

    @property
    def moving(self) -> bool:
        """Whether a camera moves with the frame: its head is the world, or a hand held it."""
        return any(camera.T_cam_world is None for camera in self.cameras)

    @property
    def held_cameras(self) -> tuple[str, ...]:
        """Names of the cameras that the data set holds out: no picture of theirs is for training."""
        names = []
        for k, camera in enumerate(self.cameras):
            parts = {shot.part for row in self.shots if (shot := row[k]) is not None}
            if "train" not in parts:
                names.append(camera.name)
        return tuple(names)

    def splits(self) -> tuple[Splits, str]:
        """Return the frame split, and a sentence where it is not the data set's own ("" where it is).

        A frame is held out where none of its pictures is for training. Only frames at the end can be.
        """
        frames = len(self)
        default = Splits.default(frames)
        parts = [{shot.part for shot in row if shot is not None} for row in self.shots]
        stated = {part for found in parts for part in found}
        if stated == {"train"} or "train" not in stated:  # it says nothing of frames
            return default, ""
        trained = np.array(["train" in found for found in parts])
        test = np.array(["train" not in found and "test" in found for found in parts])
        val = ~trained & ~test
        if not test.any() and val.any():
            test, val = val, test  # one held-out part, whatever it is called
        if trained.all():
            return (
                default,
                "The data set holds out cameras and no frames; the last fifth is held out.",
            )
        begin = int(test.argmax()) if test.any() else frames
        if not test[begin:].all():
            return default, (
                "The data set's test frames are not the last ones; the last fifth is held out instead."
            )
        first = int(val.argmax()) if val.any() else begin
        ordered = val[first:begin].all() and not val[begin:].any() and trained[:first].any()
        if not ordered:
            return default, (
                "The data set's validation frames do not lie before its test frames; the last fifth is "
                "held out instead."
            )
        validation = first if first < begin else begin - begin // 8
        return Splits((0, begin), (validation, begin), (begin, frames)), ""


def assembled(
    rows: Sequence[tuple[float, str, Shot]], where: Path
) -> tuple[tuple[DataCamera, ...], tuple[tuple[Shot | None, ...], ...]]:
    """Sort pictures into a time line by cameras.

    Args:
        rows: of each picture its time, of any unit; its camera's name; and itself.
        where: the file that a mistake is told of.

    Returns:
        The cameras, sorted by name as numbers where they are numbers; and shots [F][C].

    Raises:
        InputError: two pictures of one camera at one time.
    """
    names = sorted({name for _, name, _ in rows}, key=natural)
    times = sorted({time for time, _, _ in rows})
    column = {name: k for k, name in enumerate(names)}
    line = {time: f for f, time in enumerate(times)}
    table: list[list[Shot | None]] = [[None] * len(names) for _ in times]
    for time, name, shot in rows:
        before = table[line[time]][column[name]]
        if before is None:
            table[line[time]][column[name]] = shot
        elif before.picture != shot.picture:
            raise InputError(
                f"{where}: {before.picture.name} and {shot.picture.name} are both of camera {name!r} at "
                f"time {time:g}; one picture a camera and time was expected. Remove one of them."
            )
        elif PARTS.index(shot.part) < PARTS.index(before.part):
            table[line[time]][column[name]] = shot
    cameras = []
    for k, name in enumerate(names):
        own = [shot for row in table if (shot := row[k]) is not None]
        poses = np.stack([shot.T_cam_world for shot in own])
        room = SAME_POSE * max(1.0, float(np.abs(poses[:, :3, 3]).max()))
        still = bool((np.abs(poses - poses[0]).max((1, 2)) < room).all())
        cameras.append(DataCamera(name, own[0].lens, poses[0] if still else None))
    return tuple(cameras), tuple(tuple(row) for row in table)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key that puts "2" before "10"."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p)
