"""``avatar capture FOLDER``: a data set through the same stages as a clip, with its own frames and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatar import __version__
from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.flame_data import FLAME_FILE
from avatar.rig.rig_store import LATTICE
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
from capture.matting import make_masks
from capture.settings import CaptureConfig
from capture.summary import Filmed, finish
from capture.timeline import missing_of
from capture.tracking import MATTER, need_rig, track_stage

IMPORTER = 1
"""Version of what makes frames of data sets: raised where a capture made before should be made anew."""


@dataclass(frozen=True)
class DataSetConfig:
    """How a data set becomes a capture."""

    layout: Layout | None = None
    """How it is laid out; told by its files where None."""
    only: str | None = None
    """Name of the one camera to take; all where None."""
    fps: float | None = None
    """Frames a second; what the data set states where None."""
    max_side: int = 4096
    """Longer side of the stored frames in pixels; larger pictures are scaled down, never up."""
    rig: str = LATTICE
    """The head model to fit, as ``CaptureConfig.rig``."""
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
        InputError: no data set that is known, a mistake in it (by file and key), or what ``capture_video`` refuses of a clip.
    """
    data_set = read_data_set(folder, config.layout, config.fps)
    if config.only is not None:
        data_set = only_camera(data_set, config.only)
    need_rig(config.rig, Path(output))
    plans = plan_cameras(data_set, config.max_side)
    sha256 = source_hash(data_set)
    output = Path(output)
    with disk_errors(output):
        stages = claim(output, sha256, config.overwrite)
        ingests = _frames_stage(stages, data_set, plans, output, config, report)
        mattes = [
            _masks_stage(stages, ingests[k], plans[k], k, output, report) for k in range(len(plans))
        ]
        track = track_stage(
            stages, ingests, mattes, calibration_of(data_set, plans), CaptureConfig(rig=config.rig),
            report, names=[plan.name for plan in plans],
        )  # fmt: skip
        if not (output / "capture.json").is_file() or not (output / "report.html").is_file():
            filmed = [
                Filmed(
                    clip_of(data_set, plan), ingest, matte,
                    gain=tuple(gain), facts={"source": plan.name},
                )
                for plan, ingest, matte, gain in zip(
                    plans, ingests, mattes, track["gains"], strict=True
                )
            ]  # fmt: skip
            finish(filmed, sha256, track, output, warnings=_held(data_set))
    return Capture(output)


def _held(data_set: DataSet) -> list[str]:
    """Say which cameras the data set keeps for its test."""
    held = [k for k, one in enumerate(data_set.cameras) if one.name in data_set.held_cameras]
    if not held or len(held) == len(data_set.cameras):
        return []
    return [
        f"The data set keeps camera {', '.join(data_set.held_cameras)} for its test. To do as it does: avatar "
        f"train --hold-cameras {','.join(map(str, held))}"
    ]


def _frames_stage(
    stages: Stages,
    data_set: DataSet,
    plans: tuple[PicturePlan, ...],
    output: Path,
    config: DataSetConfig,
    report: Reporter,
) -> list[dict[str, Any]]:
    flame = data_set.head is not None and all(plan.K is not None for plan in plans)

    def stands(values: dict[str, Any]) -> bool:
        return (
            all(
                is_complete(output / "frames" / f"cam{k}", "jpg", one["frames"], missing_of(one))
                and (output / f"landmarks{k or ''}.safetensors").is_file()
                for k, one in enumerate(values["cameras"])
            )
            and (output / "splits.json").is_file()
            and (output / FLAME_FILE).is_file() == flame
        )

    key = key_of(__version__, IMPORTER, stages.source_sha256, config.max_side)
    return stages.run(
        "ingest",
        key,
        stands,
        lambda: {"cameras": make_data_frames(data_set, plans, output, report)},
    )["cameras"]


def _masks_stage(
    stages: Stages,
    ingest: dict[str, Any],
    plan: PicturePlan,
    camera: int,
    output: Path,
    report: Reporter,
) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        if plan.masked:
            return make_data_masks(plan, camera, output, report)
        return make_masks(ingest, None, output, report)

    folder = output / "masks" / f"cam{camera}"
    return stages.run(
        f"matte{camera or ''}",
        key_of(stages.key("ingest"), MATTER, "given" if plan.masked else None),
        lambda _: is_complete(folder, "png", ingest["frames"], missing_of(ingest)),
        make,
    )


def need_data_set(folder: Path) -> None:
    """Raise InputError for a folder that is a capture already."""
    if (folder / "capture.json").is_file():
        raise InputError(
            f"{folder} is a capture already. Train on it: avatar train {folder} -o ME.run"
        )
