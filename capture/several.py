"""Clips of several cameras to one capture: one time line, frames and masks of each, one track."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from avatar import __version__
from avatar.capture_data import Capture, Landmarks, Splits
from avatar.checks import InputError
from avatar.types import Reporter
from capture.calibration import KnownCameras, Placed, read_calibration
from capture.folder import Stages, claim, disk_errors, is_complete, key_of, sha256_of
from capture.ingest import ClipInfo, probe
from capture.ingesting import make_frames, write_common
from capture.matting import make_masks, need_mask
from capture.settings import CaptureConfig
from capture.summary import Filmed, finish
from capture.synchronise import check_offsets, synchronise
from capture.timeline import Take, missing_of
from capture.track.fit import TOO_FEW
from capture.tracking import MATTER, track_stage

SYNCHRONISER = 1
"""Version of what lays clips on one time line: raised where captures should be made anew."""


@dataclass(frozen=True)
class _Sources:
    """What a capture of several cameras is made from."""

    videos: list[Path]
    hashes: list[str]
    clips: list[ClipInfo]
    masks: list[ClipInfo]
    """One a clip, or none."""
    placed: Placed | None
    """The known cameras, in the order of the clips."""

    def change(self, camera: int) -> Any:
        """What straightens a camera's pictures; None for nothing."""
        return None if self.placed is None else self.placed.straighten[camera]


def capture_several(
    videos: Sequence[Path], output: Path, config: CaptureConfig, report: Reporter
) -> Capture:
    """Turn clips of one take, one of each camera, into a capture folder.

    Stages stand for each camera by itself ("ingest", "ingest1" ... "matte", "matte1" ...): a run that
    was interrupted goes on with the camera that it had come to.

    Raises:
        InputError: as ``capture_video``; and where clips, masks, offsets or the calibration do not go
            together, or a camera shares no time or no view of the face with the others.
    """
    source = _open(videos, config)
    sha256 = hashlib.sha256("".join(source.hashes).encode()).hexdigest()
    with disk_errors(output):
        stages = claim(output, sha256, config.overwrite)
        plan = _sync_stage(stages, source, config, report)
        takes = [Take(**take) for take in plan["takes"]]
        for mask, clip, take in zip(source.masks, source.clips, takes, strict=False):
            need_mask(mask, clip, take)
        parts = [_part(report, takes, take.camera) for take in takes]
        ingests = [
            _ingest_stage(stages, source, take, output, config, parts[take.camera])
            for take in takes
        ]
        if source.placed is None:
            _check_views(source, ingests, output)
        _common_stage(stages, source, takes, plan["sound"], output)
        mattes = [
            _matte_stage(stages, source, take, ingests[take.camera], output, parts[take.camera])
            for take in takes
        ]
        try:
            track = track_stage(
                stages, ingests, mattes, None if source.placed is None else source.placed.calibration,
                config, report,
                names=[video.name for video in source.videos],
            )  # fmt: skip
        except InputError as error:
            raise _doubted(error, plan, source) from error
        if not (output / "capture.json").is_file() or not (output / "report.html").is_file():
            filmed = [
                Filmed(
                    source.clips[k],
                    ingests[k],
                    mattes[k],
                    gain=tuple(track["gains"][k]),
                    facts={"offset": plan["offsets"][k], "source_sha256": source.hashes[k]},
                )
                for k in range(len(source.clips))
            ]
            warnings = [*plan["warnings"], *([] if source.placed is None else source.placed.notes)]
            finish(
                filmed,
                sha256,
                track,
                output,
                warnings=[*warnings, *_faceless(ingests, source)],
                seconds=plan["seconds"],
            )
    return Capture(output)


def _open(videos: Sequence[Path], config: CaptureConfig) -> _Sources:
    """Open everything that is given; nothing is written yet."""
    videos = [Path(video) for video in videos]
    check_offsets(config.offsets, len(videos))
    known: KnownCameras | None = None
    if config.calibration is not None:
        known = read_calibration(Path(config.calibration), config.calibration_unit)
    clips = [probe(video, config.ingest_of(video)) for video in videos]
    hashes = [sha256_of(video) for video in videos]
    for i, j in combinations(range(len(videos)), 2):
        if hashes[i] == hashes[j]:
            raise InputError(
                f"{videos[j]} is the same clip as {videos[i]}. Give the clip of each camera once."
            )
    masks = [
        probe(mask, config.ingest_of(video))
        for mask, video in zip(config.masks(), videos, strict=False)
    ]
    for clip, mask in zip(clips, masks, strict=False):
        if abs(mask.frames - clip.frames) > 1 or abs(mask.fps - clip.fps) > 1e-3 * clip.fps:
            raise InputError(
                f"{mask.path} has {mask.frames} pictures at {mask.fps:.4g} frames/s, {clip.path} has "
                f"{clip.frames} at {clip.fps:.4g}. A mask clip needs one picture for every frame of "
                f"its video, at the same rate."
            )
    placed = None if known is None else known.placed(clips)
    return _Sources(videos, hashes, clips, masks, placed)


