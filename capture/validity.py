"""Which tracked frames can be trusted, and why the others cannot.

A frame that is not trusted stays in the capture and keeps its state; it is only marked not valid, so
that fitting and measuring leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from avatar.capture_data import Landmarks, Track
from capture.matte import FACE_OVAL
from capture.quality import eye_opening

NO_FACE = "no face"
SOMEBODY_ELSE = "somebody else"
OUT_OF_PICTURE = "out of the picture"
TURNED_AWAY = "turned away"
OFF_TRACK = "badly tracked"
BLURRED = "blurred"

REASONS = (NO_FACE, SOMEBODY_ELSE, OUT_OF_PICTURE, TURNED_AWAY, OFF_TRACK, BLURRED)
"""Reasons in the order in which they are asked; a frame has the first that holds."""

FACE_M = 0.15
"""Width of a face with its ears, metres: what residuals are measured in, however far it is."""

OUTSIDE_SHARE = 0.1
"""Share of the face's outline that may lie outside of the picture, over what is usual in the clip:
points out there are guesses. A clip that cuts the forehead throughout keeps its frames."""

TURNED_DEG = 80.0
"""Angle between the face's direction and the camera, beyond which half of the face is guessed. Face
Mesh finds a face in fewer than a fifth of such frames, and calls most of them less turned than they
are (seen on a rendered head of known pose): those are told by their residual."""

RESIDUAL_LOW, RESIDUAL_HIGH = 0.05, 0.08
"""Shares of FACE_M: a residual under the one (7.5 mm) is never an outlier, over the other (12 mm)
always. On a rendered head, frames past the limit were turned wrong by 2 to 50 degrees, the others by
1 to 2."""

RESIDUAL_FACTOR = 4.0
"""A residual so many times the clip's median is an outlier, if it is also past 4 robust sigmas. Turned
heads and wide open mouths reach 2.5."""

BLUR_RATIO = 0.65
"""Sharpness over the clip's own level about that time: a motion of 4 % of the face's width within
the exposure (6 mm) takes sharp frames there."""

BLINK_RATIO = 0.7
"""What closed lids leave of a sharp face's sharpness, which is mostly the eyes'."""

LEVEL_S = 1.0
"""Seconds before, and after, a frame in which its level is looked for: longer than a quick turn."""

LEVEL_PERCENTILE = 75.0
"""The level is what a quarter of those frames reach: up to three quarters may be blurred."""

BLUR_SHARE = 0.2
"""At most this share of the frames is left out for blur, the worst first: if more are blurred, that is
how the clip looks, and what is left should still show every view."""

SIGMAS = 4.0
"""An outlier is past so many robust standard deviations (1.4826 median absolute deviations)."""


@dataclass(frozen=True)
class Validity:
    """Which frames are trusted."""

    valid: np.ndarray
    """[F] bool."""
    reasons: dict[str, list[int]]
    """Of ``REASONS``, those that occur: the frames that are not trusted for it. None is in two."""


def judge_frames(
    landmarks: Landmarks,
    track: Track,
    sharpness: Sequence[float | None] | np.ndarray,
    *,
    width: int,
    height: int,
    others: Sequence[int] = (),
) -> Validity:
    """Decide which frames of a tracked clip are trustworthy.

    Args:
        landmarks: detections of all frames, pixels of pictures of ``width`` x ``height``.
        track: the finished track, in the same pixels.
        sharpness: [F] ``FrameLook.sharpness``; None or NaN where no face was measured.
        width: of the pictures, pixels.
        height: of the pictures, pixels.
        others: frames that show only somebody else's face.
    """
    found = landmarks.valid.numpy()
    level = np.array([np.nan if value is None else value for value in sharpness], float)
    only_others = np.zeros(len(found), bool)
    only_others[list(others)] = True
    bad = {SOMEBODY_ELSE: only_others & ~found, NO_FACE: ~found}
    if found.any():
        points = landmarks.points.numpy()
        outside = outside_share(points, width, height)
        bad[OUT_OF_PICTURE] = outside > OUTSIDE_SHARE + np.median(outside[found])
        angle, residual = _angles_deg(track), _residuals(track)
        bad[TURNED_AWAY] = angle > TURNED_DEG
        bad[OFF_TRACK] = residual > _residual_limit(residual[found])
        bad[BLURRED] = blurred(level, eye_opening(points), found, track.fps)
    reasons: dict[str, list[int]] = {}
    valid = np.ones(len(found), bool)
    for name in sorted(bad, key=lambda reason: reason != SOMEBODY_ELSE):
        frames = np.flatnonzero(bad[name] & valid)
        valid[frames] = False
        if len(frames):
            reasons[name] = frames.tolist()
    return Validity(valid, {name: reasons[name] for name in REASONS if name in reasons})


def judge_several(
    landmarks: Landmarks, track: Track, sharpness: Sequence[float | None] | np.ndarray
) -> Validity:
    """Decide which frames that several cameras filmed are trustworthy.

    One camera that sees the face enough makes a frame trustworthy, so what only one of them says
    (turned away, out of its picture) is no reason; motion blurs all of them.

    Args:
        landmarks: detections in the main camera, pixels of its pictures.
        track: the finished track, in the same pixels; ``valid`` where it was solved.
        sharpness: [F] ``FrameLook.sharpness`` in the main camera; None or NaN where not measured.
    """
    solved, seen = track.valid.numpy(), landmarks.valid.numpy()
    level = np.array([np.nan if value is None else value for value in sharpness], float)
    valid, reasons = solved.copy(), {}
    if not solved.all():
        reasons[NO_FACE] = np.flatnonzero(~solved).tolist()
    if solved.any():
        residual = _residuals(track)
        bad = {OFF_TRACK: residual > _residual_limit(residual[solved])}
        if seen.any():
            opening = eye_opening(landmarks.points.numpy())
            bad[BLURRED] = blurred(level, opening, seen & solved, track.fps)
        for name, flags in bad.items():
            frames = np.flatnonzero(flags & valid)
            valid[frames] = False
            if len(frames):
                reasons[name] = frames.tolist()
    return Validity(valid, reasons)


def outside_share(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the share of the face's outline [F] that lies outside of the picture, in [0, 1].

    Args:
        points: [F, 478, 2 or 3] pixels.
        width: of the picture, pixels.
        height: of the picture, pixels.
    """
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    shares = np.zeros(len(points))
    for row, face in enumerate(points):
        outline = cv2.convexHull(face[FACE_OVAL, :2].astype(np.float32))
        area = cv2.contourArea(outline)
        if area > 0:
            inside, _ = cv2.intersectConvexConvex(outline, frame)
            shares[row] = np.clip(1 - inside / area, 0, 1)
    return shares


