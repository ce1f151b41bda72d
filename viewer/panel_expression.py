"""The panels that pose: 52 expression sliders with search and presets, gaze, head, and poses as files."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import viser

from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_INDEX
from viewer.page import plain
from viewer.pose_file import parse_pose, pose_json
from viewer.presets import PRESETS
from viewer.state import Controls

GAZE_YAW_DEG = 30.0
GAZE_PITCH_DEG = 25.0
HEAD_DEG = (40.0, 25.0, 25.0)
"""Reach of the sliders: yaw, pitch, roll. Sliders that go further than clips do show what no camera saw."""

RANDOM_REACH = (0.3, 1.0)
"""A random expression uses about this share of the coefficients (first), up to this share of what the
clip showed of each (second)."""


class ExpressionPanel:
    """The 52 coefficients."""

    def __init__(self, gui: viser.GuiApi, avatar: Avatar, on_change: Callable[[], None]) -> None:
        """Build it; ``on_change`` is called after every change, from any thread."""
        self.presets = gui.add_button_group("Presets", tuple(PRESETS))
        self.presets.on_click(lambda event: self.set_weights(PRESETS[event.target.value]))
        self.chance = gui.add_button_group("Sliders", ("reset", "random"))
        self.chance.on_click(
            lambda event: self.reset() if event.target.value == "reset" else self.randomise()
        )
        self.search = gui.add_text(
            "Search", "", hint="Part of a name: smile, brow, left. Empty shows all."
        )
        self.search.on_update(lambda _: self._find())
        self.reach = {
            name: float(avatar.expression_high[ARKIT_INDEX[name]].clamp(0, 1))
            for names in ARKIT_GROUPS.values()
            for name in names
        }
        self.weights: dict[str, viser.GuiSliderHandle[float]] = {}
        self.folders: dict[str, viser.GuiFolderHandle] = {}
        for group, names in ARKIT_GROUPS.items():
            # A closed folder would hide what a search finds in it.
            with gui.add_folder(group.capitalize()) as folder:
                self.folders[group] = folder
                for name in names:
                    self.weights[name] = gui.add_slider(
                        name,
                        0.0,
                        1.0,
                        0.01,
                        0.0,
                        hint=f"The clip showed up to {self.reach[name]:.2f}; beyond is a guess.",
                    )
                    self.weights[name].on_update(lambda _: on_change())
        self.nothing = gui.add_markdown("No coefficient has that in its name.", visible=False)

    def _find(self) -> None:
        """Show the sliders whose names contain every word of the search."""
        words = str(self.search.value).lower().split()
        any_found = False
        for group, names in ARKIT_GROUPS.items():
            found = [n for n in names if all(w in f"{n} {group}".lower() for w in words)]
            for name in names:
                if self.weights[name].visible != (name in found):
                    self.weights[name].visible = name in found
            if self.folders[group].visible != bool(found):
                self.folders[group].visible = bool(found)
            any_found = any_found or bool(found)
        self.nothing.visible = not any_found

    def randomise(self) -> None:
        """Set some of the sliders within what the clip showed."""
        share, most = RANDOM_REACH
        self.set_weights(
            {
                name: random.uniform(0.0, most * reach)
                for name, reach in self.reach.items()
                if random.random() < share
            }
        )

    def reset(self) -> None:
        """Set all sliders to 0."""
        self.set_weights({})

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Set the 52 sliders to ``weights``; names that are missing go to 0."""
        for name, slider in self.weights.items():
            value = round(weights.get(name, 0.0), 2)
            if slider.value != value:
                slider.value = value

    def values(self) -> dict[str, float]:
        """Return what is not 0, by name."""
        return {name: float(s.value) for name, s in self.weights.items() if s.value}


class PosePanel:
    """Gaze and head, and poses as files."""

    def __init__(
        self,
        gui: viser.GuiApi,
        expression: ExpressionPanel,
        on_change: Callable[[], None],
        on_note: Callable[[str], None],
    ) -> None:
        """Build it.

        Args:
            gui: where.
            expression: the sliders that a pose file sets along with these.
            on_change: called after every change, from any thread.
            on_note: takes a sentence for the user, Markdown.
        """
        self._expression, self._on_note = expression, on_note
        gui.add_markdown("Degrees from the pose at rest, or on top of the motion.")
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
        for slider in (*self.gaze, *self.head):
            slider.on_update(lambda _: on_change())
        self.straight = gui.add_button("Straight ahead")
        self.straight.on_click(lambda _: self.straighten())
        with gui.add_folder("Pose file"):
            self.save = gui.add_button(
                "Save pose", hint="Expression, gaze and head as a JSON file."
            )
            self.save.on_click(self._save)
            self.load = gui.add_upload_button("Load pose", mime_type=".json")
            self.load.on_upload(lambda _: self._load())

    def straighten(self) -> None:
        """Set gaze and head to 0."""
        for slider in (*self.gaze, *self.head):
            slider.value = 0.0

    def _save(self, event: viser.GuiEvent) -> None:
        if event.client is not None:
            content = pose_json(self.controls())
            event.client.send_file_download("pose.json", content, save_immediately=True)

    def _load(self) -> None:
        try:
            self.set_controls(parse_pose(self.load.value.content))
        except InputError as error:
            self._on_note(plain(str(error)))

    def set_controls(self, controls: Controls) -> None:
        """Set all sliders, as far as they reach."""
        self._expression.set_weights(controls.weights)
        for slider, value in zip(
            (*self.gaze, *self.head), (*controls.gaze_deg, *controls.head_deg), strict=True
        ):
            slider.value = min(max(round(value * 2) / 2, slider.min), slider.max)

    def controls(self) -> Controls:
        """Return what all sliders say."""
        yaw, pitch = (float(s.value) for s in self.gaze)
        head_yaw, head_pitch, head_roll = (float(s.value) for s in self.head)
        return Controls(self._expression.values(), (yaw, pitch), (head_yaw, head_pitch, head_roll))
