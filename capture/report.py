"""report.html of a capture: one page without outside parts, for judging a clip and its track."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from avatar.capture_data import Landmarks, Track
from avatar.rig.arkit import ARKIT_NAMES
from avatar.tensorfile import write_bytes
from capture.matte import FACE_OVAL

THUMBNAILS = 10
"""Frames on the contact sheet, evenly over the clip."""

THUMBNAIL_HEIGHT = 360
"""Pixels of each picture of the contact sheet."""

CURVES = 6
"""Expression coefficients that are drawn: those that vary the most."""

COLOURS = ("#3b82f6", "#ef4444", "#10b981", "#f59e0b", "#a855f7", "#ec4899")

STYLE = """
:root{color-scheme:light dark;--line:#8883;--soft:#8881;--ok:#15803d;--warn:#b45309;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--ok:#4ade80;--warn:#fbbf24;--bad:#f87171}}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2.2rem;font-size:1.2rem}
p.facts{opacity:.75;margin-top:0}
table{border-collapse:collapse;width:100%}
td,th{padding:.35rem .8rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600;white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.v{font-weight:700}.ok{color:var(--ok)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.note{background:var(--soft);border-left:4px solid var(--warn);padding:.5rem 1rem;margin:.6rem 0}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(12rem,1fr));gap:.6rem}
figure{margin:0}figure img{width:100%;height:auto;border-radius:6px;display:block}
figcaption,.legend,small{font-size:.85rem;opacity:.75}
svg{width:100%;height:auto;display:block}.legend span{margin-right:1.2rem;white-space:nowrap}
.bar{background:#3b82f6;height:.8rem;border-radius:3px;min-width:2px}
"""

WORDS = {"ok": "good", "warn": "could be better", "bad": "film again"}


class Pictures(Protocol):
    """Gives the capture's pictures."""

    def frame(self, frame: int) -> np.ndarray:
        """Return uint8 [H, W, 3] sRGB."""
        ...

    def mask(self, frame: int) -> np.ndarray:
        """Return uint8 [H, W]."""
        ...


def write_capture_report(
    path: Path,
    landmarks: Landmarks,
    track: Track,
    pictures: Pictures,
    header: Mapping[str, Any],
    *,
    facts: str,
    sharpness: np.ndarray,
) -> None:
    """Write the page.

    Args:
        path: the file, written atomically.
        landmarks: raw detections.
        track: the track.
        pictures: reads frames and masks.
        header: the fields of capture.json.
        facts: one line about the source clip.
        sharpness: [F] ``FrameLook.sharpness``; NaN where no face was measured.
    """
    quality, seconds = header["quality"], header["seconds"]
    frames, fps, camera = header["frames"], header["fps"], header["cameras"][0]
    overall = quality["overall"]
    warnings = "".join(f'<p class="note">{html.escape(w)}</p>' for w in header["warnings"])
    sections = [
        f"<h1>Capture of {html.escape(header['source'])}</h1>",
        f'<p class="facts">{html.escape(facts)} &rarr; {frames} frames of {camera["width"]} x '
        f"{camera['height']} at {fps:.4g} frames/s, {sum(seconds.values()):.1f} s of work.</p>",
        f'<p>Footage: <span class="v {overall}">{WORDS[overall]}</span>. {_tracked(track)}</p>',
        warnings,
        "<h2>Footage</h2>",
        _quality_table(quality["items"]),
        "<h2>Frames, landmarks and mask</h2>",
        f'<div class="sheet">{"".join(_thumbnails(pictures, landmarks, track))}</div>',
        *_curves(track, fps),
        "<h2>Sharpness of the face</h2>",
        plot({"sharpness": sharpness}, fps, unit="no unit; 0.12 is good", span=(0.0, 0.25)),
        "<h2>Time</h2>",
        _time_table(seconds),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Capture report</title><style>{STYLE}</style></head><body>"
        f"{''.join(sections)}</body></html>\n"
    )
    write_bytes(path, page.encode())


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
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}<span>({html.escape(unit)})</span></div>'
    )