def blurred(
    sharpness: np.ndarray, opening: np.ndarray, found: np.ndarray, fps: float
) -> np.ndarray:
    """Return which frames [F] are blurred, measured by the clip's own level about each.

    Args:
        sharpness: [F] ``FrameLook.sharpness``; NaN where unknown.
        opening: [F] ``quality.eye_opening``.
        found: [F] bool, a face was found.
        fps: frames a second.
    """
    frames = len(sharpness)
    known = found & np.isfinite(sharpness) & (sharpness > 0)
    if not known.any():
        return np.zeros(frames, bool)
    reach = max(1, round(LEVEL_S * fps))
    ratio = np.ones(frames)
    for frame in np.flatnonzero(known):
        # The lower level of the two sides: where a clip becomes softer for good, nothing is blurred.
        sides = [slice(max(0, frame - reach), frame + 1), slice(frame, frame + reach + 1)]
        levels = [
            np.percentile(sharpness[side][known[side]], LEVEL_PERCENTILE)
            for side in sides
            if known[side].sum() > reach // 4
        ]
        ratio[frame] = sharpness[frame] / min(levels) if levels else 1.0
    open_level = np.percentile(opening[known], 70)
    open_share = np.clip(opening / max(open_level, 1e-6), 0, 1)
    ratio /= BLINK_RATIO + (1 - BLINK_RATIO) * open_share
    log = np.log(ratio)
    spread = SIGMAS * _robust_sigma(log[known])
    suspects = known & (ratio < BLUR_RATIO) & (log < np.median(log[known]) - spread)
    most = int(BLUR_SHARE * found.sum())
    worst = np.argsort(np.where(suspects, ratio, np.inf), kind="stable")[
        : min(most, suspects.sum())
    ]
    result = np.zeros(frames, bool)
    result[worst] = True
    return result


def _robust_sigma(values: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _angles_deg(track: Track) -> np.ndarray:
    """Angle [F] between the face's direction and the direction from the head to the camera."""
    T_cam_head = (track.T_cam_world[track.main] @ track.T_world_head).double().numpy()
    ahead, to_camera = T_cam_head[:, :3, 2], -T_cam_head[:, :3, 3]
    cosine = (ahead * to_camera).sum(1) / np.maximum(np.linalg.norm(to_camera, axis=1), 1e-9)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _residuals(track: Track) -> np.ndarray:
    """Residual [F] of the points in units of the width of a face at the head's distance."""
    depth = (track.T_cam_world[track.main] @ track.T_world_head)[:, 2, 3].double().numpy()
    face_px = float(track.K[track.main, 0, 0]) * FACE_M / np.maximum(depth, 1e-6)
    return track.residual_px.double().numpy() / face_px


def _residual_limit(residual: np.ndarray) -> float:
    log = np.log(np.maximum(residual, 1e-6))
    factor = max(RESIDUAL_FACTOR, float(np.exp(SIGMAS * _robust_sigma(log))))
    usual = float(np.median(residual))
    return float(np.clip(factor * usual, RESIDUAL_LOW, RESIDUAL_HIGH))
