"""Measure talking on the film itself: how long it takes, and whether bilabials close.

The film is decoded and its lips found by MediaPipe, as a viewer sees them; no coefficient is looked at.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from avatar.capture_data import Track
from avatar.checks import InputError
from avatar.drive.lips import CLOSED_SHARE
from avatar.drive.performance import speak
from avatar.drive.speech import TimedPhoneme
from avatar.drive.visemes import segments_of
from avatar.export.render import camera_path, render_states
from avatar.export.video import contact_sheet, write_video
from avatar.model.avatar import Avatar
from avatar.types import Progress, Reporter, ignore_progress
from capture.landmarks import FaceDetector

SENTENCE = (
    "My brother Peter bought a big purple umbrella, but Barbara's family may prefer a simple brown map. "
    "Most people hope to be home by summer, and the five boys from the village might visit them."
)
"""About ten seconds with some thirty bilabials among all vowels."""

INNER_UPPER, INNER_LOWER = (82, 13, 312), (87, 14, 317)
"""MediaPipe's points in the middle of the inner lips."""
EYE_CORNERS = (33, 263)
"""The outer ones: lip gaps are shares of their distance, so that turning and nearness do not count."""


@dataclass(frozen=True)
class BilabialCase:
    """One m, b or p of a film."""

    phoneme: str
    start_s: float
    gap: float
    """The least within it, a share of the eyes' distance; NaN where no face was found."""
    frame: int
    """Where that is."""


def lip_gaps(landmarks: np.ndarray) -> np.ndarray:
    """Return the gap between the inner lips [F] of landmarks [F, 478, 2 or more], as shares of the eyes' distance."""
    points = landmarks[..., :2]
    parted = points[:, INNER_UPPER] - points[:, INNER_LOWER]
    eyes = np.linalg.norm(points[:, EYE_CORNERS[0]] - points[:, EYE_CORNERS[1]], axis=-1)
    return np.linalg.norm(parted, axis=-1).mean(1) / eyes


def film_landmarks(path: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return landmarks [F, 478, 3] of a film (NaN where none), times [F] in seconds, and its pictures."""
    found, times, pictures = [], [], []
    with FaceDetector() as detector, av.open(str(path)) as container:
        for frame in container.decode(video=0):
            picture = frame.to_ndarray(format="rgb24")
            face = detector.detect(picture)
            found.append(np.full((478, 3), np.nan) if face is None else face)
            times.append(float(frame.time or 0.0))
            pictures.append(picture)
    return np.array(found), np.array(times), pictures


def bilabials(
    phonemes: Sequence[TimedPhoneme], gaps: np.ndarray, times_s: np.ndarray, fps: float
) -> list[BilabialCase]:
    """Return each bilabial of a speech with the least lip gap while it is spoken.

    A frame belongs to a phoneme if any of the time that it is closest to does.

    Args:
        phonemes: of the sound, in the film's time.
        gaps: [F].
        times_s: [F] of the frames.
        fps: frames a second.
    """
    cases = []
    for segment in segments_of(phonemes):
        if segment.viseme != "PP":
            continue
        inside = (times_s > segment.start_s - 0.5 / fps) & (times_s < segment.end_s + 0.5 / fps)
        frames = np.flatnonzero(inside)
        seen = frames[np.isfinite(gaps[frames])]
        best = int(seen[gaps[seen].argmin()]) if len(seen) else -1
        gap = float(gaps[best]) if len(seen) else float("nan")
        cases.append(BilabialCase(segment.viseme, segment.start_s, gap, best))
    return cases


def bench_say(
    avatar: Avatar,
    *,
    text: str = SENTENCE,
    voice: str | None = None,
    emotion: tuple[str, float] = ("neutral", 1.0),
    track: Track | None = None,
    film: Path | None = None,
    sheet: Path | None = None,
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Say a text, write the film, decode it and measure.

    Args:
        avatar: who speaks.
        text: what.
        voice: of espeak-ng.
        emotion: name and intensity.
        track: the person's own capture: the range of their lips; the film's own range where None.
        film: keep the film here.
        sheet: draw the mouths of all bilabials, and the widest ones, into this picture.
        report: listener.

    Returns:
        ``seconds`` of the speech, ``seconds_taken`` from text to finished film, ``bilabials``, of which
        ``closed`` and the ``closed_share``, ``range`` of lip gaps and ``range_of`` whom, ``widest``.

    Raises:
        InputError: as ``speak``, or the film shows no face.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = film or Path(folder) / "say.mp4"
        begin = time.perf_counter()
        performance = speak(text, avatar, voice=voice, emotion=emotion)
        sound = Path(folder) / "say.wav"
        performance.speech.write(sound)
        states, path_of = performance.states, camera_path("capture", avatar)
        each = (states[frame] for frame in range(len(states)))
        pictures = render_states(avatar, each, path_of, total=len(states), report=report)
        write_video(path, pictures, performance.fps, audio=sound)
        taken = time.perf_counter() - begin
        report(Progress("measure", 0, 1))
        landmarks, times, shown = film_landmarks(path)
    gaps = lip_gaps(landmarks)
    if not np.isfinite(gaps).any():
        raise InputError(
            "The film shows no face that MediaPipe finds, so its lips cannot be measured."
        )
    if track is None:
        reach, whose = float(np.nanquantile(gaps, 0.98)), "the film"
    else:
        own = lip_gaps(track.landmarks_px[track.valid.bool()].numpy())
        reach, whose = float(np.quantile(own, 0.98)), "the person's capture"
    cases = bilabials(performance.speech.phonemes, gaps, times, performance.fps)
    closed = [case.gap < CLOSED_SHARE * reach for case in cases]
    if sheet is not None:
        _draw(sheet, shown, landmarks, gaps, cases, reach)
    return {
        "seconds": len(times) / performance.fps,
        "seconds_taken": taken,
        "bilabials": len(cases),
        "closed": sum(closed),
        "closed_share": sum(closed) / len(cases) if cases else None,
        "range": reach,
        "range_of": whose,
        "widest": float(np.nanmax(gaps)),
        "median": float(np.nanmedian(gaps)),
        "faces_found": float(np.isfinite(gaps).mean()),
    }


def _draw(
    path: Path,
    pictures: list[np.ndarray],
    landmarks: np.ndarray,
    gaps: np.ndarray,
    cases: list[BilabialCase],
    reach: float,
) -> None:
    """Draw mouths: those of bilabials, the widest, and a second in a row."""

    def mouth(frame: int) -> np.ndarray:
        x, y = landmarks[frame, [13, 14], :2].mean(0)
        half = 0.55 * np.linalg.norm(landmarks[frame, 33, :2] - landmarks[frame, 263, :2])
        box = (int(x - half), int(y - half), int(x + half), int(y + half))
        return np.array(Image.fromarray(pictures[frame]).crop(box).resize((160, 160)))

    shut = [case.frame for case in cases if case.frame >= 0]
    wide = [int(k) for k in np.argsort(-np.nan_to_num(gaps))[: 4 * 12 : 4]]
    middle = len(gaps) // 3
    row = [k for k in range(middle, min(middle + 12, len(gaps))) if np.isfinite(gaps[k])]
    rows = [shut[k : k + 12] for k in range(0, len(shut), 12)] + [wide, row]
    labels = ["m, b, p"] * (len(rows) - 2) + ["widest", "in a row"]
    drawn = contact_sheet([[mouth(k) for k in r] for r in rows], labels, cell_width=120)
    Image.fromarray(drawn).save(path)
