"""``avatar bench track``: time, memory and accuracy of tracking, with or without a known truth."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from avatar.capture_data import Capture, Track
from avatar.checks import InputError
from avatar.types import Progress, Reporter, ignore_progress
from capture.bench_cameras import camera_errors, text_of, true_cameras
from capture.report_track import COMMON_SIDE, common_scale, jitter, pick_apart, residuals_by_region

YAW_BINS = (0.0, 8.0, 20.0, 35.0, 180.0)
"""Borders of |yaw| in degrees for the error budget."""
WORST = 5
"""Moments that the error budget names."""
MOVES = 0.04
"""A true curve counts from this standard deviation on: less is no motion to correlate with."""
CORE = (
    "jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "mouthSmileLeft", "mouthSmileRight", "mouthPucker",
    "mouthFunnel", "browInnerUp", "browDownLeft", "browDownRight",
)  # fmt: skip
"""The curves that a talking face cannot do without."""
TRUTH_KEYS = (
    "names", "weights", "head_rotation", "head_translation_cm", "neck_pivot_cm", "K",
    "world_to_camera_R", "world_to_camera_t_cm",
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What a rendered head really did, seen from one camera."""

    rotation: np.ndarray
    """[F, 3, 3] head to camera."""
    position_m: np.ndarray
    """[F, 3] the neck's pivot in the camera, metres."""
    focal_px: float
    """Focal length."""
    curves: dict[str, np.ndarray]
    """ARKit name to [F] coefficients."""

    def __len__(self) -> int:
        return len(self.rotation)

    @staticmethod
    def load(path: Path, camera: int = 0) -> Truth:
        """Read an .npz as rendered heads come with; raises InputError saying what is wrong."""
        try:
            with np.load(path, allow_pickle=False) as file:
                missing = [key for key in TRUTH_KEYS if key not in file.files]
                values = {key: file[key] for key in TRUTH_KEYS if key in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} cannot be read as a truth file ({error}). Give the truth.npz of a rendered head."
            ) from error
        if missing:
            raise InputError(
                f"{path} has no {', '.join(missing)}. Give the truth.npz of a rendered head."
            )
        cameras = len(values["world_to_camera_R"])
        if not 0 <= camera < cameras:
            raise InputError(
                f"--camera {camera}: {path} has cameras 0 to {cameras - 1}. Give one of them."
            )
        R = values["world_to_camera_R"][camera].astype(float)
        t = values["world_to_camera_t_cm"][camera].astype(float) / 100
        pivot = (values["neck_pivot_cm"] + values["head_translation_cm"]).astype(float) / 100
        return Truth(
            rotation=R @ values["head_rotation"].astype(float),
            position_m=pivot @ R.T + t,
            focal_px=float(values["K"][0, 0]),
            curves=_apple_curves(values["names"], values["weights"].astype(float)),
        )