def track_angles(track: Track) -> np.ndarray:
    """Return the head's yaw (to the subject's left), pitch (up), roll (to the subject's left
    shoulder) towards camera 0, degrees [F, 3]; zero when the face looks along the optical axis."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    R = (flip @ track.T_cam_world[0, :3, :3] @ track.T_world_head[:, :3, :3]).numpy()
    yaw = np.arctan2(R[:, 0, 2], R[:, 2, 2])
    pitch = np.arcsin(np.clip(R[:, 1, 2], -1, 1))
    roll = np.arctan2(-R[:, 1, 0], R[:, 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], 1))


def _tracked(track: Track) -> str:
    valid = track.valid
    if not valid.any():
        return "No frame could be tracked."
    residual = float(track.residual_px[valid].median())
    return (
        f"Tracked {int(valid.sum())} of {len(track)} frames with rig "
        f"&lsquo;{html.escape(track.rig)}&rsquo;, median residual {residual:.2f} px."
    )


def _number(value: float) -> str:
    """Three digits at most, and no more decimals than a reader wants."""
    decimals = 0 if abs(value) >= 10 or value == round(value) else 1 if abs(value) >= 1 else 2
    return f"{value:.{decimals}f}"


def _quality_table(items: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(item['label'])}</th>"
        f'<td class="n">{_number(item["value"])} {html.escape(item["unit"])}</td>'
        f'<td class="v {item["verdict"]}">{WORDS[item["verdict"]]}</td>'
        f"<td>{html.escape(item['advice'])}</td></tr>"
        for item in items.values()
    )
    return f"<table>{rows}</table>"


def _time_table(seconds: Mapping[str, float]) -> str:
    longest = max([*seconds.values(), 1e-6])
    rows = "".join(
        f'<tr><th>{html.escape(name)}</th><td class="n">{value:.1f} s</td><td style="width:70%">'
        f'<div class="bar" style="width:{100 * value / longest:.1f}%"></div></td></tr>'
        for name, value in seconds.items()
    )
    return f"<table>{rows}</table>"


def _thumbnails(pictures: Pictures, landmarks: Landmarks, track: Track) -> list[str]:
    figures = []
    for frame in np.unique(np.linspace(0, len(track) - 1, THUMBNAILS).round().astype(int)):
        picture = _overlay(pictures, landmarks, int(frame))
        good, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
        assert good, "encoding a JPEG in memory cannot fail"
        state = "" if landmarks.valid[frame] else ", no face"
        if track.valid[frame]:
            state = f", {float(track.residual_px[frame]):.2f} px"
        figures.append(
            f'<figure><img alt="frame {frame}" src="data:image/jpeg;base64,'
            f'{base64.b64encode(encoded.tobytes()).decode()}"><figcaption>frame {frame}{state}'
            f"</figcaption></figure>"
        )
    return figures


def _overlay(pictures: Pictures, landmarks: Landmarks, frame: int) -> np.ndarray:
    """Return a small picture, background greyed, with mask outline and landmarks."""
    full = pictures.frame(frame)
    scale = min(1.0, THUMBNAIL_HEIGHT / full.shape[0])
    size = (max(1, round(full.shape[1] * scale)), max(1, round(full.shape[0] * scale)))
    picture = cv2.resize(full, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(pictures.mask(frame), size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None] * 0.4 + 130
    alpha = mask[..., None].astype(np.float32) / 255
    picture = np.ascontiguousarray(picture * alpha + grey * (1 - alpha), dtype=np.uint8)
    outline, _ = cv2.findContours(
        (mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(picture, outline, -1, (255, 190, 0), 1, cv2.LINE_AA)
    if landmarks.valid[frame]:
        points = landmarks.points[frame, :, :2].numpy() * scale
        for x, y in points[:468]:
            cv2.circle(
                picture, (round(16 * x), round(16 * y)), 10, (40, 220, 255), -1, cv2.LINE_AA, 4
            )
        for x, y in points[468:]:
            cv2.circle(
                picture, (round(16 * x), round(16 * y)), 14, (255, 40, 200), -1, cv2.LINE_AA, 4
            )
        oval = np.round(points[FACE_OVAL] * 16).astype(np.int32)
        cv2.polylines(picture, [oval], True, (40, 220, 255), 1, cv2.LINE_AA, 4)
    return picture


def _curves(track: Track, fps: float) -> list[str]:
    solved = track.valid.numpy()
    if not solved.any():
        return []
    angles = np.where(solved[:, None], track_angles(track), np.nan)
    residual = np.where(solved, track.residual_px.numpy(), np.nan)
    expression = track.expression.numpy()[:, : len(ARKIT_NAMES)]
    active = {
        track.expression_names[k]: np.where(solved, expression[:, k], np.nan)
        for k in np.argsort(-expression[solved].std(axis=0))[:CURVES]
    }
    # A few bad frames must not flatten the rest of the curve.
    high = max(1.2 * float(np.nanpercentile(residual, 99)), 1e-3)
    return [
        "<h2>Residual of the track</h2>",
        plot({"model to landmarks, RMS": residual}, fps, unit="pixels", span=(0.0, high)),
        "<h2>Head</h2>",
        plot(dict(zip(("yaw", "pitch", "roll"), angles.T, strict=True)), fps, unit="degrees"),
        "<h2>Expression: the most active coefficients</h2>",
        plot(active, fps, unit="0 at rest, 1 fully"),
    ]
