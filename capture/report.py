"""report.html of a capture: one page without outside parts, for judging a clip and its track."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from avatar.capture_data import CaptureCamera, Landmarks, Track
from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_NAMES
from avatar.tensorfile import write_bytes
from capture.report_charts import frame_ranges, occupancy, plot, reach_bars
from capture.report_judge import Advice, advise
from capture.report_pictures import Pictures, contact_sheet, worst_sheet
from capture.report_track import (
    COMMON_SIDE,
    common_scale,
    expression_reach,
    gaze_map,
    jitter,
    residuals_by_region,
    track_angles,
    turns_map,
)

CURVES = 6
"""Expression coefficients that are drawn: those that vary the most."""

POSES = 6
"""Most poses that the advice names."""

STYLE = """
:root{color-scheme:light dark;--line:#8883;--soft:#8881;--ok:#15803d;--warn:#b45309;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--ok:#4ade80;--warn:#fbbf24;--bad:#f87171}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;
overflow-wrap:break-word}
h1{margin-bottom:.2rem;line-height:1.2}h2{margin-top:2.2rem;font-size:1.2rem}
h3{font-size:1rem;margin:.8rem 0 .3rem}
p.facts{opacity:.75;margin-top:0}
table{border-collapse:collapse;width:100%}
td,th{padding:.35rem .8rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.q th{min-width:11rem}.q td.n{white-space:normal;min-width:6rem}.q td.v{min-width:5rem}
.v{font-weight:700}.ok{color:var(--ok)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.note{background:var(--soft);border-left:4px solid var(--warn);padding:.5rem 1rem;margin:.6rem 0}
ol.advice li{margin:.5rem 0}ol.advice ul{margin:.2rem 0;padding-left:1.2rem}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(12rem,1fr));gap:.6rem}
.worst{grid-template-columns:repeat(auto-fill,minmax(15rem,1fr))}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem}
.tiles div{background:var(--soft);border-radius:8px;padding:.5rem .8rem}
.tiles b{display:block;font-size:1.35rem;line-height:1.3}.tiles small{display:block}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1.5rem}
figure{margin:0}figure img{width:100%;height:auto;border-radius:6px;display:block}
figcaption,.legend,small{font-size:.85rem;opacity:.75}
svg{width:100%;height:auto;display:block}.map{max-width:30rem}
.wide{overflow-x:auto}.wide svg{min-width:36rem}
.legend span{margin-right:1.2rem;white-space:nowrap}
.bar{background:#3b82f6;height:.8rem;border-radius:3px;min-width:2px}
.groups{columns:19rem;column-gap:2rem}.groups>div{break-inside:avoid}.groups h3{margin-top:0}
.reach{display:grid;grid-template-columns:10.5rem 1fr 2.6rem;gap:.5rem;align-items:center;
font-size:.85rem}
.reach b{font-weight:400;text-align:right;font-variant-numeric:tabular-nums}
.track{background:var(--soft);border-radius:4px;height:.7rem;overflow:hidden}
.fill{height:100%}.strong{background:#15803d}.some{background:#3b82f6}.none{background:#8886}
@media(max-width:40rem){
.q tr{display:grid;grid-template-columns:1fr auto;border-bottom:1px solid var(--line);padding:.4rem 0}
.q td,.q th{border:0;padding:.1rem .2rem;min-width:0}
.q td.v{grid-column:1/3}.q td:last-child{grid-column:1/3}
td,th{padding:.35rem .4rem}
.sheet{grid-template-columns:repeat(auto-fill,minmax(9rem,1fr))}
.worst{grid-template-columns:1fr}
}
"""

WORDS = {"ok": "good", "warn": "could be better", "bad": "film again"}


def write_capture_report(
    path: Path,
    landmarks: Landmarks,
    track: Track,
    pictures: Pictures,
    header: Mapping[str, Any],
    *,
    facts: str,
    sharpness: np.ndarray,
    cameras: str = "",
) -> None:
    """Write the page.

    Args:
        path: the file, written atomically.
        landmarks: raw detections, in the main camera of several.
        track: the track.
        pictures: reads frames and masks, of the main camera.
        header: the fields of capture.json; ``focal`` and ``invalid`` may be missing.
        facts: one line about the source clip.
        sharpness: [F] ``FrameLook.sharpness``; NaN where no face was measured.
        cameras: HTML of a section on the cameras, where there are several.
    """
    quality, seconds = header["quality"], header["seconds"]
    frames, fps, camera = header["frames"], header["fps"], header["cameras"][track.main]
    overall = quality["overall"]
    tracked = bool(track.valid.any())
    reach = expression_reach(track) if tracked else {}
    missing = CaptureCamera.from_json(track.main, camera).missing
    # What is drawn on the main camera's pictures needs the face in them.
    seen = replace(track, valid=track.valid & landmarks.valid)
    warnings = "".join(f'<p class="note">{html.escape(w)}</p>' for w in header["warnings"])
    sections = [
        f"<h1>Capture of {html.escape(header['source'])}</h1>",
        f'<p class="facts">{html.escape(facts)} &rarr; {frames} frames of {camera["width"]} x '
        f"{camera['height']} at {fps:.4g} frames/s, {sum(seconds.values()):.1f} s of work.</p>",
        f'<p>Footage: <span class="v {overall}">{WORDS[overall]}</span>. {_tracked(track)}</p>',
        warnings,
        "<h2>What to film again, what gains most first</h2>",
        _advice(advise(quality["items"], reach)),
        "<h2>Footage</h2>",
        _quality_table(quality["items"]),
    ]
    if tracked:
        sections += [
            "<h2>Track</h2>",
            _tiles(track, camera["width"], camera["height"], header.get("focal")),
            *_residuals(seen, camera["width"], camera["height"]),
            "<h2>Worst frames</h2>",
            "<p>The largest residuals, half a second apart at least. Light blue: detected points; orange: "
            "the model's outline; yellow: the way between.</p>",
            f'<div class="sheet worst">{"".join(worst_sheet(pictures, seen))}</div>',
        ]
    sections += [_left_out(track, header.get("invalid") or {})]
    if tracked:
        sections += _coverage(track, reach)
    sections += [
        cameras,
        "<h2>Frames, landmarks and mask</h2>",
        f'<div class="sheet">{"".join(contact_sheet(pictures, landmarks, track, missing))}</div>',
        *(_curves(track) if tracked else []),
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


def _advice(advice: list[Advice]) -> str:
    """A numbered list; poses of the guide under the item that they serve."""
    if not advice:
        return "<p>Nothing: the clip has all that an avatar needs.</p>"
    rows = []
    for item in advice:
        poses = "".join(
            f"<li>{html.escape(step.text)} <small>{step.seconds:g} s, for "
            f"{html.escape(', '.join(names))}</small></li>"
            for step, names in item.poses[:POSES]
        )
        listed = f"<ul>{poses}</ul>" if poses else ""
        rows.append(
            f'<li><span class="v {item.verdict}">{html.escape(item.title)}.</span> '
            f"{html.escape(item.text)}{listed}</li>"
        )
    return (
        f'<ol class="advice">{"".join(rows)}</ol><p>A new take replaces the clip as a whole. '
        "<code>avatar capture --guide</code> prints the page to follow.</p>"
    )


def _quality_table(items: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(item['label'])}</th>"
        f'<td class="n">{_number(item["value"])} {html.escape(item["unit"])}</td>'
        f'<td class="v {item["verdict"]}">{WORDS[item["verdict"]]}</td>'
        f"<td>{html.escape(item['advice'])}</td></tr>"
        for item in items.values()
    )
    return f'<table class="q">{rows}</table>'


def _tiles(track: Track, width: int, height: int, focal: Mapping[str, Any] | None) -> str:
    """The numbers of the track at a glance."""
    residual = track.residual_px[track.valid].numpy()
    scale = common_scale(width, height)
    shake = jitter(track)
    px = float(track.K[track.main, 0, 0])
    sigma = "" if focal is None else f" &plusmn; {100 * float(focal['relative_sigma']):.0f} %"
    middle, high = (float(np.percentile(residual, q)) for q in (50, 95))
    tiles = [
        (f"{middle:.2f} px", f"median residual; {high:.2f} px at the 95th percentile"),
        (
            f"{middle * scale:.2f} px",
            f"median residual at {COMMON_SIDE} pixels; p95 {high * scale:.2f}",
        ),
        (
            f"{shake.rotation_extra_deg:.2f}&deg;",
            f"shake of the rotation beyond smooth motion; {shake.rotation_deg:.2f}&deg; with it",
        ),
        (
            f"{shake.position_extra_mm:.2f} mm",
            f"shake of the position beyond smooth motion; {shake.position_mm:.2f} mm with it",
        ),
        (f"{px:.0f} px{sigma}", f"focal length; {px / max(width, height):.2f} picture lengths"),
        (f"{100 * float(track.valid.float().mean()):.1f} %", "of the frames are used"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f"<div><b>{value}</b><small>{text}</small></div>" for value, text in tiles)
        + "</div><p><small>Residual: RMS distance of the model's points from the detected ones in a frame, without the "
        "detector's usual slide over the skin as the head turns; points count as they face the camera. "
        "Shake: RMS of second differences between frames; beyond smooth motion is what noise alone would "
        "give, judged by fourth differences, in which a head's own motion cancels.</small></p>"
    )


def _residuals(track: Track, width: int, height: int) -> list[str]:
    """The residual over time, and a table of regions."""
    valid = track.valid.numpy()
    residual = np.where(valid, track.residual_px.numpy(), np.nan)
    # A few bad frames must not flatten the rest of the curve.
    high = max(1.2 * float(np.nanpercentile(residual, 99)), 1e-3)
    regions = residuals_by_region(track)
    scale = common_scale(width, height)
    middles = {
        name: float(np.nanmedian(curve))
        for name, curve in regions.items()
        if np.isfinite(curve).any()  # a clip of one profile may never show an eye
    }
    longest = max([*middles.values(), 1e-6])
    rows = "".join(
        f'<tr><th>{html.escape(name)}</th><td class="n">{middle:.2f}</td>'
        f'<td class="n">{float(np.nanpercentile(regions[name], 95)):.2f}</td>'
        f'<td class="n">{middle * scale:.2f}</td><td style="width:40%">'
        f'<div class="bar" style="width:{100 * middle / longest:.1f}%"></div></td></tr>'
        for name, middle in middles.items()
    )
    return [
        "<h3>Residual over time</h3>",
        plot({"model to landmarks, RMS": residual}, track.fps, unit="pixels", span=(0.0, high)),
        "<h3>Residual by region</h3>",
        "<p>Points that face the camera, as they were detected: the detector's slide over the skin, which "
        "the curve above leaves out, is in these.</p>"
        f'<div class="wide"><table><tr><th>region</th><th>median, px</th><th>p95, px</th><th>at {COMMON_SIDE}, px</th>'
        f"<th></th></tr>{rows}</table></div>",
    ]


def _left_out(track: Track, invalid: Mapping[str, list[int]]) -> str:
    """Frames that are not used, by reason."""
    unused = np.flatnonzero(~track.valid.numpy()).tolist()
    title = "<h2>Frames left out</h2>"
    if not unused and not any(invalid.values()):
        return f"{title}<p>None.</p>"
    told = {frame for frames in invalid.values() for frame in frames}
    lists = {reason: frames for reason, frames in invalid.items() if frames}
    rest = sorted(set(unused) - told)
    if rest:
        lists["other reasons" if told else "no face"] = rest
    rows = "".join(
        f'<tr><th>{html.escape(reason)}</th><td class="n">{len(frames)}</td>'
        f"<td>{frame_ranges(frames)}</td></tr>"
        for reason, frames in lists.items()
    )
    return (
        f"{title}<p>{len(unused)} of {len(track)} frames are not learnt from, "
        f"for the first reason that holds.</p><table>{rows}</table>"
    )


def _coverage(track: Track, reach: Mapping[str, float]) -> list[str]:
    """Maps of turns and gaze, and bars of the expressions."""
    return [
        "<h2>Which sides are seen</h2>",
        "<p>Seconds that the head spent turned each way, and the gaze within the head, as the picture "
        "shows them: your left is on the right. Dashed cells were never seen.</p>",
        '<div class="maps"><div><h3>Head</h3>',
        occupancy(
            turns_map(track),
            track.fps,
            label="seconds by turn of the head",
            x_ends=("to your right", "to your left"),
            y_ends=("down", "up"),
        ),
        "</div><div><h3>Gaze</h3>",
        occupancy(
            gaze_map(track),
            track.fps,
            label="seconds by gaze",
            x_ends=("to your right", "to your left"),
            y_ends=("down", "up"),
        ),
        "</div></div>",
        "<h2>Which expressions are seen</h2>",
        "<p>How far each of the 52 coefficients went (its 99th percentile): green is strong, blue is seen, "
        "grey is hardly there. The tongue is not tracked.</p>",
        reach_bars(reach, ARKIT_GROUPS),
    ]


def _time_table(seconds: Mapping[str, float]) -> str:
    longest = max([*seconds.values(), 1e-6])
    rows = "".join(
        f'<tr><th>{html.escape(name)}</th><td class="n">{value:.1f} s</td><td style="width:70%">'
        f'<div class="bar" style="width:{100 * value / longest:.1f}%"></div></td></tr>'
        for name, value in seconds.items()
    )
    return f"<table>{rows}</table>"


def _curves(track: Track) -> list[str]:
    solved = track.valid.numpy()
    angles = np.where(solved[:, None], track_angles(track), np.nan)
    expression = track.expression.numpy()[:, : len(ARKIT_NAMES)]
    active = {
        track.expression_names[k]: np.where(solved, expression[:, k], np.nan)
        for k in np.argsort(-expression[solved].std(axis=0))[:CURVES]
    }
    head: dict[str, np.ndarray] = dict(zip(("yaw", "pitch", "roll"), angles.T, strict=True))
    return [
        "<h2>Head</h2>",
        plot(head, track.fps, unit="degrees; yaw to your left, pitch up"),
        "<h2>Expression: the most active coefficients</h2>",
        plot(active, track.fps, unit="0 at rest, 1 fully"),
    ]
