"""Video to capture folder: ingest, landmarks, matte, track, report; resumable after every stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from avatar import __version__
from avatar.capture_data import Capture, Landmarks, Splits
from avatar.checks import InputError
from avatar.tensorfile import write_json
from avatar.types import Progress, Reporter, ignore_progress
from capture.folder import (
    Pictures,
    Stages,
    claim,
    disk_errors,
    fresh_folder,
    is_complete,
    key_of,
    sha256_of,
    write_image,
)
from capture.ingest import (
    MIN_FRAMES,
    ClipInfo,
    IngestConfig,
    extract_audio,
    probe,
    read_frames,
)
from capture.landmarks import FaceDetector, PersonFollower
from capture.matting import make_masks
from capture.summary import finish
from capture.threads import Writer, prefetched
from capture.track.config import TrackConfig
from capture.track.fit import fit_track

JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip
"""Full chroma: lips and irises are what halved chroma smears."""


@dataclass(frozen=True)
class CaptureConfig:
    """How a clip becomes a capture."""

    max_side: int = 1280
    """Longer side of the stored frames in pixels; larger pictures are scaled down, never up."""
    max_fps: float = 45.0
    """Clips of a higher rate are thinned by the smallest whole number that brings them under it:
    50 and 60 frames/s become 25 and 30."""
    max_frames: int | None = None
    """Keep only so many frames from the start of the clip; None keeps all."""
    mask: Path | None = None
    """A clip of the person's mask (white on black), as many pictures as the video; None makes the
    mask from the video."""
    overwrite: bool = False
    """Replace the capture of another video, or a damaged one, in the same folder instead of
    refusing. A folder that holds anything but a capture is refused all the same."""

    @property
    def ingest(self) -> IngestConfig:
        """The part that decides the frames."""
        return IngestConfig(self.max_side, self.max_fps, self.max_frames)


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
    clip = probe(video, config.ingest)
    mask = None if config.mask is None else probe(Path(config.mask), config.ingest)
    sha256 = sha256_of(video)
    with disk_errors(output):
        stages = claim(output, sha256, config.overwrite)
        ingest = _ingest_stage(stages, clip, output, config, report)
        matte = _matte_stage(stages, ingest, mask, output, report)
        track = _track_stage(stages, ingest, output, report)
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
    return stages.run("ingest", key, stands, lambda: _ingest(clip, output, report))


def _matte_stage(
    stages: Stages,
    ingest: dict[str, Any],
    mask: ClipInfo | None,
    output: Path,
    report: Reporter,
) -> dict[str, Any]:
    key = key_of(stages.key("ingest"), None if mask is None else sha256_of(mask.path))
    return stages.run(
        "matte",
        key,
        lambda _: is_complete(output / "masks" / "cam0", "png", ingest["frames"]),
        lambda: make_masks(ingest, mask, output, report),
    )


def _track_stage(
    stages: Stages, ingest: dict[str, Any], output: Path, report: Reporter
) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        start = time.perf_counter()
        report(Progress("track", 0, ingest["frames"]))
        frames = Pictures(output, ingest["width"], ingest["height"])
        track = fit_track(
            Landmarks.load(output / "landmarks.safetensors"),
            frame=frames.frame,
            mask=frames.mask,
            width=ingest["width"],
            height=ingest["height"],
            fps=ingest["fps"],
            splits=Splits.default(ingest["frames"]),
            report=report,
        )
        track.save(output / "track.safetensors")
        return {"seconds": {"track": time.perf_counter() - start}}

    key = key_of(stages.key("matte"), asdict(TrackConfig()))
    return stages.run("track", key, lambda _: (output / "track.safetensors").is_file(), make)


def _ingest(clip: ClipInfo, output: Path, report: Reporter) -> dict[str, Any]:
    """Decode once: frames to disk, landmarks, sound, splits."""
    start = time.perf_counter()
    folder = fresh_folder(output / "frames")
    for name in ("audio.wav", "landmarks.safetensors", "track.safetensors", "splits.json"):
        (output / name).unlink(missing_ok=True)
    follower = PersonFollower(clip.width, clip.height)
    detecting = 0.0
    frames = 0
    with FaceDetector() as detector, Writer() as writer, prefetched(read_frames(clip)) as images:
        for image in images:
            writer.put(write_image, folder / f"{frames:06d}.jpg", image[..., ::-1], JPEG)
            before = time.perf_counter()
            follower.add(detector.faces(image))
            detecting += time.perf_counter() - before
            frames += 1
            report(Progress("ingest", frames, clip.frames))
    if frames < MIN_FRAMES:
        raise InputError(
            f"{clip.path} gave {frames} usable frame{'s' * (frames != 1)}; a capture needs at least "
            f"{MIN_FRAMES}. The file may be cut off: copy it from the camera again."
        )
    followed = follower.result()
    if not followed.landmarks.valid.any():
        raise InputError(
            f"{clip.path} shows no face in any of its {frames} frames. Film one person facing the "
            f"camera, the head about half the picture's height, in even light."
        )
    followed.landmarks.save(output / "landmarks.safetensors")
    write_json(output / "splits.json", asdict(Splits.default(frames)))
    has_audio = clip.has_audio and extract_audio(
        clip.path, output / "audio.wav", start_s=clip.start_s, duration_s=frames / clip.fps
    )
    seconds = time.perf_counter() - start
    warnings = []
    if frames < clip.frames:
        warnings.append(
            f"The clip is cut off or damaged: {frames} of {clip.frames} frames could be read. "
            f"Those are used; copy the file from the camera again if more is wanted."
        )
    if clip.interlaced:
        warnings.append("The clip is interlaced, which combs what moves: film progressive video.")
    return {
        "frames": frames,
        "fps": clip.fps,
        "width": clip.width,
        "height": clip.height,
        "audio": has_audio,
        "frames_with_others": followed.frames_with_others,
        "warnings": warnings,
        # One pass does both: what the detector did not take is decoding, encoding and sound.
        "seconds": {"ingest": seconds - detecting, "landmarks": detecting},
    }


def _only_video(videos: Sequence[Path]) -> Path:
    if len(videos) != 1:
        raise InputError(
            f"a capture takes one video for now; got {len(videos)}. Several synchronised cameras "
            f"come later: give the clip of the frontal camera."
        )
    return Path(videos[0])
