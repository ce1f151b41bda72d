"""Charts of the report as inline SVG and HTML: curves over time, occupancy maps, bars."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

import numpy as np

from capture.report_track import SEEN, STRONG, Map

COLOURS = ("#3b82f6", "#ef4444", "#10b981", "#f59e0b", "#a855f7", "#ec4899")
"""Of curves, in order."""


def plot(
    curves: Mapping[str, np.ndarray],
    fps: float,
    *,
    unit: str,
    span: tuple[float, float] | None = None,
) -> str:
    """Draw curves over time as inline SVG with a legend.

    Args:
        curves: name to [F]; NaN breaks the line. At most as many as COLOURS.
        fps: frames a second.
        unit: of the values, for the axis.
        span: lowest and highest value shown; None fits the curves.
    """
    width, height, left, bottom, top = 960, 220, 52, 24, 10
    known = np.concatenate([c[np.isfinite(c)] for c in curves.values()])
    if not len(known):
        return "<p>Nothing was measured.</p>"
    low, high = span or (float(known.min()), float(known.max()))
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    frames = len(next(iter(curves.values())))
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = top + (1 - share) * (height - top - bottom)
        parts.append(
            f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity=".15"/><text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" '
            f'font-size="12" fill="currentColor">{low + share * (high - low):.3g}</text>'
        )
    length = frames / fps
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300) if length / s <= 12), 600)
    for second in np.arange(0, length, step):
        x = left + second / length * (width - left)
        parts.append(
            f'<text x="{x:.1f}" y="{height - 6}" font-size="12" fill="currentColor" '
            f'text-anchor="middle">{second:g} s</text>'
        )
    for colour, curve in zip(COLOURS, curves.values(), strict=False):
        x = left + np.arange(frames) / max(frames - 1, 1) * (width - left)
        clipped = np.clip((curve - low) / (high - low), -0.02, 1.02)
        y = top + (1 - clipped) * (height - top - bottom)
        good = np.isfinite(curve)
        for run in np.split(np.arange(frames), np.flatnonzero(np.diff(good.astype(int))) + 1):
            if good[run[0]]:
                points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[run], y[run], strict=True))
                parts.append(
                    f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
                )
    legend = "".join(
        f'<span><b style="color:{colour}">&#9644;</b> {html.escape(name)}</span>'
        for colour, name in zip(COLOURS, curves, strict=False)
    )
    label = html.escape(", ".join(curves))
    return (
        f'<div class="wide"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg></div>"
        f'<div class="legend">{legend}<span>({html.escape(unit)})</span></div>'
    )


def occupancy(
    counted: Map, fps: float, *, label: str, x_ends: tuple[str, str], y_ends: tuple[str, str]
) -> str:
    """Draw a map of two angles as inline SVG: darker cells were held longer, dashed ones never seen.

    Args:
        counted: frames in each cell.
        fps: frames a second: cells tell seconds.
        label: what the map is, for those who cannot see it.
        x_ends: words at the left and right end.
        y_ends: words at the lower and upper end.
    """
    cell_w, cell_h, left, top, bottom = 52, 34, 46, 18, 34
    rows, columns = counted.counts.shape
    width, height = left + columns * cell_w + 8, top + rows * cell_h + bottom
    most = max(int(counted.counts.max()), 1)
    parts = []
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * cell_w, top + (rows - 1 - row) * cell_h
            count = int(counted.counts[row, column])
            box = f'x="{x + 1}" y="{y + 1}" width="{cell_w - 2}" height="{cell_h - 2}" rx="4"'
            if count == 0:
                parts.append(
                    f'<rect {box} fill="none" stroke="currentColor" stroke-opacity=".25" '
                    'stroke-dasharray="3 3"/>'
                )
                continue
            strength = 0.25 + 0.75 * math.log1p(count) / math.log1p(most)
            seconds = count / fps
            text = f"{seconds:.0f} s" if seconds >= 9.95 else f"{max(seconds, 0.1):.1f} s"
            text = text if seconds >= 0.1 else f"&lt; {text}"
            parts.append(
                f'<rect {box} fill="#3b82f6" fill-opacity="{strength:.2f}"/><text x="{x + cell_w / 2}" '
                f'y="{y + cell_h / 2 + 4}" text-anchor="middle" font-size="12" fill="currentColor">'
                f"{text}</text>"
            )
    small = 'font-size="11" fill="currentColor" fill-opacity=".75"'
    for k, edge in enumerate(counted.x_edges[1:-1], 1):
        x = left + k * cell_w
        parts.append(
            f'<text x="{x}" y="{height - 20}" text-anchor="middle" {small}>{edge:g}&#176;</text>'
        )
    for k, edge in enumerate(counted.y_edges[1:-1], 1):
        y = top + (rows - k) * cell_h + 4
        parts.append(
            f'<text x="{left - 5}" y="{y}" text-anchor="end" {small}>{edge:g}&#176;</text>'
        )
    parts.append(
        f'<text x="{left}" y="{height - 5}" {small}>&#8592; {html.escape(x_ends[0])}</text>'
    )
    parts.append(
        f'<text x="{width - 8}" y="{height - 5}" text-anchor="end" {small}>'
        f"{html.escape(x_ends[1])} &#8594;</text>"
    )
    parts.append(f'<text x="{left}" y="12" {small}>&#8593; {html.escape(y_ends[1])}</text>')
    return (
        f'<svg class="map" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def reach_bars(reach: Mapping[str, float], groups: Mapping[str, tuple[str, ...]]) -> str:
    """Draw how far each coefficient went, by group: HTML bars, full at 1.

    Args:
        reach: name to coefficient.
        groups: title to names; names that ``reach`` lacks are left out.
    """
    blocks = []
    for title, names in groups.items():
        rows = []
        for name in names:
            if name not in reach:
                continue
            value = reach[name]
            kind = "strong" if value >= STRONG else "some" if value >= SEEN else "none"
            rows.append(
                f'<div class="reach"><span>{html.escape(name)}</span><div class="track"><div class='
                f'"fill {kind}" style="width:{100 * min(max(value, 0.0), 1.0):.0f}%"></div></div>'
                f"<b>{value:.2f}</b></div>"
            )
        if rows:
            blocks.append(f"<div><h3>{html.escape(title)}</h3>{''.join(rows)}</div>")
    return f'<div class="groups">{"".join(blocks)}</div>'


def frame_ranges(frames: list[int]) -> str:
    """Write frame numbers as ranges: ``3, 7-12``; long lists are cut."""
    runs: list[list[int]] = []
    for frame in sorted(set(frames)):
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ", ".join(texts[:24]) + (f" and {len(texts) - 24} more" if len(texts) > 24 else "")
