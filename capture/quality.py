"""How good a clip is for making an avatar: measured, judged, with advice for the next take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np

from avatar.capture_data import Landmarks

Verdict = Literal["ok", "warn", "bad"]

EYE_CORNERS = (33, 263)
"""Outer eye corners of the subject's right and left eye."""
FOREHEAD, CHIN = 10, 152
LIPS = (13, 14)
"""Middle of the inner upper and lower lip."""
LIDS = ((159, 145, 33, 133), (386, 374, 263, 362))
"""Upper lid, lower lid, outer and inner corner of the subject's right and left eye."""

FACE_WIDTH = 200
"""Pixels to which a face is scaled before its sharpness is measured, so that clips compare."""


@dataclass(frozen=True)
class QualityItem:
    """One measurement and what follows from it."""

    label: str
    """Name for people."""
    value: float
    """The number."""
    unit: str
    """Its unit; ``"%"`` for shares in percent."""
    verdict: Verdict
    """ok, warn (the avatar suffers), or bad (film again)."""
    advice: str
    """One sentence: what it means, and what to do where it is not ok."""


@dataclass(frozen=True)
class Quality:
    """All measurements of a clip."""

    items: dict[str, QualityItem]
    """By key."""

    @property
    def overall(self) -> Verdict:
        """The worst verdict."""
        verdicts = {item.verdict for item in self.items.values()}
        return "bad" if "bad" in verdicts else "warn" if "warn" in verdicts else "ok"

    def as_json(self) -> dict[str, Any]:
        """Return what capture.json keeps under ``quality``."""
        return {
            "overall": self.overall,
            "items": {key: asdict(item) for key, item in self.items.items()},
        }


@dataclass(frozen=True)
class FrameLook:
    """What is measured on the pixels of one frame's face."""

    sharpness: float
    """Standard deviation of the Laplacian over that of the brightness, at FACE_WIDTH; no unit."""
    brightness: float
    """Mean grey level of the face, 0 to 255."""
    dark: float
    """Share of the face's pixels that are black (level 10 or less)."""
    bright: float
    """Share of the face's pixels with a clipped channel (level 253 or more in at least two)."""


def look_at_face(image: np.ndarray, face: np.ndarray) -> FrameLook | None:
    """Measure one face.

    Args:
        image: uint8 [H, W, 3] sRGB.
        face: [478, 2 or 3] landmarks in pixels.

    Returns:
        None where the face lies outside of the picture.
    """
    height, width = image.shape[:2]
    x0, y0 = np.maximum(np.floor(face[:, :2].min(0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(face[:, :2].max(0)), (width, height)).astype(int)
    if min(x1 - x0, y1 - y0) < 16:
        return None
    crop = image[y0:y1, x0:x1]
    scale = FACE_WIDTH / (x1 - x0)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=method)
    hull = cv2.convexHull(((face[:468, :2] - (x0, y0)) * scale).astype(np.int32))
    inside = cv2.fillConvexPoly(np.zeros(crop.shape[:2], np.uint8), hull, (1,)) > 0
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), 0.8)  # compression noise is not sharpness
    detail = cv2.Laplacian(smooth, cv2.CV_32F)[inside]
    pixels = crop[inside]
    return FrameLook(
        sharpness=float(detail.std() / (grey[inside].std() + 4.0)),
        brightness=float(grey[inside].mean()),
        dark=float((pixels.max(axis=1) <= 10).mean()),
        bright=float(((pixels >= 253).sum(axis=1) >= 2).mean()),
    )


def head_angles(points: np.ndarray) -> np.ndarray:
    """Return rough yaw (to the subject's left), pitch (up) and roll, degrees [F, 3].

    Args:
        points: [F, 478, 3] landmarks, pixels, z in the same unit.
    """
    across = points[:, EYE_CORNERS[1]] - points[:, EYE_CORNERS[0]]
    up = points[:, FOREHEAD] - points[:, CHIN]
    yaw = np.arctan2(across[:, 2], across[:, 0])
    pitch = np.arctan2(up[:, 2], -up[:, 1])
    roll = np.arctan2(across[:, 1], across[:, 0])
    return np.degrees(np.stack([yaw, pitch, roll], 1))


