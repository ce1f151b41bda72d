"""The report's pictures: every slider, a turntable, strips of expressions, the worst frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from avatar.capture_data import Capture, shrunk
from avatar.export.render import render_states
from avatar.export.video import contact_sheet
from avatar.model.avatar import Avatar
from avatar.model.views import front_camera, head_camera, slider_state
from avatar.rig.arkit import ARKIT_NAMES
from avatar.types import Camera, HeadState

TILE = 200
"""Side in pixels of small pictures: a render takes 2 ms, and 80 of them make a page of half a megabyte."""
WIDE = 320
"""Longer side in pixels of pictures in which details of the error are looked for."""
SHEET_COLUMNS = 9
WORST = 4
"""Worst frames shown."""
YAWS_DEG = (-60, -40, -20, 0, 20, 40, 60)
PITCHES_DEG = (-30, -15, 0, 15, 30)
STRIP_VALUES = (0.0, 0.5, 1.0)
STRIPS: Mapping[str, tuple[str, ...]] = {
    "jawOpen": ("jawOpen",),
    "eyeBlink, both": ("eyeBlinkLeft", "eyeBlinkRight"),
    "mouthSmile, both": ("mouthSmileLeft", "mouthSmileRight"),
    "mouthPucker": ("mouthPucker",),
    "mouthFrown, both": ("mouthFrownLeft", "mouthFrownRight"),
    "brows up": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    "look to the left": ("eyeLookOutLeft", "eyeLookInRight"),
}
"""Row of the strip to the sliders that are moved together."""
ERROR_FULL = 0.25
"""Mean absolute error of a pixel, of 1, that is drawn in the heat map's brightest colour."""


@dataclass(frozen=True)
class Tile:
    """A picture and what it shows."""

    caption: str
    picture: np.ndarray
    """uint8 [H, W, 3] sRGB."""


@dataclass(frozen=True)
class ReportPictures:
    """All pictures of a report."""

    held_out: np.ndarray
    """Contact sheet uint8 [H, W, 3]: held-out frames above the avatar's."""
    regions: Sequence[Tile]
    """Held-out frames, tinted by region."""
    worst: Sequence[Sequence[Tile]]
    """Of each of the worst frames the truth, the avatar and the error."""
    sliders: Sequence[Tile]
    """The person at rest and with each of the 52 sliders at 1.0."""
    turntable: Sequence[Sequence[Tile]]
    """A row of yaws and a row of pitches, at rest."""
    strips: Sequence[Sequence[Tile]]
    """A row for each of ``STRIPS`` at ``STRIP_VALUES``."""
    cameras: Sequence[Sequence[Tile]] = ()
    """Of each camera of several the truth, the avatar and the error, in a held-out frame."""


def make_pictures(
    avatar: Avatar,
    capture: Capture,
    result: Mapping[str, Any],
    held_out: np.ndarray,
    regions: Sequence[Tile],
) -> ReportPictures:
    """Draw what the avatar alone can show: about a second.

    Args:
        avatar: who is drawn.
        capture: its capture, for the worst frames.
        result: what ``evaluate`` returned.
        held_out: contact sheet uint8 [H, W, 3] of held-out frames.
        regions: held-out frames tinted by region.
    """
    return ReportPictures(
        held_out=held_out,
        regions=regions,
        worst=worst_frames(avatar, capture, result),
        sliders=slider_tiles(avatar),
        turntable=turntable(avatar),
        strips=expression_strips(avatar),
        cameras=camera_rows(avatar, capture, result),
    )


def slider_tiles(avatar: Avatar) -> list[Tile]:
    """Draw the head at rest and with each of the 52 sliders at 1.0, from the front."""
    states = [slider_state(avatar, {})]
    states += [slider_state(avatar, {name: 1.0}) for name in ARKIT_NAMES]
    camera = head_camera(avatar, TILE)
    return _drawn(avatar, states, [camera] * len(states), ["neutral", *ARKIT_NAMES])


def turntable(avatar: Avatar) -> list[list[Tile]]:
    """Draw the person at rest from ``YAWS_DEG`` and from ``PITCHES_DEG``."""
    rows = []
    for name, angles in (("yaw", YAWS_DEG), ("pitch", PITCHES_DEG)):
        cameras = [
            front_camera(avatar, (TILE, TILE), **{name: math.radians(angle)}) for angle in angles
        ]
        captions = [f"{name} {angle:+d}°" if angle else "front" for angle in angles]
        rows.append(_drawn(avatar, [avatar.rest] * len(angles), cameras, captions))
    return rows


