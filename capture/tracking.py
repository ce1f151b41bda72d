"""What the track stage does with the tracker's result, of one camera or several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from avatar.capture_data import Landmarks, Splits, Track, read_splits
from avatar.checks import InputError
from avatar.rig.face_model import FaceModel
from avatar.rig.rig_store import LATTICE, open_rig, rig_names
from avatar.types import Progress, Reporter
from capture.colour_match import match_colours
from capture.folder import Pictures, Stages, key_of
from capture.settings import CaptureConfig
from capture.timeline import missing_of
from capture.track.config import TrackConfig
from capture.track.fit import TOO_FEW, Tracked, fit_track
from capture.track.footage import Calibration, Footage
from capture.validity import Validity, judge_frames, judge_several

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


def need_rig(rig: str, output: Path) -> None:
    """Refuse a head model that cannot be opened, now and not after minutes of work.

    One that was removed since may be the one that the track in ``output`` was made with: that track stands.

    Raises:
        InputError: it is not imported, or damaged.
    """
    if rig == LATTICE or (rig not in rig_names() and _tracked_with(rig, Stages.read(output))):
        return
    open_rig(rig)


def _tracked_with(rig: str, stages: Stages | None) -> tuple[str, ...] | None:
    """Return what the finished track's key holds of its rig, where that has the name ``rig``."""
    if stages is None or not (stages.path.parent / "track.safetensors").is_file():
        return None
    kept = stages.done.get("track", {}).get("values", {}).get("rig")
    return tuple(kept) if kept and kept[0] == rig else None


def track_stage(
    stages: Stages,
    ingests: Sequence[dict[str, Any]],
    mattes: Sequence[dict[str, Any]],
    known: Calibration | None,
    config: CaptureConfig,
    report: Reporter,
    *,
    names: Sequence[str],
) -> dict[str, Any]:
    """Run the track stage of a capture, or take what stands: arguments and values as ``track_cameras``.

    The values have ``rig`` besides: what the key holds of an imported one.
    """
    count = len(ingests)
    focal = config.focal_widths(count)
    mattes_made = [stages.key(f"matte{k or ''}") for k in range(count)]
    made_from: list[Any] = [mattes_made[0], TRACKER, asdict(config.track)]
    # One clip keeps the key that it had before there were several.
    if count > 1 or known is not None:
        cameras = None if known is None else [known.K.tolist(), known.T_cam_world.tolist()]
        metric = None if known is None else known.metric
        made_from = [mattes_made, TRACKER, asdict(config.track), focal, cameras, metric]
    output = stages.path.parent
    imported = config.rig == LATTICE or config.rig in rig_names()
    of_rig = config.rig_key() if imported else _tracked_with(config.rig, stages) or ()
    key = key_of(*made_from, *of_rig)
    if not imported and stages.done.get("track", {}).get("key") != key:
        open_rig(config.rig)  # raises, and what stands is left as it is
    return stages.run(
        "track",
        key,
        lambda _: (output / "track.safetensors").is_file(),
        lambda: {
            **track_cameras(
                output, ingests, mattes, known, report,
                names=names, focal_widths=focal, model=config.face, config=config.track,
            ),
            "rig": list(of_rig),
        },
    )  # fmt: skip


def track_cameras(
    output: Path,
    ingests: Sequence[dict[str, Any]],
    mattes: Sequence[dict[str, Any]],
    known: Calibration | None,
    report: Reporter,
    *,
    names: Sequence[str],
    focal_widths: Sequence[float | None],
    model: FaceModel | None,
    config: TrackConfig,
) -> dict[str, Any]:
    """Track one head before one camera or several, known or not; write track.safetensors.

    Args:
        output: the capture folder, with frames, masks, landmarks and splits.json.
        ingests: values of the ingest stage, of each camera.
        mattes: values of the matte stage, of each camera.
        known: the cameras in pixels of their stored frames, where they are known.
        report: listener.
        names: of the cameras, for messages.
        focal_widths: as ``Footage.focal_widths`` has it, of each camera.
        model: the rig's faces; None for the default rig.
        config: of the tracker.

    Returns:
        The track stage's values: ``focal``, ``invalid``, ``gains`` (colour, of each camera), ``warnings``,
        ``seconds``.
    """
    start = time.perf_counter()
    cameras, frames = range(len(ingests)), ingests[0]["frames"]
    report(Progress("track", 0, frames))
    pictures = [Pictures(output, v["width"], v["height"], k) for k, v in enumerate(ingests)]
    landmarks = [Landmarks.load(output / f"landmarks{k or ''}.safetensors") for k in cameras]
    scales = [one.working_scale for one in pictures]
    splits = read_splits(output, frames)
    footage = [
        Footage(
            Landmarks(landmarks[k].points * scales[k], landmarks[k].valid),
            lambda frame, k=k: pictures[k].working(frame)[0],
            pictures[k].working_mask,
            *pictures[k].working_size,
            missing=missing_of(ingests[k]),
            focal_widths=focal_widths[k],
        )
        for k in cameras
    ]
    fitted = fit_track(
        footage,
        fps=ingests[0]["fps"],
        splits=splits,
        calibration=None if known is None else _at_working_size(known, pictures),
        model=model,
        report=report,
        config=config,
    )
    track = in_stored_pixels(fitted.track, scales)
    main = track.main
    sharpness = mattes[main]["looks"]["sharpness"]
    if len(cameras) == 1:
        judged = judge_frames(
            landmarks[0],
            track,
            sharpness,
            width=ingests[0]["width"],
            height=ingests[0]["height"],
            others=ingests[0]["frames_of_others"],
        )
    else:
        judged = judge_several(landmarks[main], track, sharpness)
    check_enough(judged, splits)
    gains, unmatched = match_colours(
        [one.frame for one in footage], [one.landmarks for one in footage], main
    )
    replace(track, valid=torch.from_numpy(judged.valid)).save(output / "track.safetensors")
    warnings = [
        f"{', '.join(names[k] for k in unmatched)} shares too little skin with the main camera to match its "
        f"colours: they are used as they are."
    ]
    return {
        "focal": focal_found(fitted, scales[main]),
        "invalid": judged.reasons,
        "gains": [list(gain) for gain in gains],
        "warnings": warnings if unmatched else [],
        "seconds": {"track": time.perf_counter() - start},
    }


def _at_working_size(known: Calibration, pictures: Sequence[Pictures]) -> Calibration:
    """Return the cameras in pixels of the pictures that the tracker is given."""
    K = known.K.clone()
    for k, one in enumerate(pictures):
        K[k, :2] *= one.working_scale
    return replace(known, K=K, sizes=tuple(one.working_size for one in pictures))
