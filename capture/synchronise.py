"""The first stage of several cameras: find when each began, and lay them on one time line."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from avatar.checks import InputError
from avatar.types import Progress, Reporter
from capture.ingest import ClipInfo
from capture.sync import Heard, Offset, listen, offsets_of, watch
from capture.timeline import Take, lay_out


def check_offsets(offsets: Sequence[float] | None, count: int) -> None:
    """Raise InputError unless there is one finite offset for each of ``count`` clips, or none at all."""
    if offsets is None:
        return
    if len(offsets) != count:
        raise InputError(
            f"--offsets takes one number for each of the {count} clips (seconds after the first clip's "
            f"beginning, 0 for the first itself); got {len(offsets)}."
        )
    for offset in offsets:
        if not math.isfinite(offset) or abs(offset) > 86400:
            raise InputError(
                f"--offsets are seconds after the first clip's beginning; got {offset}. Leave them out "
                f"to find them by sound or motion."
            )


def synchronise(
    clips: Sequence[ClipInfo],
    given: Sequence[float] | None,
    max_frames: int | None,
    report: Reporter,
) -> dict[str, Any]:
    """Find the clips' offsets and their common time line.

    Args:
        clips: of each camera.
        given: seconds as the user states them; None to find them: by sound where all clips can be
            placed by it, else by motion too. What neither tells is taken to begin with the first clip.
        max_frames: most frames of the time line.
        report: listener; stage "synchronise".

    Returns:
        ``takes``, ``offsets`` (seconds, method, confidence of each), ``sound`` (number of the clip that
        sounds best, or None), ``warnings``, ``seconds``.
    """
    start = time.perf_counter()
    heard = [listen(clip) for clip in clips]
    warnings: list[str] = []
    if given is not None:
        offsets = [Offset(float(s - given[0]), "given", 1.0) for s in given]
    else:
        offsets = _found(clips, heard, report, warnings)
    takes = lay_out(clips, [offset.seconds for offset in offsets], max_frames)
    rates = sorted({round(clip.fps, 3) for clip in clips})
    if rates[-1] > 1.001 * rates[0]:
        warnings.append(
            f"The clips have {' and '.join(f'{rate:.4g}' for rate in rates)} frames/s: all are used at "
            f"{rates[0]:.4g}, the pictures nearest in time. Film with the same rate on all cameras."
        )
    return {
        "takes": [take.as_json() for take in takes],
        "offsets": [asdict(offset) for offset in offsets],
        "sound": _best_sound(heard, takes),
        "warnings": warnings,
        "seconds": {"sync": time.perf_counter() - start},
    }


def _found(
    clips: Sequence[ClipInfo],
    heard: Sequence[Heard | None],
    report: Reporter,
    warnings: list[str],
) -> list[Offset]:
    sounds = [None if one is None else one.signals for one in heard]
    placed = offsets_of(sounds, [None] * len(clips))
    if any(offset is None for offset in placed):
        total = sum(clip.frames for clip in clips)
        motions, done = [], 0
        for clip in clips:

            def part(progress: Progress) -> None:
                report(Progress(progress.stage, done + progress.done, total))  # noqa: B023

            motions.append(watch(clip, part))
            done += clip.frames
        report(Progress("synchronise", total, total))
        placed = offsets_of(sounds, motions)
    unsure = [clip.path.name for clip, offset in zip(clips, placed, strict=True) if offset is None]
    if unsure:
        warnings.append(
            f"Neither sound nor motion tells when {', '.join(unsure)} began: taken to begin with "
            f"{clips[0].path.name}. Clap once at the start of the take, or state it with --offsets."
        )
    return [Offset(0.0, "assumed", 0.0) if offset is None else offset for offset in placed]


def _best_sound(heard: Sequence[Heard | None], takes: Sequence[Take]) -> int | None:
    """The clip whose speech stands out of its noise the most, and which has it throughout."""
    worth = {
        k: one.range_db * takes[k].frames / takes[k].total
        for k, one in enumerate(heard)
        if one is not None
    }
    return max(worth, key=lambda k: worth[k]) if worth else None
