"""Pictures of the report: the contact sheet with landmarks and mask, and the worst frames close up."""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Protocol

import cv2
import numpy as np

from avatar.capture_data import Landmarks, Track
from avatar.rig.lattice import LOWER_LIP_COLUMNS, REGIONS, UPPER_LIP_COLUMNS
from capture.matte import FACE_OVAL
from capture.report_track import project_lattice, worst_frames

THUMBNAILS = 10
"""Frames on the contact sheet, evenly over the clip."""
THUMBNAIL_HEIGHT = 360
"""Pixels of each picture of the contact sheet."""
WORST = 6
"""Frames shown for having the largest residuals."""
CLOSE_UP = 360
"""Side in pixels of each worst frame's picture."""

DETECTED, MODEL, GAP = (40, 220, 255), (255, 120, 40), (255, 235, 90)
"""Colours, RGB: detected points, the model's outline, and the way between them."""


def _closed(*chains: tuple[int, ...]) -> tuple[int, ...]:
    points = tuple(point for chain in chains for point in chain)
    return (*points, points[0])


OUTLINES: tuple[tuple[int, ...], ...] = (
    _closed(REGIONS["face_oval"]),
    _closed((263,), REGIONS["lid_left_upper"], (362,), REGIONS["lid_left_lower"][::-1]),
    _closed((33,), REGIONS["lid_right_upper"], (133,), REGIONS["lid_right_lower"][::-1]),
    *(
        _closed(
            tuple(c[row] for c in UPPER_LIP_COLUMNS), tuple(c[row] for c in LOWER_LIP_COLUMNS)[::-1]
        )
        for row in (0, 3)
    ),
    REGIONS["brow_left"][:5],
    REGIONS["brow_left"][5:],
    REGIONS["brow_right"][:5],
    REGIONS["brow_right"][5:],
    (168, 6, 197, 195, 5, 4, 1),
)
"""Lines of the model that a person recognises: face, eyes, lips, brows, nose."""


class Pictures(Protocol):
    """Gives the capture's pictures."""

    def frame(self, frame: int) -> np.ndarray:
        """Return uint8 [H, W, 3] sRGB."""
        ...

    def mask(self, frame: int) -> np.ndarray:
        """Return uint8 [H, W]."""
        ...


def figure(picture: np.ndarray, name: str, caption: str, *, lines: bool = False) -> str:
    """Return an HTML figure that holds a picture [H, W, 3] RGB.

    With ``lines`` it is stored as WebP: two thirds of JPEG's size where many thin lines are drawn.
    """
    suffix, kind, quality = (
        (".webp", "webp", [cv2.IMWRITE_WEBP_QUALITY, 80])
        if lines
        else (".jpg", "jpeg", [cv2.IMWRITE_JPEG_QUALITY, 82])
    )
    good, encoded = cv2.imencode(suffix, picture[..., ::-1], quality)
    assert good, "encoding a picture in memory cannot fail"
    content = base64.b64encode(encoded.tobytes()).decode()
    return (
        f'<figure><img alt="{name}" src="data:image/{kind};base64,{content}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def contact_sheet(
    pictures: Pictures,
    landmarks: Landmarks,
    track: Track,
    missing: frozenset[int] = frozenset(),
) -> list[str]:
    """Return figures of frames evenly over the clip, with mask outline and landmarks."""
    figures = []
    there = np.array([frame for frame in range(len(track)) if frame not in missing])
    chosen = np.unique(np.linspace(0, len(there) - 1, THUMBNAILS).round().astype(int))
    for frame in there[chosen]:
        state = "" if landmarks.valid[frame] else ", no face"
        if track.valid[frame]:
            state = f", {float(track.residual_px[frame]):.2f} px"
        picture = overlay(pictures, landmarks, int(frame))
        figures.append(figure(picture, f"frame {frame}", f"frame {frame}{state}"))
    return figures


