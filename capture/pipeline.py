"""Video to capture folder: ingest, landmarks, matte, track, report; resumable after every stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatar import __version__
from avatar.capture_data import CAPTURE_FORMAT, CAPTURE_VERSION, Capture, Landmarks, Splits, Track
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
from capture.matte import Segmenter, refine, steady
from capture.quality import FrameLook, judge, look_at_face
from capture.report import write_capture_report
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
            _finish(clip, sha256, ingest, matte, track, output)
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
        lambda: _matte(ingest, mask, output, report),
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


def _matte(
    ingest: dict[str, Any], mask: ClipInfo | None, output: Path, report: Reporter
) -> dict[str, Any]:
    """Write a mask for every frame, and measure every frame's face while it is in memory."""
    start = time.perf_counter()
    frames: int = ingest["frames"]
    size = (ingest["width"], ingest["height"])
    if mask is not None and mask.frames < frames:
        raise InputError(
            f"{mask.path} has {mask.frames} pictures at the capture's rate, the video has {frames}. "
            f"A mask clip needs one picture for every frame of the video, at the same rate."
        )
    folder = fresh_folder(output / "masks")
    landmarks = Landmarks.load(output / "landmarks.safetensors")
    points, valid = landmarks.points.numpy(), landmarks.valid.numpy()
    pictures = Pictures(output, *size)
    looks: list[FrameLook | None] = [None] * frames

    def finish(frame: int, image: np.ndarray, coarse: np.ndarray) -> None:
        face = points[frame] if valid[frame] else None
        soft = refine(image, coarse, face) if mask is None else coarse
        write_image(folder / f"{frame:06d}.png", soft, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        looks[frame] = None if face is None else look_at_face(image, face)

    images = (pictures.frame(frame) for frame in range(frames))
    with Writer() as writer:

        def hand_on(frame: int, image: np.ndarray, coarse: np.ndarray) -> None:
            writer.put(finish, frame, image, coarse)
            report(Progress("matte", frame + 1, frames))

        if mask is None:
            _segment(images, hand_on)
        else:
            with prefetched(zip(images, read_frames(mask), strict=False)) as pairs:
                count = 0
                for count, (image, given) in enumerate(pairs, 1):
                    grey = cv2.cvtColor(given, cv2.COLOR_RGB2GRAY)
                    if (grey.shape[1], grey.shape[0]) != size:
                        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
                    hand_on(count - 1, image, grey)
            if count < frames:
                raise InputError(
                    f"{mask.path} is cut off: {count} of {frames} pictures could be read. "
                    f"A mask clip needs one picture for every frame of the video."
                )
    return {
        "looks": {
            field.name: [None if look is None else getattr(look, field.name) for look in looks]
            for field in fields(FrameLook)
        },
        "seconds": {"matte": time.perf_counter() - start},
    }


def _segment(
    images: Iterable[np.ndarray], put: Callable[[int, np.ndarray, np.ndarray], None]
) -> None:
    """Hand each frame's number, picture and steadied probability on; one frame behind."""
    with Segmenter() as segmenter, prefetched(images) as ahead:
        held: list[tuple[np.ndarray, np.ndarray]] = []  # the frame before, this one, the one after
        frame = -1
        for frame, image in enumerate(ahead):
            held.append((image, segmenter(image)))
            if frame == 1:
                put(0, *held[0])
            elif frame > 1:
                put(frame - 1, held[1][0], steady([probability for _, probability in held]))
                del held[0]
        put(frame, *held[-1])


def _finish(
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
    quality = judge(
        Landmarks.load(output / "landmarks.safetensors"),
        looks,
        fps=ingest["fps"],
        frames_with_others=ingest["frames_with_others"],
    )
    found = quality.items["face_found"]
    warnings = list(ingest["warnings"])
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
        "warnings": warnings,
        "seconds": {**ingest["seconds"], **matte["seconds"], **track["seconds"]},
        "headsplat": __version__,
    }
    write_capture_report(
        output / "report.html",
        Landmarks.load(output / "landmarks.safetensors"),
        Track.load(output / "track.safetensors"),
        Pictures(output, ingest["width"], ingest["height"]),
        header,
        facts=clip.summary,
        sharpness=looks["sharpness"],
    )
    write_json(output / "capture.json", header)


def _only_video(videos: Sequence[Path]) -> Path:
    if len(videos) != 1:
        raise InputError(
            f"a capture takes one video for now; got {len(videos)}. Several synchronised cameras "
            f"come later: give the clip of the frontal camera."
        )
    return Path(videos[0])
