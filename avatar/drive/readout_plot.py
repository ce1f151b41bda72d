"""The plot of an analysis: action units as a heat map over time, valence and arousal, what happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar.checks import InputError
from avatar.drive.readout import COEFFICIENT_SIGMA, SHUT
from avatar.drive.readout_clip import Analysis
from avatar.drive.readout_units import ACTION_UNITS, FULL, uncertainty
from avatar.tensorfile import atomic_path

COLUMNS = 1600
"""Columns of the heat map at most: more than a plot has pixels are read as the highest of each."""


def write_plot(path: Path, analysis: Analysis) -> None:
    """Draw an analysis as a .png, without a display, atomically.

    Raises:
        InputError: the name does not end in .png, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"The plot {path} must end in .png.")
    time_s, units = analysis.clip.time_s, analysis.series("units")
    affect = analysis.series("affect")
    edges, map_units = _binned(time_s, units)
    figure = Figure(figsize=(12, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    heat, curves, events = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [5, 2.2, 0.8]}
    )
    heat.set_facecolor("0.75")  # where no face was found
    drawn = heat.pcolormesh(
        edges, np.arange(len(ACTION_UNITS) + 1) - 0.5, np.ma.masked_invalid(map_units.T),
        cmap="magma", vmin=0, vmax=FULL, rasterized=True,
    )  # fmt: skip
    heat.set_yticks(
        range(len(ACTION_UNITS)), [f"{u.label}  {u.name}" for u in ACTION_UNITS], fontsize=8
    )
    heat.invert_yaxis()
    heat.set_title("FACS action units, intensity 0 to 5, relative to the person's own rest")
    figure.colorbar(drawn, ax=heat, pad=0.01)
    sigma = uncertainty(COEFFICIENT_SIGMA).affect
    for k, (name, colour) in enumerate((("valence", "#2563eb"), ("arousal", "#dc2626"))):
        curves.plot(time_s, affect[:, k], color=colour, linewidth=1, label=name)
        curves.fill_between(
            time_s, affect[:, k] - sigma[k], affect[:, k] + sigma[k], color=colour, alpha=0.15,
            linewidth=0,
        )  # fmt: skip
    curves.axhline(0, color="0.5", linewidth=0.5)
    curves.set_ylim(-1, 1)
    curves.legend(loc="upper right", ncols=2)
    curves.set_title(
        "what the face looks like (bands: one sigma of the tracker's error alone); a face is no feeling",
        fontsize=10,
    )
    _events(events, analysis)
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}). "
            "Choose a folder that exists, is writable and has space."
        ) from error


def _events(axes, analysis: Analysis) -> None:
    """Mark speech-like motion, blinks and the frames without a face."""
    time_s = analysis.clip.time_s
    rows = (
        ("speaking-like", analysis.series("speaking"), "#16a34a"),
        ("eyes shut", analysis.series("shut") >= SHUT, "#7c3aed"),
        ("no face", ~analysis.series("valid"), "0.5"),
    )
    for row, (_, on, colour) in enumerate(rows):
        axes.fill_between(
            time_s, row - 0.4, row + 0.4, where=on, color=colour, step="mid", linewidth=0.5
        )
    blinked = analysis.series("blinked")
    axes.plot(time_s[blinked], np.full(blinked.sum(), 1.0), "|", color="black", markersize=8)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("seconds (black: a blink ended)")


def _binned(time_s: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges [B + 1] and the highest values [B, A] of at most ``COLUMNS`` stretches of time."""
    step = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 1.0
    end = float(time_s[-1]) + step
    count = int(np.clip(round(end / step), 1, COLUMNS))
    edges = np.linspace(0.0, end, count + 1)
    which = np.clip(np.searchsorted(edges, time_s + 1e-9, side="right") - 1, 0, count - 1)
    filled = np.where(np.isfinite(values), values, -np.inf)
    best = np.full((count, values.shape[1]), -np.inf)
    np.maximum.at(best, which, filled)
    return edges, np.where(np.isfinite(best), best, np.nan)