def mouth_opening(points: np.ndarray) -> np.ndarray:
    """Return the gap between the inner lips as a share of the face's height, [F]."""
    gap = np.linalg.norm(points[:, LIPS[0], :2] - points[:, LIPS[1], :2], axis=1)
    return gap / _face_height(points)


def eye_opening(points: np.ndarray) -> np.ndarray:
    """Return the lid gap over the eye's width, mean of both eyes, [F]."""
    ratios = []
    for upper, lower, outer, inner in LIDS:
        gap = np.linalg.norm(points[:, upper] - points[:, lower], axis=1)
        ratios.append(gap / (np.linalg.norm(points[:, outer] - points[:, inner], axis=1) + 1e-6))
    return np.mean(ratios, axis=0)


def count_blinks(opening: np.ndarray, fps: float) -> int:
    """Count closures: the opening falls under 60 % of what it usually is, for under a second.

    Args:
        opening: [F] of ``eye_opening``, frames in a row.
        fps: frames a second.
    """
    if not len(opening):
        return 0
    shut = opening < 0.6 * np.percentile(opening, 70)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(int), [0]])))
    lengths = edges[1::2] - edges[::2]
    return int((lengths <= max(2.0, fps)).sum())


def judge(
    landmarks: Landmarks,
    looks: dict[str, np.ndarray],
    *,
    fps: float,
    frames_with_others: int,
) -> Quality:
    """Judge a clip.

    Args:
        landmarks: of all frames.
        looks: ``FrameLook`` field name to [F]; NaN where no face was measured.
        fps: frames a second.
        frames_with_others: frames in which somebody else's face was seen.
    """
    valid = landmarks.valid.numpy()
    frames = len(valid)
    points = landmarks.points.numpy()[valid]
    items: dict[str, QualityItem] = {}

    def add(key: str, label: str, value: float, unit: str, verdict: Verdict, advice: str) -> None:
        items[key] = QualityItem(label, round(float(value), 4), unit, verdict, advice)

    def grade(value: float, good: float, poor: float) -> Verdict:
        """ok from ``good`` on, bad past ``poor``; works both ways round."""
        if good >= poor:
            return "ok" if value >= good else "warn" if value >= poor else "bad"
        return "ok" if value <= good else "warn" if value <= poor else "bad"

    seconds = frames / fps
    add(
        "duration_s", "Length", seconds, "s", grade(seconds, 10, 2),
        "Long enough." if seconds >= 10 else
        "Short: film 15 seconds or more, so that every expression is seen from several sides.",
    )  # fmt: skip
    share = 100 * float(valid.mean())
    add(
        "face_found", "Frames with a face", share, "%", grade(share, 95, 50),
        "The face is found throughout." if share >= 95 else
        "The face is lost in places: keep it in the picture, uncovered, and turn it less than to the side."
        if share >= 50 else
        "No face in more than half of the frames: only the rest is used, so film again with the face in view.",
    )  # fmt: skip
    size = float(np.median(np.ptp(points[:, :468, 0], axis=1)))
    add(
        "face_width_px", "Width of the face", size, "px", grade(size, 150, 80),
        "Large enough for fine detail." if size >= 250 else
        "Large enough; closer gives finer detail." if size >= 150 else
        "Small: move the camera closer or film at a higher resolution, until the head fills half the height.",
    )  # fmt: skip

    sharpness = looks["sharpness"][np.isfinite(looks["sharpness"])]
    typical = float(np.median(sharpness)) if len(sharpness) else 0.0
    add(
        "sharpness", "Sharpness of the face", typical, "", grade(typical, 0.12, 0.06),
        "In focus." if typical >= 0.12 else
        "Soft: clean the lens, tap the face to focus, use more light, and avoid digital zoom and beauty filters.",
    )  # fmt: skip
    blurred = (
        100 * float((sharpness < 0.6 * np.percentile(sharpness, 75)).mean())
        if len(sharpness)
        else 0.0
    )
    add(
        "blurred", "Blurred frames", blurred, "%", grade(blurred, 5, 40),
        "Hardly any motion blur." if blurred <= 5 else
        "Motion blur: turn the head more slowly and use more light, so that the exposure is short.",
    )  # fmt: skip

    brightness = looks["brightness"][np.isfinite(looks["brightness"])]
    level = float(np.median(brightness)) if len(brightness) else 0.0
    lit: Verdict = "ok" if 70 <= level <= 215 else "warn" if 35 <= level <= 235 else "bad"
    add(
        "brightness", "Brightness of the face", level, "of 255", lit,
        "Well lit." if lit == "ok" else
        "Dark: put a light or a window in front of you, not behind." if level < 70 else
        "Too bright: lower the exposure.",
    )  # fmt: skip
    dark = 100 * _mean(looks["dark"])
    add(
        "clipped_dark", "Black pixels on the face", dark, "%", grade(dark, 3, 20),
        "No crushed shadows." if dark <= 3 else
        "Shadows are black: light the face evenly from the front.",
    )  # fmt: skip
    bright = 100 * _mean(looks["bright"])
    add(
        "clipped_bright", "Burnt-out pixels on the face", bright, "%", grade(bright, 2, 15),
        "No burnt-out skin." if bright <= 2 else
        "Highlights are burnt out: lower the exposure or move out of the direct light.",
    )  # fmt: skip
    swing = (
        float(np.ptp(np.percentile(brightness, [2, 98]))) / max(level, 1) * 100
        if len(brightness)
        else 0.0
    )
    add(
        "exposure_swing", "Change of brightness", swing, "%", grade(swing, 30, 80),
        "Steady light and exposure." if swing <= 30 else
        "The face's brightness changes: lock the camera's exposure (hold a finger on the face) and keep the light steady.",
    )  # fmt: skip

    angles = head_angles(points)
    yaw, pitch = (float(np.ptp(np.percentile(angles[:, k], [2, 98]))) for k in (0, 1))
    add(
        "yaw_range", "Turn to the sides", yaw, "°", "ok" if yaw >= 35 else "warn",
        "Both cheeks are seen." if yaw >= 35 else
        "The head hardly turns: turn it slowly to both sides by 30 degrees or more, or the avatar holds from the front only.",
    )  # fmt: skip
    add(
        "pitch_range", "Nod", pitch, "°", "ok" if pitch >= 15 else "warn",
        "Seen from above and below." if pitch >= 15 else
        "The head hardly nods: look up and down once, slowly.",
    )  # fmt: skip
    mouth = 100 * float(np.ptp(np.percentile(mouth_opening(points), [2, 98])))
    add(
        "mouth_range", "Opening of the mouth", mouth, "% of the face's height",
        "ok" if mouth >= 5 else "warn",
        "The mouth's inside is seen." if mouth >= 5 else
        "The mouth hardly opens: speak, say 'ah', and show your teeth, or the avatar cannot.",
    )  # fmt: skip
    blinks = count_blinks(eye_opening(points), fps)
    add(
        "blinks", "Blinks", blinks, "", "ok" if blinks else "warn",
        "Closed lids are seen." if blinks else "No blink was seen: close your eyes once or twice.",
    )  # fmt: skip
    others = 100 * frames_with_others / frames
    add(
        "others", "Frames with other people", others, "%", "ok" if others < 1 else "warn",
        "One person." if others < 1 else
        "Somebody else is in the picture: the larger and more central face was taken; film alone.",
    )  # fmt: skip
    return Quality(items)


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else 0.0


def _face_height(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, FOREHEAD] - points[:, CHIN], axis=1) + 1e-6
