"""The report's section on several cameras: a line and a picture of each."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avatar.capture_data import UNIT_GAIN, CaptureCamera, Landmarks, Track
from capture.folder import Pictures
from capture.report_pictures import figure, model_lines, overlay
from capture.report_track import project_lattice

HEIGHT = 300
"""Pixels of each camera's picture."""

METHODS = {
    "reference": "the first clip",
    "given": "as given",
    "sound": "by sound",
    "motion": "by motion",
    "assumed": "assumed",
}


def cameras_section(
    output: Path, track: Track, pictures: Sequence[Pictures], header: Mapping[str, Any]
) -> str:
    """Return HTML: a table of the cameras, and the same moment in each.

    Args:
        output: the capture folder.
        track: the finished track.
        pictures: of each camera.
        header: the fields of capture.json.
    """
    entries = header["cameras"]
    cameras = [CaptureCamera.from_json(k, entry) for k, entry in enumerate(entries)]
    landmarks = [
        Landmarks.load(output / f"landmarks{k or ''}.safetensors") for k in range(len(cameras))
    ]
    rows = "".join(
        _row(k, camera, entries[k], landmarks[k], track) for k, camera in enumerate(cameras)
    )
    # The moment that most cameras have, seen best by most of them, and among those a tracked one.
    have = np.stack(
        [[f not in camera.missing for f in range(len(track))] for camera in cameras]
    ).sum(0)
    faces = np.stack([marks.valid.numpy() for marks in landmarks]).sum(0)
    frame = int((have * 1000 + faces * 10 + track.valid.numpy()).argmax())
    figures = [
        _picture(k, camera, landmarks[k], track, pictures[k], frame)
        for k, camera in enumerate(cameras)
        if frame not in camera.missing
    ]
    return (
        "<h2>Cameras</h2><div class='wide'><table><tr><th></th><th>clip</th><th>picture</th>"
        "<th>frames</th><th>missing</th><th>face found</th><th>began</th><th>focal length</th>"
        f"<th>distance</th><th>colour gain</th></tr>{rows}</table></div>"
        "<p><small>Began: seconds after the first clip, how that was found, and how sure it is (1 is "
        "sure; under 0.2 look whether the pictures below show one moment). Distance: from the head, at "
        "the median.</small></p>"
        f"<p>Frame {frame} in every camera. Light blue: detected points; orange: the one tracked model, "
        "drawn through each camera.</p>"
        f'<div class="sheet">{"".join(figures)}</div>'
    )


def _row(
    k: int, camera: CaptureCamera, entry: Mapping[str, Any], landmarks: Landmarks, track: Track
) -> str:
    frames = len(track) - len(camera.missing)
    share = 100 * int(landmarks.valid.sum()) / max(1, frames)
    offset = entry.get("offset", {})
    method = METHODS.get(str(offset.get("method")), "")
    sure = f", {offset['confidence']:.2f}" if offset.get("method") in ("sound", "motion") else ""
    heads = track.T_world_head[track.valid] if track.valid.any() else track.T_world_head
    away = (track.T_cam_world[k] @ heads)[:, :3, 3].norm(dim=1).median()
    gain = "1" if camera.gain == UNIT_GAIN else " ".join(f"{v:.3f}" for v in camera.gain)
    cells = [
        f"{frames}",
        f"{len(camera.missing)}",
        f"{share:.0f} %",
        f"{float(offset.get('seconds', 0)):+.3f} s ({method}{sure})",
        f"{float(track.K[k, 0, 0]):.0f} px",
        f"{float(away):.2f} m",
        gain,
    ]
    main = " (main)" if k == track.main else ""
    return (
        f"<tr><th>{k}{main}</th><td>{html.escape(camera.name)}</td>"
        f"<td>{camera.width} x {camera.height}</td>"
        + "".join(f'<td class="n">{cell}</td>' for cell in cells)
        + "</tr>"
    )


def _picture(
    k: int,
    camera: CaptureCamera,
    landmarks: Landmarks,
    track: Track,
    pictures: Pictures,
    frame: int,
) -> str:
    picture = overlay(pictures, landmarks, frame, HEIGHT)
    if track.valid[frame]:
        model, faces = (part[0] for part in project_lattice(track, np.array([frame]), k))
        model_lines(picture, model, faces, picture.shape[0] / camera.height)
    return figure(picture, f"camera {k}", f"{k}: {html.escape(camera.name)}")
