"""The viewer's panels: what the user can set, and what it is set to."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import viser

from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_INDEX
from viewer.cameras import VIEWPOINTS
from viewer.presets import PRESETS
from viewer.render_loop import Look
from viewer.state import Controls

CAPTURED = "captured motion"
BY_HAND = "by hand"

GAZE_YAW_DEG = 30.0
GAZE_PITCH_DEG = 25.0
HEAD_DEG = (40.0, 25.0, 25.0)
"""Reach of the sliders: yaw, pitch, roll. Sliders that go further than clips do show what no camera saw."""

RANDOM_REACH = (0.3, 1.0)
"""A random expression uses about this share of the coefficients (first), up to this share of what the
clip showed of each (second)."""


class Panels:
    """The controls, built once on a server and shared by all browsers.

    Callbacks only say that something changed (``on_change``); what it changed to is read from here.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        avatar: Avatar,
        *,
        frames: int,
        motion: str,
        backend: str,
        on_change: Callable[[], None],
        on_viewpoint: Callable[[str, viser.ClientHandle | None], None],
    ) -> None:
        """Build them.

        Args:
            server: where.
            avatar: whose ranges the sliders name.
            frames: length of the captured motion; 0 where there is none.
            motion: a sentence about the captured motion, or why there is none.
            backend: what draws, for the Look panel.
            on_change: called after every change, from any thread.
            on_viewpoint: called with a viewpoint's name and the browser that asked for it.
        """
        self._on_change = on_change
        self._shown_frame = 0
        gui = server.gui
        self.status = gui.add_markdown("", visible=False)
        """A line above all, for what the program has to say; hidden while it is empty."""
        self.pace = gui.add_markdown("Waiting for a browser.")
        """How fast pictures come."""
        self.viewpoints = gui.add_button_group("View", tuple(VIEWPOINTS))
        self.viewpoints.on_click(lambda event: on_viewpoint(event.target.value, event.client))
        tabs = gui.add_tab_group()
        with tabs.add_tab("Drive"):
            self._add_drive(gui, frames, motion)
        with tabs.add_tab("Expression"):
            self._add_expression(gui, avatar)
        with tabs.add_tab("Gaze and head"):
            self._add_pose(gui)
        with tabs.add_tab("Look"):
            self._add_look(gui, backend, len(avatar))

    def _add_drive(self, gui: viser.GuiApi, frames: int, motion: str) -> None:
        has_motion = frames > 0
        gui.add_markdown(motion)
        sources = (CAPTURED, BY_HAND) if has_motion else (BY_HAND,)
        self.source = gui.add_dropdown(
            "Source",
            sources,
            hint="Sliders of the other panels are added to the captured motion, or pose all by hand.",
        )
        self.playing = gui.add_checkbox("Play", has_motion, disabled=not has_motion)
        self.frame = gui.add_slider("Frame", 0, max(frames - 1, 1), 1, 0, disabled=not has_motion)
        self.speed = gui.add_slider("Speed", 0.1, 2.0, 0.1, 1.0, disabled=not has_motion)
        self._watch(self.source, self.playing, self.frame, self.speed)

    def _add_expression(self, gui: viser.GuiApi, avatar: Avatar) -> None:
        self.presets = gui.add_button_group("Presets", tuple(PRESETS))
        self.presets.on_click(lambda event: self.set_weights(PRESETS[event.target.value]))
        self.chance = gui.add_button_group("Sliders", ("reset", "random"))
        self.chance.on_click(lambda event: self._reset_or_random(event.target.value))
        self.reach = {
            name: float(avatar.expression_high[ARKIT_INDEX[name]].clamp(0, 1))
            for names in ARKIT_GROUPS.values()
            for name in names
        }
        self.weights: dict[str, viser.GuiSliderHandle[float]] = {}
        for group, names in ARKIT_GROUPS.items():
            with gui.add_folder(group.capitalize(), expand_by_default=group in ("jaw", "mouth")):
                for name in names:
                    self.weights[name] = gui.add_slider(
                        name,
                        0.0,
                        1.0,
                        0.01,
                        0.0,
                        hint=f"The clip showed up to {self.reach[name]:.2f}; beyond is a guess.",
                    )
        self._watch(*self.weights.values())

    def _add_pose(self, gui: viser.GuiApi) -> None:
        gui.add_markdown("Degrees from the pose at rest, or on top of the captured motion.")
        with gui.add_folder("Gaze"):
            self.gaze = (
                gui.add_slider("Gaze yaw", -GAZE_YAW_DEG, GAZE_YAW_DEG, 0.5, 0.0),
                gui.add_slider("Gaze pitch", -GAZE_PITCH_DEG, GAZE_PITCH_DEG, 0.5, 0.0),
            )
        with gui.add_folder("Head"):
            self.head = tuple(
                gui.add_slider(f"Head {name}", -reach, reach, 0.5, 0.0)
                for name, reach in zip(("yaw", "pitch", "roll"), HEAD_DEG, strict=True)
            )
        self._watch(*self.gaze, *self.head)
        self.straight = gui.add_button("Straight ahead")
        self.straight.on_click(lambda _: self._straighten())

    def _add_look(self, gui: viser.GuiApi, backend: str, gaussians: int) -> None:
        usual = Look()
        self.background = gui.add_rgb("Background", usual.background)
        self.resolution = gui.add_slider(
            "Resolution",
            240,
            1440,
            40,
            usual.resolution,
            hint="Largest height of a picture in pixels; pictures in motion may be smaller.",
        )
        self.quality = gui.add_slider("JPEG quality", 40, 100, 1, usual.quality)
        self._watch(self.background, self.resolution, self.quality)
        self.facts = gui.add_markdown("")
        self._backend = backend
        self.show_facts(gaussians)

    def _watch(self, *handles: viser.GuiInputHandle) -> None:
        for handle in handles:
            handle.on_update(lambda _: self._on_change())

    def _reset_or_random(self, choice: str) -> None:
        if choice == "reset":
            return self.set_weights({})
        share, most = RANDOM_REACH
        chosen = {
            name: random.uniform(0.0, most * reach)
            for name, reach in self.reach.items()
            if random.random() < share
        }
        return self.set_weights(chosen)

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Set the 52 sliders to ``weights``; names that are missing go to 0."""
        for name, slider in self.weights.items():
            slider.value = round(weights.get(name, 0.0), 2)

    def _straighten(self) -> None:
        for slider in (*self.gaze, *self.head):
            slider.value = 0.0

    def controls(self) -> Controls:
        """Return what the sliders say."""
        weights = {name: float(s.value) for name, s in self.weights.items() if s.value}
        yaw, pitch = (float(s.value) for s in self.gaze)
        head_yaw, head_pitch, head_roll = (float(s.value) for s in self.head)
        return Controls(weights, (yaw, pitch), (head_yaw, head_pitch, head_roll))

    def look(self) -> Look:
        """Return what the Look panel says."""
        red, green, blue = self.background.value
        return Look((red, green, blue), int(self.resolution.value), int(self.quality.value))

    def chosen_frame(self) -> int | None:
        """Return the frame that the user moved the slider to; None where they did not touch it."""
        frame = int(self.frame.value)
        if frame == self._shown_frame:
            return None
        self._shown_frame = frame
        return frame

    def show_frame(self, frame: int) -> None:
        """Move the frame slider along with the motion."""
        if int(self.frame.value) == self._shown_frame:
            self._shown_frame = frame
            self.frame.value = frame

    def show_facts(self, gaussians: int) -> None:
        """Say what is drawn and by what."""
        self.facts.content = f"{gaussians:,} Gaussians, drawn by: {self._backend}"

    def show_status(self, text: str) -> None:
        """Show a line of Markdown above all panels; an empty one hides it."""
        self.status.content = text
        self.status.visible = bool(text)
