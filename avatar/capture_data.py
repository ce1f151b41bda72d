"""A capture folder on disk: what ``avatar capture`` leaves and every later stage reads.

    me.capture/   capture.json (written last) · frames/cam0/000000.jpg · masks/cam0/000000.png ·
                  audio.wav · landmarks.safetensors · track.safetensors · splits.json · report.html

Several cameras share one time line: cam1, cam2 ... beside cam0, landmarks1.safetensors ... beside
landmarks.safetensors, and one track. Every array is indexed by frame; a missing face is a ``valid``
flag, a missing picture one of ``CaptureCamera.missing``, never a shorter list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from avatar.checks import InputError
from avatar.tensorfile import read_tensors, write_tensors
from avatar.types import Camera, HeadState

CAPTURE_FORMAT = "headsplat.capture"
CAPTURE_VERSION = 1
TRACK_FORMAT = "headsplat.track"
TRACK_VERSION = 1
LANDMARKS_FORMAT = "headsplat.landmarks"
LANDMARKS_VERSION = 1
COPIES = "pyramid"
"""Folder of a capture with small copies of large frames, which the fit leaves: see ``avatar.train.pictures``."""

TRACK_TENSORS = {
    "K": "C 3 3",
    "T_cam_world": "C 4 4",
    "lattice": "478 3",
    "basis": "E 478 3",
    "eyeballs": "2 3",
    "expression": "F E",
    "gaze": "F 2 2",
    "T_world_head": "F 4 4",
    "T_world_torso": "F 4 4",
    "landmarks_px": "F 478 2",
    "residual_px": "F",
    "valid": "F",
}


RIG = "lattice"
"""The rig that captures and avatars have unless they say otherwise: the face lattice."""
RIGS = (RIG, "ict", "flame")
"""Rigs that this program knows. Whichever it is, tracks and avatars hold the lattice's points and shapes,
so that nothing but the tracker needs the head model itself."""


def need_rig(path: Path, rig: Any, remedy: str) -> None:
    """Raise InputError unless a file's header names the rig that this program knows."""
    if rig not in RIGS:
        raise InputError(
            f"{path} was made with the rig {rig!r}, but this program knows {', '.join(RIGS)}. Open it with "
            f"the headsplat that made it, or make it again. {remedy}"
        )


REDUCED_COLOUR = (
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
)
"""A JPEG decodes to an eighth, a quarter or a half of its sides in a fraction of the time."""

REDUCED_ROOM = 1.5
"""A picture is decoded to this many times the size wanted, at least, and averaged down from there: 4K
frames at 720 to 1280 pixels are then 0.1 to 0.3 levels of 255, on average, from what averaging all of
their pixels gives (half a level, and more at edges, without the room)."""


@dataclass(frozen=True)
class Track:
    """The tracked person: one camera set, one personal lattice, one state a frame."""

    K: Tensor
    """[C, 3, 3] pixels of the stored frames."""
    T_cam_world: Tensor
    """[C, 4, 4]."""
    lattice: Tensor
    """[478, 3] neutral face lattice, head frame, metres (MediaPipe's point order; the last 10 are irises)."""
    basis: Tensor
    """[E, 478, 3] metres of displacement at coefficient 1; the first 52 are ARKit's shapes."""
    eyeballs: Tensor
    """[2, 3] centres of the subject's left and right eyeball, head frame, metres."""
    expression: Tensor
    """[F, E]."""
    gaze: Tensor
    """[F, 2, 2] radians, as in ``HeadState``."""
    T_world_head: Tensor
    """[F, 4, 4]."""
    T_world_torso: Tensor
    """[F, 4, 4]; the torso frame is the head frame of the reference frame (the most frontal one)."""
    landmarks_px: Tensor
    """[F, 478, 2] detected points in camera ``main``, pixels of the stored frames; 0 where not valid."""
    residual_px: Tensor
    """[F] RMS distance of the model's points from the detected ones, pixels, the detector's learnt slide
    over the skin taken out and points weighted as they face the camera."""
    valid: Tensor
    """[F] bool: the frame shows the face and was solved."""
    expression_names: tuple[str, ...]
    """E names; the first 52 are Apple's."""
    rig: str
    """The rig whose faces and expressions were fitted: one of ``RIGS``."""
    fps: float
    """Frames a second."""
    main: int = 0
    """The camera that looks at the face most squarely: of one camera it is this one's picture that
    reports, previews and the avatar's own view show."""

    def __len__(self) -> int:
        return self.expression.shape[0]

    def states(self) -> HeadState:
        """Return the tracked states of all frames as one batch."""
        return HeadState(self.expression, self.gaze, self.T_world_head, self.T_world_torso)

    def save(self, path: Path) -> None:
        """Write track.safetensors atomically."""
        tensors = {name: getattr(self, name) for name in TRACK_TENSORS}
        for name, tensor in tensors.items():
            tensors[name] = tensor.bool() if name == "valid" else tensor.float()
        header = {
            "rig": self.rig,
            "expression_names": list(self.expression_names),
            "fps": self.fps,
            "main": self.main,
        }
        write_tensors(path, tensors, format=TRACK_FORMAT, version=TRACK_VERSION, header=header)

    @staticmethod
    def load(path: Path) -> Track:
        """Read track.safetensors; raises InputError naming what is wrong and what to do."""
        remedy = "Run: avatar capture VIDEO -o DIR.capture"
        tensors, header = read_tensors(
            path, format=TRACK_FORMAT, version=TRACK_VERSION, required=TRACK_TENSORS, remedy=remedy
        )
        need_rig(path, header.get("rig", RIG), remedy)
        names = header.get("expression_names")
        if not isinstance(names, list) or len(names) != tensors["expression"].shape[1]:
            raise InputError(
                f"{path}: expression_names do not fit the tensor 'expression'. {remedy}"
            )
        main, cameras = header.get("main", 0), len(tensors["K"])
        if not isinstance(main, int) or not 0 <= main < cameras:
            raise InputError(f"{path}: 'main' is {main!r}, but it has {cameras} cameras. {remedy}")
        return Track(
            **{name: tensors[name] for name in TRACK_TENSORS},
            expression_names=tuple(str(name) for name in names),
            rig=str(header.get("rig", RIG)),
            fps=float(header.get("fps", 25.0)),
            main=main,
        )


