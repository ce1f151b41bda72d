"""The last stage: judge the finished capture; write capture.json and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from avatar import __version__
from avatar.capture_data import (
    CAPTURE_FORMAT,
    CAPTURE_VERSION,
    UNIT_GAIN,
    CaptureCamera,
    Landmarks,
    Track,
)
from avatar.tensorfile import write_json
from capture.folder import Pictures
from capture.ingest import ClipInfo
from capture.quality import Quality, judge
from capture.report import write_capture_report
from capture.report_cameras import cameras_section
from capture.report_judge import judge_track
from capture.timeline import missing_of


@dataclass(frozen=True)
class Filmed:
    """One camera of a capture, and what its stages found."""

    clip: ClipInfo
    ingest: dict[str, Any]
    matte: dict[str, Any]
    gain: tuple[float, float, float] = UNIT_GAIN
    """As in ``CaptureCamera``."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further fields of its entry in capture.json."""

    def as_json(self, alone: bool) -> dict[str, Any]:
        """Return its entry in capture.json."""
        values = self.ingest
        name, width, height = self.clip.path.name, values["width"], values["height"]
        if alone:
            return {"width": width, "height": height, "source": name}
        camera = CaptureCamera(name, width, height, missing_of(values), self.gain)
        return {**camera.to_json(), "faces": values["faces"], **self.facts}


def finish(
    cameras: Sequence[Filmed],
    sha256: str,
    track: dict[str, Any],
    output: Path,
    *,
    warnings: Sequence[str] = (),
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Judge the clips, by the main camera's; write capture.json, then the report that reads it.

    Args:
        cameras: in the order of their numbers.
        sha256: of what was filmed.
        track: values of the track stage.
        output: the capture folder.
        warnings: beside those of the stages.
        seconds: of work beside that of the stages.
    """
    solved = Track.load(output / "track.safetensors")
    main = cameras[solved.main]
    ingest, alone = main.ingest, len(cameras) == 1
    looks = {
        name: np.array([np.nan if v is None else v for v in values], float)
        for name, values in main.matte["looks"].items()
    }
    landmarks = Landmarks.load(output / f"landmarks{solved.main or ''}.safetensors")
    footage = judge(
        landmarks, looks, fps=ingest["fps"], frames_with_others=ingest["frames_with_others"]
    )
    # What the track tells of head turns is nearer the truth than raw landmarks.
    focal, size = track.get("focal"), (ingest["width"], ingest["height"])
    quality = Quality({**footage.items, **judge_track(solved, *size, focal)})
    stages = [*(c.ingest for c in cameras), *(c.matte for c in cameras), track]
    notes = [*warnings, *(w for stage in stages for w in stage.get("warnings", []))]
    notes += [
        f"{item.label}: {item.value:.3g} {item.unit}. {item.advice}".replace(" .", ".")
        for item in (quality.items["face_found"], quality.items["others"])
        if item.verdict != "ok"
    ]
    names = main.clip.path.name
    header = {
        "format": CAPTURE_FORMAT,
        "version": CAPTURE_VERSION,
        "frames": ingest["frames"],
        "fps": ingest["fps"],
        "cameras": [camera.as_json(alone) for camera in cameras],
        **({} if alone else {"main": solved.main}),
        "source": names if alone else f"{names} and {len(cameras) - 1} more",
        "source_sha256": sha256,
        "stages": ["ingest", "landmarks", "matte", "track", "report"],
        "quality": quality.as_json(),
        "focal": focal,
        "invalid": track.get("invalid", {}),
        "warnings": notes,
        "seconds": _added(seconds or {}, *(stage["seconds"] for stage in stages)),
        "headsplat": __version__,
    }
    pictures = [
        Pictures(output, c.ingest["width"], c.ingest["height"], k) for k, c in enumerate(cameras)
    ]
    write_capture_report(
        output / "report.html",
        landmarks,
        solved,
        pictures[solved.main],
        header,
        facts=main.clip.summary,
        sharpness=looks["sharpness"],
        cameras="" if alone else cameras_section(output, solved, pictures, header),
    )
    write_json(output / "capture.json", header)


def _added(*parts: Mapping[str, float]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, seconds in part.items():
            total[name] = total.get(name, 0.0) + seconds
    return total