def worst_sheet(pictures: Pictures, track: Track) -> list[str]:
    """Return close-ups of the frames with the largest residuals: detected points and the model."""
    figures = []
    for frame in worst_frames(track, WORST):
        second = frame / track.fps
        caption = (
            f"frame {frame} ({second:.1f} s), residual {float(track.residual_px[frame]):.2f} px"
        )
        picture = _close_up(pictures, track, frame)
        figures.append(figure(picture, f"frame {frame}", caption, lines=True))
    return figures


def _close_up(pictures: Pictures, track: Track, frame: int) -> np.ndarray:
    """Cut out the face and draw detected points, the model's outline, and the gaps between."""
    full = pictures.frame(frame)
    detected = track.landmarks_px[frame].numpy()
    model, faces = (part[0] for part in project_lattice(track, np.array([frame])))
    both = np.concatenate([detected, model])
    low, high = both.min(0), both.max(0)
    # A pose gone wild must not shrink the face to a dot.
    size = np.ptp(detected, axis=0).max()
    centre = detected.mean(0)
    half = (
        float(np.clip(np.abs(np.stack([low, high]) - centre).max(), 0.5 * size, 1.2 * size)) * 1.1
    )
    scale = CLOSE_UP / (2 * half)
    shift = CLOSE_UP / 2 - scale * centre
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.warpAffine(full, matrix, (CLOSE_UP, CLOSE_UP), flags=method)

    def fixed(points: np.ndarray) -> np.ndarray:
        return np.round((points * scale + shift) * 16).clip(-(2**20), 2**20).astype(np.int32)

    # What is turned away is hidden: its detected points are guesses on the face's contour.
    seen, fitted = fixed(detected), fixed(model)
    for a, b in zip(seen[faces], fitted[faces], strict=True):
        cv2.line(picture, a.tolist(), b.tolist(), GAP, 1, cv2.LINE_AA, 4)
    model_lines(picture, model * scale + shift, faces)
    for point in seen[faces]:
        cv2.circle(picture, point.tolist(), 14, DETECTED, -1, cv2.LINE_AA, 4)
    return picture


def model_lines(
    picture: np.ndarray, points: np.ndarray, faces: np.ndarray, scale: float = 1.0
) -> None:
    """Draw the model's outlines into a picture, where they face the camera.

    Args:
        picture: uint8 [H, W, 3] RGB, drawn into.
        points: [478, 2] pixels, times ``scale`` those of the picture.
        faces: [478] bool.
        scale: of the points.
    """
    fixed = np.round(points * scale * 16).clip(-(2**20), 2**20).astype(np.int32)
    for line in OUTLINES:
        for a, b in pairwise(line):
            if faces[a] and faces[b]:
                cv2.line(picture, fixed[a].tolist(), fixed[b].tolist(), MODEL, 1, cv2.LINE_AA, 4)


def overlay(
    pictures: Pictures, landmarks: Landmarks, frame: int, height: int = THUMBNAIL_HEIGHT
) -> np.ndarray:
    """Return a small picture, background greyed, with mask outline and landmarks."""
    full = pictures.frame(frame)
    scale = min(1.0, height / full.shape[0])
    size = (max(1, round(full.shape[1] * scale)), max(1, round(full.shape[0] * scale)))
    picture = cv2.resize(full, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(pictures.mask(frame), size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None] * 0.4 + 130
    alpha = mask[..., None].astype(np.float32) / 255
    picture = np.ascontiguousarray(picture * alpha + grey * (1 - alpha), dtype=np.uint8)
    outline, _ = cv2.findContours(
        (mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(picture, outline, -1, (255, 190, 0), 1, cv2.LINE_AA)
    if landmarks.valid[frame]:
        points = landmarks.points[frame, :, :2].numpy() * scale
        for x, y in points[:468]:
            cv2.circle(picture, (round(16 * x), round(16 * y)), 10, DETECTED, -1, cv2.LINE_AA, 4)
        for x, y in points[468:]:
            cv2.circle(
                picture, (round(16 * x), round(16 * y)), 14, (255, 40, 200), -1, cv2.LINE_AA, 4
            )
        oval = np.round(points[FACE_OVAL] * 16).astype(np.int32)
        cv2.polylines(picture, [oval], True, DETECTED, 1, cv2.LINE_AA, 4)
    return picture
