"""``avatar bench avatar``: how good, how fast and how large avatars are, deformer by deformer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.model.deformers import DEFORMERS, DeformerKind
from avatar.raster import one_torch_thread
from avatar.train.config import TrainConfig
from avatar.train.device import DeviceName
from avatar.train.evaluate import Detector, EvaluateConfig, evaluate
from avatar.train.frames import training_cameras
from avatar.train.loop import fit
from avatar.train.novel_views import (
    CameraRig,
    NovelView,
    calibration_errors,
    filmed_by,
    measure_view,
)
from avatar.train.run_folder import can_resume, run_seconds
from avatar.types import HeadState, Reporter, ignore_progress

COLUMNS = 6
"""Frames on a contact sheet."""
TIMED_POSES = 60
SAME_DEG = 0.005
"""A capture whose cameras are nowhere turned by more from the true ones was given those."""


@dataclass(frozen=True)
class Sheet:
    """Pictures of a bench, to be laid out by whoever asked for it."""

    name: str
    rows: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    """Label of the row to frame to picture uint8 [H, W, 3]."""


def deformer_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds that a list with commas names; "all" is all of them.

    Raises:
        InputError: a kind is unknown.
    """
    if text == "all":
        return tuple(DEFORMERS)
    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for kind in kinds:
        if kind not in DEFORMERS:
            raise InputError(
                f"--deformers: '{kind}' is unknown; known are {', '.join(DEFORMERS)}, or all."
            )
    return kinds


def with_deformer(config: TrainConfig, kind: str) -> TrainConfig:
    """Return the settings of a fit with a deformer of that kind; raises InputError for an unknown one."""
    (known,) = deformer_kinds(kind)
    return replace(config, create=replace(config.create, deformer=cast(DeformerKind, known)))


