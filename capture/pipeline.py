"""Video to capture folder: ingest, landmarks, matte, track, report; resumable after every stage."""

from __future__ import annotations

import hashlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from avatar.capture_data import CAPTURE_FORMAT, CAPTURE_VERSION, Capture, Landmarks, Splits, Track
from avatar.checks import InputError
from avatar.tensorfile import write_json
from avatar.types import Progress, Reporter, ignore_progress
from capture.ingest import (
    MIN_FRAMES,
    ClipInfo,
    IngestConfig,
    extract_audio,
    open_video,
    probe,
    read_frames,
)
from capture.landmarks import FaceDetector, PersonFollower
from capture.matte import Segmenter, refine, steady

STAGES_FORMAT = "headsplat.capture-stages"
STAGES_VERSION = 1
STAGES_FILE = "stages.json"

JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip
"""Full chroma: lips and irises are what halved chroma smears."""

T = TypeVar("T")


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
    """Replace a capture of another video in the same folder instead of refusing."""

    @property
    def ingest(self) -> IngestConfig:
        """The part that decides the frames."""
        return IngestConfig(self.max_side, self.max_fps, self.max_frames)


@dataclass
class _Stages:
    """stages.json: which stages stand, and for what input; written atomically after each."""

    path: Path
    source_sha256: str
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> _Stages | None:
        """Return what stages.json says; None where it is missing or damaged."""
        path = folder / STAGES_FILE
        try:
            value = json.loads(path.read_text())
            if value["format"] != STAGES_FORMAT or value["version"] != STAGES_VERSION:
                return None
            return _Stages(path, str(value["source_sha256"]), dict(value["stages"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self) -> None:
        """Write stages.json atomically."""
        write_json(
            self.path,
            {
                "format": STAGES_FORMAT,
                "version": STAGES_VERSION,
                "source_sha256": self.source_sha256,
                "stages": self.done,
            },
        )

    def run(
        self, name: str, key: str, files: Callable[[dict[str, Any]], bool], make: Callable[[], Any]
    ) -> dict[str, Any]:
        """Return the values of a stage: the kept ones if they were made for ``key`` and its files
        are there, else those of ``make``, which returns a JSON-able dict."""
        kept = self.done.get(name)
        if kept is not None and kept.get("key") == key and files(kept["values"]):
            return kept["values"]
        # Whatever follows was made from what is about to change.
        names = list(self.done)
        for later in names[names.index(name) :] if name in names else []:
            del self.done[later]
        self.write()
        (self.path.parent / "capture.json").unlink(missing_ok=True)
        values = make()
        self.done[name] = {"key": key, "values": values}
        self.write()
        return values


def capture_video(
    videos: Sequence[Path],
    output: Path,
    config: CaptureConfig = CaptureConfig(),
    report: Reporter = ignore_progress,
) -> Capture:
    """Turn a clip of a head into a capture folder (layout: ``avatar.capture_data``).

    Stages that already finished in ``output`` for the same file and settings are kept, so a run
    that was interrupted goes on where it stood, and a finished capture returns at once.

    Args:
        videos: one clip.
        output: the folder to make or to continue, by custom ``NAME.capture``.
        config: settings.
        report: progress listener; stages "ingest" (frames and landmarks), "matte", "track".

    Raises:
        InputError: the clip cannot be used, shows no face, or the folder cannot be written or
            belongs to something else.
    """
    video = _only_video(videos)
    output = Path(output)
    clip = probe(video, config.ingest)
    with _disk_errors(output):
        sha256 = _sha256(video)
        stages = _claim(output, sha256, config.overwrite)
        values = _prepare(stages, clip, output, config, report)
        return _finish(stages, values, clip, output, report)


def _prepare(
    stages: _Stages, clip: ClipInfo, output: Path, config: CaptureConfig, report: Reporter
) -> dict[str, dict[str, Any]]:
    """Run ingest and matte; return their values."""
    ingest_key = _key(stages.source_sha256, asdict(config.ingest))
    ingest = stages.run(
        "ingest",
        ingest_key,
        lambda values: (
            _complete(output / "frames" / "cam0", "jpg", values["frames"])
            and (output / "landmarks.safetensors").is_file()
            and (output / "splits.json").is_file()
        ),
        lambda: _ingest(clip, output, report),
    )
    mask_sha256 = None
    if config.mask is not None:
        open_video(Path(config.mask)).close()
        mask_sha256 = _sha256(Path(config.mask))
    matte_key = _key(ingest_key, mask_sha256)
    matte = stages.run(
        "matte",
        matte_key,
        lambda values: _complete(output / "masks" / "cam0", "png", ingest["frames"]),
        lambda: _matte(ingest, output, config, report),
    )
    return {"ingest": ingest, "matte": matte}


def _ingest(clip: ClipInfo, output: Path, report: Reporter) -> dict[str, Any]:
    """Decode once: frames to disk, landmarks, sound, splits."""
    start = time.perf_counter()
    folder = _fresh(output / "frames")
    for name in ("audio.wav", "landmarks.safetensors", "track.safetensors", "splits.json"):
        (output / name).unlink(missing_ok=True)
    follower = PersonFollower(clip.width, clip.height)
    detecting = 0.0
    frames = 0
    with FaceDetector() as detector, _Writer() as writer, _prefetched(read_frames(clip)) as images:
        for image in images:
            writer.put(_write_image, folder / f"{frames:06d}.jpg", image[..., ::-1], JPEG)
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
        warnings.append("The clip is interlaced; combing blurs moving parts. Film progressive.")
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
    ingest: dict[str, Any], output: Path, config: CaptureConfig, report: Reporter
) -> dict[str, Any]:
    """Write a mask for every frame."""
    start = time.perf_counter()
    folder = _fresh(output / "masks")
    frames = ingest["frames"]
    landmarks = Landmarks.load(output / "landmarks.safetensors")
    points, valid = landmarks.points.numpy(), landmarks.valid.numpy()
    source = output / "frames" / "cam0"

    def read(frame: int) -> np.ndarray:
        return cv2.cvtColor(cv2.imread(str(source / f"{frame:06d}.jpg")), cv2.COLOR_BGR2RGB)

    def finish(frame: int, image: np.ndarray, coarse: np.ndarray) -> None:
        mask = refine(image, coarse, points[frame] if valid[frame] else None)
        _write_image(folder / f"{frame:06d}.png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])

    with (
        Segmenter() as segmenter,
        _Writer() as writer,
        _prefetched(read(frame) for frame in range(frames)) as images,
    ):
        held: list[tuple[np.ndarray, np.ndarray]] = []  # the frame before, this one, the one after
        for frame, image in enumerate(images):
            held.append((image, segmenter(image)))
            if frame == 1:
                writer.put(finish, 0, *held[0])
            elif frame > 1:
                coarse = steady([probability for _, probability in held])
                writer.put(finish, frame - 1, held[1][0], coarse)
                del held[0]
            report(Progress("matte", frame, frames))
        writer.put(finish, frames - 1, *held[-1])
    report(Progress("matte", frames, frames))
    return {"seconds": {"matte": time.perf_counter() - start}}


def _finish(
    stages: _Stages,
    values: dict[str, dict[str, Any]],
    clip: ClipInfo,
    output: Path,
    report: Reporter,
) -> Capture:
    raise NotImplementedError


def _only_video(videos: Sequence[Path]) -> Path:
    if len(videos) != 1:
        raise InputError(
            f"a capture takes one video for now; got {len(videos)}. Several synchronised cameras "
            f"come later: give the clip of the frontal camera."
        )
    return Path(videos[0])


def _claim(output: Path, sha256: str, overwrite: bool) -> _Stages:
    """Make the folder, or check that it is this source's; return its stages."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; the capture needs a folder. Choose another -o.")
    output.mkdir(parents=True, exist_ok=True)
    stages = _Stages.read(output)
    if stages is not None and stages.source_sha256 != sha256:
        if not overwrite:
            raise InputError(
                f"{output} holds the capture of another video. Choose another -o, remove that "
                f"folder, or allow overwriting it."
            )
        stages = None
    for path in output.glob(".*"):
        if path.is_file():
            path.unlink()  # what an interrupted atomic write left
    if stages is None:
        known = {*LAYOUT, STAGES_FILE}
        strange = sorted(path.name for path in output.iterdir() if path.name not in known)
        if strange or (not overwrite and any(output.iterdir())):
            raise InputError(
                f"{output} is not empty and is no capture of this video (it has "
                f"{(strange or LAYOUT)[0]}). Choose an empty or a new folder."
            )
        for name in LAYOUT:
            path = output / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        stages = _Stages(output / STAGES_FILE, sha256)
        stages.write()
    return stages


LAYOUT = (
    "capture.json", "frames", "masks", "audio.wav", "landmarks.safetensors", "track.safetensors",
    "splits.json", "report.html",
)  # fmt: skip
"""What a capture folder may hold beside stages.json."""


def _complete(folder: Path, suffix: str, frames: int) -> bool:
    """Whether a picture of every frame is there."""
    names = {path.name for path in folder.glob(f"*.{suffix}")} if folder.is_dir() else set()
    return names == {f"{frame:06d}.{suffix}" for frame in range(frames)}


def _fresh(parent: Path) -> Path:
    """Return an empty folder cam0 in ``parent``."""
    if parent.exists():
        shutil.rmtree(parent)
    folder = parent / "cam0"
    folder.mkdir(parents=True)
    return folder


def _write_image(path: Path, image: np.ndarray, options: Sequence[int]) -> None:
    """Encode and write a picture (BGR or grey); unlike ``cv2.imwrite`` a full disk raises."""
    good, content = cv2.imencode(path.suffix, image, list(options))
    assert good
    path.write_bytes(content.tobytes())


def _key(*parts: Any) -> str:
    """A short hash that names what a stage was made from."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence that names the path."""
    try:
        yield
    except OSError as error:
        path = error.filename or output
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}). Free some space or choose "
            f"another -o, then run the same command again: finished stages are kept."
        ) from error


class _Writer:
    """One worker thread with a short queue, so that pictures wait in line and not in memory."""

    DEPTH = 6

    def __enter__(self) -> _Writer:
        self._pool = ThreadPoolExecutor(1)
        self._waiting: list[Future[Any]] = []
        return self

    def put(self, job: Callable[..., Any], *args: Any) -> None:
        """Queue a job; raises what an earlier one raised."""
        self._waiting.append(self._pool.submit(job, *args))
        if len(self._waiting) > self.DEPTH:
            self._waiting.pop(0).result()

    def __exit__(self, kind: type | None, *error: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()


@contextmanager
def _prefetched(items: Iterable[T], depth: int = 6) -> Iterator[Iterator[T]]:
    """Run an iterable in a thread, ``depth`` items ahead; its exceptions come out at the consumer."""
    line: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def offer(kind: str, value: Any) -> None:
        while not stop.is_set():
            try:
                line.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                offer("item", item)
                if stop.is_set():
                    return
            offer("end", None)
        except BaseException as error:  # noqa: BLE001 - handed on to the consumer whatever it is
            offer("error", error)

    def consume() -> Iterator[T]:
        while True:
            kind, value = line.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stop.set()
        thread.join()
