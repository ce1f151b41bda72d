"""The ingest stage: decode once; frames to disk, landmarks, sound, splits, and what was odd."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Landmarks, Splits
from avatar.checks import InputError
from avatar.tensorfile import write_json
from avatar.types import Progress, Reporter
from capture.folder import fresh_folder
from capture.following import Followed, Picture, store_and_follow
from capture.ingest import MIN_FRAMES, ClipInfo, extract_audio, read_frames
from capture.scene import STILL_LEVELS
from capture.timeline import Take

STILL_SHARE = 0.012
"""The points of a still picture's face move by less than this share of its width (1.8 mm), 95 in 100:
the detector's own trembling is a third of it, and nobody sits as still."""

LOST_S = 1.0
"""A face that is missing for this many seconds or more is told of."""

GLASSES_SHARE = 0.2
"""Dark glasses in this share of the frames or more are told of."""

LARGE_BYTES = 4 << 30
"""Frames that take more disk space than this are told of."""


def make_frames(
    clip: ClipInfo,
    output: Path,
    report: Reporter,
    take: Take | None = None,
    *,
    faceless: bool = False,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Write every frame, find the main person's points; of a clip alone, take the sound out too.

    Faces are looked for at the working size and stored in pixels of the stored frames.

    Args:
        clip: the clip, as it is to be read.
        output: the capture folder.
        report: listener.
        take: where the clip lies on the time line of several cameras; None for a clip alone.
        faceless: a clip without a face may be (its camera is known without one).
        change: what is done to each picture first, uint8 [H, W, 3] to the same; None for nothing.

    Raises:
        InputError: too few frames, no face, or the same picture throughout.
    """
    start = time.perf_counter()
    camera, first = (0, 0) if take is None else (take.camera, take.first)
    folder = fresh_folder(output / "frames", camera)
    own = f"landmarks{camera or ''}.safetensors"
    for name in (own, "audio.wav", "track.safetensors", "splits.json"):
        (output / name).unlink(missing_ok=True)
    images = read_frames(clip)
    seen = store_and_follow(
        (Picture(image if change is None else change(image)) for image in images),
        (clip.width, clip.height),
        folder,
        lambda done: report(Progress("ingest", done, clip.frames)),
        first=first,
    )
    frames, face = seen.frames, seen.face
    if frames < MIN_FRAMES:
        raise InputError(
            f"{clip.path} gave {frames} usable frame{'s' * (frames != 1)}; a capture needs at least "
            f"{MIN_FRAMES}. The file may be cut off: copy it from the camera again."
        )
    valid = face.landmarks.valid
    if not (faceless and not valid.any()):
        _check_alive(clip, seen, alone=take is None)
    after = 0 if take is None else take.total - first - frames
    landmarks = Landmarks(
        torch.nn.functional.pad(face.landmarks.points, (0, 0, 0, 0, first, after)),
        torch.nn.functional.pad(valid, (first, after)),
    )
    landmarks.save(output / own)
    has_audio = take is None and write_common(output, clip, frames, clip.fps)
    seconds = time.perf_counter() - start
    stored = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "frames": first + frames + after,
        "fps": clip.fps,
        "width": clip.width,
        "height": clip.height,
        "audio": has_audio,
        "frames_with_others": face.frames_with_others,
        "frames_of_others": [first + frame for frame in face.frames_of_others],
        "cuts": [first + cut for cut in seen.cuts],
        "warnings": _warnings(clip, stored, seen, alone=take is None),
        **({} if take is None else _on_the_line(take, frames, valid)),
        # One pass does both: what the detector did not take is decoding, encoding and sound.
        "seconds": {"ingest": seconds - seen.detecting_s, "landmarks": seen.detecting_s},
    }


def _on_the_line(take: Take, frames: int, valid: Tensor) -> dict[str, Any]:
    """What is told of one of several cameras besides."""
    gaps = [[0, take.first], [take.first + frames, take.total]]
    return {
        "camera": take.camera,
        "missing": [gap for gap in gaps if gap[0] < gap[1]],
        "faces": int(valid.sum()),
    }


def write_common(output: Path, sound: ClipInfo | None, frames: int, fps: float) -> bool:
    """Write splits.json and, where ``sound`` has one, audio.wav from its ``start_s`` on.

    Returns:
        Whether there is sound.
    """
    write_json(output / "splits.json", asdict(Splits.default(frames)))
    if sound is None or not sound.has_audio:
        return False
    wav = output / "audio.wav"
    return extract_audio(sound.path, wav, start_s=sound.start_s, duration_s=frames / fps)


def spells(wanted: np.ndarray, fps: float, shortest_s: float) -> list[tuple[float, float]]:
    """Return (start, end) in seconds of the runs of True [F] that last ``shortest_s`` or more."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], wanted.astype(int), [0]])))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(a / fps, b / fps) for a, b in runs if (b - a) / fps >= shortest_s]


def _check_alive(clip: ClipInfo, seen: Followed, *, alone: bool) -> None:
    """Refuse a clip without a face, and a still picture."""
    landmarks = seen.face.landmarks
    valid = landmarks.valid.numpy()
    if not valid.any():
        raise InputError(
            f"{clip.path} shows no face in any of its {len(valid)} frames. Film one person facing "
            f"the camera, the head about half the picture's height, in even light."
            + ("" if alone else " A camera behind the head needs --calibration.")
        )
    points = landmarks.points.numpy()[valid][..., :2]
    usual = np.median(points, axis=0)
    moved = np.linalg.norm(points - usual, axis=-1) / max(float(np.ptp(usual[:468, 0])), 1e-6)
    if seen.motion_levels < STILL_LEVELS and np.percentile(moved, 95) < STILL_SHARE:
        raise InputError(
            f"{clip.path} shows one still picture: nothing moves from the first frame to the last, "
            f"so there is no expression to learn. Film ten seconds or more of a person who turns the "
            f"head and speaks."
        )


def _warnings(clip: ClipInfo, stored: int, seen: Followed, *, alone: bool) -> list[str]:
    """Sentences on what is wrong with the clip, and what was made of it.

    Not ``alone``, a face that is lost here may be seen by another camera, and the name is told.
    """
    frames, followed = seen.frames, seen.face
    warnings = []
    if frames < clip.frames:
        warnings.append(
            f"The clip is cut off or damaged: {frames} of {clip.frames} frames could be read. "
            f"Those are used; copy the file from the camera again if more is wanted."
        )
    if clip.interlaced:
        warnings.append("The clip is interlaced, which combs what moves: film progressive video.")
    if seen.cuts:
        warnings.append(
            f"The clip is cut at {_moments([cut / clip.fps for cut in seen.cuts])}. The parts that "
            f"show the same face are used; film in one take, as light and distance change at a cut."
        )
    if not alone:
        return [f"{clip.path.name}: {warning}" for warning in warnings]
    others = np.zeros(frames, bool)
    others[list(followed.frames_of_others)] = True
    if others.any():
        warnings.append(
            f"{int(others.sum())} frames show only somebody else's face, which is not followed: they "
            f"are left out. Film alone."
        )
    lost = spells(~followed.landmarks.valid.numpy() & ~others, clip.fps, LOST_S)
    if lost:
        times = [f"{start:.1f} to {end:.1f} s" for start, end in lost]
        warnings.append(
            f"The face is lost from {_listed(times)}: those frames are left out. Keep it in the "
            f"picture, uncovered, and turn it less than to the side."
        )
    if followed.dark_glasses >= GLASSES_SHARE:
        warnings.append(
            f"Dark glasses seem to hide the eyes in {followed.dark_glasses:.0%} of the frames: gaze "
            f"and blinks are guesses there, and the glasses become part of the face. Film without."
        )
    if stored > LARGE_BYTES:
        warnings.append(
            f"The frames take {stored / 1e9:.1f} GB of disk space at {clip.width}x{clip.height}. A "
            f"shorter clip, or one filmed at 1080p, takes less."
        )
    return warnings


def _moments(seconds: list[float]) -> str:
    return _listed([f"{second:.1f} s" for second in seconds])


def _listed(parts: list[str]) -> str:
    """Name the first three, and count the rest."""
    if len(parts) > 3:
        return f"{', '.join(parts[:3])} and {len(parts) - 3} more"
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
