"""The panels of how it looks: background, size, light, turntable, who draws; and the comparison."""

from __future__ import annotations

import math
from collections.abc import Callable

import viser

from viewer.compare import MODES, Comparison
from viewer.look import Look
from viewer.page import plain

BY_SERVER = "this program (exact)"
BY_BROWSER = "the browser (no delay)"

TURN_DEG = 35.0
"""How far the turntable goes to either side; one camera saw little of what lies beyond."""


class LookPanel:
    """How pictures are drawn."""

    def __init__(self, gui: viser.GuiApi, backend: str, on_change: Callable[[], None]) -> None:
        """Build it; ``backend`` says what draws, ``on_change`` is called after every change."""
        usual = Look()
        self.background = gui.add_rgb("Background", usual.background)
        self.resolution = gui.add_slider(
            "Resolution",
            240,
            1440,
            8,
            usual.resolution,
            hint="Largest height of a picture in pixels; pictures in motion may be smaller.",
        )
        self.quality = gui.add_slider("JPEG quality", 40, 100, 1, usual.quality)
        with gui.add_folder("Light"):
            self.exposure = gui.add_slider(
                "Exposure",
                -2.0,
                2.0,
                0.1,
                0.0,
                hint="Stops. The clip's own light is part of the avatar: this makes it stronger or "
                "weaker, and moves no shadow.",
            )
            self.warmth = gui.add_slider("Warmth", -1.0, 1.0, 0.05, 0.0)
        with gui.add_folder("Turntable"):
            self.turns = gui.add_checkbox("Turn", False)
            self.period = gui.add_slider("Seconds a turn", 4.0, 30.0, 1.0, 8.0)
        self.drawn_by = gui.add_dropdown(
            "Drawn by",
            (BY_SERVER, BY_BROWSER),
            hint="A browser with a graphics card looks round without delay; its colours differ a little, "
            "and motion comes at 8 updates a second.",
        )
        for handle in (
            *(self.background, self.resolution, self.quality, self.exposure, self.warmth),
            *(self.turns, self.period, self.drawn_by),
        ):
            handle.on_update(lambda _: on_change())
        self.facts = gui.add_markdown("")
        self._backend = backend

    def look(self) -> Look:
        """Return what the panel says."""
        red, green, blue = self.background.value
        return Look(
            (red, green, blue),
            int(self.resolution.value),
            int(self.quality.value),
            float(self.exposure.value),
            float(self.warmth.value),
            self.drawn_by.value == BY_BROWSER,
        )

    def turn_rad(self, t: float) -> float:
        """Return the turntable's angle after turning for ``t`` seconds; 0 while it is off."""
        if not self.turns.value:
            return 0.0
        return math.radians(TURN_DEG) * math.sin(2 * math.pi * t / float(self.period.value))

    def toggle_turn(self) -> None:
        """Turn, or stop."""
        self.turns.value = not self.turns.value

    def toggle_browser(self) -> None:
        """Let the other draw."""
        self.drawn_by.value = BY_SERVER if self.drawn_by.value == BY_BROWSER else BY_BROWSER

    def show_facts(self, gaussians: int) -> None:
        """Say what is drawn and by what."""
        self.facts.content = f"{gaussians:,} Gaussians, drawn by: {self._backend}"


class ComparePanel:
    """The filmed frame beside the avatar."""

    def __init__(self, gui: viser.GuiApi, why_not: str, on_change: Callable[[], None]) -> None:
        """Build it.

        Args:
            gui: where.
            why_not: why there is nothing to compare with; empty where there is.
            on_change: called after every change, from any thread.
        """
        gui.add_markdown(
            plain(why_not)
            or "Each frame of the captured motion beside what was filmed, from the capture's camera, "
            "whatever the mouse does meanwhile."
        )
        self.on = gui.add_checkbox("Compare", False, disabled=bool(why_not))
        self.mode = gui.add_dropdown("Show", MODES, disabled=bool(why_not))
        self.split = gui.add_slider("Split", 0.0, 1.0, 0.01, 0.5, disabled=bool(why_not))
        self.note = gui.add_markdown("", visible=False)
        for handle in (self.on, self.mode, self.split):
            handle.on_update(lambda _: on_change())

    def comparison(self, frame: int | None) -> Comparison | None:
        """Return what to compare where a frame (None: no captured motion) shows; None for nothing."""
        if not self.on.value or frame is None:
            return None
        return Comparison(frame, float(self.split.value), str(self.mode.value))

    def toggle(self) -> None:
        """Compare, or end it; nothing where there is nothing to compare with."""
        if not self.on.disabled:
            self.on.value = not self.on.value

    def show(self, comparison: Comparison | None, psnr: float) -> None:
        """Say how alike the two are, or what is missing for it."""
        if comparison is not None and math.isnan(psnr):
            text = (
                f"Frame {comparison.frame}: what was filmed cannot be read. Either its file is gone or, of "
                "several cameras, the main one has no picture of that moment."
            )
        elif comparison is not None:
            text = f"Frame {comparison.frame}: PSNR {psnr:.1f} dB on this background, as drawn."
        elif self.on.value:
            text = "Choose the captured motion as the source: only it has filmed frames."
        else:
            text = ""
        if text != self.note.content:
            self.note.content, self.note.visible = text, bool(text)
