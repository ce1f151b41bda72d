"""How good an avatar is on frames that it has never seen: eval.json's numbers.

Test frames are driven by the tracker's state alone; nothing is optimised on them. Metrics are means
over frames of the full frame, person on white.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from avatar.capture_data import Capture
from avatar.model.avatar import Avatar
from avatar.raster import rasterize
from avatar.train.device import DeviceName, compute_device, device_label
from avatar.train.evaluate_cameras import CameraListener, measure_cameras, preview_camera
from avatar.train.metrics import alpha_iou, flip, lmd_px, lpips, psnr, ssim
from avatar.train.regions import RegionErrors, label_regions
from avatar.train.sanity import check_sliders
from avatar.train.speed import frame_rates
from avatar.types import Progress, Reporter, ignore_progress

Detector = Callable[[np.ndarray], "np.ndarray | None"]
"""Takes a picture uint8 [H, W, 3], returns face points [478, 3] in pixels or None."""

PictureListener = Callable[[int, np.ndarray, np.ndarray], None]
"""Takes frame index, held-out picture and avatar's picture, both uint8 [H, W, 3]."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured."""

    max_side: int | None = None
    """Longer side at which pictures are compared, pixels, the capture's at most; None is the one at
    which the avatar was trained. Numbers taken at different sizes do not compare."""
    flip_frames: int = 20
    """FLIP costs 0.2 s at 512x512 and over a second at 720x1280; it is measured on this many frames, evenly spread."""
    speed_frames: int = 100
    """Frames over which rendering speed is timed."""
    device: DeviceName = "cpu"
    """Where rendering speed is timed; auto is the GPU where its kernels run. Pictures are the CPU's."""


