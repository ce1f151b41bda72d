"""The last stage: judge the finished capture; write capture.json and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from avatar import __version__
from avatar.capture_data import CAPTURE_FORMAT, CAPTURE_VERSION, Landmarks, Track
from avatar.tensorfile import write_json
from capture.folder import Pictures
from capture.ingest import ClipInfo
from capture.quality import Quality, judge
from capture.report import write_capture_report
from capture.report_judge import judge_track


def finish(
    clip: ClipInfo,
    sha256: str,
    ingest: dict[str, Any],
    matte: dict[str, Any],
    track: dict[str, Any],
    output: Path,
) -> None:
    """Judge the clip; write capture.json, then the report that reads it."""
    looks = {
        name: np.array([np.nan if v is None else v for v in values], float)
        for name, values in matte["looks"].items()
    }
    landmarks = Landmarks.load(output / "landmarks.safetensors")
    solved = Track.load(output / "track.safetensors")
    footage = judge(
        landmarks, looks, fps=ingest["fps"], frames_with_others=ingest["frames_with_others"]
    )
    # What the track tells of head turns is nearer the truth than raw landmarks.
    focal, size = track.get("focal"), (ingest["width"], ingest["height"])
    quality = Quality({**footage.items, **judge_track(solved, *size, focal)})
    found = quality.items["face_found"]
    warnings = [w for stage in (ingest, matte, track) for w in stage.get("warnings", [])]
    warnings += [
        f"{item.label}: {item.value:.3g} {item.unit}. {item.advice}".replace(" .", ".")
        for item in (found, quality.items["others"])
        if item.verdict != "ok"
    ]
    header = {
        "format": CAPTURE_FORMAT,
        "version": CAPTURE_VERSION,
        "frames": ingest["frames"],
        "fps": ingest["fps"],
        "cameras": [
            {"width": ingest["width"], "height": ingest["height"], "source": clip.path.name}
        ],
        "source": clip.path.name,
        "source_sha256": sha256,
        "stages": ["ingest", "landmarks", "matte", "track", "report"],
        "quality": quality.as_json(),
        "focal": focal,
        "invalid": track.get("invalid", {}),
        "warnings": warnings,
        "seconds": {**ingest["seconds"], **matte["seconds"], **track["seconds"]},
        "headsplat": __version__,
    }
    write_capture_report(
        output / "report.html",
        landmarks,
        solved,
        Pictures(output, ingest["width"], ingest["height"]),
        header,
        facts=clip.summary,
        sharpness=looks["sharpness"],
    )
    write_json(output / "capture.json", header)
