"""How clips become a capture: the options that `avatar capture` and `avatar create` share.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from avatar.checks import InputError
from avatar.cli_common import UsageError

if TYPE_CHECKING:
    from capture.settings import CaptureConfig

CalibrationUnit = Literal["m", "cm", "mm", "arbitrary"]
"""Units of length of a calibration file."""


@dataclass(frozen=True)
class ClipOptions:
    """What a user may say of clips; each field is an option of its own name.

    Args:
        mask: a matte clip of the same length (white is the person), instead of the built-in matting; of
            several cameras one for each clip, in their order.
        mirrored: all clips are mirrored, as some selfie apps save them: flip them back.
        mirrored_clips: file names of the clips that are mirrored, where not all are.
        max_side: longer side of the stored frames, pixels; larger ones are scaled down.
        focal_mm: the camera's focal length in 35 mm equivalents (about 26 for a phone's main camera, 24 for
            its front one); once for all cameras or once for each clip; found in the clips where not given.
        offsets: seconds from the first clip's first picture to that of each clip (0 0.12 -0.3: the third
            began first), instead of finding them by sound or motion.
        calibration: the cameras, where they are known: transforms.json (nerfstudio, Blender), a COLMAP
            folder (text or binary), or an OpenCV yml or xml file; matched to the clips by name, else by order.
        calibration_unit: its unit of length; metres where not given, for COLMAP arbitrary.
        rig: the head model to fit: lattice, or the name of an imported one (avatar rig list).
    """

    # The class's own docstring, not one below each field, as tyro keeps the line breaks of those.
    mask: tuple[Path, ...] = ()
    mirrored: bool = False
    mirrored_clips: tuple[str, ...] = ()
    max_side: int = 4096
    focal_mm: tyro.conf.UseAppendAction[tuple[float, ...]] = ()
    offsets: tuple[float, ...] = ()
    calibration: Path | None = None
    calibration_unit: CalibrationUnit | None = None
    rig: str = "lattice"

    def __post_init__(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if self.mirrored and self.mirrored_clips:
            raise UsageError(
                "--mirrored says that all clips are mirrored: leave out --mirrored-clips."
            )
        if self.calibration_unit is not None and self.calibration is None:
            raise UsageError("--calibration-unit needs --calibration FILE.")

    def with_clips(self, videos: Sequence[Path]) -> tuple[list[Path], ClipOptions]:
        """Return the clips and their options: of ``--mask MASK CLIP``, which reads as two masks, one is
        the clip."""
        if not videos and len(self.mask) > 1:
            return list(self.mask[1:]), replace(self, mask=self.mask[:1])
        return list(videos), self

    def config(self, *, overwrite: bool = False) -> CaptureConfig:
        """Return the settings of a capture; raises InputError for a side that no face is seen at."""
        from capture.settings import CaptureConfig

        return CaptureConfig(
            max_side=self.checked_side(),
            mirrored=self.mirrored_clips or self.mirrored,
            mask=self.mask or None,
            focal_mm=self.focal_mm or None,
            offsets=self.offsets or None,
            calibration=self.calibration,
            calibration_unit=self.calibration_unit,
            rig=self.rig,
            overwrite=overwrite,
        )

    def checked_side(self) -> int:
        """Return ``max_side``; raises InputError where it is too small."""
        from capture.ingest import MIN_SIDE

        if self.max_side < MIN_SIDE:
            raise InputError(
                f"--max-side must be at least {MIN_SIDE} pixels, or the face is too small; "
                f"got {self.max_side}."
            )
        return self.max_side

    def of_clips_alone(self) -> list[str]:
        """Return the options given that no data set has, as they are written."""
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("mask", "mirrored", "mirrored_clips", "focal_mm", "offsets", "calibration"),
                "calibration_unit",
            )
        }
        return [f"--{name.replace('_', '-')}" for name, value in values.items() if value]


Clips = Annotated[ClipOptions, tyro.conf.arg(name="")]
"""The options as a command takes them: beside its own, with no prefix."""
