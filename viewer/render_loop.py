"""Pictures for browsers: one thread a browser that draws what it needs of what all share.

The newest request wins: a thread always draws the scene and the camera as they are when it begins, so
a slow machine shows fewer pictures, never late ones. While anything moves, the picture's size follows
the machine's speed; when all is still, one sharp picture follows.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from viewer.cameras import ClientView, picture_size
from viewer.look import Look

FRAME_BUDGET_S = 1 / 34
"""What a picture may take while something moves: a margin over 30 frames a second."""
FASTEST_FRAME_S = 1 / 50
"""No picture follows another sooner: a browser's camera sends up to 50 messages a second, and the eye is
content with less."""
LONGEST_FRAME_S = 2.0
"""However small the share of the time for pictures, the next one does not wait longer."""
LEAST_RESOLUTION = 160
"""Height in pixels below which a moving picture does not shrink, however slow the machine."""
SETTLE_S = 0.2
"""Quiet time after which the sharp picture is drawn."""
MOVING_QUALITY_LOSS = 20
"""How much lower the JPEG quality is while something moves."""


class Shown(Protocol):
    """What pictures show at one instant, as far as the loop asks."""

    @property
    def version(self) -> int:
        """Grows with every change."""
        ...

    @property
    def look(self) -> Look:
        """How it is drawn."""
        ...


Instant = TypeVar("Instant", bound=Shown)


class Scene(Protocol[Instant]):
    """What a loop draws: an avatar (``viewer.stage.Stage``), or a capture's frames."""

    @property
    def moment(self) -> Instant:
        """What pictures show now."""
        ...

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each change."""
        ...

    def forget(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        ...

    def prepare(self, moment: Instant) -> None:
        """Do what a picture of the moment takes at any size and from any side."""
        ...

    def draw(self, moment: Instant, view: ClientView, resolution: int) -> np.ndarray:
        """Return the picture, uint8 [H, W, 3] sRGB, at most ``resolution`` pixels high."""
        ...


def next_resolution(resolution: float, taken_s: float, budget_s: float) -> float:
    """Return the height for the next moving picture, given what one of ``resolution`` took.

    Cost grows about as the number of pixels, the square of the height. Shrinking is quick, growing is
    slow, and in between nothing changes, so that the sharpness does not flicker.
    """
    wish = (budget_s / max(taken_s, 1e-4)) ** 0.5
    if wish < 1:
        return resolution * max(wish, 0.7)
    return resolution * min(wish, 1.06) if wish > 1.15 else resolution


@dataclass(frozen=True)
class Pace:
    """What a browser gets at the moment."""

    frames_per_s: float
    """Pictures delivered in the last second."""
    width: int
    """Width of the latest picture, pixels."""
    height: int
    """Height of the latest picture, pixels."""
    draw_s: float
    """What the latest picture took to draw, encode and hand over, seconds; posing not included."""
    at_s: float
    """When the latest picture was delivered, ``time.perf_counter``."""


class FrameLoop:
    """The thread that draws for one browser."""

    def __init__(
        self,
        stage: Scene[Any],
        view: Callable[[], ClientView | None],
        deliver: Callable[[np.ndarray, int], None],
        share: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """Prepare; ``start`` begins.

        Args:
            stage: what to draw.
            view: returns the browser's present camera; None while it has none.
            deliver: takes a picture (uint8 [H, W, 3]) and a JPEG quality, encodes and sends it.
            share: returns the share of the time, in (0, 1], that may go into pictures; the rest is left
                to whatever else this machine does.
        """
        self._share = share
        self._stage = stage
        self._view = view
        self._deliver = deliver
        self._wake = threading.Event()
        self._ended = False
        self._resolution = 480.0
        self._sent, self._sent_quality = np.empty((0, 0, 3), np.uint8), 0
        self._times: deque[float] = deque(maxlen=120)
        self._pace = Pace(0.0, 0, 0, 0.0, 0.0)
        self._thread = threading.Thread(target=self._run, name="viewer frames", daemon=True)

    def start(self) -> None:
        """Draw from now on."""
        self._stage.listen(self.wake)
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Say that the camera or the stage changed."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread; returns at once (``join`` waits for the picture that is being drawn)."""
        self._stage.forget(self.wake)
        self._ended = True
        self._wake.set()

    def join(self, timeout_s: float = 5.0) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout_s)

    @property
    def running(self) -> bool:
        """Whether the thread draws."""
        return self._thread.is_alive()

    @property
    def pace(self) -> Pace:
        """How the browser is served now."""
        now = time.perf_counter()
        recent = sum(1 for t in tuple(self._times) if now - t < 1.0)
        return replace(self._pace, frames_per_s=float(recent))

    def _run(self) -> None:
        shown: tuple[int, ClientView] | None = None
        sharp = False
        while not self._ended:
            woken = self._wake.wait(None if sharp or shown is None else SETTLE_S)
            self._wake.clear()
            if self._ended:
                return
            begun = time.perf_counter()
            moment, view = self._stage.moment, self._view()
            if view is None:
                continue
            if shown != (moment.version, view):
                sharp = self._show(moment, view, moving=True)
                shown = (moment.version, view)
            elif not woken and not sharp:
                sharp = self._show(moment, view, moving=False)
            taken_s = time.perf_counter() - begun
            rest_s = min(max(FASTEST_FRAME_S, taken_s / self._share()), LONGEST_FRAME_S) - taken_s
            if rest_s > 0:
                time.sleep(rest_s)

    def _show(self, moment: Shown, view: ClientView, *, moving: bool) -> bool:
        """Draw and deliver one picture; return whether it is as sharp as it gets."""
        look = moment.look
        resolution, quality = look.resolution, look.quality
        if moving:
            # Steps of 16 pixels: the browser's texture keeps its size while the pace wavers.
            self._resolution = min(max(self._resolution, LEAST_RESOLUTION), resolution)
            resolution = min(resolution, max(LEAST_RESOLUTION, round(self._resolution / 16) * 16))
            quality = max(1, quality - MOVING_QUALITY_LOSS)
        asked = time.perf_counter()
        self._stage.prepare(moment)
        begun = time.perf_counter()
        picture = self._stage.draw(moment, view, resolution)
        # A change that shows nothing new (a slider of a part that is not in view) sends nothing.
        if quality != self._sent_quality or not np.array_equal(picture, self._sent):
            self._deliver(picture, quality)
            self._sent, self._sent_quality = picture, quality
            self._times.append(time.perf_counter())
        now = time.perf_counter()
        if moving:
            # Posing costs the same at any size. What it leaves of the budget is for the picture, but
            # never so little that a slow pose makes the picture tiny and gains nothing.
            budget_s = max(FRAME_BUDGET_S - (begun - asked), FRAME_BUDGET_S / 2)
            if (
                self._share() < 1
            ):  # where time is short, more pictures are worth more than larger ones
                budget_s /= 2
            ceiling = picture_size(view, look.resolution)[1]
            wish = next_resolution(self._resolution, now - begun, budget_s)
            self._resolution = min(wish, max(ceiling, LEAST_RESOLUTION))
        height, width = picture.shape[:2]
        self._pace = Pace(0.0, width, height, now - begun, now)
        return not moving
