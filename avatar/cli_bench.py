"""``avatar bench``: what this machine does in how much time, and how right the tracking is.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from avatar.checks import InputError
from avatar.console import ProgressDisplay

JsonFile = Annotated[Path | None, tyro.conf.arg(name="json")]
"""The option ``--json`` of every command that reports."""


@dataclass(frozen=True)
class RasterizerBench:
    """How fast the kernels are on this machine."""

    gpu: bool = False
    """Measure the GPU instead, beside gsplat where it is installed."""
    json_file: JsonFile = None
    """Also write the table to this file; - prints it as JSON."""
    plot: Path | None = None
    """Also draw the table into this picture (png, svg or pdf)."""


@dataclass(frozen=True)
class TrackBench:
    """How fast, how steady and, with a known truth, how right the tracking is."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Capture folders, or clips: a clip is captured for it, in a process whose memory is measured."""
    truth: Path | None = None
    """The true motion of a rendered head (truth.npz): adds errors in degrees and millimetres."""
    camera: int = 0
    """Which of the truth's cameras filmed the clip."""
    json_file: JsonFile = None
    """Write the numbers to this file instead of tables; - prints them as JSON."""


def bench(
    what: tyro.conf.OmitArgPrefixes[
        Annotated[RasterizerBench, tyro.conf.subcommand("rasterizer", prefix_name=False)]
        | Annotated[TrackBench, tyro.conf.subcommand("track", prefix_name=False)]
    ] = RasterizerBench(),
) -> None:
    """Measure on this machine: rasterizer (the kernels; the default), track (time and accuracy).

    Args:
        what: which part.
    """
    if isinstance(what, TrackBench):
        _bench_track(what)
    else:
        _bench_rasterizer(what)


def _bench_track(what: TrackBench) -> None:
    from capture.bench_track import bench_track, print_rows

    with ProgressDisplay() as report:
        result = bench_track(what.paths, truth=what.truth, camera=what.camera, report=report)
    if what.json_file is None:
        print_rows(result, Console(highlight=False))
    write_json_file(what.json_file, result)


def _bench_rasterizer(what: RasterizerBench) -> None:
    from avatar.raster.bench import bench_rasterizer, plot_rows

    plot, json_file = what.plot, what.json_file
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot {plot} must end in .png, .svg or .pdf.")
    with ProgressDisplay() as report:
        if what.gpu:
            from avatar.raster.bench_gpu import bench_gpu

            result = bench_gpu(report=report)
        else:
            from avatar.train.bench import avatar_step

            result = bench_rasterizer(avatar_step=avatar_step, report=report)
    if json_file is None or str(json_file) != "-":
        names = [
            *("backend", "n", "size", "threads", "forward_ms", "backward_ms", "loss_ms", "adam_ms"),
            *("step_ms", "graph_step_ms", "avatar_step_ms", "lanes_per_pair"),
            *("forward_fma_share", "backward_fma_share", "times_cpu"),
        ]
        shown = [name for name in names if any(name in row for row in result["rows"])]
        print("  ".join(f"{name.removesuffix('_ms'):>9}" for name in shown))
        for row in result["rows"]:
            values = (row.get(name, "") for name in shown)
            texts = (f"{v:.2f}" if isinstance(v, float) else str(v) for v in values)
            print(
                "  ".join(
                    f"{t:>{max(9, len(n.removesuffix('_ms')))}}"
                    for t, n in zip(texts, shown, strict=True)
                )
            )
        print("Times are medians in milliseconds.")
    if plot is not None:
        plot_rows(result["rows"], plot)
    write_json_file(json_file, result)


def write_json_file(path: Path | None, value: Any) -> None:
    """Write a report where ``--json`` asks for it; - is the standard output."""
    from avatar.tensorfile import write_json

    if path is None:
        return
    if str(path) == "-":
        print(json.dumps(value, indent=1))
    else:
        write_json(path, value)
