"""How good an avatar is on frames that it has never seen: eval.json's numbers.

Test frames are driven by the tracker's state alone; nothing is optimised on them. Metrics are means
over frames of the full frame, person on white.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from avatar.capture_data import Capture
from avatar.model.avatar import Avatar
from avatar.raster import one_torch_thread, rasterize
from avatar.train.metrics import alpha_iou, flip, lmd_px, lpips, psnr, ssim
from avatar.types import Progress, Reporter, ignore_progress

Detector = Callable[[np.ndarray], "np.ndarray | None"]
"""Takes a picture uint8 [H, W, 3], returns face points [478, 3] in pixels or None."""

PictureListener = Callable[[int, np.ndarray, np.ndarray], None]
"""Takes frame index, held-out picture and avatar's picture, both uint8 [H, W, 3]."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured."""

    flip_frames: int = 20
    """FLIP costs 0.2 s at 512x512 and over a second at 720x1280; it is measured on this many frames, evenly spread."""
    speed_frames: int = 100
    """Frames over which rendering speed is timed."""


@torch.no_grad()
def evaluate(
    avatar: Avatar,
    capture: Capture,
    *,
    detect: Detector | None = None,
    picture: PictureListener | None = None,
    config: EvaluateConfig = EvaluateConfig(),
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Measure an avatar on the held-out frames of its capture.

    Args:
        avatar: the fitted avatar.
        capture: the capture it was fitted to; the frames of ``splits.test`` that show a face are used.
        detect: face landmark detector for ``lmd_px``; without one that value is None.
        picture: is given every pair of pictures, for preview and contact sheet.
        config: what is measured.
        report: listener of progress.

    Returns:
        The fields of eval.json (see the README): frames, psnr [dB], ssim, flip, lpips (None without
        local weights), lmd_px, alpha_iou, resolution, background, gaussians, render_fps,
        animate_render_fps, seconds, device, split; also ``per_frame`` psnr.
    """
    track, splits = capture.track, capture.splits
    everything = list(range(*splits.test))
    frames = [f for f in everything if bool(track.valid[f])]
    states, camera = track.states(), capture.camera()
    white = torch.ones(3)
    every = max(1, len(frames) // config.flip_frames)
    rows: dict[str, list[float]] = {k: [] for k in ("psnr", "ssim", "flip", "lpips", "lmd", "iou")}
    for order, frame in enumerate(everything):
        truth = torch.from_numpy(capture.on_white(frame))
        mask = torch.from_numpy(capture.mask(frame).astype(np.float32) / 255)
        output = rasterize(avatar.pose(states[frame]), camera, background=white)
        image = output.rgb.clamp(0, 1)
        shown = (image * 255).round().byte().numpy()
        if picture is not None:
            picture(frame, (truth * 255).round().byte().numpy(), shown)
        if not track.valid[frame]:
            continue  # shown, so that the preview's sound stays in step, but nothing to measure
        rows["psnr"].append(psnr(image, truth))
        rows["ssim"].append(ssim(image, truth))
        rows["iou"].append(alpha_iou(output.alpha, mask))
        if order % every == 0:
            rows["flip"].append(flip(image, truth))
            distance = lpips(image, truth)
            if distance is not None:
                rows["lpips"].append(distance)
        if detect is not None:
            found = detect(shown)
            if found is not None:
                points = torch.from_numpy(np.asarray(found)[:, :2]).float()
                rows["lmd"].append(lmd_px(points, track.landmarks_px[frame]))
        report(Progress("evaluate", order + 1, len(everything), values={"psnr": rows["psnr"][-1]}))

    def mean(name: str) -> float | None:
        return round(float(np.mean(rows[name])), 4) if rows[name] else None

    render_fps, animate_fps = _speed(avatar, capture, frames or [0], config.speed_frames)
    seconds = capture.seconds | avatar.header.get("seconds", {})
    known = {k: round(float(seconds.get(k, 0.0)), 2) for k in STAGES}
    return {
        "frames": len(frames),
        "psnr": mean("psnr"),
        "ssim": mean("ssim"),
        "flip": mean("flip"),
        "lpips": mean("lpips"),
        "lmd_px": mean("lmd"),
        "alpha_iou": mean("iou"),
        "resolution": [capture.width, capture.height],
        "background": "white",
        "gaussians": len(avatar),
        "render_fps": render_fps,
        "animate_render_fps": animate_fps,
        "seconds": known | {"total": round(sum(known.values()), 2)},
        "device": "cpu",
        "split": {"train": list(splits.train), "test": list(splits.test)},
        "per_frame": {"frame": frames, "psnr": [round(v, 3) for v in rows["psnr"]]},
    }


STAGES = ("ingest", "landmarks", "matte", "track", "train")


def _speed(avatar: Avatar, capture: Capture, frames: list[int], count: int) -> tuple[float, float]:
    """Frames a second of drawing alone, and of posing a new state and drawing, from medians."""
    states, camera, white = capture.track.states(), capture.camera(), torch.ones(3)
    draw, both = [], []
    for k in range(count):
        state = states[frames[k % len(frames)]]
        with one_torch_thread():
            begin = time.perf_counter()
            gaussians = avatar.pose(state)
            posed = time.perf_counter()
            rasterize(gaussians, camera, background=white)
            end = time.perf_counter()
        draw.append(end - posed)
        both.append(end - begin)
    return round(1 / median(draw), 1), round(1 / median(both), 1)
