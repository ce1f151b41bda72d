"""What the track stage does with the tracker's result, of one camera or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from avatar.capture_data import Splits, Track
from avatar.checks import InputError
from capture.track.fit import TOO_FEW, Tracked
from capture.validity import Validity

MATTER, TRACKER = 2, 2
"""Versions of what makes masks and tracks: raised where a capture made before should be made anew."""


def in_stored_pixels(track: Track, scales: Sequence[float]) -> Track:
    """Turn a track in working pixels, ``scales`` of them for one of each camera's stored frames, into
    stored ones."""
    if all(scale == 1 for scale in scales):
        return track
    K = track.K.clone()
    for k, scale in enumerate(scales):
        K[k, :2] /= scale
    main = scales[track.main]
    return replace(
        track, K=K, landmarks_px=track.landmarks_px / main, residual_px=track.residual_px / main
    )


def focal_found(fitted: Tracked, scale: float) -> dict[str, Any]:
    """Return what capture.json has of the main camera's focal length, in stored pixels."""
    return {
        "px": fitted.focal_px / scale,
        "prior_px": fitted.focal_prior_px / scale,
        "relative_sigma": fitted.focal_sigma,
    }


def check_enough(judged: Validity, splits: Splits) -> None:
    """Refuse a clip of which too few training frames can be trusted."""
    begin, end = splits.train
    usable = int(judged.valid[begin:end].sum())
    if usable >= TOO_FEW:
        return
    counts = ", ".join(f"{len(frames)} {reason}" for reason, frames in judged.reasons.items())
    raise InputError(
        f"Only {usable} of the clip's {end - begin} training frames can be used, and {TOO_FEW} are "
        f"needed (of all frames, {counts}). Film again: the whole face in the picture, in good light, "
        f"turned less than to the side."
    )
