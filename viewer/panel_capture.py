"""The capture browser: frames with mask, landmarks and the tracked face on them, and the tracking residual."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
import viser
import viser.uplot

from avatar.capture_data import Capture, Landmarks
from avatar.checks import InputError
from avatar.rotations import transform_points
from viewer.page import plain

PLAIN, MASK, LANDMARKS, FACE, HEAD = "frame", "mask", "landmarks", "tracked face", "tracked axes"
LAYERS = (PLAIN, MASK, LANDMARKS, FACE, HEAD)
PLOT_POINTS = 600
AXIS_M = 0.06
DETECTED, TRACKED = (230, 120, 30), (30, 160, 80)


def layered(
    capture: Capture, frame: int, layer: str, side: int, camera: int | None = None
) -> np.ndarray:
    """Return a frame with one layer drawn on it, uint8 [H, W, 3], at most ``side`` pixels long.

    Args:
        capture: whose.
        frame: its index.
        layer: one of ``LAYERS``.
        side: longer side, pixels.
        camera: index of its camera; the main one where None.

    Raises:
        InputError: the frame, its mask or the track is missing or damaged.
    """
    camera = capture.main if camera is None else camera
    size = capture.size_within(side, camera)
    if frame in capture.cameras[camera].missing:
        picture = np.full((size[1], size[0], 3), 255, np.uint8)
        return _said(picture, "no picture of this camera")
    picture = np.ascontiguousarray(capture.frame(frame, camera, size=size))
    if layer == PLAIN:
        return picture
    if layer == MASK:
        alpha = capture.mask(frame, camera, size=size)[..., None].astype(np.float32) / 255
        dimmed = 0.25 * picture + np.array((40, 60, 120), np.float32)
        return (picture * alpha + dimmed * (1 - alpha)).clip(0, 255).astype(np.uint8)
    track = capture.track
    scale = size[0] / capture.cameras[camera].width
    if layer == LANDMARKS and camera != track.main:
        found = _detected(capture.landmarks_path(camera))
        if not bool(found.valid[frame]):
            return _said(picture, "no face found")
        for x, y in (found.points[frame, :, :2] * scale).tolist():
            _dot(picture, x, y, DETECTED)
        return picture
    if not bool(track.valid[frame]):
        return _said(picture, "no face found")
    if layer == LANDMARKS:
        for x, y in (track.landmarks_px[frame] * scale).tolist():
            _dot(picture, x, y, DETECTED)
        return picture
    T_cam_head = track.T_cam_world[camera] @ track.T_world_head[frame]
    if layer == HEAD:
        points = torch.cat([torch.zeros(1, 3), AXIS_M * torch.eye(3)]) + torch.tensor([0, 0, 0.1])
        origin, *ends = _projected(points, T_cam_head, track.K[camera]) * scale
        for end, colour in zip(ends, ((220, 40, 40), (40, 170, 40), (40, 80, 220)), strict=True):
            start, stop = (tuple(round(float(v) * 8) for v in p) for p in (origin, end))
            cv2.line(picture, start, stop, colour, 2, cv2.LINE_AA, shift=3)
        return picture
    face = track.lattice + torch.einsum("e,evc->vc", track.expression[frame], track.basis)
    for x, y in (_projected(face, T_cam_head, track.K[camera]) * scale).tolist():
        _dot(picture, x, y, TRACKED)
    return picture


@lru_cache(maxsize=2)
def _detected(path: Path) -> Landmarks:
    """The points of one camera, kept for the frames that follow."""
    return Landmarks.load(path)


def _said(picture: np.ndarray, words: str) -> np.ndarray:
    """Write words into a picture's corner."""
    return cv2.putText(picture, words, (12, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.7, DETECTED, 2)


def _projected(points: torch.Tensor, T_cam: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """Return points [N, 3] in pixels [N, 2]."""
    seen = transform_points(T_cam, points) @ K.T
    return seen[:, :2] / seen[:, 2:].clamp_min(1e-6)


def _dot(picture: np.ndarray, x: float, y: float, colour: tuple[int, int, int]) -> None:
    if np.isfinite((x, y)).all() and abs(x) < 1e5 and abs(y) < 1e5:
        cv2.circle(picture, (round(x * 8), round(y * 8)), 10, colour, -1, cv2.LINE_AA, shift=3)


class CapturePanel:
    """Controls of the browser; the picture is the panel's own, or the page's."""

    def __init__(
        self,
        gui: viser.GuiApi,
        capture: Capture,
        on_change: Callable[[], None],
        *,
        own_picture: int = 0,
    ) -> None:
        """Build it.

        Args:
            gui: where.
            capture: whose frames; one without a track shows frames and masks alone.
            on_change: called after every change, from any thread.
            own_picture: longer side of the picture in the panel, pixels; 0 for none.
        """
        self._capture, self._on_change, self._side = capture, on_change, own_picture
        layers = LAYERS
        try:
            residual = capture.track.residual_px.numpy().astype(float)
            valid = capture.track.valid.bool().numpy()
            note = (
                f"{capture.frames} frames at {capture.fps:g} frames/s, {int(valid.sum())} tracked."
            )
        except InputError as error:
            residual, valid, layers = None, None, (PLAIN, MASK)
            note = f"{capture.frames} frames, not tracked. {plain(str(error))}"
        self.note = gui.add_markdown(note)
        self.frame = gui.add_slider("Capture frame", 0, max(capture.frames - 1, 1), 1, 0)
        self.layer = gui.add_dropdown("Layer", layers)
        self._cameras = {f"{k}: {one.name}": k for k, one in enumerate(capture.cameras)}
        several = len(capture.cameras) > 1
        self.camera = gui.add_dropdown(
            "Camera",
            tuple(self._cameras),
            initial_value=tuple(self._cameras)[capture.main],
            visible=several,
        )
        for handle in (self.frame, self.layer, self.camera):
            handle.on_update(lambda _: self._update())
        self._picture = None
        if own_picture:
            blank = np.full((2, 2, 3), 255, np.uint8)
            self._picture = gui.add_image(blank, format="jpeg", jpeg_quality=85)
        self.plot = None
        self.worst = None
        if residual is not None and valid is not None and capture.frames > 1 and valid.any():
            self._residual = np.where(valid, residual, np.nan)
            chosen = (
                np.linspace(0, capture.frames - 1, min(capture.frames, PLOT_POINTS))
                .round()
                .astype(int)
            )
            self._x, self._y = chosen.astype(float), np.where(valid, residual, 0.0)[chosen]
            self.plot = gui.add_uplot(
                (self._x, self._y, self._cursor(0)),
                (
                    viser.uplot.Series(label="frame"),
                    viser.uplot.Series(label="residual, px", stroke="#2c6fbb", width=1.0),
                    viser.uplot.Series(label="shown", stroke="#c0392b", width=2.0),
                ),
                scales={"x": viser.uplot.Scale(time=False)},
                height=150,
            )
            self.worst = gui.add_button("Go to the largest residual")
            self.worst.on_click(lambda _: self._go_to_worst())
        self._drawn = -1
        self._update()

    def _cursor(self, frame: int) -> np.ndarray:
        """The curve's shape at the shown frame alone: a mark in the plot."""
        near = np.abs(self._x - frame) == np.abs(self._x - frame).min()
        return np.where(near, self._y.max() * 1.05 + 0.1, 0.0)

    def _go_to_worst(self) -> None:
        self.frame.value = int(np.nanargmax(self._residual))

    def _update(self) -> None:
        frame = int(self.frame.value)
        if self.plot is not None and frame != self._drawn:
            self._drawn = frame
            self.plot.data = (self._x, self._y, self._cursor(frame))
        if self._picture is not None:
            self._picture.image = self.picture(self._side)
            self._picture.label = f"Frame {frame}"
        self._on_change()

    def picture(self, side: int) -> np.ndarray:
        """Return what the panel asks for, uint8 [H, W, 3], at most ``side`` pixels long.

        A frame that cannot be read is a grey picture; the note says why.
        """
        frame = min(int(self.frame.value), self._capture.frames - 1)
        camera = self._cameras[str(self.camera.value)]
        try:
            return layered(self._capture, frame, str(self.layer.value), side, camera)
        except InputError as error:
            self.note.content = plain(str(error))
            width, height = self._capture.size_within(side, camera)
            return np.full((height, width, 3), 128, np.uint8)

    def step(self, frames: int) -> None:
        """Go some frames on or back."""
        self.frame.value = min(max(int(self.frame.value) + frames, 0), self._capture.frames - 1)
