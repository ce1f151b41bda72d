"""report.html: an avatar's numbers and pictures on one page that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatar.capture_data import Capture
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

STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid var(--line);text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%;height:auto}
small{opacity:.7}svg{width:100%;height:auto}
"""


def picture_bytes(picture: np.ndarray, quality: int = 92) -> bytes:
    """Encode a picture uint8 [H, W, 3] as JPEG."""
    done, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "encoding a JPEG in memory cannot fail"
    return encoded.tobytes()


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture uint8 [H, W, 3] as JPEG, atomically."""
    write_bytes(path, picture_bytes(picture))


def _curve(frames: list[int], values: list[float], label: str) -> str:
    """A plot of values over frames as inline SVG."""
    if len(frames) < 2:
        return ""
    width, height, margin = 900, 220, 42
    low, high = min(values), max(values)
    span = max(high - low, 1e-6)
    x = [
        margin + (f - frames[0]) / max(1, frames[-1] - frames[0]) * (width - margin - 8)
        for f in frames
    ]
    y = [height - 24 - (v - low) / span * (height - 40) for v in values]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    marks = "".join(
        f'<text x="2" y="{height - 24 - share * (height - 40) + 4:.0f}" font-size="12" '
        f'fill="currentColor">{low + share * span:.1f}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
        f'<polyline points="{points}" fill="none" stroke="#3b82f6" stroke-width="1.5"/>{marks}'
        f'<text x="{margin}" y="{height - 4}" font-size="12" fill="currentColor">frame {frames[0]}</text>'
        f'<text x="{width - 90}" y="{height - 4}" font-size="12" fill="currentColor">frame {frames[-1]}</text></svg>'
    )


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


def write_report(
    path: Path, avatar: Avatar, capture: Capture, result: dict[str, Any], sheet: np.ndarray
) -> None:
    """Write the page.

    Args:
        path: the file.
        avatar: the avatar that was measured.
        capture: its capture.
        result: what ``avatar.train.evaluate.evaluate`` returned.
        sheet: contact sheet uint8 [H, W, 3], held-out frames above the avatar's.
    """
    rows = []
    for key, (name, unit, meaning) in EXPLANATIONS.items():
        if key == "psnr_all_tracked" and not left_out(result):
            continue  # it is the PSNR
        value = result.get(key)
        text = "not measured" if value is None else f"{value:g} {unit}"
        rows.append(
            f'<tr><th>{name}</th><td class="n">{text}</td><td><small>{meaning}</small></td></tr>'
        )
    seconds = "".join(
        f'<tr><th>{html.escape(name)}</th><td class="n">{value:.1f} s</td></tr>'
        for name, value in result["seconds"].items()
    )
    curve = result["per_frame"]
    encoded = base64.b64encode(picture_bytes(sheet, 88)).decode()
    warnings = "".join(
        f"<li>{html.escape(str(w))}</li>" for w in capture.header.get("warnings", [])
    )
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Avatar report</title><style>{STYLE}</style>
<h1>Avatar report</h1>
<p>Fitted to frames {result["split"]["train"][0]} to {result["split"]["train"][1] - 1}, measured on frames
{result["split"]["test"][0]} to {result["split"]["test"][1] - 1}, which the fit has never seen. The held-out
frames are driven by the tracked motion alone, person on white, {result["resolution"][0]} x
{result["resolution"][1]} pixels, device {html.escape(result["device"])}.</p>
{f"<p>{html.escape(left_out(result))}</p>" if left_out(result) else ""}
{f"<h2>Notes on the footage</h2><ul>{warnings}</ul>" if warnings else ""}
<h2>Held-out frames above, avatar below</h2>
<img alt="held-out frames and the avatar's" src="data:image/jpeg;base64,{encoded}">
<h2>Numbers</h2><table>{"".join(rows)}</table>
<h2>PSNR over the held-out frames (dB)</h2>{_curve(curve["frame"], curve["psnr"], "PSNR per frame")}
<h2>Time</h2><table>{seconds}</table>
<h2>Settings</h2><details><summary>of the fit</summary><pre>{html.escape(json.dumps(avatar.header.get("config", {}), indent=1))}</pre></details>
</html>
"""
    write_bytes(path, page.encode())
