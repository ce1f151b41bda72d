"""Plots of the report as inline SVG: no script, no file beside the page."""

from __future__ import annotations

import html
from collections.abc import Sequence

WIDTH, HEIGHT = 900, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 10, 12, 24
"""Margins of the plot, in the drawing's units."""
SMALLEST_SPAN = 1e-6
"""Range of values that fills the height at least: equal values are a line in the middle of nothing."""


def chart(x: Sequence[float], values: Sequence[float], label: str, axis: str) -> str:
    """Draw values over x as a line; empty where there are fewer than two.

    Args:
        x: increasing.
        values: as many.
        label: what is drawn, with its unit; the picture's name for those who cannot see it.
        axis: what x counts, for example ``"frame"``.
    """
    if len(x) < 2:
        return ""
    low, high = min(values), max(values)
    span = max(high - low, SMALLEST_SPAN)
    across = max(x[-1] - x[0], SMALLEST_SPAN)
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    points = " ".join(
        f"{LEFT + (a - x[0]) / across * wide:.1f},{TOP + (high - b) / span * tall:.1f}"
        for a, b in zip(x, values, strict=True)
    )
    marks = "".join(
        f'<text x="2" y="{TOP + (1 - share) * tall + 4:.0f}" font-size="12" fill="currentColor">'
        f"{low + share * span:.5g}</text>"
        for share in (0.0, 0.5, 1.0)
    )
    name = html.escape(label)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}"><title>{name}</title>'
        f'<polyline points="{points}" fill="none" stroke="#3b82f6" stroke-width="1.5"/>{marks}'
        f'<text x="{LEFT}" y="{HEIGHT - 4}" font-size="12" fill="currentColor">'
        f"{html.escape(axis)} {x[0]:g}</text>"
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" font-size="12" fill="currentColor" '
        f'text-anchor="end">{html.escape(axis)} {x[-1]:g}</text></svg>'
    )
