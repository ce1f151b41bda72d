"""How good an avatar is camera by camera: on held-out frames, and from cameras it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from avatar.capture_data import Capture
from avatar.model.avatar import Avatar
from avatar.raster import rasterize
from avatar.train.metrics import psnr, ssim
from avatar.types import Progress, Reporter, ignore_progress

MOST_FRAMES = 300
"""Frames of a camera that are measured, of those held out and of the others each, evenly spread: 16 cameras
of long clips would take half an hour."""

CameraListener = Callable[[int, int, np.ndarray, np.ndarray], None]
"""Takes camera, frame, filmed picture (white where there is none) and avatar's, both uint8 [H, W, 3]."""


def held_cameras(avatar: Avatar) -> tuple[int, ...]:
    """Return the cameras that an avatar was not fitted to, as its file says."""
    config = avatar.header.get("config")
    held = config.get("hold_cameras") if isinstance(config, dict) else None
    return tuple(k for k in held if type(k) is int) if isinstance(held, list) else ()


def preview_camera(avatar: Avatar, capture: Capture) -> int:
    """Return the camera that previews show: the first that is held out, else the main one."""
    held = [k for k in held_cameras(avatar) if 0 <= k < len(capture.cameras)]
    return held[0] if held else capture.main


@torch.no_grad()
def measure_cameras(
    avatar: Avatar,
    capture: Capture,
    max_side: int,
    *,
    picture: CameraListener | None = None,
    whole: int | None = None,
    report: Reporter = ignore_progress,
) -> list[dict[str, Any]]:
    """Compare an avatar with what each camera saw, person on white, full frame.

    Nothing is optimised on any of these pictures; the states are the track's, the cameras the capture's
    own calibration.

    Args:
        avatar: fitted to ``capture``.
        capture: of one or several cameras.
        max_side: longer side at which pictures are compared, pixels.
        picture: is given the pairs of held-out frames.
        whole: a camera of which every held-out frame is shown to ``picture``, valid or not.
        report: listener of progress, stage "cameras".

    Returns:
        For each camera ``camera``, ``name``, ``main``, ``held``, ``resolution`` [width, height]; means over
        the valid held-out frames, ``MOST_FRAMES`` at most: ``frames``, ``psnr`` [dB], ``ssim``; and of a held
        camera the same over valid frames of the whole clip: ``frames_all``, ``psnr_all``, ``ssim_all``. A
        mean of no frame is None.
    """
    held = held_cameras(avatar)
    track, (begin, end) = capture.track, capture.splits.test
    states, white = track.states(), torch.ones(3)
    rows = []
    for index, info in enumerate(capture.cameras):
        size = capture.size_within(max_side, index)
        camera = capture.camera(index).scaled(*size)
        seen = [f for f in range(capture.frames) if track.valid[f] and f not in info.missing]
        measured = set(_spread([f for f in seen if begin <= f < end]))
        if index in held:
            measured |= set(_spread([f for f in seen if not begin <= f < end]))
        shown = measured | (set(range(begin, end)) if index == whole else set())
        found: dict[int, tuple[float, float]] = {}
        for frame in sorted(shown):
            image = rasterize(avatar.pose(states[frame]), camera, background=white).rgb.clamp(0, 1)
            truth = torch.ones_like(image)
            if frame not in info.missing:
                truth = torch.from_numpy(capture.on_white(frame, index, size=size))
            if frame in measured:
                found[frame] = psnr(image, truth), ssim(image, truth)
            if picture is not None and begin <= frame < end:
                pair = ((p * 255).round().byte().numpy() for p in (truth, image))
                picture(index, frame, *pair)
        last = [value for frame, value in found.items() if begin <= frame < end]
        row = {
            "camera": index,
            "name": info.name,
            "main": index == capture.main,
            "held": index in held,
            "resolution": list(size),
            **_means(last, ""),
        }
        rows.append(row | (_means(list(found.values()), "_all") if index in held else {}))
        report(Progress("cameras", index + 1, len(capture.cameras)))
    return rows


def _spread(frames: list[int]) -> list[int]:
    """Return ``MOST_FRAMES`` at most of the frames, evenly spread."""
    if len(frames) <= MOST_FRAMES:
        return frames
    return [frames[round(i)] for i in np.linspace(0, len(frames) - 1, MOST_FRAMES)]


def _means(values: list[tuple[float, float]], suffix: str) -> dict[str, Any]:
    """Number of frames, and their mean PSNR and SSIM."""
    means = np.mean(values, 0).round(4).tolist() if values else (None, None)
    return {
        f"frames{suffix}": len(values),
        f"psnr{suffix}": means[0],
        f"ssim{suffix}": means[1],
    }