def expression_strips(avatar: Avatar) -> list[list[Tile]]:
    """Draw a few expressions coming up."""
    camera = head_camera(avatar, TILE)
    rows = []
    for title, names in STRIPS.items():
        states = [slider_state(avatar, dict.fromkeys(names, value)) for value in STRIP_VALUES]
        captions = [f"{title} {value:g}" for value in STRIP_VALUES]
        rows.append(_drawn(avatar, states, [camera] * len(states), captions))
    return rows


def worst_frames(avatar: Avatar, capture: Capture, result: Mapping[str, Any]) -> list[list[Tile]]:
    """Draw the held-out frames of the lowest PSNR, half a second apart: truth, avatar, error."""
    psnr = dict(zip(result["per_frame"]["frame"], result["per_frame"]["psnr"], strict=True))
    frames: list[int] = []
    for frame in sorted(psnr, key=psnr.__getitem__):
        if all(abs(frame - other) > capture.fps / 2 for other in frames) and len(frames) < WORST:
            frames.append(frame)
    width, height = result["resolution"]
    return [
        _compared(
            avatar,
            capture,
            frame,
            capture.main,
            (width, height),
            (f"frame {frame}, held out", f"avatar, {psnr[frame]:.1f} dB"),
        )
        for frame in frames
    ]


def camera_rows(avatar: Avatar, capture: Capture, result: Mapping[str, Any]) -> list[list[Tile]]:
    """Draw, of a capture of several cameras, what each saw in the middle of the held-out frames."""
    begin, end = result["split"]["test"]
    rows = []
    for row in result.get("cameras", ()):
        camera = row["camera"]
        missing = capture.cameras[camera].missing
        seen = [f for f in range(begin, end) if capture.track.valid[f] and f not in missing]
        if not seen:
            continue
        frame = seen[len(seen) // 2]
        name = f"camera {camera}{', never fitted to' if row['held'] else ''}: frame {frame}"
        size = (row["resolution"][0], row["resolution"][1])
        about = f"avatar, {row['psnr']:.1f} dB over {row['frames']} frames"
        rows.append(_compared(avatar, capture, frame, camera, size, (name, about)))
    return rows


def _compared(
    avatar: Avatar,
    capture: Capture,
    frame: int,
    camera: int,
    size: tuple[int, int],
    captions: tuple[str, str],
) -> list[Tile]:
    """What a camera saw, the avatar, and the error."""
    truth = np.round(capture.on_white(frame, camera, size=size) * 255).astype(np.uint8)
    state, view = capture.track.states()[frame], capture.camera(camera).scaled(*size)
    (drawn,) = _drawn(avatar, [state], [view], ["avatar"])
    heat = error_map(truth, drawn.picture)
    pictures = (truth, drawn.picture, heat)
    return [
        Tile(c, fitted_within(p, WIDE)) for c, p in zip((*captions, "error"), pictures, strict=True)
    ]


def error_map(truth: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return the error of a picture as a heat map; all uint8 [H, W, 3], black is none."""
    error = np.abs(truth.astype(np.int16) - picture).mean(2)
    level = np.minimum(error / ERROR_FULL, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def fitted_within(picture: np.ndarray, side: int) -> np.ndarray:
    """Average a picture down so that its longer side is ``side`` pixels at most."""
    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    return shrunk(picture, (round(picture.shape[1] * scale), round(picture.shape[0] * scale)))


def tile_sheet(rows: Sequence[Sequence[Tile]]) -> np.ndarray:
    """Lay tiles out in rows on white with their captions above: uint8 [H, W, 3]."""
    strips = [
        contact_sheet([[t.picture for t in row]], [""], [t.caption for t in row], cell_width=TILE)
        for row in rows
    ]
    width = max(strip.shape[1] for strip in strips)
    return np.concatenate(
        [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    )


def slider_sheet(tiles: Sequence[Tile]) -> np.ndarray:
    """Lay ``slider_tiles`` out on one sheet uint8 [H, W, 3]."""
    return tile_sheet([tiles[i : i + SHEET_COLUMNS] for i in range(0, len(tiles), SHEET_COLUMNS)])


def _drawn(
    avatar: Avatar, states: Sequence[HeadState], cameras: Sequence[Camera], captions: Sequence[str]
) -> list[Tile]:
    pictures = render_states(avatar, states, lambda frame, _: cameras[frame])
    return [Tile(c, p) for c, p in zip(captions, pictures, strict=True)]
