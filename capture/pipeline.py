"""Video to capture folder: ingest, landmarks, matte, track, report; resumable after every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from avatar import __version__
from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.types import Reporter, ignore_progress
from capture.folder import (
    Stages,
    claim,
    disk_errors,
    is_complete,
    key_of,
    sha256_of,
)
from capture.ingest import ClipInfo, IngestConfig, probe
from capture.ingesting import make_frames
from capture.matting import make_masks, need_mask
from capture.settings import CaptureConfig as CaptureConfig  # part of this module's interface
from capture.several import capture_several
from capture.summary import Filmed, finish
from capture.tracking import MATTER, need_rig, track_stage


def capture_video(
    videos: Sequence[Path],
    output: Path,
    config: CaptureConfig = CaptureConfig(),
    report: Reporter = ignore_progress,
) -> Capture:
    """Turn clips of a head into a capture folder (layout: ``avatar.capture_data``).

    Stages that already finished in ``output`` for the same file, settings and program version are
    kept, so a run that was interrupted goes on where it stood, and a finished capture returns at
    once. A folder that holds another video's capture, or something else, is left alone.

    Args:
        videos: one clip, or one of each camera that filmed the same take.
        output: the folder to make or to continue, by custom ``NAME.capture``.
        config: settings.
        report: progress listener; stages "ingest" (frames and landmarks), "matte", and the
            tracker's own; of several clips "synchronise" before.

    Raises:
        InputError: the clip cannot be used, shows no face, or the folder cannot be written or
            belongs to something else.
    """
    videos, output = [Path(video) for video in videos], Path(output)
    if not videos:
        raise InputError("a capture takes one video or several; got none. Give the path of a clip.")
    config.check(videos)
    need_rig(config.rig, output)
    if len(videos) > 1:
        return capture_several(videos, output, config, report)
    video = videos[0]
    if config.offsets is not None or config.calibration is not None:
        name = "--offsets" if config.offsets is not None else "--calibration"
        raise InputError(
            f"{name} is for several cameras; got one clip. Leave it out, or give all of the clips."
        )
    ingest = replace(config.ingest_of(video), max_frames=config.max_frames)
    clip = probe(video, ingest)
    mask = next((probe(path, ingest) for path in config.masks()), None)
    if mask is not None:
        need_mask(mask, clip)
    sha256 = sha256_of(video)
    with disk_errors(output):
        stages = claim(output, sha256, config.overwrite)
        frames = _ingest_stage(stages, clip, output, ingest, report)
        matte = _matte_stage(stages, frames, mask, output, report)
        track = track_stage(stages, [frames], [matte], None, config, report, names=[video.name])
        if not (output / "capture.json").is_file() or not (output / "report.html").is_file():
            finish([Filmed(clip, frames, matte)], sha256, track, output)
    return Capture(output)


def _ingest_stage(
    stages: Stages, clip: ClipInfo, output: Path, config: IngestConfig, report: Reporter
) -> dict[str, Any]:
    def stands(values: dict[str, Any]) -> bool:
        return (
            is_complete(output / "frames" / "cam0", "jpg", values["frames"])
            and (output / "landmarks.safetensors").is_file()
            and (output / "splits.json").is_file()
            and (output / "audio.wav").is_file() == values["audio"]
        )

    key = key_of(__version__, stages.source_sha256, asdict(config))
    return stages.run("ingest", key, stands, lambda: make_frames(clip, output, report))


def _matte_stage(
    stages: Stages,
    ingest: dict[str, Any],
    mask: ClipInfo | None,
    output: Path,
    report: Reporter,
) -> dict[str, Any]:
    key = key_of(stages.key("ingest"), MATTER, None if mask is None else sha256_of(mask.path))
    return stages.run(
        "matte",
        key,
        lambda _: is_complete(output / "masks" / "cam0", "png", ingest["frames"]),
        lambda: make_masks(ingest, mask, output, report),
    )
