"""A video of what a browser shows: moments and views are noted as they pass, and drawn when it ends.

Drawing afterwards costs the same time once more, and gives every frame, as sharp as a still picture,
however slowly the machine drew while it was watched.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avatar.checks import InputError
from avatar.export.signature import Signature
from avatar.export.video import VideoWriter
from viewer.cameras import ClientView
from viewer.stage import Moment, Stage, posed_gaussians

FPS = 25.0
MOST_S = 120.0
"""A longer recording ends by itself."""


@dataclass(frozen=True)
class Take:
    """What was recorded, not drawn yet."""

    frames: tuple[tuple[Moment, ClientView], ...]
    """What showed at each frame of ``FPS``."""
    audio: Path | None = None
    """The sound that went with all of it; None where it was not played in one piece."""
    audio_start_s: float = 0.0
    """Where in it the first frame lies."""


class Recorder:
    """Notes what one browser shows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: Callable[[], ClientView | None] | None = None
        self._frames: list[tuple[Moment, ClientView]] = []
        self._begun = 0.0
        self._sound: tuple[Path, float] | None = None
        self._broken = False

    @property
    def recording(self) -> bool:
        """Whether it notes."""
        return self._view is not None

    def start(self, view: Callable[[], ClientView | None], now_s: float) -> None:
        """Begin with a browser, whose camera ``view`` returns."""
        with self._lock:
            self._view, self._frames, self._begun = view, [], now_s
            self._sound, self._broken = None, False

    def note(
        self, now_s: float, moment: Moment, sound: tuple[Path, float] | None, jumped: bool
    ) -> bool:
        """Take what shows at clock time ``now_s``; return whether there is room for more.

        Args:
            now_s: clock time.
            moment: what shows.
            sound: the file that plays at its own speed, and where it is, seconds; None for silence.
            jumped: whether the sound did not go on from where it was.
        """
        with self._lock:
            if self._view is None:
                return False
            due = int((now_s - self._begun) * FPS) + 1
            view = self._view()
            if view is None:
                return True
            if not self._frames:
                self._sound = sound
            elif jumped or (sound is None) != (self._sound is None):
                self._broken = True
            # A tick that came late stands for the frames that it missed.
            while len(self._frames) < min(due, int(MOST_S * FPS)):
                self._frames.append((moment, view))
            return len(self._frames) < int(MOST_S * FPS)

    def stop(self) -> Take:
        """End; return what was noted."""
        with self._lock:
            frames, self._frames, self._view = tuple(self._frames), [], None
            if self._sound is None or self._broken:
                return Take(frames)
            return Take(frames, *self._sound)


def write_take(path: Path, take: Take, stage: Stage, progress: Callable[[int, int], None]) -> None:
    """Draw a recording into an MP4 file.

    Args:
        path: the file.
        take: what was recorded.
        stage: that drew it.
        progress: called with frames done and frames in all.

    Raises:
        InputError: nothing was recorded, or the file cannot be written.
    """
    if not take.frames:
        raise InputError("Nothing was recorded: the browser had no picture yet. Record for longer.")
    first = take.frames[0][1]
    size: tuple[int, int] | None = None
    signature = Signature(take.frames[0][0].avatar)
    made = signature.manifest("video/mp4", path.name)
    with VideoWriter(
        path, FPS, audio=take.audio, audio_start_s=take.audio_start_s, manifest=made
    ) as writer:
        picture, drawn = np.empty(0), None
        for index, (moment, view) in enumerate(take.frames):
            # A window that changed its shape meanwhile keeps the video's.
            view = replace(view, width=first.width, height=first.height)
            if drawn != (moment.version, view):
                picture = signature.marked(still(stage, moment, view))
                drawn = (moment.version, view)
            size = size or (picture.shape[0], picture.shape[1])
            if picture.shape[:2] == size:
                writer.write(picture)
            progress(index + 1, len(take.frames))


def still(stage: Stage, moment: Moment, view: ClientView) -> np.ndarray:
    """Return a moment's picture at its full resolution, uint8 [H, W, 3], drawn by the server."""
    look = replace(moment.look, in_browser=False)
    moment = replace(moment, look=look)
    # Posed apart from the stage, whose poses are for who looks on.
    return stage.render(posed_gaussians(moment), moment, view, look.resolution)


def recorded(take: Take, stage: Stage, progress: Callable[[int, int], None]) -> bytes:
    """Return a recording as the bytes of an MP4 file; raises as ``write_take``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "take.mp4"
        write_take(path, take, stage, progress)
        return path.read_bytes()
