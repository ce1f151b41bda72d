"""report.html: an avatar's numbers and pictures on one page that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatar.capture_data import Capture
from avatar.export.provenance import in_jpeg, in_page, manifest
from avatar.export.report_charts import chart
from avatar.export.report_pictures import ReportPictures, Tile
from avatar.model.avatar import Avatar
from avatar.tensorfile import write_bytes

EXPLANATIONS = {
    "psnr": (
        "PSNR",
        "dB",
        "peak signal-to-noise ratio over the full frame, mean over frames; more is better",
    ),
    "psnr_all_tracked": (
        "PSNR with all tracked",
        "dB",
        "the same with the frames that were left out as blurred or badly tracked",
    ),
    "ssim": ("SSIM", "", "structural similarity, 1 is identical"),
    "flip": (
        "FLIP",
        "",
        "difference that an observer would see when flipping between the two; 0 is none",
    ),
    "lpips": ("LPIPS", "", "learned distance; only with local weights"),
    "lmd_px": (
        "Mouth landmarks",
        "px",
        "mean distance of the mouth's points, each set about its middle",
    ),
    "alpha_iou": ("Silhouette IoU", "", "overlap of the avatar's silhouette with the mask"),
    "gaussians": ("Gaussians", "", ""),
    "render_fps": ("Drawing", "frames/s", "on this machine, pictures of that size"),
    "animate_render_fps": ("Posing and drawing", "frames/s", "a new state every frame"),
}

REGION_MEANINGS = {
    "mouth": "the lips and what is between them",
    "eyes": "between and just around the lids",
    "face": "the rest of the tracked face",
    "hair": "the rest of the head: hair, ears, skull, upper forehead",
    "neck": "between jaw and collar",
    "torso": "shoulders and all below",
    "background": "beyond the silhouette's margin",
}

STYLE = """
:root{color-scheme:light dark;--line:#8884;--warn:#b4530922}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:1rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%;height:auto;display:block}
small,figcaption{opacity:.75}svg{width:100%;height:auto}pre{overflow-x:auto}
.wide{overflow-x:auto}.wide img{max-width:none;width:max(100%,60rem)}
.tiles{display:grid;gap:.4rem;grid-template-columns:repeat(auto-fill,minmax(min(30%,8rem),1fr))}
.tiles.large{grid-template-columns:repeat(auto-fill,minmax(min(45%,14rem),1fr))}
.tiles.three{grid-template-columns:repeat(3,minmax(0,20rem))}
.strips{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr))}
figure{margin:0}figure img{width:100%}figcaption{font-size:.75rem;line-height:1.2;overflow-wrap:anywhere}
.warn{background:var(--warn);border-left:.3rem solid #d97706;padding:.4rem .8rem}
"""


@dataclass(frozen=True)
class RunFacts:
    """How a run came to be."""

    metrics: Sequence[Mapping[str, float]] = ()
    """Lines of the training log: ``step``, ``loss``, ``psnr``, ``gaussians``."""
    facts: Mapping[str, str] | None = None
    """What makes the run again, name to value: versions, seed, hashes of the input."""


def picture_bytes(picture: np.ndarray, quality: int = 92) -> bytes:
    """Encode a picture uint8 [H, W, 3] as JPEG."""
    done, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "encoding a JPEG in memory cannot fail"
    return encoded.tobytes()


def write_picture(path: Path, picture: np.ndarray, made: Mapping[str, Any] | None = None) -> None:
    """Write a picture uint8 [H, W, 3] as JPEG, atomically, with where it comes from if that is given."""
    content = picture_bytes(picture)
    write_bytes(path, content if made is None else in_jpeg(content, made))


def left_out(result: dict[str, Any]) -> str:
    """Return a sentence on the held-out frames that a result leaves out; empty where it has none."""
    count = result.get("frames_left_out", 0)
    if not count:
        return ""
    frames, are = ("frame", "is") if count == 1 else ("frames", "are")
    sentence = (
        f"{count} held-out {frames} {are} left out: blurred, badly tracked or without the face"
    )
    with_them = result.get("psnr_all_tracked")
    if with_them is None:
        return f"{sentence}."
    return f"{sentence}. PSNR is {with_them:.2f} dB with all in which the face was found."


def warnings_of(result: Mapping[str, Any]) -> list[str]:
    """Return sentences on what is off in a result of ``evaluate``; none where all is well."""
    found = [left_out(dict(result))]
    if result.get("frames") == 0:
        found.append("No held-out frame could be measured: the face was found in none of them.")
    sliders = result.get("sliders") or {}
    if count := sliders.get("exploded", 0):
        names = sliders.get("exploded_in", [])
        where = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        gaussians, have = ("Gaussian", "has") if count == 1 else ("Gaussians", "have")
        found.append(
            f"{count} {gaussians} {have} exploded with a slider at 1.0 ({where}): the largest is "
            f"{sliders['worst_extent']:.0%} of the picture high, with {sliders['worst']}."
        )
    return [sentence for sentence in found if sentence]


def write_report(
    path: Path,
    avatar: Avatar,
    capture: Capture,
    result: dict[str, Any],
    pictures: ReportPictures,
    run: RunFacts = RunFacts(),
) -> None:
    """Write the page.

    Args:
        path: the file.
        avatar: the avatar that was measured.
        capture: its capture.
        result: what ``avatar.train.evaluate.evaluate`` returned.
        pictures: what is shown.
        run: how the avatar was fitted.
    """
    begin, end = result["split"]["test"]
    width, height = result["resolution"]
    curve = result["per_frame"]
    footage = "".join(f"<li>{_text(w)}</li>" for w in capture.header.get("warnings", []))
    settings = json.dumps(avatar.header.get("config", {}), indent=1)
    strips = "".join(_tiles(row, "three", "The avatar: ") for row in pictures.strips)
    worst = "".join(_tiles(row, "three") for row in pictures.worst)
    parts = [
        "<h1>Avatar report</h1>",
        f"<p>Fitted to frames {result['split']['train'][0]} to {result['split']['train'][1] - 1}, "
        f"measured on frames {begin} to {end - 1}, which the fit has never seen. The held-out frames "
        f"are driven by the tracked motion alone, person on white, {width} x {height} pixels, device "
        f"{_text(result['device'])}.</p>",
        *(f'<p class="warn">Warning: {_text(sentence)}</p>' for sentence in warnings_of(result)),
        f"<h2>Notes on the footage</h2><ul>{footage}</ul>" if footage else "",
        "<h2>Held-out frames above, avatar below</h2>",
        f'<div class="wide">{_image(pictures.held_out, "Held-out frames and the avatar")}</div>',
        f"<h2>Numbers</h2><table>{_numbers(result)}</table>",
        "<h2>PSNR over the held-out frames (dB)</h2>",
        chart(curve["frame"], curve["psnr"], "PSNR of each held-out frame, dB", "frame"),
        "<h2>Where the error is</h2>",
        _regions(result),
        _tiles(pictures.regions, "large"),
        _cameras(result),
        *(_tiles(row, "three") for row in pictures.cameras),
        "<h2>Worst held-out frames</h2><p>Half a second apart at least. Error: black is none.</p>",
        worst or "<p>None was measured.</p>",
        "<h2>All 52 sliders at 1.0</h2>",
        _tiles(pictures.sliders, "", "The avatar, slider at 1.0: "),
        "<h2>Expressions coming up</h2>",
        f'<div class="strips">{strips}</div>',
        "<h2>Turntable</h2>",
        *(_tiles(row, "", "The avatar at rest: ") for row in pictures.turntable),
        _training(run.metrics),
        f"<h2>Time</h2><table>{_seconds(result)}</table>",
        f"<h2>To make it again</h2><table>{_facts(run.facts or {})}</table>",
        f"<details><summary>Settings of the fit</summary><pre>{_text(settings)}</pre></details>",
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Avatar report</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )
    page = in_page(page, manifest(avatar, format="text/html", title=path.name))
    write_bytes(path, page.encode())


def _text(value: Any) -> str:
    return html.escape(str(value))


def _image(picture: np.ndarray, meaning: str, quality: int = 85) -> str:
    encoded = base64.b64encode(picture_bytes(picture, quality)).decode()
    height, width = picture.shape[:2]
    return (
        f'<img alt="{_text(meaning)}" width="{width}" height="{height}" '
        f'src="data:image/jpeg;base64,{encoded}">'
    )


def _tiles(tiles: Sequence[Tile], kind: str, prefix: str = "") -> str:
    """A grid of captioned pictures that breaks as the screen is narrow."""
    figures = "".join(
        f"<figure>{_image(t.picture, prefix + t.caption)}"
        f"<figcaption>{_text(t.caption)}</figcaption></figure>"
        for t in tiles
    )
    return f'<div class="{f"tiles {kind}".strip()}">{figures}</div>'


def _row(name: str, value: str, meaning: str | None = None) -> str:
    note = "" if meaning is None else f"<td><small>{meaning}</small></td>"
    return f'<tr><th>{name}</th><td class="n">{value}</td>{note}</tr>'


def _numbers(result: dict[str, Any]) -> str:
    rows = []
    for key, (name, unit, meaning) in EXPLANATIONS.items():
        if key == "psnr_all_tracked" and not left_out(result):
            continue  # it is the PSNR
        value = result.get(key)
        rows.append(_row(name, "not measured" if value is None else f"{value:g} {unit}", meaning))
    sliders = result.get("sliders")
    if sliders:
        text = f"{sliders['exploded']}, largest {sliders['worst_extent']:.1%}"
        meaning = (
            "Gaussians wider than a quarter of the picture's height with any slider at 1.0, from five "
            f"sides; the largest with {_text(sliders['worst'])}"
        )
        rows.append(_row("Exploded", text, meaning))
    return "".join(rows)


def _regions(result: dict[str, Any]) -> str:
    regions = result.get("regions") or {}
    rows = "".join(
        f'<tr><th>{name}</th><td class="n">{_decibels(regions[name]["psnr"])}</td>'
        f'<td class="n">{regions[name]["error_share"]:.1%}</td>'
        f'<td class="n">{regions[name]["pixel_share"]:.1%}</td><td><small>{meaning}</small></td></tr>'
        for name, meaning in REGION_MEANINGS.items()
        if name in regions
    )
    return (
        "<table><tr><th>Region</th><th>PSNR</th><th>of the error</th><th>of the pixels</th><th></th></tr>"
        f"{rows}</table>"
    )


def _cameras(result: dict[str, Any]) -> str:
    """What each camera of several measures; nothing for one."""
    if not result.get("cameras"):
        return ""
    rows = "".join(
        f"<tr><th>{row['camera']}</th><td>{_text(row['name'])}{', main' if row['main'] else ''}</td>"
        f"<td>{'never fitted to' if row['held'] else 'fitted to'}</td>"
        f'<td class="n">{_measured(row, "")}</td><td class="n">{_measured(row, "_all")}</td></tr>'
        for row in result["cameras"]
    )
    return (
        "<h2>Camera by camera</h2><table><tr><th>Camera</th><th></th><th></th><th>held-out frames</th>"
        f"<th>all frames</th></tr>{rows}</table>"
    )


def _measured(row: Mapping[str, Any], suffix: str) -> str:
    """PSNR and SSIM of a camera, where they were measured."""
    if row.get(f"psnr{suffix}") is None:
        return ""
    return f"{row[f'psnr{suffix}']:.2f} dB, {row[f'ssim{suffix}']:.3f}"


def _decibels(value: float | None) -> str:
    return "not seen" if value is None else f"{value:.2f} dB"


def _training(metrics: Sequence[Mapping[str, float]]) -> str:
    titles = (
        ("loss", "Loss"),
        ("psnr", "PSNR of a training picture, dB"),
        ("gaussians", "Gaussians"),
    )
    charts = []
    for key, title in titles:
        rows = [row for row in metrics if row.get(key) is not None]
        drawn = chart([r["step"] for r in rows], [r[key] for r in rows], title, "step")
        charts.append(f"<h3>{title}</h3>{drawn}" if drawn else "")
    return "<h2>Training</h2>" + "".join(charts) if any(charts) else ""


def _seconds(result: dict[str, Any]) -> str:
    return "".join(_row(_text(n), f"{value:.1f} s") for n, value in result["seconds"].items())


def _facts(facts: Mapping[str, str]) -> str:
    return "".join(
        f'<tr><th>{_text(name)}</th><td style="overflow-wrap:anywhere">{_text(value)}</td></tr>'
        for name, value in facts.items()
    )
