"""The time line that several clips share: its rate, its frames, and which of them each clip has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from avatar.checks import InputError
from capture.ingest import MIN_FRAMES, ClipInfo


@dataclass(frozen=True)
class Take:
    """The part of the common time line that one clip fills."""

    camera: int
    """Its number."""
    shift_s: float
    """Seconds from the clip's first picture to the one that is taken for frame ``first``."""
    first: int
    """Number on the common time line of the first frame that it has."""
    frames: int
    """How many it has, without a gap."""
    total: int
    """Frames of the common time line."""
    fps: float
    """Frames a second of the common time line."""

    def of(self, clip: ClipInfo) -> ClipInfo:
        """Return the clip, or another of the same times (its mask), as it is to be read."""
        return replace(clip, start_s=clip.start_s + self.shift_s, fps=self.fps, frames=self.frames)

    def frames_in(self, clip: ClipInfo) -> int:
        """Return how many frames, from ``first`` on, such another clip of the same times has pictures for."""
        left_s = clip.duration_s - 0.5 / clip.source_fps - self.shift_s
        return min(self.frames, max(0, math.floor(left_s * self.fps + 1e-6) + 1))

    def as_json(self) -> dict[str, Any]:
        """Return what stages.json keeps."""
        return asdict(self)


def lay_out(
    clips: Sequence[ClipInfo], offsets: Sequence[float], max_frames: int | None = None
) -> list[Take]:
    """Lay the frames of clips on one time line.

    Its rate is the lowest of the clips' own; its frames stand where the first clip of that rate has
    pictures, and every other clip gives the picture nearest in time (off by half of its own step at
    most). It goes from the first to the last frame of which at least half of the cameras have a picture.

    Args:
        clips: of each camera.
        offsets: seconds from the first clip's first picture to that of each.
        max_frames: most frames of the time line; None for all.

    Raises:
        InputError: a clip shares too little time with the others.
    """
    fps = min(clip.fps for clip in clips)
    leader = next(k for k, clip in enumerate(clips) if clip.fps == fps)
    spans = []
    for clip, offset in zip(clips, offsets, strict=True):
        begin = (offset - offsets[leader]) * fps
        slack = 0.5 * min(1.0, fps / clip.source_fps)
        pictures = (clip.duration_s - 1 / clip.source_fps) * fps
        first = math.ceil(begin - slack - 1e-6)
        last = math.floor(begin + pictures + slack - 1e-6)
        spans.append((first, max(first, last + 1), begin))
    low, high = min(s[0] for s in spans), max(s[1] for s in spans)
    if high - low > 10 * sum(last - first for first, last, _ in spans):
        seen = np.zeros(1, int)  # clips hours apart: there is no time line to count on
    else:
        seen = np.zeros(high - low, int)
        for first, last, _ in spans:
            seen[first - low : last - low] += 1
    for clip, (first, last, _) in zip(clips, spans, strict=True):
        shared = int((seen[first - low : last - low] > 1).sum()) if len(seen) == high - low else 0
        if shared < MIN_FRAMES:
            raise InputError(
                f"{clip.path} shares {shared / fps:.1f} s with the other clips, and at least "
                f"{MIN_FRAMES / fps:.1f} are needed. Give clips of the same take, and state with "
                f"--offsets how many seconds after the first clip each began if this was found wrong."
            )
    enough = np.flatnonzero(seen >= len(clips) / 2)
    begin, end = low + int(enough[0]), low + int(enough[-1]) + 1
    if max_frames is not None:
        end = min(end, begin + max_frames)
    takes = []
    for k, (first, last, start) in enumerate(spans):
        first, last = max(first, begin), min(last, end)
        if last - first < MIN_FRAMES:
            raise InputError(
                f"{clips[k].path} has {max(0, last - first)} frames in the time that at least half of "
                f"the cameras filmed, and at least {MIN_FRAMES} are needed. Leave that clip out."
            )
        shift = (first - start) / fps
        takes.append(Take(k, shift, first - begin, last - first, end - begin, fps))
    return takes


def missing_of(values: dict[str, Any]) -> frozenset[int]:
    """Return the frames that a camera lacks, by the values of its ingest stage."""
    return frozenset(f for a, b in values.get("missing", []) for f in range(a, b))


def ranges_of(frames: Sequence[int] | frozenset[int]) -> list[list[int]]:
    """Return frames as [first, last + 1] ranges, ascending."""
    ranges: list[list[int]] = []
    for frame in sorted(frames):
        if ranges and ranges[-1][1] == frame:
            ranges[-1][1] = frame + 1
        else:
            ranges.append([frame, frame + 1])
    return ranges
