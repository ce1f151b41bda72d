"""What all browsers see: an avatar in a state, under a look, perhaps beside the frame that was filmed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.raster import rasterize
from avatar.types import Camera, Gaussians, HeadState
from viewer.cameras import ClientView, camera_of, picture_size, turned
from viewer.compare import Comparison, Filmed, compared, fitted_view
from viewer.look import Look

KEPT_POSES = 2
"""Posed states that are kept: the one that shows, and the one before it that a slower browser still draws."""


@dataclass(frozen=True)
class Moment:
    """All that pictures show, at one instant."""

    version: int
    """Grows with every change."""
    avatar: Avatar
    """Who is drawn; nobody changes it while it is here."""
    state: HeadState
    """A single state."""
    look: Look
    """How it is drawn."""
    turn_rad: float = 0.0
    """How far the turntable has turned, radians about the vertical."""
    comparison: Comparison | None = None
    """With which filmed frame pictures are compared; then all are drawn from the capture's camera."""


class Stage:
    """The avatar, its state and its look, shared by all browsers; every method may be called from any thread."""

    def __init__(
        self,
        avatar: Avatar,
        state: HeadState,
        look: Look | None = None,
        filmed: Filmed | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._pose_lock = threading.Lock()
        self._moment = Moment(0, avatar, state, look or Look())
        self._posed: list[tuple[Avatar, HeadState, tuple[float, ...] | None, Gaussians]] = []
        self._listeners: set[Callable[[], None]] = set()
        self._filmed = filmed
        self.pose_s = 0.0
        """What the latest posing took, seconds."""
        self.psnr = 0.0
        """Of the latest comparison, dB, as large as it was drawn; NaN where the filmed frame cannot be read."""

    @property
    def moment(self) -> Moment:
        """What pictures show now."""
        return self._moment

    def change(
        self,
        *,
        avatar: Avatar | None = None,
        state: HeadState | None = None,
        look: Look | None = None,
        turn_rad: float | None = None,
        comparison: Comparison | bool = True,
    ) -> None:
        """Replace what is given, and tell all listeners.

        Args:
            avatar: who is drawn.
            state: a single state.
            look: how.
            turn_rad: the turntable's angle.
            comparison: with what; False ends comparing, True leaves it as it is.
        """
        with self._lock:
            now = self._moment
            kept = now.comparison if comparison is True else comparison or None
            self._moment = Moment(
                now.version + 1,
                now.avatar if avatar is None else avatar,
                now.state if state is None else state,
                now.look if look is None else look,
                now.turn_rad if turn_rad is None else turn_rad,
                kept,
            )
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each change, on the thread that changed the stage."""
        with self._lock:
            self._listeners.add(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` no more."""
        with self._lock:
            self._listeners.discard(listener)

    def prepare(self, moment: Moment) -> None:
        """Pose the moment's Gaussians, so that ``draw`` finds them posed."""
        if not moment.look.in_browser:
            self.gaussians(moment)

    def gaussians(self, moment: Moment) -> Gaussians:
        """Return the posed and lit Gaussians of a moment; browsers and camera moves share one posing."""
        with self._pose_lock:
            gains = moment.look.gains
            for avatar, state, lit, known in self._posed:
                if avatar is moment.avatar and state is moment.state and lit == gains:
                    return known
            start = time.perf_counter()
            gaussians = posed_gaussians(moment)
            self.pose_s = time.perf_counter() - start
            latest = (moment.avatar, moment.state, gains, gaussians)
            self._posed = [latest, *self._posed[: KEPT_POSES - 1]]
            return gaussians

    def draw(self, moment: Moment, view: ClientView, resolution: int) -> np.ndarray:
        """Return the picture of a moment for a browser's view, uint8 [H, W, 3] sRGB, H <= ``resolution``.

        A single flat colour where browsers draw the Gaussians themselves.
        """
        if moment.look.in_browser:
            return np.full((4, 4, 3), moment.look.background, np.uint8)
        return self.render(self.gaussians(moment), moment, view, resolution)

    def render(
        self, gaussians: Gaussians, moment: Moment, view: ClientView, resolution: int
    ) -> np.ndarray:
        """Return the picture of posed Gaussians; else as ``draw``."""
        comparison = moment.comparison
        if comparison is None or self._filmed is None:
            return picture_of(gaussians, camera_of(turned(view, moment), resolution), moment.look)
        size = picture_size(view, resolution)
        camera, box = fitted_view(moment.avatar.camera, size)
        picture = picture_of(gaussians, camera, moment.look)
        try:
            filmed = self._filmed.frame(comparison.frame, (box[2], box[3]), moment.look.background)
        except InputError:
            self.psnr = math.nan
            return picture
        picture, self.psnr = compared(picture, filmed, box, comparison)
        return picture


def posed_gaussians(moment: Moment) -> Gaussians:
    """Return a moment's Gaussians, posed and lit."""
    with torch.no_grad():
        gaussians = moment.avatar.pose(moment.state.to(moment.avatar.means.device))
        if (gains := moment.look.gains) is not None:
            gaussians = replace(
                gaussians, colours=gaussians.colours * gaussians.colours.new_tensor(gains)
            )
        return gaussians


def picture_of(gaussians: Gaussians, camera: Camera, look: Look) -> np.ndarray:
    """Return the picture of posed Gaussians, uint8 [H, W, 3] sRGB."""
    camera = camera.to(gaussians.means.device)
    background = gaussians.means.new_tensor(look.background) / 255
    with torch.no_grad():
        rgb = rasterize(gaussians, camera, background=background).rgb
        # OpenCV rounds and saturates in one pass; torch's four passes took a millisecond.
        return cv2.convertScaleAbs(rgb.clamp_(0, 1).cpu().numpy(), alpha=255)
