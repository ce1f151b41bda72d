"""``avatar capture FOLDER``: a data set through the same stages as a clip, with its own frames and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avatar import __version__
from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.flame_data import FLAME_FILE
from avatar.types import Reporter, ignore_progress
from capture.datasets.description import DataSet
from capture.datasets.importing import (
    calibration_of,
    clip_of,
    make_data_frames,
    make_data_masks,
    only_camera,
    plan_cameras,
    source_hash,
)
from capture.datasets.pictures import PicturePlan
from capture.datasets.recognise import Layout, read_data_set
from capture.folder import Stages, claim, disk_errors, is_complete, key_of
from capture.pipeline import MATTER, _matte_stage, _track_stage
from capture.summary import finish
from capture.track.config import TrackConfig

IMPORTER = 1
"""Version of what makes frames of data sets: raised where a capture made before should be made anew."""
CALIBRATED_SPREAD = 0.002
"""Relative sigma of a focal length that a data set states."""
CENTRE_ROOM = 0.01
"""Share of the width by which a picture's optical centre may lie off its middle without a word."""


@dataclass(frozen=True)
class DataSetConfig:
    """How a data set becomes a capture."""

    layout: Layout | None = None
    """How it is laid out; told by its files where None."""
    only: str | None = None
    """Name of the one camera to take; needed where there are several."""
    fps: float | None = None
    """Frames a second; what the data set states where None."""
    max_side: int = 4096
    """Longer side of the stored frames in pixels; larger pictures are scaled down, never up."""
    overwrite: bool = False
    """Replace another capture in the same folder instead of refusing."""


def capture_data_set(
    folder: Path,
    output: Path,
    config: DataSetConfig = DataSetConfig(),
    report: Reporter = ignore_progress,
) -> Capture:
    """Turn a data set into a capture folder; stages that are done are kept, as for a clip.

    Raises:
        InputError: no data set that is known, a mistake in it (by file and key), several cameras and none
            named, or what ``capture_video`` refuses of a clip.
    """
    data_set = only_camera(read_data_set(folder, config.layout, config.fps), config.only)
    plans = plan_cameras(data_set, config.max_side)
    sha256 = source_hash(data_set)
    output = Path(output)
    with disk_errors(output):
        stages = claim(output, sha256, config.overwrite)
        ingest = _frames_stage(stages, data_set, plans, output, config, report)
        if plans[0].masked:
            matte = _masks_stage(stages, plans[0], output, report)
        else:
            matte = _matte_stage(stages, ingest, None, output, report)
        track_config, note = _track_config(data_set, plans)
        track = _track_stage(stages, ingest, matte, output, track_config, report)
        if not (output / "capture.json").is_file() or not (output / "report.html").is_file():
            told = {**ingest, "warnings": [*ingest["warnings"], *note]}
            finish(clip_of(data_set, plans[0]), sha256, told, matte, track, output)
    return Capture(output)


def _frames_stage(
    stages: Stages,
    data_set: DataSet,
    plans: tuple[PicturePlan, ...],
    output: Path,
    config: DataSetConfig,
    report: Reporter,
) -> dict[str, Any]:
    flame = data_set.head is not None and all(plan.K is not None for plan in plans)

    def stands(values: dict[str, Any]) -> bool:
        return (
            is_complete(output / "frames" / "cam0", "jpg", values["frames"])
            and (output / "landmarks.safetensors").is_file()
            and (output / "splits.json").is_file()
            and (output / FLAME_FILE).is_file() == flame
        )

    key = key_of(__version__, IMPORTER, stages.source_sha256, config.max_side)
    return stages.run(
        "ingest", key, stands, lambda: make_data_frames(data_set, plans, output, report)[0]
    )


def _masks_stage(
    stages: Stages, plan: PicturePlan, output: Path, report: Reporter
) -> dict[str, Any]:
    key = key_of(stages.key("ingest"), MATTER, "given")
    return stages.run(
        "matte",
        key,
        lambda _: is_complete(output / "masks" / "cam0", "png", len(plan.shots)),
        lambda: make_data_masks(plan, 0, output, report),
    )


def _track_config(
    data_set: DataSet, plans: tuple[PicturePlan, ...]
) -> tuple[TrackConfig, list[str]]:
    """Give the tracker the focal length that the data set states, and say what it cannot be given."""
    known = calibration_of(data_set, plans)
    if known is None:
        return TrackConfig(), []
    K, (width, height) = known.K[0], known.sizes[0]
    focal = float((K[0, 0] + K[1, 1]) / 2)
    config = replace(
        TrackConfig(), focal_widths=focal / max(width, height), focal_spread=CALIBRATED_SPREAD
    )
    off = max(abs(float(K[0, 2]) - width / 2), abs(float(K[1, 2]) - height / 2)) / width
    if off <= CENTRE_ROOM:
        return config, []
    return config, [
        f"The camera's optical centre lies {off:.1%} of the width off the picture's middle; it is tracked "
        f"as if it lay in the middle."
    ]


def need_data_set(folder: Path) -> None:
    """Raise InputError for a folder that is a capture already."""
    if (folder / "capture.json").is_file():
        raise InputError(
            f"{folder} is a capture already. Train on it: avatar train {folder} -o ME.run"
        )
