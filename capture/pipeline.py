"""Video to capture folder: ingest, landmarks, matte, track, report; resumable after every stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from avatar import __version__
from avatar.capture_data import Capture, Landmarks, Splits, Track, read_splits
from avatar.checks import InputError
from avatar.types import Progress, Reporter, ignore_progress
from capture.folder import (
    Pictures,
    Stages,
    claim,
    disk_errors,
    is_complete,
    key_of,
    sha256_of,
)
from capture.ingest import ClipInfo, IngestConfig, probe
from capture.ingesting import make_frames
from capture.matting import make_masks
from capture.summary import finish
from capture.track.config import TrackConfig
from capture.track.fit import TOO_FEW, fit_track
from capture.track.footage import Footage
from capture.validity import Validity, judge_frames

MATTER, TRACKER = 2, 2
"""Versions of what makes masks and tracks: raised where a capture made before should be made anew."""

STATED_FOCAL_SPREAD = 0.01
"""Relative sigma of a focal length that the user states: makers round it, and stabilisation crops."""
SHORTEST_MM, LONGEST_MM = 10.0, 400.0
"""35 mm equivalents between which a stated focal length must lie: from an action camera to a cropped
studio shot."""


@dataclass(frozen=True)
class CaptureConfig:
    """How a clip becomes a capture."""

    max_side: int = 4096
    """Longer side of the stored frames in pixels; larger pictures are scaled down, never up. Faces,
    masks and track are found at 1280 pixels at most, whatever this is."""
    max_fps: float = 45.0
    """Clips of a higher rate are thinned by the smallest whole number that brings them under it:
    50 and 60 frames/s become 25 and 30."""
    max_frames: int | None = None
    """Keep only so many frames from the start of the clip; None keeps all."""
    mirrored: bool = False
    """The clip is mirrored, as some selfie apps save it (writing on a shirt reads backwards): flip it
    back. A face alone does not tell, so it cannot be found out."""
    mask: Path | None = None
    """A clip of the person's mask (white on black), as many pictures as the video; None makes the
    mask from the video."""
    focal_mm: float | None = None
    """The camera's focal length as its maker states it, in 35 mm equivalents: the picture's longer side
    taken for 36 mm. None finds it in the clip, which a short one or a head that hardly turns tells only
    to about a tenth."""
    overwrite: bool = False
    """Replace the capture of another video, or a damaged one, in the same folder instead of
    refusing. A folder that holds anything but a capture is refused all the same."""

    @property
    def ingest(self) -> IngestConfig:
        """The part that decides the frames."""
        return IngestConfig(self.max_side, self.max_fps, self.max_frames, self.mirrored)

    @property
    def track(self) -> TrackConfig:
        """The part that decides the track."""
        if self.focal_mm is None:
            return TrackConfig()
        return TrackConfig(focal_widths=self.focal_mm / 36, focal_spread=STATED_FOCAL_SPREAD)


def capture_video(
    videos: Sequence[Path],
    output: Path,
    config: CaptureConfig = CaptureConfig(),
    report: Reporter = ignore_progress,
) -> Capture:
    """Turn a clip of a head into a capture folder (layout: ``avatar.capture_data``).

    Stages that already finished in ``output`` for the same file, settings and program version are
    kept, so a run that was interrupted goes on where it stood, and a finished capture returns at
    once. A folder that holds another video's capture, or something else, is left alone.

    Args:
        videos: one clip.
        output: the folder to make or to continue, by custom ``NAME.capture``.
        config: settings.
        report: progress listener; stages "ingest" (frames and landmarks), "matte", and the
            tracker's own.

    Raises:
        InputError: the clip cannot be used, shows no face, or the folder cannot be written or
            belongs to something else.
    """
    video = _only_video(videos)
    output = Path(output)
    if config.focal_mm is not None and not SHORTEST_MM <= config.focal_mm <= LONGEST_MM:
        raise InputError(
            f"--focal-mm must lie between {SHORTEST_MM:g} and {LONGEST_MM:g} (35 mm equivalents, about 26 "
            f"for a phone's main camera); got {config.focal_mm:g}. Leave it out to find it in the clip."
        )
    clip = probe(video, config.ingest)
    mask = None if config.mask is None else probe(Path(config.mask), config.ingest)
    sha256 = sha256_of(video)
    with disk_errors(output):
        stages = claim(output, sha256, config.overwrite)
        ingest = _ingest_stage(stages, clip, output, config, report)
        matte = _matte_stage(stages, ingest, mask, output, report)
        track = _track_stage(stages, ingest, matte, output, config.track, report)
        if not (output / "capture.json").is_file() or not (output / "report.html").is_file():
            finish(clip, sha256, ingest, matte, track, output)
    return Capture(output)


def _ingest_stage(
    stages: Stages, clip: ClipInfo, output: Path, config: CaptureConfig, report: Reporter
) -> dict[str, Any]:
    def stands(values: dict[str, Any]) -> bool:
        return (
            is_complete(output / "frames" / "cam0", "jpg", values["frames"])
            and (output / "landmarks.safetensors").is_file()
            and (output / "splits.json").is_file()
            and (output / "audio.wav").is_file() == values["audio"]
        )

    key = key_of(__version__, stages.source_sha256, asdict(config.ingest))
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


def _track_stage(
    stages: Stages,
    ingest: dict[str, Any],
    matte: dict[str, Any],
    output: Path,
    config: TrackConfig,
    report: Reporter,
) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        start = time.perf_counter()
        report(Progress("track", 0, ingest["frames"]))
        size = (ingest["width"], ingest["height"])
        pictures = Pictures(output, *size)
        landmarks = Landmarks.load(output / "landmarks.safetensors")
        splits = read_splits(output, ingest["frames"])
        scale = pictures.working_scale
        fitted = fit_track(
            [
                Footage(
                    Landmarks(landmarks.points * scale, landmarks.valid),
                    lambda frame: pictures.working(frame)[0],
                    pictures.working_mask,
                    *pictures.working_size,
                )
            ],
            fps=ingest["fps"],
            splits=splits,
            report=report,
            config=config,
        )
        track = _in_stored_pixels(fitted.track, scale)
        judged = judge_frames(
            landmarks,
            track,
            matte["looks"]["sharpness"],
            width=size[0],
            height=size[1],
            others=ingest["frames_of_others"],
        )
        _check_enough(judged, splits)
        replace(track, valid=torch.from_numpy(judged.valid)).save(output / "track.safetensors")
        focal = {
            "px": fitted.focal_px / scale,
            "prior_px": fitted.focal_prior_px / scale,
            "relative_sigma": fitted.focal_sigma,
        }
        return {
            "focal": focal,
            "invalid": judged.reasons,
            "seconds": {"track": time.perf_counter() - start},
        }

    key = key_of(stages.key("matte"), TRACKER, asdict(config))
    return stages.run("track", key, lambda _: (output / "track.safetensors").is_file(), make)


def _in_stored_pixels(track: Track, scale: float) -> Track:
    """Turn a track in working pixels, ``scale`` of them for one of a stored frame, into stored ones."""
    if scale == 1:
        return track
    K = track.K.clone()
    K[:, :2] /= scale
    return replace(
        track, K=K, landmarks_px=track.landmarks_px / scale, residual_px=track.residual_px / scale
    )


def _check_enough(judged: Validity, splits: Splits) -> None:
    """Refuse a clip of which too few training frames can be trusted."""
    begin, end = splits.train
    usable = int(judged.valid[begin:end].sum())
    if usable >= TOO_FEW:
        return
    counts = ", ".join(f"{len(frames)} {reason}" for reason, frames in judged.reasons.items())
    raise InputError(
        f"Only {usable} of the clip's {end - begin} training frames can be used, and {TOO_FEW} are "
        f"needed (of all frames, {counts}). Film again: the whole face in the picture, in good light, "
        f"turned less than to the side."
    )


def _only_video(videos: Sequence[Path]) -> Path:
    if len(videos) != 1:
        raise InputError(
            f"a capture takes one video for now; got {len(videos)}. Several synchronised cameras "
            f"come later: give the clip of the frontal camera."
        )
    return Path(videos[0])
