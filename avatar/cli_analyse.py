"""``avatar analyse``: what a tracked face shows, as numbers, a table and a plot.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from avatar.checks import InputError
from avatar.cli_bench import JsonFile, write_json_file
from avatar.console import console

if TYPE_CHECKING:
    from avatar.drive.readout_clip import Analysis

SHOWN_UNITS = 8
"""Rows of the table: the units that were present most."""


def analyse(
    source: tyro.conf.Positional[Path],
    /,
    json_file: JsonFile = None,
    plot_file: Annotated[Path | None, tyro.conf.arg(name="plot")] = None,
    csv_file: Annotated[Path | None, tyro.conf.arg(name="csv")] = None,
) -> None:
    """Read a face: FACS action units, blinks, gaze, head, speaking-like motion, and what it looks like.

    It reads faces, not feelings: docs/analyse.md says how, how well, and what not to use it for.

    Args:
        source: a .capture folder, a .csv or .json file of ARKit coefficients, or a .jsonl recording.
        json_file: write all numbers of all frames to this file; - prints them.
        plot_file: draw action units over time, valence and arousal to this .png file.
        csv_file: write one line a frame to this file.
    """
    from avatar.drive.readout_clip import analyse as read
    from avatar.drive.readout_clip import as_json, read_clip, write_csv
    from avatar.drive.readout_plot import write_plot

    if plot_file is not None and plot_file.suffix.lower() != ".png":
        raise InputError(f"--plot {plot_file} must end in .png.")  # said before the work
    analysis = read(read_clip(source))
    if csv_file is not None:
        write_csv(csv_file, analysis)
    if plot_file is not None:
        write_plot(plot_file, analysis)
    write_json_file(json_file, None if json_file is None else as_json(analysis))
    for line in summary_lines(analysis):
        console.print(line, markup=False)


def summary_lines(analysis: Analysis) -> list[str]:
    """Return the result as lines for a terminal."""
    from avatar.drive.readout import COEFFICIENT_SIGMA
    from avatar.drive.readout_clip import LIMITS
    from avatar.drive.readout_units import ACTION_UNITS, uncertainty

    found: dict[str, Any] = analysis.readout.summary()
    lines = [
        f"{analysis.clip.source}: {found['frames']} frames, a face in {found['frames_with_face']}, "
        f"{found['observed_s']:.1f} s observed"
    ]
    units = found["action_units"]
    if units is None:
        return [*lines, "There is no face to read."]
    ranked = sorted(ACTION_UNITS, key=lambda unit: -units[unit.label]["present_share"])
    lines.append(f"{'action unit':<28}{'present':>9}{'mean':>8}{'highest':>9}")
    for unit in ranked[:SHOWN_UNITS]:
        row = units[unit.label]
        lines.append(
            f"{unit.label + '  ' + unit.name:<28}{row['present_share']:>8.0%}{row['mean']:>9.2f}"
            f"{row['max']:>9.2f}"
        )
    shares = sorted(found["emotion_shares"].items(), key=lambda item: -item[1])
    sigma = uncertainty(COEFFICIENT_SIGMA).affect
    affect = found["affect"]
    blinks, gaze, head = found["blinks"], found["gaze"], found["head_rad"]
    lines += [
        "looks      " + ", ".join(f"{name} {share:.0%}" for name, share in shares if share > 0.005),
        f"affect     valence {affect['valence']['mean']:+.2f} ± {sigma[0]:.2f}, "
        f"arousal {affect['arousal']['mean']:+.2f} ± {sigma[1]:.2f} (mean; ± of one frame's tracking)",
        f"blinks     {blinks['count']}{_rate(blinks['per_minute'])}, eyes shut "
        f"{_share(blinks['eyes_shut_share'])}",
        f"gaze       within 10 degrees of the usual {_share(gaze['ahead_share'])}, "
        f"shifts{_rate(gaze['shifts_per_minute'])}",
    ]
    if head is not None:
        turned = ", ".join(
            f"{name} {_degrees(row['min']):+.0f} to {_degrees(row['max']):+.0f}"
            for name, row in head.items()
        )
        speed = found["head"]["mean_speed_rad_s"]
        lines.append(
            f"head       {turned} degrees"
            + ("" if speed is None else f", mean speed {_degrees(speed):.0f} degrees/s")
        )
    lines.append(f"speaking-like motion {_share(found['speaking_like_share'])} of the time")
    return [*lines, LIMITS[0]]


def _degrees(radians: float) -> float:
    return radians * 57.29577951308232


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"


def _rate(value: float | None) -> str:
    return "" if value is None else f" ({value:.1f} a minute)"
