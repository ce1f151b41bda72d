"""The panel of what moves the avatar: source, timeline, sound, a file, a text to say."""

from __future__ import annotations

from collections.abc import Callable

import viser

from avatar.checks import InputError
from viewer.page import plain
from viewer.sources import CAPTURED, FILE, SPEECH, Clip, Sources

SOURCE_HINT = "Sliders of the other panels are added to a motion, or pose all by hand."


class DrivePanel:
    """Controls of the source and its timeline."""

    def __init__(
        self,
        gui: viser.GuiApi,
        sources: Sources,
        motion: str,
        on_change: Callable[[], None],
    ) -> None:
        """Build it.

        Args:
            gui: where.
            sources: what there is to choose from.
            motion: a sentence about the captured motion, or why there is none.
            on_change: called after every change, from any thread.
        """
        self._sources, self._on_change = sources, on_change
        self._shown_frame = 0
        gui.add_markdown(motion)
        self.source = gui.add_dropdown("Source", sources.labels, hint=SOURCE_HINT)
        first = sources.clip(str(self.source.value))
        self.note = gui.add_markdown("", visible=False)
        """What arrives from the source, or what went wrong with it."""
        self.playing = gui.add_checkbox("Play", first is not None)
        frames = 1 if first is None else len(first.states)
        self.frame = gui.add_slider("Frame", 0, max(frames - 1, 1), 1, 0)
        self.speed = gui.add_slider("Speed", 0.1, 2.0, 0.1, 1.0)
        self.muted = gui.add_checkbox("Mute", False, visible=False)
        self.upload = gui.add_upload_button(
            "Open a motion file",
            mime_type=".csv,.json",
            hint="ARKit coefficients as CSV (Live Link Face) or JSON, up to 32 MB.",
        )
        self.upload.on_upload(lambda _: self._take_file())
        self.text = gui.add_text("Text to say", "", visible=sources.say is not None)
        self.speak = gui.add_button("Say it", visible=sources.say is not None)
        self.speak.on_click(lambda _: self._speak())
        self.show_clip(first)
        for handle in (self.source, self.playing, self.frame, self.speed, self.muted):
            handle.on_update(lambda _: on_change())

    def _take_file(self) -> None:
        given = self.upload.value
        try:
            self._sources.add_file(given.name, given.content)
        except InputError as error:
            return self.show_note(str(error))
        return self._begin(FILE)

    def _speak(self) -> None:
        self.speak.disabled = True
        try:
            self._sources.speak(str(self.text.value))
            self._begin(SPEECH)
        except InputError as error:
            self.show_note(str(error))
        finally:
            self.speak.disabled = False

    def _begin(self, label: str) -> None:
        """Choose a clip that is new, and play it."""
        again = self.source.value == label
        self.source.options = self._sources.labels
        self.source.value = label
        self.playing.value = True
        if again:
            self.show_clip(self._sources.clip(label))
        self._on_change()

    def show_clip(self, clip: Clip | None) -> None:
        """Fit the timeline to a clip, at its first frame; without one it is of no use."""
        self.frame.disabled = clip is None
        self.muted.visible = clip is not None and clip.audio is not None
        if clip is not None:
            self._shown_frame = 0
            self.frame.value = 0
            self.frame.max = max(len(clip.states) - 1, 1)

    def show_note(self, text: str) -> None:
        """Write a line about the source; an empty one hides it."""
        text = plain(text)
        if text != self.note.content:
            self.note.content = text
            self.note.visible = bool(text)

    def chosen_frame(self) -> int | None:
        """Return the frame that the user moved the slider to; None where they did not touch it."""
        frame = int(self.frame.value)
        if frame == self._shown_frame:
            return None
        self._shown_frame = frame
        return frame

    def show_frame(self, frame: int) -> None:
        """Move the frame slider along with the motion."""
        if int(self.frame.value) == self._shown_frame and frame != self._shown_frame:
            self._shown_frame = frame
            self.frame.value = frame

    def step(self, frames: int) -> None:
        """Pause and go some frames on or back."""
        self.playing.value = False
        last = int(self.frame.max)
        self.frame.value = min(max(int(self.frame.value) + frames, 0), last)

    def begin(self) -> None:
        """Go to the first frame."""
        self.frame.value = 0

    def toggle(self) -> None:
        """Play or pause."""
        self.playing.value = not self.playing.value

    @property
    def captured(self) -> bool:
        """Whether the captured motion is the source."""
        return self.source.value == CAPTURED
