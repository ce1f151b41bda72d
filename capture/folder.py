"""A capture folder while it is being made: what stands, what belongs there, and safe writing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatar.capture_data import COPIES, REDUCED_COLOUR, shrunk
from avatar.checks import InputError
from avatar.tensorfile import write_json

STAGES_FORMAT = "headsplat.capture-stages"
STAGES_VERSION = 1
STAGES_FILE = "stages.json"

LAYOUT = (
    "capture.json", "frames", "masks", "audio.wav", "landmarks.safetensors", "track.safetensors",
    "flame.safetensors", "splits.json", "report.html", COPIES, STAGES_FILE,
)  # fmt: skip
"""All that a capture folder holds, but for the points of further cameras: see ``belongs``."""

WORKING_SIDE = 1280
"""Longer side, pixels, at which faces and masks are looked for in larger frames: the models see 256
pixels at most, and a tracked point is no better in a picture of 4K, only slower."""

LARGE_SIDE = 2048
"""Frames with a longer side above this are stored as ``JPEG_LARGE``."""

JPEG = (
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip
"""Full chroma: lips and irises are what halved chroma smears."""

JPEG_LARGE = (
    cv2.IMWRITE_JPEG_QUALITY, 90,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
)  # fmt: skip
"""4K comes from the camera with halved chroma, and an iris is large in it: a third of the bytes."""


@dataclass
class Stages:
    """stages.json: which stages stand, and for what input; written atomically after each."""

    path: Path
    source_sha256: str
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> Stages | None:
        """Return what stages.json says; None where it is missing or damaged."""
        path = folder / STAGES_FILE
        try:
            value = json.loads(path.read_text())
            if value["format"] != STAGES_FORMAT or value["version"] != STAGES_VERSION:
                return None
            return Stages(path, str(value["source_sha256"]), dict(value["stages"]))
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
        # What follows and was made from this has its key in its own; the rest (other cameras) stands.
        self.done.pop(name, None)
        self.write()
        (self.path.parent / "capture.json").unlink(missing_ok=True)
        values = make()
        self.done[name] = {"key": key, "values": values}
        self.write()
        return values


def belongs(name: str) -> bool:
    """Whether a capture folder may hold something of that name."""
    return name in LAYOUT or re.fullmatch(r"landmarks[1-9]\d*\.safetensors", name) is not None


def claim(output: Path, sha256: str, overwrite: bool) -> Stages:
    """Make the folder, or check that it is this video's; return its stages.

    stages.json is the first file in a new folder, so whatever lies there without one is not ours.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; the capture needs a folder. Choose another -o.")
    output.mkdir(parents=True, exist_ok=True)
    for leftover in output.glob(".*.*.*"):  # what an interrupted atomic write left
        _, stem, _, suffix = leftover.name.split(".", 3)
        if belongs(f"{stem}.{suffix}"):
            leftover.unlink()
    stages = Stages.read(output)
    if stages is not None and stages.source_sha256 == sha256:
        return stages
    found = sorted(path.name for path in output.iterdir())
    if stages is not None and not overwrite:
        raise InputError(
            f"{output} holds the capture of another video. Choose another -o, or remove that folder."
        )
    strange = found if stages is None and not overwrite else [n for n in found if not belongs(n)]
    if strange:
        raise InputError(
            f"{output} is not empty and is no capture that can be continued (it has "
            f"{strange[0]}). Choose another -o, or remove that folder."
        )
    # stages.json goes last: until then a run that is cut short finds the old capture as it was.
    for name in sorted(filter(belongs, found), key=STAGES_FILE.__eq__):
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    stages = Stages(output / STAGES_FILE, sha256)
    stages.write()
    return stages