@dataclass(frozen=True)
class Splits:
    """Frame ranges, first included, last excluded."""

    train: tuple[int, int]
    """Frames that fitting sees (the validation part included)."""
    validation: tuple[int, int]
    """The last part of ``train``, on which choices are made; a final fit uses it too."""
    test: tuple[int, int]
    """Held-out frames, never seen in fitting."""

    @staticmethod
    def default(frames: int) -> Splits:
        """Hold out the last 20 % of the frames; the last eighth of the rest is for validation."""
        test = frames - frames // 5
        return Splits((0, test), (test - test // 8, test), (test, frames))


SPLIT_NAMES = ("train", "validation", "test")


def _range(value: Any, frames: int) -> tuple[int, int]:
    """Check a frame range of splits.json; raises ValueError."""
    first, last = (int(i) for i in value)
    if not 0 <= first <= last <= frames:
        raise ValueError(f"the range {first}..{last} does not fit {frames} frames")
    return first, last


def read_splits(folder: Path, frames: int) -> Splits:
    """Read splits.json of a capture folder; raises InputError where it is missing or damaged."""
    file = folder / "splits.json"
    try:
        value = json.loads(file.read_text())
        return Splits(*(_range(value[k], frames) for k in SPLIT_NAMES))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{file} is missing or damaged ({error!r}). Run: avatar capture VIDEO -o {folder}"
        ) from error


def on_white(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Set a picture uint8 [H, W, 3] on white by its mask uint8 [H, W]: float32 [H, W, 3] in [0, 1]."""
    alpha = mask[..., None].astype(np.float32) / 255
    return picture.astype(np.float32) / 255 * alpha + (1 - alpha)


UNIT_GAIN = (1.0, 1.0, 1.0)
MOST_FRAMES = 10_000_000
"""Frames beyond which a number is a mistake: four days at 30 a second."""


@dataclass(frozen=True)
class CaptureCamera:
    """One camera of a capture, as capture.json has it."""

    name: str
    """File name of its clip, or what its data set calls it."""
    width: int
    """Of its stored frames, pixels."""
    height: int
    """Of its stored frames, pixels."""
    missing: frozenset[int] = frozenset()
    """Frames of which it has no picture: it began later, ended sooner, or dropped them."""
    gain: tuple[float, float, float] = UNIT_GAIN
    """What its red, green and blue (sRGB values) are multiplied by to agree with the main camera's."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    @cached_property
    def gain_table(self) -> np.ndarray:
        """[1, 256, 3] uint8: each channel's values after ``gain``."""
        values = np.arange(256)[:, None] * np.asarray(self.gain)
        return np.clip(np.round(values), 0, 255).astype(np.uint8)[None]

    def to_json(self) -> dict[str, Any]:
        """Return what capture.json has; missing frames as [first, last + 1] ranges."""
        frames = sorted(self.missing)
        starts = [f for f in frames if f - 1 not in self.missing]
        ends = [f + 1 for f in frames if f + 1 not in self.missing]
        return {
            "source": self.name,
            "width": self.width,
            "height": self.height,
            "missing": [list(pair) for pair in zip(starts, ends, strict=True)],
            "gain": list(self.gain),
        }

    @staticmethod
    def from_json(index: int, value: Mapping[str, Any]) -> CaptureCamera:
        """Read what ``to_json`` gave; raises KeyError, TypeError or ValueError where it is damaged."""
        ranges = [(int(a), int(b)) for a, b in value.get("missing", [])]
        red, green, blue = (float(v) for v in value.get("gain", UNIT_GAIN))
        if not all(0 < v < 100 for v in (red, green, blue)):
            raise ValueError(f"the gain of camera {index} is {(red, green, blue)}")
        if not all(0 <= a < b <= MOST_FRAMES for a, b in ranges):
            raise ValueError(f"the missing frames of camera {index} are {ranges[:3]}")
        return CaptureCamera(
            name=str(value.get("source", f"cam{index}")),
            width=int(value["width"]),
            height=int(value["height"]),
            missing=frozenset(frame for a, b in ranges for frame in range(a, b)),
            gain=(red, green, blue),
        )


class Capture:
    """An opened capture folder. Frames are read when asked for; nothing is kept in memory."""

    def __init__(self, path: Path) -> None:
        """Open and check ``path``; raises InputError if it is no finished capture."""
        self.path = Path(path)
        remedy = f"Run: avatar capture VIDEO -o {self.path}"
        file = self.path / "capture.json"
        if not file.is_file():
            state = (
                "has no capture.json: it was not finished"
                if self.path.is_dir()
                else "does not exist"
            )
            raise InputError(f"{self.path} {state}. {remedy}")
        try:
            header = json.loads(file.read_text())
            known = header["format"] == CAPTURE_FORMAT and int(header["version"]) <= CAPTURE_VERSION
            if not known:  # before its fields are read: another version may have others
                raise InputError(
                    f"{file} is {header['format']} version {header['version']}; this program reads "
                    f"{CAPTURE_FORMAT} up to version {CAPTURE_VERSION}. Install a newer headsplat, or "
                    f"make it again. {remedy}"
                )
            self.frames, self.fps = int(header["frames"]), float(header["fps"])
            self.cameras = tuple(
                CaptureCamera.from_json(k, value) for k, value in enumerate(header["cameras"])
            )
            self.main = int(header.get("main", 0))
            if self.main < 0:
                raise IndexError(self.main)
            self.width, self.height = self.cameras[self.main].size
        except (
            ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, OSError,
        ) as error:  # fmt: skip
            raise InputError(f"{file} is damaged ({error!r}). {remedy}") from error
        self.header: dict[str, Any] = header

    @property
    def source_sha256(self) -> str:
        """Hash of the source video."""
        return str(self.header.get("source_sha256", ""))

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds of each stage done so far."""
        return dict(self.header.get("seconds", {}))

    @property
    def audio(self) -> Path | None:
        """The 16 kHz mono sound, or None where the clip has none."""
        path = self.path / "audio.wav"
        return path if path.is_file() else None

    @cached_property
    def track(self) -> Track:
        """The track; raises InputError where it is missing or does not fit the capture."""
        track = Track.load(self.path / "track.safetensors")
        if len(track) != self.frames:
            raise InputError(
                f"{self.path}: track.safetensors has {len(track)} frames, capture.json says "
                f"{self.frames}. Run: avatar capture VIDEO -o {self.path}"
            )
        if len(track.K) != len(self.cameras) or track.main != self.main:
            raise InputError(
                f"{self.path}: track.safetensors has {len(track.K)} cameras, {track.main} the main one, "
                f"capture.json says {len(self.cameras)} and {self.main}. Run: avatar capture VIDEO -o "
                f"{self.path}"
            )
        return track

    @cached_property
    def splits(self) -> Splits:
        """The frame split of splits.json."""
        return read_splits(self.path, self.frames)

    def camera(self, index: int | None = None) -> Camera:
        """The tracked camera at the stored frames' size; the main one where None."""
        index = self.main if index is None else index
        size = self.cameras[index].size
        return Camera(self.track.K[index], self.track.T_cam_world[index], *size)

    def frame_path(self, frame: int, camera: int | None = None) -> Path:
        """Where the picture of a frame lies."""
        camera = self.main if camera is None else camera
        return self.path / "frames" / f"cam{camera}" / f"{frame:06d}.jpg"

    def mask_path(self, frame: int, camera: int | None = None) -> Path:
        """Where the person mask of a frame lies."""
        camera = self.main if camera is None else camera
        return self.path / "masks" / f"cam{camera}" / f"{frame:06d}.png"

    def landmarks_path(self, camera: int | None = None) -> Path:
        """Where the detected points of a camera lie."""
        camera = self.main if camera is None else camera
        return self.path / f"landmarks{camera or ''}.safetensors"

    def size_within(self, max_side: int, camera: int | None = None) -> tuple[int, int]:
        """Return the (width, height) of the frames scaled to ``max_side`` pixels at most, never up."""
        width, height = self.cameras[self.main if camera is None else camera].size
        scale = min(1.0, max_side / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def frame(
        self, frame: int, camera: int | None = None, *, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Read a picture, uint8 [H, W, 3] sRGB, its colours matched to the main camera's.

        Args:
            frame: its index; not one of the camera's ``missing``.
            camera: index of its camera; the main one where None.
            size: (width, height) to average it down to, as ``size_within`` gives it; the stored one
                where None. Of a large frame only what that takes is decoded: half the time at 4K.
        """
        path = self.frame_path(frame, camera)
        info = self.cameras[self.main if camera is None else camera]
        picture = None if size is None else self._reduced(path, size, info)
        if picture is None:
            picture = self._read(path, cv2.IMREAD_COLOR, info)
        # Not [..., ::-1]: whoever takes such a view next copies it, several times more slowly.
        picture = cv2.cvtColor(shrunk(picture, size), cv2.COLOR_BGR2RGB)
        return picture if info.gain == UNIT_GAIN else cv2.LUT(picture, info.gain_table)

    def mask(
        self, frame: int, camera: int | None = None, *, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Read a person mask, uint8 [H, W], 255 on the person; arguments as for ``frame``."""
        info = self.cameras[self.main if camera is None else camera]
        return shrunk(self._read(self.mask_path(frame, camera), cv2.IMREAD_GRAYSCALE, info), size)

    def on_white(
        self, frame: int, camera: int | None = None, *, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Read a frame with the person on white, float32 [H, W, 3] in [0, 1]; see ``frame``.

        Picture and mask are averaged down each for itself, as training pictures are.
        """
        picture, mask = self.frame(frame, camera, size=size), self.mask(frame, camera, size=size)
        return on_white(picture, mask)

    def _reduced(
        self, path: Path, size: tuple[int, int], camera: CaptureCamera
    ) -> np.ndarray | None:
        """Decode a picture with ``REDUCED_ROOM`` over ``size``; None where that takes all of it."""
        share = max(size[0] / camera.width, size[1] / camera.height)
        for factor, mode in REDUCED_COLOUR:
            if REDUCED_ROOM * share * factor <= 1:
                picture = cv2.imread(str(path), mode)
                expected = (-(-camera.height // factor), -(-camera.width // factor))
                # A file of another size is left to the full reading, which says what it found.
                return picture if picture is not None and picture.shape[:2] == expected else None
        return None

    def _read(self, path: Path, mode: int, camera: CaptureCamera) -> np.ndarray:
        picture = cv2.imread(str(path), mode)
        if picture is None or picture.shape[:2] != (camera.height, camera.width):
            found = (
                "cannot be read" if picture is None else f"is {picture.shape[1]}x{picture.shape[0]}"
            )
            raise InputError(
                f"{path} {found}; expected a {camera.width}x{camera.height} picture. "
                f"Run: avatar capture VIDEO -o {self.path}"
            )
        return picture


def shrunk(picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Average a picture down to (width, height); itself where it has that size or None is given."""
    if size is None or size == (picture.shape[1], picture.shape[0]):
        return picture
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Landmarks:
    """Raw detections of one camera."""

    points: Tensor
    """[F, 478, 3] x, y in pixels of the stored frames, z in the same unit (MediaPipe's relative depth)."""
    valid: Tensor
    """[F] bool: a face was found."""

    def save(self, path: Path) -> None:
        """Write landmarks.safetensors atomically."""
        tensors = {"points": self.points.float(), "valid": self.valid.bool()}
        write_tensors(path, tensors, format=LANDMARKS_FORMAT, version=LANDMARKS_VERSION, header={})

    @staticmethod
    def load(path: Path) -> Landmarks:
        """Read landmarks.safetensors; raises InputError naming what is wrong."""
        tensors, _ = read_tensors(
            path,
            format=LANDMARKS_FORMAT,
            version=LANDMARKS_VERSION,
            required={"points": "F 478 3", "valid": "F"},
            remedy="Run: avatar capture VIDEO -o DIR.capture",
        )
        return Landmarks(tensors["points"], tensors["valid"].bool())