def bench_avatars(
    captures: Sequence[Path],
    config: TrainConfig,
    kinds: Sequence[str],
    folder: Path,
    *,
    detect: Detector | None = None,
    rig: CameraRig | None = None,
    views: Sequence[NovelView] = (),
    evaluation: EvaluateConfig = EvaluateConfig(),
    sheet: Callable[[Sheet], None] | None = None,
    report: Reporter = ignore_progress,
    device: DeviceName = "cpu",
) -> dict[str, Any]:
    """Fit and measure an avatar for every capture and deformer; what is fitted already is taken as it is.

    Args:
        captures: capture folders.
        config: settings of the fits.
        kinds: deformers, of ``DEFORMERS``.
        folder: gets a run CAPTURE-KIND.run for each fit.
        detect: face landmark detector for ``lmd_px``.
        rig: true cameras of the captures that are views of one rendered clip.
        views: its other cameras, to be rendered by the avatars of those captures.
        evaluation: what is measured on held-out frames.
        sheet: is given the pictures of each capture.
        report: listener of progress.
        device: where to fit, and to time frames a second; ``pose_ms`` is always the CPU's.

    Returns:
        ``rows``: for each fit ``capture``, ``deformer``, ``psnr``, ``ssim``, ``flip``, ``lmd_px``,
        ``fit_s``, ``pose_ms``, ``render_fps``, ``animate_render_fps``, ``device``, ``bytes``, ``gaussians``, ``regions``, ``sliders``,
        ``novel`` (see ``measure_view``, one entry a view), ``cameras`` (of a capture of several, see
        ``avatar.train.evaluate_cameras.measure_cameras``) and ``calibration``: how far its cameras are from
        those of ``rig`` (see ``calibration_errors``), None where that is not known.

    Raises:
        InputError: no capture, captures of one name, or novel views that none of them belongs to.
    """
    if not captures:
        raise InputError("avatar bench avatar needs at least one capture folder.")
    opened = {
        Path(path).resolve().name.removesuffix(".capture"): Capture(path) for path in captures
    }
    if len(opened) < len(captures):
        raise InputError("Two captures have one name, and so would their runs: rename one of them.")
    for capture in opened.values():  # said before the first of them is fitted
        training_cameras(capture, () if len(capture.cameras) == 1 else config.hold_cameras)
    seen = {name: rig is not None and filmed_by(c, rig) is not None for name, c in opened.items()}
    several = any(len(capture.cameras) > 1 for capture in opened.values())
    # Of a capture of several cameras the truth alone says something: how far they are from it.
    if (views and rig is None) or (rig is not None and not views and not several):
        raise InputError("--novel-truth and --novel-view belong together: give both or neither.")
    if config.hold_cameras and not several:
        raise InputError("--hold-cameras needs a capture of several cameras; none of these is.")
    if views and not any(seen.values()):
        raise InputError(
            "None of the captures was filmed by a camera of --novel-truth: give a capture of one of its "
            "clips, whole."
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, capture in opened.items():
        held_out = [f for f in range(*capture.splits.test) if bool(capture.track.valid[f])]
        shown = (
            {held_out[round(i)] for i in np.linspace(0, len(held_out) - 1, COLUMNS)}
            if held_out
            else set()
        )
        pictures = Sheet(name)
        novel_sheets = {view.name: Sheet(f"{name}-{view.name}") for view in views if seen[name]}
        for kind in kinds:
            run = folder / f"{name}-{kind}.run"
            settings = with_deformer(config, kind)
            if len(capture.cameras) == 1:
                settings = replace(settings, hold_cameras=())
            avatar = _fitted(capture, run, settings, report, device)
            result = evaluate(
                avatar,
                capture,
                detect=detect,
                picture=_keep(pictures, kind, shown),
                config=replace(evaluation, device=device),
                seconds=run_seconds(run),
                report=report,
            )
            novel = [
                measure_view(
                    avatar,
                    capture,
                    rig,  # pyright: ignore[reportArgumentType]  # seen says that it is there
                    view,
                    picture=_keep(novel_sheets[view.name], kind, shown),
                    report=report,
                )
                for view in (views if seen[name] else ())
            ]
            known = (
                "psnr",
                "ssim",
                "flip",
                "lmd_px",
                "render_fps",
                "animate_render_fps",
                "device",
                "gaussians",
                "regions",
                "sliders",
                "cameras",
            )
            rows.append(
                {
                    "capture": name,
                    "deformer": kind,
                    **{key: result[key] for key in known},
                    "fit_s": run_seconds(run).get("train"),
                    "pose_ms": pose_ms(avatar, capture.track.states()[held_out or [0]]),
                    "bytes": (run / "avatar.avatar").stat().st_size,
                    "novel": novel,
                    "calibration": _calibration(capture, rig),
                }
            )
        for one in (pictures, *novel_sheets.values()):
            if sheet is not None and one.rows:
                sheet(one)
    return {"rows": rows}


def _calibration(capture: Capture, rig: CameraRig | None) -> dict[str, float] | None:
    """How far a capture's cameras are from the true ones, where all of those filmed it."""
    if rig is None or len(capture.cameras) != len(rig.T_cam_world) or len(rig.T_cam_world) < 2:
        return None
    return calibration_errors(capture, rig)


def _fitted(
    capture: Capture, run: Path, config: TrainConfig, report: Reporter, device: DeviceName
) -> Avatar:
    """The avatar of a run: read where it is finished, gone on with where it was begun, else fitted."""
    again = can_resume(capture, run, config)
    file = run / "avatar.avatar"
    if again and file.is_file():
        avatar = Avatar.load(file)
        if avatar.header.get("config") == config.to_json():
            return avatar
    fit(capture, run, config, resume=again, overwrite=not again, report=report, device=device)
    return Avatar.load(file)  # measured as it is stored


def _keep(
    sheet: Sheet, kind: str, frames: set[int]
) -> Callable[[int, np.ndarray, np.ndarray], None]:
    """A listener of pictures that keeps those of some frames, the truth once."""

    def on_picture(frame: int, truth: np.ndarray, picture: np.ndarray) -> None:
        if frame in frames:
            sheet.rows.setdefault("truth", {})[frame] = truth
            sheet.rows.setdefault(kind, {})[frame] = picture

    return on_picture


@torch.no_grad()
def pose_ms(avatar: Avatar, states: HeadState) -> float:
    """Return the median time of posing one of the states [F], milliseconds."""
    times = []
    with one_torch_thread():
        for k in range(TIMED_POSES):
            begin = time.perf_counter()
            avatar.pose(states[k % len(states)])
            times.append(time.perf_counter() - begin)
    return round(1e3 * median(times), 3)


def print_table(result: dict[str, Any], console: Console) -> None:
    """Print one row a fit, and below it one a novel view."""
    table = Table()
    table.add_column("capture", no_wrap=True, min_width=12)
    table.add_column("deformer", no_wrap=True)
    heads = ("PSNR dB", "SSIM", "FLIP", "lmd px", "fit s", "pose ms", "frames/s", "MB", "exploded")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            row["capture"],
            row["deformer"],
            _number(row["psnr"], 2),
            _number(row["ssim"], 4),
            _number(row["flip"], 4),
            _number(row["lmd_px"], 2),
            _number(row["fit_s"], 1),
            _number(row["pose_ms"], 2),
            _number(row["render_fps"], 0),
            _number(row["bytes"] / 1e6, 1),
            str(row["sliders"]["exploded"]),
        )
        for camera in row["cameras"]:
            if camera["held"]:
                for key, frames in (("", "last"), ("_all", "all frames")):
                    values = _number(camera[f"psnr{key}"], 2), _number(camera[f"ssim{key}"], 4)
                    name = f"  camera {camera['camera']}, never fitted to, {frames}"
                    table.add_row(name, row["deformer"], *values)
        if (off := row["calibration"]) is not None:
            how = "the true ones" if off["rotation_deg"] < SAME_DEG else "its own"
            table.add_row(
                f"  cameras: {how}; {off['rotation_deg']:.2f} deg, {off['centre_share']:.2%} off"
            )
        for view in row["novel"]:
            for key, frames in (("", "novel"), ("_all", "novel, all frames")):
                values = _number(view[f"psnr{key}"], 2), _number(view[f"ssim{key}"], 4)
                table.add_row(f"  {view['view']}, {frames}", row["deformer"], *values)
    console.print(table)
    console.print(
        "Held-out frames, person on white; MB: the avatar file. Novel: cameras that the fit never saw, at "
        "their true pose."
    )


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
