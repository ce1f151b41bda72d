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
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from avatar import __version__
from avatar.capture_data import CAPTURE_FORMAT, CAPTURE_VERSION, Capture, Landmarks, Splits, Track
from avatar.checks import InputError
from avatar.tensorfile import write_json
from avatar.types import Progress, Reporter, ignore_progress
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
from capture.track.config import TrackConfig
from capture.track.fit import fit_track

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
    """Replace the capture of another video, or a damaged one, in the same folder instead of
    refusing. A folder that holds anything but a capture is refused all the same."""

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

    def key(self, name: str) -> str:
        """Return what a finished stage was made for."""
        return str(self.done[name]["key"])

    def run(
        self, name: str, key: str, files: Callable[[dict[str, Any]], bool], make: Callable[[], Any]
    ) -> dict[str, Any]:
        """Return a stage's values: the kept ones, or those of ``make``.

        Args:
            name: of the stage.
            key: a hash of all that the stage is made from; another key makes it anew.
            files: says of the kept values whether the files that belong to them are there.
            make: does the work; returns JSON-able values.
        """
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
    sha256 = _sha256(video)
    with _disk_errors(output):
        stages = _claim(output, sha256, config.overwrite)
        ingest = _ingest_stage(stages, clip, output, config, report)
        matte = _matte_stage(stages, ingest, mask, output, report)
        track = _track_stage(stages, ingest, output, report)
        if not (output / "capture.json").is_file() or not (output / "report.html").is_file():
            _finish(clip, sha256, ingest, matte, track, output)
    return Capture(output)


def _ingest_stage(
    stages: _Stages, clip: ClipInfo, output: Path, config: CaptureConfig, report: Reporter
) -> dict[str, Any]:
    def stands(values: dict[str, Any]) -> bool:
        return (
            _complete(output / "frames" / "cam0", "jpg", values["frames"])
            and (output / "landmarks.safetensors").is_file()
            and (output / "splits.json").is_file()
            and (output / "audio.wav").is_file() == values["audio"]
        )

    key = _key(__version__, stages.source_sha256, asdict(config.ingest))
    return stages.run("ingest", key, stands, lambda: _ingest(clip, output, report))


def _matte_stage(
    stages: _Stages,
    ingest: dict[str, Any],
    mask: ClipInfo | None,
    output: Path,
    report: Reporter,
) -> dict[str, Any]:
    key = _key(stages.key("ingest"), None if mask is None else _sha256(mask.path))
    return stages.run(
        "matte",
        key,
        lambda _: _complete(output / "masks" / "cam0", "png", ingest["frames"]),
        lambda: _matte(ingest, mask, output, report),
    )


def _track_stage(
    stages: _Stages, ingest: dict[str, Any], output: Path, report: Reporter
) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        start = time.perf_counter()
        frames = _Pictures(output, ingest["width"], ingest["height"])
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

    key = _key(stages.key("matte"), asdict(TrackConfig()))
    return stages.run("track", key, lambda _: (output / "track.safetensors").is_file(), make)


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
    folder = _fresh(output / "masks")
    landmarks = Landmarks.load(output / "landmarks.safetensors")
    points, valid = landmarks.points.numpy(), landmarks.valid.numpy()
    pictures = _Pictures(output, *size)
    looks: list[FrameLook | None] = [None] * frames

    def finish(frame: int, image: np.ndarray, coarse: np.ndarray) -> None:
        face = points[frame] if valid[frame] else None
        soft = refine(image, coarse, face) if mask is None else coarse
        _write_image(folder / f"{frame:06d}.png", soft, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        looks[frame] = None if face is None else look_at_face(image, face)
        report(Progress("matte", frame + 1, frames))

    images = (pictures.frame(frame) for frame in range(frames))
    with _Writer() as writer:
        if mask is None:
            _segment(images, lambda *job: writer.put(finish, *job))
        else:
            with _prefetched(zip(images, read_frames(mask), strict=False)) as pairs:
                count = 0
                for count, (image, given) in enumerate(pairs, 1):
                    grey = cv2.cvtColor(given, cv2.COLOR_RGB2GRAY)
                    if (grey.shape[1], grey.shape[0]) != size:
                        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
                    writer.put(finish, count - 1, image, grey)
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
    with Segmenter() as segmenter, _prefetched(images) as ahead:
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
        _Pictures(output, ingest["width"], ingest["height"]),
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


LAYOUT = (
    "capture.json", "frames", "masks", "audio.wav", "landmarks.safetensors", "track.safetensors",
    "splits.json", "report.html", STAGES_FILE,
)  # fmt: skip
"""All that a capture folder holds."""


def _claim(output: Path, sha256: str, overwrite: bool) -> _Stages:
    """Make the folder, or check that it is this video's; return its stages.

    stages.json is the first file in a new folder, so whatever lies there without one is not ours.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; the capture needs a folder. Choose another -o.")
    output.mkdir(parents=True, exist_ok=True)
    for name in LAYOUT:  # what an interrupted atomic write left
        path = Path(name)
        for leftover in output.glob(f".{path.stem}.*{path.suffix}"):
            leftover.unlink()
    stages = _Stages.read(output)
    if stages is not None and stages.source_sha256 == sha256:
        return stages
    found = sorted(path.name for path in output.iterdir())
    if stages is not None and not overwrite:
        raise InputError(
            f"{output} holds the capture of another video. Choose another -o, or remove that folder."
        )
    strange = found if stages is None and not overwrite else sorted(set(found) - set(LAYOUT))
    if strange:
        raise InputError(
            f"{output} is not empty and is no capture that can be continued (it has "
            f"{strange[0]}). Choose another -o, or remove that folder."
        )
    # stages.json goes last: until then a run that is cut short finds the old capture as it was.
    for name in LAYOUT:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    stages = _Stages(output / STAGES_FILE, sha256)
    stages.write()
    return stages


class _Pictures:
    """Frames and masks of a capture that is being made, read when asked for."""

    def __init__(self, folder: Path, width: int, height: int) -> None:
        self._folder, self._size = folder, (height, width)

    def frame(self, frame: int) -> np.ndarray:
        """Read a picture, uint8 [H, W, 3] sRGB."""
        path = self._folder / "frames" / "cam0" / f"{frame:06d}.jpg"
        return cv2.cvtColor(self._read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def mask(self, frame: int) -> np.ndarray:
        """Read a person mask, uint8 [H, W]."""
        path = self._folder / "masks" / "cam0" / f"{frame:06d}.png"
        return self._read(path, cv2.IMREAD_GRAYSCALE)

    def _read(self, path: Path, mode: int) -> np.ndarray:
        picture = cv2.imread(str(path), mode)
        if picture is None or picture.shape[:2] != self._size:
            raise InputError(
                f"{path} cannot be read or has another size than the capture. Remove "
                f"{self._folder} and run the same command again."
            )
        return picture


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
