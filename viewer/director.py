"""Turns controls, clock and sources into what the stage shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from avatar.types import HeadState
from viewer.page import Page
from viewer.panels import Panels
from viewer.record import Recorder
from viewer.render_loop import Pace
from viewer.sound import Sound
from viewer.sources import CAPTURED, IDLE, Clip, Sources
from viewer.stage import Stage
from viewer.state import Controls, Playback, between, posed

TICK_S = 1 / 50
"""The finest that motion is shown; finer than any clip's frame rate."""
LONGEST_TICK_S = 1 / 15
"""However long pictures take, motion goes on this often: a slow browser holds up no other."""
SHOW_FRAME_S = 0.15
"""How often the frame slider follows the motion: each move is a message to every browser."""
SHOW_PACE_S = 1.0
"""How often pages hear a beat, and the frame-rate line and a source's own are written."""


class Director:
    """One thread that looks at the clock and at every change of a control."""

    def __init__(
        self,
        stage: Stage,
        panels: Panels,
        sources: Sources,
        sound: Sound,
        page: Page,
        recorder: Recorder,
        *,
        changed: threading.Event,
        paces: Callable[[], list[Pace]],
        share: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            stage: what it directs.
            panels: what it reads, and writes notes to.
            sources: of motion.
            sound: that follows the motion.
            page: that hears a beat every second.
            recorder: that notes what shows.
            changed: set after every change of a control.
            paces: how browsers are served.
            share: of the time that may go into pictures; below 1 the motion is shown less finely.
        """
        self._stage, self._panels, self._sources = stage, panels, sources
        self._sound, self._page, self._recorder = sound, page, recorder
        self._changed, self._paces, self._share = changed, paces, share
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="viewer director", daemon=True)
        now = time.perf_counter()
        self._label = ""
        self._clip: Clip | None = None
        self._playback = Playback(1, 1.0, start_s=now)
        self._idle_t, self._turn_t, self._last_s = 0.0, 0.0, now
        self._frame_due = self._note_due = now
        self._controls: Controls = Controls()
        self._shown: object = None
        self._kept: HeadState | None = None  # so that its id is no other state's
        self._position = 0.0
        self._key: tuple[object, float] = (None, 0.0)
        self._state: HeadState | None = None

    def start(self) -> None:
        """Direct from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the stream that is open."""
        self._ended.set()
        self._changed.set()
        self._thread.join(5.0)
        self._sources.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            changed = self._changed.wait(self._tick_s())
            self._changed.clear()
            if self._ended.is_set():
                return
            self._step(time.perf_counter(), changed)

    def _tick_s(self) -> float:
        """How long nothing needs to happen."""
        panels, paces = self._panels, self._paces()
        moves = panels.look_panel.turns.value or self._sources.is_live(self._label)
        moves = moves or (panels.playing.value and (self._clip is not None or self._label == IDLE))
        # Nobody looking on needs no finer clock than a slider; a fit beside it has better things to do.
        if not moves or not paces or self._share() < 1:
            return SHOW_FRAME_S
        if self._recorder.recording:
            return TICK_S
        # States that no browser would draw are not worth posing.
        drawn = max(pace.draw_s for pace in paces) + self._stage.pose_s
        return min(max(TICK_S, 0.8 * drawn), LONGEST_TICK_S) - self._stage.pose_s * 0.5

    def _step(self, now: float, changed: bool) -> None:
        panels, passed = self._panels, now - self._last_s
        self._last_s = now
        jumped = self._choose(str(panels.source.value), now)
        plays = bool(panels.playing.value)
        turn = 0.0
        if panels.look_panel.turns.value:
            self._turn_t += passed
            turn = panels.look_panel.turn_rad(self._turn_t)
        else:
            self._turn_t = 0.0
        if plays:
            self._idle_t += passed * float(panels.speed.value)
        base, frame, jumped = self._base(now, plays, jumped)
        if changed:
            self._controls = panels.controls()
        comparison = panels.compare.comparison(frame)
        shown = (id(base), turn, comparison)
        if changed or shown != self._shown:
            self._shown, self._kept = shown, base
            self._stage.change(
                state=posed(base, self._controls),
                look=panels.look_panel.look() if changed else None,
                turn_rad=turn,
                comparison=comparison or False,
            )
        if self._recorder.recording:
            sound = self._sounding(now, plays)
            if not self._recorder.note(now, self._stage.moment, sound, jumped):
                panels.output.finish()
        if now >= self._note_due:
            self._note_due = now + SHOW_PACE_S
            self._write_notes(now)

    def _choose(self, label: str, now: float) -> bool:
        """Go over to the chosen source where it is another; return whether it was."""
        clip = self._sources.clip(label)
        if label == self._label and clip is self._clip:
            return False
        self._label, self._clip = label, clip
        self._sources.enter(label)
        frames, fps = (1, 1.0) if clip is None else (len(clip.states), clip.fps)
        self._playback = Playback(frames, fps, start_s=now)
        self._panels.drive.show_clip(clip)
        failure = self._sound.load(None if clip is None else clip.audio)
        self._panels.drive.show_note(failure or self._sources.note(label, now))
        self._note_due = now + SHOW_PACE_S
        return True

    def _base(self, now: float, plays: bool, jumped: bool) -> tuple[HeadState, int | None, bool]:
        """Return the source's state, the captured frame that it is (None for another source's), and
        whether the motion jumped."""
        panels, clip = self._panels, self._clip
        if clip is None:
            return self._sources.state(self._label, now, self._idle_t), None, jumped
        chosen, speed = panels.drive.chosen_frame(), float(panels.speed.value)
        before = self._playback
        if chosen is not None or (plays, speed) != (before.playing, before.speed):
            self._playback = before.changed(now, playing=plays, speed=speed, frame=chosen)
        position, frame = self._playback.position(now), self._playback.frame(now)
        jumped = jumped or chosen is not None
        if position < self._position:  # round again
            jumped = True
        self._position = position
        if plays and now >= self._frame_due:
            self._frame_due = now + SHOW_FRAME_S
            panels.drive.show_frame(frame)
        self._sound.follow(
            now,
            position / clip.fps,
            plays=plays,
            speed=speed,
            jumped=jumped,
            muted=bool(panels.drive.muted.value),
        )
        captured = self._label == CAPTURED
        # A comparison is with a frame, so the avatar is in that frame's state.
        whole = (captured and panels.compare.on.value) or not plays
        key = (clip, float(frame) if whole else position)
        # The same object while nothing moves, so that it is not posed again.
        if self._state is None or self._key[0] is not clip or self._key[1] != key[1]:
            self._key, self._state = key, between(clip.states, key[1])
        return self._state, frame if captured else None, jumped

    def _sounding(self, now: float, plays: bool) -> tuple[Path, float] | None:
        """Return the sound that goes with what shows, and where it is; None where there is none."""
        clip = self._clip
        if clip is None or clip.audio is None or not plays or self._playback.speed != 1.0:
            return None
        return clip.audio, self._playback.position(now) / clip.fps

    def _write_notes(self, now: float) -> None:
        panels = self._panels
        self._page.beat()
        text = describe(self._paces(), self._stage.pose_s)
        if panels.pace.content != text:
            panels.pace.content = text
        if self._sources.is_live(self._label):
            panels.drive.show_note(self._sources.note(self._label, now))
        panels.compare.show(self._stage.moment.comparison, self._stage.psnr)


def describe(paces: list[Pace], pose_s: float) -> str:
    """Return the frame-rate line: one part for each browser."""
    if not paces:
        return "Waiting for a browser."
    parts = [
        f"{pace.frames_per_s:.0f} frames/s at {pace.width} × {pace.height} ({pace.draw_s * 1e3:.0f} ms)"
        if pace.frames_per_s > 1
        else f"still, {pace.width} × {pace.height}"
        for pace in paces
    ]
    return " · ".join(parts) + f" · pose {pose_s * 1e3:.0f} ms"
