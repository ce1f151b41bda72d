"""Measure a run and show it: eval.json, preview, report and pictures in the run's ``eval`` folder.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avatar.capture_data import Capture
    from avatar.cli_common import Device
    from avatar.export.report import RunFacts
    from avatar.export.report_pictures import Tile
    from avatar.model.avatar import Avatar

REGION_FRAMES = 4
"""Held-out frames that the report tints by region: those that differ most in head pose."""


def evaluate_run(
    avatar: Avatar,
    captured: Capture,
    run: Path,
    report: Any,
    max_side: int | None = None,
    *,
    watermark: bool = True,
    device: Device = "auto",
) -> dict[str, Any]:
    """Measure, and write eval.json, preview.mp4, pictures and report.html to ``run / "eval"``.

    Args:
        avatar: the run's avatar.
        captured: its capture.
        run: the run's folder.
        report: listener of progress.
        max_side: longer side at which pictures are compared; None for the one trained at.
        watermark: mark the avatar's pictures in the preview; what is measured is never marked.
        device: where frames a second are timed.
    """
    import numpy as np

    from avatar.export.report import write_picture, write_report
    from avatar.export.report_pictures import make_pictures, slider_sheet, tile_sheet
    from avatar.export.signature import Signature
    from avatar.export.video import VideoWriter, contact_sheet
    from avatar.tensorfile import write_json
    from avatar.train.evaluate import EvaluateConfig, evaluate
    from avatar.train.evaluate_cameras import preview_camera
    from avatar.train.run_folder import run_seconds
    from capture.landmarks import FaceDetector

    begin, end = captured.splits.test
    shown = {round(f) for f in np.linspace(begin, end - 1, 8)}
    pairs: list[tuple[int, Any, Any]] = []
    output = run / "eval"
    output.mkdir(parents=True, exist_ok=True)
    start_s = begin / captured.fps
    signature = Signature(avatar, watermark=watermark)
    previewed = preview_camera(avatar, captured)
    with (
        VideoWriter(
            output / "preview.mp4",
            captured.fps,
            audio=captured.audio,
            audio_start_s=start_s,
            manifest=signature.manifest("video/mp4", "preview.mp4"),
        ) as preview,
        FaceDetector() as detector,
    ):

        def on_camera(camera: int, frame: int, truth: Any, picture: Any) -> None:
            if camera == previewed:
                preview.write(np.concatenate([truth, signature.marked(picture)], 1))

        def on_picture(frame: int, truth: Any, picture: Any) -> None:
            if len(captured.cameras) == 1:
                on_camera(previewed, frame, truth, picture)
            if frame in shown or not pairs:
                pairs.append((frame, truth, picture))

        result = evaluate(
            avatar,
            captured,
            detect=detector.detect,
            picture=on_picture,
            camera_picture=on_camera,
            config=EvaluateConfig(max_side=max_side, device=device),
            seconds=run_seconds(run),
            report=report,
        )
    sheet = contact_sheet(
        [[truth for _, truth, _ in pairs], [picture for _, _, picture in pairs]],
        ["held out", "avatar"],
        [f"frame {frame}" for frame, _, _ in pairs],
    )
    pictures = make_pictures(avatar, captured, result, sheet, region_tiles(captured, result))
    for name, picture in (
        ("contact_sheet.jpg", sheet),
        ("sliders.jpg", slider_sheet(pictures.sliders)),
        ("turntable.jpg", tile_sheet(pictures.turntable)),
    ):
        # Sheets mix in what was filmed, which must not be marked as made.
        sheet_manifest = Signature(avatar, watermark=False).manifest("image/jpeg", name)
        write_picture(output / name, picture, sheet_manifest)
    write_json(output / "eval.json", result)
    facts = run_facts(avatar, captured, run)
    write_report(output / "report.html", avatar, captured, result, pictures, facts)
    return result


def camera_line(row: dict[str, Any]) -> str:
    """Return what one camera of several measured, in a line."""

    def decibels(suffix: str) -> str:
        value = row.get(f"psnr{suffix}")
        return "not measured" if value is None else f"{value:.2f} dB"

    what = f"camera {row['camera']}{' (main)' if row['main'] else ''}"
    if not row["held"]:
        return f"{what:<20}{decibels('')} on held-out frames"
    return (
        f"{what:<20}{decibels('')} on held-out frames, {decibels('_all')} on all; never fitted to"
    )


def region_tiles(captured: Capture, result: dict[str, Any]) -> list[Tile]:
    """Return held-out frames tinted by region, as far as any was measured."""
    import torch

    from avatar.export.report_pictures import WIDE, Tile, fitted_within
    from avatar.model.create import spread_frames
    from avatar.train.regions import REGION_LEGEND, label_regions, region_overlay

    frames = torch.tensor(result["per_frame"]["frame"], dtype=torch.long)
    if len(frames) == 0:
        return []
    track, (width, height) = captured.track, result["resolution"]
    camera, states = captured.camera().scaled(width, height), track.states()
    tiles = []
    for frame in spread_frames(track, frames, REGION_FRAMES).tolist():
        mask = captured.mask(frame, size=(width, height))
        labels = label_regions(states[frame], track.lattice, track.basis, camera, mask)
        tinted = region_overlay(captured.frame(frame, size=(width, height)), labels)
        tiles.append(Tile(f"frame {frame}: {REGION_LEGEND}", fitted_within(tinted, WIDE)))
    return tiles


def run_facts(avatar: Avatar, captured: Capture, run: Path) -> RunFacts:
    """Collect the training log, versions, seed and hashes; what a run does not know is left out."""
    from avatar.checks import InputError
    from avatar.export.report import RunFacts
    from avatar.train.rollback import read_metrics
    from avatar.train.run_folder import read_run

    try:
        known = read_run(run)
    except InputError:
        known = {}  # an avatar can be measured without the folder it was fitted in
    config = known.get("config") or avatar.header.get("config") or {}
    track = captured.path / "track.safetensors"
    facts = {
        "headsplat": known.get("headsplat", avatar.header.get("headsplat")),
        "torch": known.get("torch"),
        "seed": config.get("seed"),
        "steps": config.get("steps"),
        "capture": captured.path.name,
        "source video, SHA-256": captured.source_sha256,
        "track, SHA-256": hashlib.sha256(track.read_bytes()).hexdigest(),
    }
    return RunFacts(
        metrics=read_metrics(run / "metrics.jsonl"),
        facts={name: str(value) for name, value in facts.items() if value not in (None, "")},
    )