def _sync_stage(
    stages: Stages, source: _Sources, config: CaptureConfig, report: Reporter
) -> dict[str, Any]:
    settings = [asdict(config.ingest_of(video)) for video in source.videos]
    key = key_of(
        SYNCHRONISER, __version__, source.hashes, settings, config.max_frames, config.offsets
    )
    return stages.run(
        "sync",
        key,
        lambda _: True,
        lambda: synchronise(source.clips, config.offsets, config.max_frames, report),
    )


def _ingest_stage(
    stages: Stages,
    source: _Sources,
    take: Take,
    output: Path,
    config: CaptureConfig,
    report: Reporter,
) -> dict[str, Any]:
    k = take.camera
    landmarks = output / f"landmarks{k or ''}.safetensors"
    folder = output / "frames" / f"cam{k}"

    def stands(kept: dict[str, Any]) -> bool:
        complete = is_complete(folder, "jpg", kept["frames"], missing_of(kept))
        return complete and landmarks.is_file()

    def make() -> dict[str, Any]:
        clip, known = take.of(source.clips[k]), source.placed is not None
        return make_frames(clip, output, report, take, faceless=known, change=source.change(k))

    settings = asdict(config.ingest_of(source.videos[k]))
    bent = None if source.placed is None else source.placed.bent[k]
    key = key_of(__version__, source.hashes[k], settings, take.as_json(), bent)
    return stages.run(f"ingest{k or ''}", key, stands, make)


def _common_stage(
    stages: Stages, source: _Sources, takes: Sequence[Take], sound: int | None, output: Path
) -> None:
    """Write what all cameras share: the split and the sound."""

    def stands(kept: dict[str, Any]) -> bool:
        audio = (output / "audio.wav").is_file() == kept["audio"]
        return audio and (output / "splits.json").is_file()

    def make() -> dict[str, Any]:
        clip = None
        if sound is not None:
            clip, take = source.clips[sound], takes[sound]
            start = clip.start_s + take.shift_s - take.first / take.fps
            clip = replace(clip, start_s=start)
        return {"audio": write_common(output, clip, takes[0].total, takes[0].fps)}

    last = stages.key(f"ingest{len(takes) - 1 or ''}")
    stages.run("common", key_of(stages.key("sync"), last, sound), stands, make)


def _matte_stage(
    stages: Stages,
    source: _Sources,
    take: Take,
    ingest: dict[str, Any],
    output: Path,
    report: Reporter,
) -> dict[str, Any]:
    k = take.camera
    masks = output / "masks" / f"cam{k}"
    mask = take.of(source.masks[k]) if source.masks else None

    def stands(_: dict[str, Any]) -> bool:
        return is_complete(masks, "png", ingest["frames"], missing_of(ingest))

    name = None if mask is None else sha256_of(mask.path)
    return stages.run(
        f"matte{k or ''}",
        key_of(stages.key(f"ingest{k or ''}"), MATTER, name),
        stands,
        lambda: make_masks(ingest, mask, output, report, source.change(k)),
    )


def _part(report: Reporter, takes: Sequence[Take], camera: int) -> Reporter:
    """A listener that hears one camera's frames as part of all cameras'."""
    done, total = (sum(take.frames for take in part) for part in (takes[:camera], takes))
    return lambda progress: report(replace(progress, done=done + progress.done, total=total))


def _check_views(source: _Sources, ingests: Sequence[dict[str, Any]], output: Path) -> None:
    """Refuse a camera that hardly sees the face when the others do: nothing would place it."""
    found = [
        Landmarks.load(output / f"landmarks{k or ''}.safetensors").valid.numpy()
        for k in range(len(ingests))
    ]
    begin, end = Splits.default(len(found[0])).train
    shared = np.array([[int((a & b)[begin:end].sum()) for b in found] for a in found])
    # The largest group of cameras that hang together; what is outside of it is named.
    first = int(np.where(np.eye(len(found), dtype=bool), 0, shared).sum(1).argmax())
    group, more = set(), {first}
    while more:
        group |= more
        more = {int(j) for i in group for j in np.flatnonzero(shared[i] >= TOO_FEW)} - group
    for k in range(len(found)):
        if k not in group or len(group) == 1:
            most = max(shared[k][j] for j in range(len(found)) if j != k)
            raise InputError(
                f"{source.videos[k]} shows the face together with another camera in {most} frames at "
                f"most, and cameras are found by the face, for which {TOO_FEW} training frames are "
                f"needed. Turn towards it more, leave it out, or give --calibration."
            )


def _doubted(error: InputError, plan: dict[str, Any], source: _Sources) -> InputError:
    """Say of a take that cannot be tracked which clips may lie wrong on its time line."""
    assumed = [
        video.name
        for video, offset in zip(source.videos, plan["offsets"], strict=True)
        if offset["method"] == "assumed"
    ]
    if not assumed:
        return error
    return InputError(
        f"{error} Or the clips lie wrong in time: that {', '.join(assumed)} began with "
        f"{source.videos[0].name} is only assumed, so state with --offsets when each began."
    )


def _faceless(ingests: Sequence[dict[str, Any]], source: _Sources) -> list[str]:
    return [
        f"{source.videos[k].name} never shows a face: it is used for the back and the sides of the head."
        for k, values in enumerate(ingests)
        if not values["faces"]
    ]
