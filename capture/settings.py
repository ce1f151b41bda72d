"""What a user may settle about a capture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from avatar.checks import InputError
from avatar.rig.face_model import FaceModel
from avatar.rig.rig_store import LATTICE, open_rig, rig_sha256
from capture.ingest import IngestConfig
from capture.track.config import TrackConfig

T = TypeVar("T")

STATED_FOCAL_SPREAD = 0.01
"""Relative sigma of a focal length that the user states: makers round it, and stabilisation crops."""
SHORTEST_MM, LONGEST_MM = 10.0, 400.0
"""35 mm equivalents between which a stated focal length must lie: from an action camera to a cropped
studio shot."""


@dataclass(frozen=True)
class CaptureConfig:
    """How clips become a capture."""

    max_side: int = 4096
    """Longer side of the stored frames in pixels; larger pictures are scaled down, never up. Faces,
    masks and track are found at 1280 pixels at most, whatever this is."""
    max_fps: float = 45.0
    """Clips of a higher rate are thinned by the smallest whole number that brings them under it:
    50 and 60 frames/s become 25 and 30."""
    max_frames: int | None = None
    """Keep only so many frames from the start of the clip; None keeps all."""
    mirrored: bool | tuple[str, ...] = False
    """The clips are mirrored, as some selfie apps save them (writing on a shirt reads backwards): flip
    them back. True for all of them, or the file names of those that are. A face alone does not tell, so
    it cannot be found out."""
    mask: Path | tuple[Path, ...] | None = None
    """A clip of the person's mask (white on black), as many pictures as the video, or one for each of
    several videos; None makes the masks from the videos."""
    focal_mm: float | tuple[float, ...] | None = None
    """The camera's focal length as its maker states it, in 35 mm equivalents: the picture's longer side
    taken for 36 mm; one for all cameras or one for each. None finds it in the clip, which a short one
    or a head that hardly turns tells only to about a tenth."""
    offsets: tuple[float, ...] | None = None
    """Seconds from the first picture of the first of several clips to the first picture of each; None
    finds them by sound or motion."""
    calibration: Path | None = None
    """A file or folder that knows the cameras (see ``capture.calibration``); None finds them by the
    face."""
    calibration_unit: str | None = None
    """Its unit of length: m, cm, mm or arbitrary; None takes what is usual of its kind."""
    rig: str = LATTICE
    """The head model whose faces and expressions are fitted: the project's own ``"lattice"``, or the name
    of an imported one (``avatar rig list``)."""
    overwrite: bool = False
    """Replace the capture of another video, or a damaged one, in the same folder instead of
    refusing. A folder that holds anything but a capture is refused all the same."""

    @property
    def ingest(self) -> IngestConfig:
        """The part that decides the frames of one clip."""
        return IngestConfig(self.max_side, self.max_fps, self.max_frames, self.mirrored is True)

    def ingest_of(self, video: Path) -> IngestConfig:
        """The part that decides the frames of a clip beside others: their common length comes later."""
        named = self.mirrored if isinstance(self.mirrored, tuple) else ()
        flipped = self.mirrored is True or bool({video.name, video.stem} & set(named))
        return replace(self.ingest, max_frames=None, mirrored=flipped)

    @property
    def track(self) -> TrackConfig:
        """The part that decides the track."""
        stated = set(_all_of(self.focal_mm))
        if not stated:
            return TrackConfig()
        # Where they differ, each camera's own (``focal_widths``) goes with its footage.
        middle = sum(stated) / len(stated)
        return TrackConfig(focal_widths=middle / 36, focal_spread=STATED_FOCAL_SPREAD)

    def focal_widths(self, cameras: int) -> list[float | None]:
        """Each camera's stated focal length in units of the longer picture side; None where unknown."""
        stated = _all_of(self.focal_mm)
        each = stated * cameras if len(stated) == 1 else stated or (None,) * cameras
        return [None if value is None else value / 36 for value in each]

    @property
    def face(self) -> FaceModel | None:
        """The rig's family of faces; None for the default one."""
        return None if self.rig == LATTICE else open_rig(self.rig).face

    def rig_key(self) -> tuple[str, ...]:
        """What of the rig a track's key holds; nothing of the default one, as before there were others."""
        return () if self.rig == LATTICE else (self.rig, rig_sha256(self.rig))

    def masks(self) -> tuple[Path, ...]:
        """The mask clips, none where the masks are to be made."""
        return tuple(Path(path) for path in _all_of(self.mask))

    def check(self, videos: Sequence[Path]) -> None:
        """Raise InputError where what is stated for each clip does not fit the clips."""
        count = len(videos)
        for stated in _all_of(self.focal_mm):
            if not SHORTEST_MM <= stated <= LONGEST_MM:
                raise InputError(
                    f"--focal-mm must lie between {SHORTEST_MM:g} and {LONGEST_MM:g} (35 mm equivalents, "
                    f"about 26 for a phone's main camera); got {stated:g}. Leave it out to find it in "
                    f"the clip."
                )
        if len(_all_of(self.focal_mm)) not in (0, 1, count):
            raise InputError(
                f"--focal-mm takes one value for all cameras or one for each of the {count}; got "
                f"{len(_all_of(self.focal_mm))}."
            )
        if len(self.masks()) not in (0, count):
            raise InputError(
                f"--mask takes one mask clip for each of the {count} clips, in their order; got "
                f"{len(self.masks())}."
            )
        if isinstance(self.mirrored, tuple):
            names = {name for video in videos for name in (Path(video).name, Path(video).stem)}
            for name in self.mirrored:
                if name not in names:
                    raise InputError(
                        f"--mirrored-clips names {name!r}, which is none of the clips: "
                        f"{', '.join(Path(video).name for video in videos)}."
                    )


def _all_of(value: T | tuple[T, ...] | None) -> tuple[T, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)