def working_size(width: int, height: int) -> tuple[int, int]:
    """Return the (width, height) at which frames of a size are looked at: WORKING_SIDE at most.

    One scale serves both sides: of the sizes a little smaller, the one whose shorter side is nearest
    to a whole number of pixels is taken.
    """
    longer, shorter = max(width, height), min(width, height)
    if longer <= WORKING_SIDE:
        return width, height

    def rounding(side: int) -> float:
        exact = shorter * side / longer
        return abs(exact - round(exact))

    side = min(range(WORKING_SIDE, WORKING_SIDE * 19 // 20, -1), key=rounding)
    other = max(1, round(shorter * side / longer))
    return (side, other) if width >= height else (other, side)


def jpeg_options(width: int, height: int) -> tuple[int, ...]:
    """Return how frames of a size are encoded."""
    return JPEG_LARGE if max(width, height) > LARGE_SIDE else JPEG


class Pictures:
    """Frames and masks of a capture that is being made, read when asked for."""

    def __init__(self, folder: Path, width: int, height: int, camera: int = 0) -> None:
        """Read a camera's pictures of ``width`` x ``height`` pixels from a capture's folder."""
        self._folder, self._size = folder, (height, width)
        self._frames = folder / "frames" / f"cam{camera}"
        self._masks = folder / "masks" / f"cam{camera}"
        self.working_size = working_size(width, height)
        """(width, height) of what ``working`` and ``working_mask`` return."""
        self.working_scale = max(self.working_size) / max(width, height)
        """Pixels of a working picture for one of the stored frame, at most 1."""
        # JPEG decodes to a half, quarter or eighth at a fraction of the cost; never below the size.
        self._reduction, self._mode = 1, cv2.IMREAD_COLOR
        for factor, mode in reversed(REDUCED_COLOUR):
            if self.working_scale * factor <= 1:
                self._reduction, self._mode = factor, mode

    def frame(self, frame: int) -> np.ndarray:
        """Read a picture, uint8 [H, W, 3] sRGB."""
        path = self._frames / f"{frame:06d}.jpg"
        return cv2.cvtColor(self._read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def mask(self, frame: int) -> np.ndarray:
        """Read a person mask, uint8 [H, W]."""
        path = self._masks / f"{frame:06d}.png"
        return self._read(path, cv2.IMREAD_GRAYSCALE)

    def working(self, frame: int) -> tuple[np.ndarray, float]:
        """Read a picture at the size to work at: (uint8 [h, w, 3] sRGB, ``working_scale``).

        Points of the stored frame times the scale are points of the picture.
        """
        path = self._frames / f"{frame:06d}.jpg"
        picture = self._read(path, self._mode, self._reduction)
        picture = cv2.cvtColor(shrunk(picture, self.working_size), cv2.COLOR_BGR2RGB)
        return picture, self.working_scale

    def working_mask(self, frame: int) -> np.ndarray:
        """Read a person mask at the size to work at, uint8 [h, w]."""
        return shrunk(self.mask(frame), self.working_size)

    def _read(self, path: Path, mode: int, reduction: int = 1) -> np.ndarray:
        picture = cv2.imread(str(path), mode)
        expected = tuple(-(-side // reduction) for side in self._size)
        if picture is None or picture.shape[:2] != expected:
            raise InputError(
                f"{path} cannot be read or has another size than the capture. Remove "
                f"{self._folder} and run the same command again."
            )
        return picture


def is_complete(
    folder: Path, suffix: str, frames: int, missing: frozenset[int] = frozenset()
) -> bool:
    """Whether a picture of every frame is there, but of those that are ``missing``."""
    names = {path.name for path in folder.glob(f"*.{suffix}")} if folder.is_dir() else set()
    return names == {f"{frame:06d}.{suffix}" for frame in range(frames) if frame not in missing}


def fresh_folder(parent: Path, camera: int = 0) -> Path:
    """Return an empty folder of a camera in ``parent``."""
    folder = parent / f"cam{camera}"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def write_image(path: Path, image: np.ndarray, options: Sequence[int]) -> None:
    """Encode and write a picture (BGR or grey); unlike ``cv2.imwrite`` a full disk raises."""
    good, content = cv2.imencode(path.suffix, image, list(options))
    assert good
    try:
        path.write_bytes(content.tobytes())
    except OSError as error:
        error.filename = str(path)  # a failing write names no file by itself
        raise


def key_of(*parts: Any) -> str:
    """A short hash that names what a stage was made from."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def disk_errors(output: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence that names the path."""
    try:
        yield
    except OSError as error:
        path = error.filename or output
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}). Free some space or choose "
            f"another -o, then run the same command again: finished stages are kept."
        ) from error
