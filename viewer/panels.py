"""The viewer's panels: what the user can set, and what it is set to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import viser

from avatar.capture_data import Capture
from avatar.model.avatar import Avatar
from viewer.cameras import VIEWPOINTS, ClientView
from viewer.panel_capture import CapturePanel
from viewer.panel_drive import DrivePanel
from viewer.panel_expression import ExpressionPanel, PosePanel
from viewer.panel_look import ComparePanel, LookPanel
from viewer.panel_output import SHORTCUTS, ExportFunction, OutputPanel, facts_of, shortcuts_text
from viewer.record import Recorder
from viewer.sources import Sources
from viewer.stage import Stage
from viewer.state import Controls

PANEL_PICTURE = 320
"""Longer side of the capture browser's picture beside an avatar, pixels."""


@dataclass(frozen=True)
class Contents:
    """What the panels are about."""

    avatar: Avatar
    """Who shows."""
    sources: Sources
    """What moves it."""
    motion: str
    """A sentence about the captured motion, or why there is none."""
    backend: str
    """What draws."""
    capture: Capture | None
    """Whose frames can be looked at and compared with; None where none is at hand."""
    why_no_comparison: str
    """Why nothing can be compared; empty where it can."""
    exports: Mapping[str, tuple[str, ExportFunction]]
    """Name to suffix and function."""


class Panels:
    """The controls, built once on a server and shared by all browsers.

    Callbacks only say that something changed (``on_change``); what it changed to is read from here.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        contents: Contents,
        stage: Stage,
        recorder: Recorder,
        *,
        on_change: Callable[[], None],
        on_viewpoint: Callable[[str, viser.ClientHandle | None], None],
        view_of: Callable[[viser.ClientHandle], ClientView | None],
    ) -> None:
        """Build them.

        Args:
            server: where.
            contents: what they are about.
            stage: what shows.
            recorder: of videos.
            on_change: called after every change, from any thread.
            on_viewpoint: called with a viewpoint's name and the browser that asked for it.
            view_of: returns a browser's view.
        """
        self._on_viewpoint = on_viewpoint
        gui = server.gui
        self.status = gui.add_markdown("", visible=False)
        """A line above all, for what the program has to say; hidden while it is empty."""
        self.pace = gui.add_markdown("Waiting for a browser.")
        """How fast pictures come."""
        self.viewpoints = gui.add_button_group("View", tuple(VIEWPOINTS))
        self.viewpoints.on_click(lambda event: on_viewpoint(event.target.value, event.client))
        tabs = gui.add_tab_group()
        avatar = contents.avatar
        with tabs.add_tab("Drive"):
            self.drive = DrivePanel(gui, contents.sources, contents.motion, on_change)
        with tabs.add_tab("Expression"):
            self.expression = ExpressionPanel(gui, avatar, on_change)
        with tabs.add_tab("Gaze and head"):
            self.pose = PosePanel(gui, self.expression, on_change, self.show_status)
        with tabs.add_tab("Look"):
            self.look_panel = LookPanel(gui, contents.backend, on_change)
        with tabs.add_tab("Compare"):
            self.compare = ComparePanel(gui, contents.why_no_comparison, on_change)
        self.capture = None
        if contents.capture is not None:
            with tabs.add_tab("Capture"):
                self.capture = CapturePanel(
                    gui, contents.capture, lambda: None, own_picture=PANEL_PICTURE
                )
        with tabs.add_tab("Save"):
            self.output = OutputPanel(gui, stage, recorder, contents.exports, view_of)
        with tabs.add_tab("About"):
            gui.add_markdown(facts_of(avatar))
            with gui.add_folder("Keys"):
                gui.add_markdown(shortcuts_text())
        self.show_facts(len(avatar))
        self._add_keys(gui)

        # The controls that other parts and tests name most.
        self.source, self.playing = self.drive.source, self.drive.playing
        self.frame, self.speed = self.drive.frame, self.drive.speed
        self.presets, self.weights = self.expression.presets, self.expression.weights
        self.set_weights = self.expression.set_weights
        self.background = self.look_panel.background

    def _add_keys(self, gui: viser.GuiApi) -> None:
        """Bind the keys of ``SHORTCUTS``."""
        named = dict(zip("12345", VIEWPOINTS, strict=True))

        def look_from(name: str) -> Callable[[viser.ClientHandle | None], None]:
            return lambda client: self._on_viewpoint(name, client)

        def mute() -> None:
            self.drive.muted.value = not self.drive.muted.value

        actions: dict[str, Callable[[viser.ClientHandle | None], object]] = {
            "space": lambda _: self.drive.toggle(),
            "J": lambda _: self.drive.step(-1),
            "L": lambda _: self.drive.step(1),
            "home": lambda _: self.drive.begin(),
            "M": lambda _: mute(),
            **{key: look_from(name) for key, name in named.items()},
            "0": lambda _: self.expression.reset(),
            "R": lambda _: self.expression.randomise(),
            "T": lambda _: self.look_panel.toggle_turn(),
            "C": lambda _: self.compare.toggle(),
            "B": lambda _: self.look_panel.toggle_browser(),
            "V": self.output.toggle_record,
            "P": self.output.take_picture,
        }
        for key, what in SHORTCUTS:
            command = gui.add_command(what[0].upper() + what[1:], hotkey=key)  # pyright: ignore[reportArgumentType]
            command.on_trigger(lambda event, act=actions[key]: act(event.client))  # pyright: ignore[reportArgumentType]

    def controls(self) -> Controls:
        """Return what the sliders say."""
        return self.pose.controls()

    def show_facts(self, gaussians: int) -> None:
        """Say what is drawn and by what."""
        self.look_panel.show_facts(gaussians)

    def show_status(self, text: str) -> None:
        """Show a line of Markdown above all panels; an empty one hides it."""
        self.status.content = text
        self.status.visible = bool(text)
