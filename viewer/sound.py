"""The motion's sound, played by browsers in step with the frames that they are shown.

viser has no sound. Its HTML element hands markup to the page as it is, and an image that does not load
runs its ``onerror``: one such element carries the sound, once, as AAC; another carries where it should be
each time that the motion starts, stops, jumps or changes speed, and now and then besides. Between these
words the page keeps to the last one by itself, as a player that was made to jump starts late.
Browsers play nothing before the first click or key in the page; the next word of the server's then
starts it.
"""

from __future__ import annotations

import base64
import io
import threading
from fractions import Fraction
from pathlib import Path

import av
import viser
from av.audio.resampler import AudioResampler

from avatar.checks import InputError

JUMP_S = 0.3
"""Sound and frames that are this far apart are set right by a jump, seconds; less by playing faster or
slower for a moment, as every jump is heard and takes its time."""
AGAIN_S = 0.5
"""How often pages are told where the sound should be while it plays."""
STEP_S = 0.1
"""How often a page compares its sound with what it was last told."""
CATCH_UP_S = 0.25
"""Time in which a page aims to make up what its sound is late by."""
RATE = 24_000
BIT_RATE = 48_000

_PLAYER = """<img alt="" style="display:none" src="" data-sound="{data}" onerror="
(e => {{ clearInterval(window.headsplatStep);
if (window.headsplatSound) window.headsplatSound.pause();
window.headsplatDelay = Infinity;
const s = window.headsplatSound = e.dataset.sound ? new Audio(e.dataset.sound) : null;
let aim = null;
const step = () => {{ if (!s || !aim || !aim.plays) return;
const off = aim.at + aim.rate * (performance.now() / 1000 - aim.since) - s.currentTime;
const jump = s.paused || Math.abs(off) > {jump};
s.playbackRate = aim.rate * (jump ? 1 : 1 + Math.max(-0.3, Math.min(0.3, off / {catch_up})));
if (jump && !s.seeking) s.currentTime += off;
if (s.paused) s.play().catch(() => null); }};
window.headsplatAim = word => {{ aim = word; if (!s) return;
s.muted = aim.muted;
if (aim.plays) return step();
s.playbackRate = aim.rate; s.currentTime = aim.at; s.pause(); }};
window.headsplatStep = setInterval(() => {{ if (s && !s.paused) step(); }}, {step_ms}); }})(this)">"""

# A page that is busy hears words late. The least delay heard of, between two clocks that need not agree,
# is a word's own travelling time; what goes beyond it has passed since the word was said.
_WORD = """<img alt="" style="display:none" src="" data-number="{number}" onerror="
(() => {{ if (!window.headsplatAim) return;
window.headsplatDelay = Math.min(window.headsplatDelay, performance.now() / 1000 - {said:.4f});
window.headsplatAim({{at: {at:.4f}, since: {said:.4f} + window.headsplatDelay, rate: {rate:.3f},
plays: {plays}, muted: {muted}}}); }})()">"""


class Sound:
    """The player in all pages of one server."""

    def __init__(self, server: viser.ViserServer) -> None:
        """Add its two invisible elements."""
        self._player = server.gui.add_html(_player(""))
        self._word = server.gui.add_html("")
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._failure = ""
        self._told: tuple[object, ...] = ()
        self._number, self._due = 0, 0.0

    @property
    def path(self) -> Path | None:
        """Whose sound the pages have; None where there is none."""
        return self._path

    def load(self, path: Path | None) -> str:
        """Give the pages another sound; return a sentence where it cannot be played, else nothing."""
        with self._lock:
            if path == self._path:
                return self._failure
            self._path, self._failure, data = path, "", ""
            if path is not None:
                try:
                    encoded = base64.b64encode(as_aac(path)).decode("ascii")
                    data = f"data:audio/mp4;base64,{encoded}"
                except InputError as error:
                    self._failure = str(error)
            self._word.content = ""
            self._told = ()
            self._player.content = _player(data)
            return self._failure

    def follow(
        self, now_s: float, at_s: float, *, plays: bool, speed: float, jumped: bool, muted: bool
    ) -> None:
        """Tell the pages where the sound should be, if it is time to.

        Args:
            now_s: clock time.
            at_s: place in the sound, seconds.
            plays: whether it goes on from there.
            speed: factor on its speed.
            jumped: whether the place is another than playing on would have led to.
            muted: whether it is to be silent.
        """
        if self._path is None:
            return
        told = (plays, speed, muted)
        if told == self._told and not jumped and not (plays and now_s >= self._due):
            return
        self._told, self._due, self._number = told, now_s + AGAIN_S, self._number + 1
        self._word.content = _WORD.format(
            number=self._number,
            at=at_s,
            rate=speed,
            said=now_s,
            plays="true" if plays else "false",
            muted="true" if muted else "false",
        )


def _player(data: str) -> str:
    """Return the element that plays a data URL's sound, or none where there is no URL."""
    return _PLAYER.format(data=data, jump=JUMP_S, catch_up=CATCH_UP_S, step_ms=round(1000 * STEP_S))


def as_aac(path: Path) -> bytes:
    """Return a file's sound as AAC in MP4, mono, which browsers play and seek in exactly.

    Raises:
        InputError: there is no sound in it, or it cannot be read.
    """
    target = io.BytesIO()
    try:
        with av.open(str(path)) as source, av.open(target, "w", format="mp4") as out:
            track = next(iter(source.streams.audio), None)
            if track is None:
                raise InputError(f"{path} has no sound.")
            stream = out.add_stream("aac", rate=RATE)
            stream.layout, stream.bit_rate = "mono", BIT_RATE
            resampler = AudioResampler(format="fltp", layout="mono", rate=RATE)
            samples = 0
            for decoded in (*source.decode(track), None):
                for frame in resampler.resample(decoded):
                    frame.pts, frame.time_base = samples, Fraction(1, RATE)
                    samples += frame.samples
                    out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    except (OSError, av.FFmpegError) as error:
        raise InputError(
            f"{path} cannot be played ({error.strerror or error}). The motion plays without sound."
        ) from error
    return target.getvalue()