def _apple_curves(names: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Name curves as Apple does: sides spelled out, browInnerUp and cheekPuff as the mean of their halves."""
    halves: dict[str, list[np.ndarray]] = {}
    for name, curve in zip((str(n) for n in names), weights.T, strict=True):
        whole = name.startswith(("browInnerUp", "cheekPuff"))
        apple = name[:-2] if whole else name.replace("_L", "Left").replace("_R", "Right")
        halves.setdefault(apple, []).append(curve)
    return {name: np.mean(parts, axis=0) for name, parts in halves.items()}


def score(track: Track, truth: Truth, camera: int = 0) -> dict[str, Any]:
    """Compare a track with the truth; pose on valid frames, expression on all.

    Rotation: the angle between tracked and true rotation to the camera after one constant offset of
    the head's frame (the one that is nearest in the least-squares sense, which two rigs may differ by).
    Jitter: RMS of second differences of that error, as a rotation vector in the head's frame.
    Translation: the tracked origin is explained as ``scale`` times the true pivot plus a constant
    offset in the head's frame; what is left, divided by the scale, is ``translation_mm``.
    Expression: Pearson's r of each true curve that moves with the tracked coefficient of that name
    (0 where there is none), and the slope of tracked over true, 1 where amplitudes agree.

    Args:
        track: the track; its camera ``camera`` is compared, or its only one.
        truth: of the same frames.
        camera: which of the track's cameras.

    Raises:
        InputError: another number of frames, or fewer than three valid ones.
    """
    if len(track) != len(truth):
        raise InputError(
            f"The track has {len(track)} frames and the truth {len(truth)}. Give the truth of the same "
            "clip, captured whole."
        )
    valid = track.valid.numpy()
    if valid.sum() < 3:
        raise InputError("The track has fewer than 3 valid frames: nothing can be compared.")
    own = camera if camera < len(track.K) else track.main
    T = (track.T_cam_world[own].double() @ track.T_world_head.double()).numpy()[valid]
    R, p = T[:, :3, :3], T[:, :3, 3]
    R_true, p_true = truth.rotation[valid], truth.position_m[valid]

    offset = _nearest_rotation(np.einsum("fji,fjk->ik", R_true, R))
    error = np.swapaxes(R_true @ offset, 1, 2) @ R  # in the tracked head's frame
    angle = np.degrees(np.arccos(np.clip((np.trace(error, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    axis = np.stack([error[:, 2, 1], error[:, 0, 2], error[:, 1, 0]], 1)
    axis = np.degrees(axis - np.stack([error[:, 1, 2], error[:, 2, 0], error[:, 0, 1]], 1)) / 2
    shake = np.diff(axis, 2, axis=0)

    # p = scale p_true + R_true o: linear in scale and o.
    system = np.concatenate([p_true[:, :, None], R_true], 2).reshape(-1, 4)
    solution = np.linalg.lstsq(system, p.reshape(-1), rcond=None)[0]
    left = (system @ solution - p.reshape(-1)).reshape(-1, 3) / abs(solution[0])

    curves = _score_curves(track, truth)
    forward = R_true[:, :, 2]
    yaw = np.degrees(np.arctan2(forward[:, 0], -forward[:, 2]))
    frames = np.flatnonzero(valid)
    return {
        "rotation_deg": float(angle.mean()),
        "rotation_p95_deg": float(np.percentile(angle, 95)),
        "rotation_jitter_deg": float(np.sqrt((shake**2).sum(1).mean())) if len(shake) else 0.0,
        "translation_mm": float(np.linalg.norm(left, axis=1).mean() * 1e3),
        "scale": float(solution[0]),
        "focal_ratio": float(track.K[own, 0, 0]) / truth.focal_px,
        "expression_r": _mean(curves, "r", list(curves)),
        "expression_r_core": _mean(curves, "r", CORE),
        "expression_slope_core": _mean(curves, "slope", CORE),
        "gaze_r": _mean(curves, "r", [n for n in curves if n.startswith("eyeLook")]),
        "gaze_slope": _mean(curves, "slope", [n for n in curves if n.startswith("eyeLook")]),
        "curves": curves,
        "budget": _budget(angle, axis, yaw, frames, track.fps),
    }


def _nearest_rotation(M: np.ndarray) -> np.ndarray:
    """Return the rotation nearest to a matrix [3, 3] (Kabsch)."""
    U, _, Vt = np.linalg.svd(M)
    return U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt


def _score_curves(track: Track, truth: Truth) -> dict[str, dict[str, float]]:
    names = track.expression_names
    out: dict[str, dict[str, float]] = {}
    for name, real in truth.curves.items():
        if real.std() < MOVES:
            continue
        found = (
            track.expression[:, names.index(name)].double().numpy()
            if name in names
            else np.zeros(len(real))
        )
        covariance = np.cov(real, found)
        still = found.std() < 1e-6
        r = 0.0 if still else covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
        out[name] = {"r": float(r), "slope": float(covariance[0, 1] / covariance[0, 0])}
    return out


def _mean(curves: dict[str, dict[str, float]], key: str, names: Sequence[str]) -> float | None:
    values = [curves[name][key] for name in names if name in curves]
    return float(np.mean(values)) if values else None


def _budget(
    angle: np.ndarray, axis: np.ndarray, yaw: np.ndarray, frames: np.ndarray, fps: float
) -> dict[str, Any]:
    """Say where the rotation error lies: by |yaw|, by axis, and the worst moments (half a second apart)."""
    bins = []
    for low, high in pairwise(YAW_BINS):
        inside = (np.abs(yaw) >= low) & (np.abs(yaw) < high)
        bins.append(
            {
                "yaw_deg": [low, high],
                "frames": int(inside.sum()),
                "rotation_deg": float(angle[inside].mean()) if inside.any() else None,
            }
        )
    by_frame = np.full(int(frames[-1]) + 1, -np.inf)
    by_frame[frames] = angle
    place = {int(frame): k for k, frame in enumerate(frames)}
    worst = [
        {
            "frame": frame,
            "rotation_deg": float(angle[place[frame]]),
            "yaw_deg": float(yaw[place[frame]]),
        }
        for frame in pick_apart(by_frame, WORST, max(1, round(fps / 2)))
    ]
    rms = np.sqrt((axis**2).mean(0))
    return {
        "by_yaw": bins,
        "rms_deg": dict(zip(("pitch", "yaw", "roll"), map(float, rms), strict=True)),
        "worst": worst,
    }


def measure(capture: Capture) -> dict[str, Any]:
    """Return what needs no truth: seconds, residuals, jitter, valid share, focal length."""
    track = capture.track
    valid = track.valid
    scale = common_scale(capture.width, capture.height)
    residual = track.residual_px[valid].numpy() * scale
    facing = residuals_by_region(track)["all"][valid.numpy()] * scale
    shake = jitter(track)
    clip_s = capture.frames / capture.fps
    total = sum(capture.seconds.values())
    return {
        "source": str(capture.header.get("source", capture.path.name)),
        "frames": capture.frames,
        "fps": capture.fps,
        "clip_s": clip_s,
        "seconds": {**capture.seconds, "total": total},
        "times_clip": total / clip_s,
        "peak_mib": None,
        "wall_s": None,
        "valid": float(valid.float().mean()),
        "residual_512_px": float(np.median(residual)) if len(residual) else None,
        "residual_p95_512_px": float(np.percentile(residual, 95)) if len(residual) else None,
        "residual_facing_512_px": float(np.nanmedian(facing)) if len(residual) else None,
        "jitter_deg": shake.rotation_deg,
        "jitter_mm": shake.position_mm,
        "jitter_extra_deg": shake.rotation_extra_deg,
        "jitter_extra_mm": shake.position_extra_mm,
        "focal_px": float(track.K[track.main, 0, 0]),
        "focal": capture.header.get("focal"),
    }


def bench_track(
    paths: Sequence[Path],
    *,
    truth: Path | None = None,
    camera: int = 0,
    cameras: Sequence[int] | None = None,
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Measure captures, or clips that are captured for it in a process of their own.

    Args:
        paths: capture folders and video files.
        truth: the true motion, of every one of them.
        camera: which of the truth's cameras filmed them, where they are of one camera.
        cameras: of captures of several cameras, the truth's camera of each; by order where None.
        report: listener; stage "bench".

    Raises:
        InputError: nothing was given, or something is no capture, no video, or not of this truth.
    """
    if not paths:
        raise InputError("avatar bench track needs at least one capture folder or video.")
    known = None if truth is None else Truth.load(truth, camera)
    rows = []
    for done, path in enumerate(paths):
        report(Progress("bench", done, len(paths), f"{path}"))
        if path.is_dir():
            capture = Capture(path)
            row = measure(capture)
            if known is not None and truth is not None:
                row |= _against(capture.track, known, truth, camera, cameras)
        else:
            row = _capture_and_measure(path, known, camera)
        rows.append({"path": str(path), **row})
    report(Progress("bench", len(paths), len(paths)))
    return {"rows": rows}


def _against(
    track: Track, known: Truth, truth: Path, camera: int, cameras: Sequence[int] | None
) -> dict[str, Any]:
    """Score a track by its main camera, and its cameras where there are several."""
    count = len(track.K)
    if count == 1:
        return {"truth": score(track, known, camera)}
    chosen = list(range(count)) if cameras is None else list(cameras)
    if len(chosen) != count:
        raise InputError(f"--cameras names {len(chosen)} cameras, but the capture has {count}.")
    errors = camera_errors(track, *true_cameras(truth, chosen))
    main = Truth.load(truth, chosen[track.main])
    return {"truth": score(track, main, track.main), "cameras": errors}


def _capture_and_measure(video: Path, truth: Truth | None, camera: int) -> dict[str, Any]:
    """Capture a clip into a folder that is thrown away, in a fresh process whose memory is measured."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-track-") as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        output = Path(folder) / "me.capture"
        begin = time.perf_counter()
        peak = pool.submit(_capture_here, video, output).result()
        wall = time.perf_counter() - begin
        capture = Capture(output)
        row = {**measure(capture), "peak_mib": peak / 2**20, "wall_s": wall}
        row["times_clip"] = wall / row["clip_s"]
        if truth is not None:
            row["truth"] = score(capture.track, truth, camera)
    return row


def _capture_here(video: Path, output: Path) -> int:
    """Capture; return the peak of this process's resident memory and its largest child's, bytes."""
    from capture.pipeline import CaptureConfig, capture_video

    torch.set_num_threads(1)  # as the command line does
    capture_video([video], output, CaptureConfig())
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss of a new process starts from its parent's; VmHWM does not
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                own = int(line.split()[1]) * 1024
    return own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit


def print_rows(result: dict[str, Any], console: Console) -> None:
    """Print a table, one column a clip, and with a truth its scores and the error budget."""
    rows = result["rows"]
    stages = list(dict.fromkeys(stage for row in rows for stage in row["seconds"]))
    facts: dict[str, Callable[[dict[str, Any]], str]] = {
        "frames": lambda r: str(r["frames"]),
        "valid": lambda r: f"{r['valid']:.3f}",
        **{f"{name}, s": lambda r, n=name: _text(r["seconds"].get(n), 1) for name in stages},
        "times the clip's length": lambda r: _text(r["times_clip"], 2),
        "peak memory, MiB": lambda r: _text(r["peak_mib"], 0),
        f"residual at {COMMON_SIDE}, px": lambda r: _text(r["residual_512_px"], 2),
        "  95th percentile": lambda r: _text(r["residual_p95_512_px"], 2),
        "  as detected, with its slide": lambda r: _text(r["residual_facing_512_px"], 2),
        "jitter, degrees": lambda r: f"{r['jitter_deg']:.2f}",
        "  beyond smooth motion": lambda r: f"{r['jitter_extra_deg']:.2f}",
        "jitter, mm": lambda r: f"{r['jitter_mm']:.2f}",
        "  beyond smooth motion ": lambda r: f"{r['jitter_extra_mm']:.2f}",
        "focal length, px": lambda r: f"{r['focal_px']:.0f}",
    }
    console.print(_table(rows, "", facts))
    scored = [row for row in rows if "truth" in row]
    if not scored:
        return
    scores = {
        "rotation, degrees": "rotation_deg",
        "  95th percentile": "rotation_p95_deg",
        "  jitter": "rotation_jitter_deg",
        "translation, mm": "translation_mm",
        "scale": "scale",
        "focal length, ratio": "focal_ratio",
        "expression r, core": "expression_r_core",
        "  slope": "expression_slope_core",
        "expression r, all": "expression_r",
        "gaze r": "gaze_r",
        "  slope ": "gaze_slope",
    }
    against = {title: lambda r, k=key: _text(r["truth"][k], 3) for title, key in scores.items()}
    console.print(_table(scored, "against the truth", against))
    for row in scored:
        if "cameras" in row:
            console.print(f"{_name(row)}: {text_of(row['cameras'])}")
        budget = row["truth"]["budget"]
        bins = ", ".join(
            f"|yaw| {b['yaw_deg'][0]:g} to {b['yaw_deg'][1]:g}: {_text(b['rotation_deg'], 2)} "
            f"({b['frames']} frames)"
            for b in budget["by_yaw"]
        )
        axes = ", ".join(f"{name} {value:.2f}" for name, value in budget["rms_deg"].items())
        worst = ", ".join(
            f"{w['frame']} ({w['rotation_deg']:.1f} at yaw {w['yaw_deg']:.0f})"
            for w in budget["worst"]
        )
        console.print(f"{_name(row)}: rotation error in degrees by {bins}.")
        console.print(f"  RMS by axis: {axes}. Worst frames: {worst}.")
        curves = row["truth"]["curves"]
        console.print(
            "  r / slope: "
            + ", ".join(f"{n} {c['r']:.2f} / {c['slope']:.2f}" for n, c in sorted(curves.items()))
        )


def _name(row: dict[str, Any]) -> str:
    """The last two parts of the path: captures tend to be called alike in folders that are not."""
    return "/".join(Path(row["path"]).parts[-2:])


def _table(
    rows: list[dict[str, Any]], title: str, facts: dict[str, Callable[[dict[str, Any]], str]]
) -> Table:
    """One column a clip: clips are few, facts are many, and terminals are narrow."""
    table = Table()
    table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_column(_name(row), justify="right", overflow="fold")
    for name, text in facts.items():
        table.add_row(name.rstrip(), *(text(row) for row in rows))
    return table


def _text(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
