"""What moves the avatar: clips of states, idling, streams that arrive, or hands alone."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from avatar.checks import InputError
from avatar.drive.idle import IdleDriver
from avatar.drive.live import LiveDriver
from avatar.drive.source import ArkitFileDriver
from avatar.model.avatar import Avatar
from avatar.types import HeadState
from viewer.state import neutral

CAPTURED = "captured motion"
BY_HAND = "by hand"
IDLE = "idle"
FILE = "file"
SPEECH = "speech"

MOTION_SUFFIXES = (".csv", ".json")
MOST_MOTION_BYTES = 32 * 2**20
"""Of an uploaded motion: an hour of Live Link Face at 60 frames/s is about 150 MB, ten minutes are 25."""
MOST_TEXT = 600
"""Letters that are spoken at once."""


@dataclass(frozen=True)
class Clip:
    """A motion of known length."""

    states: HeadState
    """A batch."""
    fps: float
    """Frames a second."""
    audio: Path | None = None
    """The sound that belongs to it; its time 0 is frame 0."""
    note: str = ""
    """A sentence about it."""


@dataclass(frozen=True)
class SpokenClip:
    """What a text box that speaks hands over."""

    states: HeadState
    """A batch."""
    fps: float
    """Frames a second."""
    audio: Path | None
    """The voice."""


class Sources:
    """All sources of one viewer. Streams are opened and closed by threads of their own, as that takes time."""

    def __init__(
        self,
        avatar: Avatar,
        captured: Clip | None,
        live: Mapping[str, Callable[[], LiveDriver]],
        say: Callable[[str], SpokenClip] | None,
    ) -> None:
        """Prepare.

        Args:
            avatar: whom they move.
            captured: its own captured motion.
            live: label to what opens a stream, which raises InputError with a sentence to show.
            say: makes speech of a text; None where nothing here can.
        """
        self._avatar, self._live, self.say = avatar, dict(live), say
        self._clips: dict[str, Clip] = {} if captured is None else {CAPTURED: captured}
        motion = None if captured is None else captured.states
        self._idle = IdleDriver.of(avatar, motion=motion)
        self._neutral = neutral(avatar.rest)
        self._lock = threading.Lock()
        self._exchanging = threading.Lock()
        self._turn = 0
        self._open: LiveDriver | None = None
        self._open_label, self._failure = "", ""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the picker offers: clips as far as they are there, then the rest."""
        first = [label for label in (CAPTURED, FILE, SPEECH) if label in self._clips]
        return (*first, BY_HAND, IDLE, *self._live)

    def clip(self, label: str) -> Clip | None:
        """Return the clip of a label; None where it is no clip."""
        return self._clips.get(label)

    def add_file(self, name: str, content: bytes) -> Clip:
        """Take an uploaded motion as the clip ``FILE``.

        Args:
            name: its file name, of which only the suffix is used.
            content: ARKit coefficients as CSV or JSON, from anybody.

        Raises:
            InputError: another kind of file, too large, or unreadable.
        """
        suffix = Path(name).suffix.lower()
        if suffix not in MOTION_SUFFIXES:
            raise InputError(
                "A motion must be a .csv or .json file of ARKit coefficients, as the Live Link Face app "
                "records them."
            )
        if len(content) > MOST_MOTION_BYTES:
            raise InputError(
                f"The motion has {len(content) / 2**20:.0f} MB; at most {MOST_MOTION_BYTES >> 20} MB "
                "are taken here. Cut it, or use: avatar render --drive FILE"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"motion{suffix}"
            path.write_bytes(content)
            driver = ArkitFileDriver(path, self._avatar)
        seconds = len(driver) / driver.fps
        clip = Clip(driver.batch, driver.fps, note=f"The uploaded motion: {seconds:.1f} s.")
        self._clips[FILE] = clip
        return clip

    def speak(self, text: str) -> Clip:
        """Say a text: the clip ``SPEECH``.

        Raises:
            InputError: no text, too much of it, or what the speaker says.
        """
        text = text.strip()
        if self.say is None or not text or len(text) > MOST_TEXT:
            raise InputError(f"Write what to say, up to {MOST_TEXT} letters.")
        spoken = self.say(text)
        seconds = len(spoken.states) / spoken.fps
        clip = Clip(spoken.states, spoken.fps, spoken.audio, f"Speech: {seconds:.1f} s.")
        self._clips[SPEECH] = clip
        return clip

    def enter(self, label: str) -> None:
        """Begin with a source: the stream that was open closes, and the label's own opens."""
        with self._lock:
            if label == self._open_label:
                return
            self._open_label, self._failure = label, ""
            self._turn += 1
            turn = self._turn
            left, self._open = self._open, None
            opener = self._live.get(label)
        if left is not None or opener is not None:
            threading.Thread(
                target=self._exchange, args=(left, turn, opener), name="viewer stream", daemon=True
            ).start()

    def _exchange(
        self, left: LiveDriver | None, turn: int, opener: Callable[[], LiveDriver] | None
    ) -> None:
        # One at a time, closing first: the next may want the same camera or port.
        with self._exchanging:
            opened = None
            try:
                if left is not None:
                    left.close()
                if opener is not None and turn == self._turn:
                    opened = opener()
            except InputError as error:
                with self._lock:
                    if turn == self._turn:
                        self._failure = str(error)
                return
            with self._lock:
                if turn == self._turn:
                    self._open = opened
                    return
            if opened is not None:
                opened.close()  # another was chosen meanwhile

    def state(self, label: str, now_s: float, t: float) -> HeadState:
        """Return the state of a source that is no clip.

        Args:
            label: of ``labels``.
            now_s: clock time, ``time.perf_counter``, for streams.
            t: seconds of idling so far.
        """
        if label == IDLE:
            return self._idle.state_at(t)
        live = self._open
        return self._neutral if live is None or label not in self._live else live.state(now_s)

    def is_live(self, label: str) -> bool:
        """Whether a label is a stream's."""
        return label in self._live

    def note(self, label: str, now_s: float) -> str:
        """Return a line about a source, for its user."""
        clip = self._clips.get(label)
        if clip is not None:
            return clip.note
        if label == IDLE:
            figures = self._idle.statistics
            return f"Idling: {60 * figures.blinks_per_s:.0f} blinks a minute."
        if label in self._live:
            live = self._open
            return self._failure or ("Opening ..." if live is None else live.note(now_s))
        return ""

    def close(self) -> None:
        """End the stream that is open."""
        with self._lock:
            left, self._open, self._open_label = self._open, None, ""
            self._turn += 1
        if left is not None:
            left.close()