@torch.no_grad()
def evaluate(
    avatar: Avatar,
    capture: Capture,
    *,
    detect: Detector | None = None,
    picture: PictureListener | None = None,
    camera_picture: CameraListener | None = None,
    config: EvaluateConfig = EvaluateConfig(),
    seconds: Mapping[str, float] | None = None,
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Measure an avatar on the held-out frames of its capture.

    Args:
        avatar: the fitted avatar.
        capture: the capture it was fitted to; the valid frames of ``splits.test`` are used.
        detect: face landmark detector for ``lmd_px``; without one that value is None.
        picture: is given every pair of the main camera's pictures, for preview and contact sheet, at the
            size at which they are compared; white for what that camera has no picture of.
        camera_picture: of a capture of several cameras, is given pairs of pictures of each, every one of
            the camera that ``preview_camera`` names.
        config: what is measured.
        seconds: what stages after the capture took, by name (see ``run_folder.run_seconds``).
        report: listener of progress.

    Returns:
        The fields of eval.json: frames, psnr [dB], ssim, flip, lpips (None without local weights),
        lmd_px, alpha_iou, resolution [width, height] of the pictures compared, background, gaussians,
        render_fps, animate_render_fps, seconds, device, split; also ``per_frame`` psnr. A metric of
        no frame is None. Leaving out the frames that were blurred or badly tracked flatters, so
        ``frames_left_out`` counts the held-out frames that are not valid, and ``psnr_all_tracked`` is
        the PSNR with those of them in which the tracker saw the face.

        ``regions`` has for each of background, face, mouth, eyes, hair, neck and torso (see
        ``avatar.train.regions``): ``psnr`` [dB] within the region, mean over the frames that show it
        (None where none does), ``error_share`` of the squared error and ``pixel_share`` of the pixels
        of all frames. ``sliders`` says what explodes with each of the 52 sliders at 1.0: see
        ``avatar.train.sanity.check_sliders``. All of that is of the main camera; ``cameras`` has a row for
        each camera of several, see ``avatar.train.evaluate_cameras.measure_cameras``, and is empty for one.
    """
    device = compute_device(config.device)
    track, splits = capture.track, capture.splits
    everything = list(range(*splits.test))
    missing = capture.cameras[capture.main].missing
    frames = [f for f in everything if bool(track.valid[f]) and f not in missing]
    side = config.max_side or trained_side(avatar) or max(capture.width, capture.height)
    size = capture.size_within(side)
    states, camera = track.states(), capture.camera().scaled(*size)
    pixels = torch.tensor([size[0] / capture.width, size[1] / capture.height])
    white = torch.ones(3)
    every = max(1, len(frames) // config.flip_frames)
    names = ("psnr", "psnr_all", "ssim", "flip", "lpips", "lmd", "iou")
    rows: dict[str, list[float]] = {name: [] for name in names}
    regions = RegionErrors()
    for order, frame in enumerate(everything):
        output = rasterize(avatar.pose(states[frame]), camera, background=white)
        image = output.rgb.clamp(0, 1)
        shown = (image * 255).round().byte().numpy()
        if frame in missing:
            if picture is not None:
                picture(frame, np.full_like(shown, 255), shown)
            continue
        truth = torch.from_numpy(capture.on_white(frame, size=size))
        mask = capture.mask(frame, size=size)
        if picture is not None:
            picture(frame, (truth * 255).round().byte().numpy(), shown)
        # Points are 0 where no face was found: there the state is interpolated, and says nothing.
        if track.valid[frame] or track.landmarks_px[frame].any():
            rows["psnr_all"].append(psnr(image, truth))
        if not track.valid[frame]:
            continue  # shown, so that the preview's sound stays in step, but not trusted
        rows["psnr"].append(rows["psnr_all"][-1])
        rows["ssim"].append(ssim(image, truth))
        rows["iou"].append(alpha_iou(output.alpha, torch.from_numpy(mask.astype(np.float32) / 255)))
        labels = label_regions(states[frame], track.lattice, track.basis, camera, mask)
        regions.add(image, truth, labels)
        if (len(rows["psnr"]) - 1) % every == 0:
            rows["flip"].append(flip(image, truth))
            distance = lpips(image, truth)
            if distance is not None:
                rows["lpips"].append(distance)
        if detect is not None:
            found = detect(shown)
            if found is not None:
                points = torch.from_numpy(np.asarray(found)[:, :2]).float()
                rows["lmd"].append(lmd_px(points, track.landmarks_px[frame] * pixels))
        report(Progress("evaluate", order + 1, len(everything), values={"psnr": rows["psnr"][-1]}))

    def mean(name: str) -> float | None:
        return round(float(np.mean(rows[name])), 4) if rows[name] else None

    cameras = []
    if len(capture.cameras) > 1:
        whole = preview_camera(avatar, capture)
        cameras = measure_cameras(
            avatar, capture, side, picture=camera_picture, whole=whole, report=report
        )
    render_fps, animate_fps = frame_rates(
        avatar, states[frames or [0]], camera, config.speed_frames, device
    )
    taken = capture.seconds | dict(seconds or {})
    known = {k: round(float(taken.get(k, 0.0)), 2) for k in STAGES}
    return {
        "frames": len(frames),
        "frames_left_out": len(everything) - len(frames),
        "psnr": mean("psnr"),
        "psnr_all_tracked": mean("psnr_all"),
        "ssim": mean("ssim"),
        "flip": mean("flip"),
        "lpips": mean("lpips"),
        "lmd_px": mean("lmd"),
        "alpha_iou": mean("iou"),
        "resolution": list(size),
        "background": "white",
        "gaussians": len(avatar),
        "render_fps": render_fps,
        "animate_render_fps": animate_fps,
        "seconds": known | {"total": round(sum(known.values()), 2)},
        "device": device_label(device),
        "regions": regions.result(),
        "cameras": cameras,
        "sliders": check_sliders(avatar),
        "split": {"train": list(splits.train), "test": list(splits.test)},
        "per_frame": {"frame": frames, "psnr": [round(v, 3) for v in rows["psnr"]]},
    }


STAGES = ("ingest", "landmarks", "matte", "track", "train")


def trained_side(avatar: Avatar) -> int | None:
    """Return the longer side, pixels, at which an avatar was trained; None where its file is silent."""
    config = avatar.header.get("config")
    side = config.get("max_side") if isinstance(config, dict) else None
    return side if isinstance(side, int) and side > 0 else None
