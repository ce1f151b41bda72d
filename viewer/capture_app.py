"""A capture in the browser, without an avatar: what was filmed, and what was found in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import viser

from avatar.capture_data import Capture
from avatar.checks import InputError
from viewer.cameras import ClientView, picture_size
from viewer.look import Look
from viewer.page import BEAT_S, Page, plain
from viewer.panel_capture import CapturePanel
from viewer.render_loop import FrameLoop, Pace
from viewer.server import close_server, open_server, view_of
from viewer.sound import Sound
from viewer.state import Playback

SIDE = 720
"""Longest side of a frame as it is shown, pixels."""
SURROUND = 245
"""Grey around a frame whose shape is not the window's."""
TICK_S = 1 / 50


@dataclass(frozen=True)
class CaptureMoment:
    """What pages show at one instant."""

    version: int
    """Grows with every change."""
    picture: np.ndarray
    """The frame with its layer, uint8 [H, W, 3]."""
    look: Look


class CaptureScene:
    """A ``viewer.render_loop.Scene`` of one picture at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moment = CaptureMoment(0, np.full((2, 2, 3), SURROUND, np.uint8), Look())
        self._listeners: set[Callable[[], None]] = set()

    @property
    def moment(self) -> CaptureMoment:
        """What pages show now."""
        return self._moment

    def show(self, picture: np.ndarray) -> None:
        """Show another picture."""
        with self._lock:
            self._moment = CaptureMoment(self._moment.version + 1, picture, self._moment.look)
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each change."""
        with self._lock:
            self._listeners.add(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        with self._lock:
            self._listeners.discard(listener)

    def prepare(self, moment: CaptureMoment) -> None:
        """Nothing is needed before drawing."""

    def draw(self, moment: CaptureMoment, view: ClientView, resolution: int) -> np.ndarray:
        """Return the picture in the middle of one of the window's shape."""
        width, height = picture_size(view, resolution)
        source = moment.picture
        scale = min(width / source.shape[1], height / source.shape[0])
        inner = (max(1, round(source.shape[1] * scale)), max(1, round(source.shape[0] * scale)))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        shown = np.full((height, width, 3), SURROUND, np.uint8)
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        shown[top : top + inner[1], left : left + inner[0]] = cv2.resize(
            source, inner, interpolation=how
        )
        return shown


class CaptureApp:
    """Serves a capture's frames, layers, residual curve and sound."""

    def __init__(self, capture: Capture, *, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Prepare; arguments as for ``viewer.app.ViewerApp``.

        Raises:
            InputError: the capture has no frames.
        """
        # Of several cameras, the main one may have begun later.
        first = next(
            (f for f in range(capture.frames) if f not in capture.cameras[capture.main].missing), 0
        )
        if capture.frames < 1 or not capture.frame_path(first).is_file():
            raise InputError(
                f"{capture.path} has no frames to show. Run: avatar capture VIDEO -o {capture.path}"
            )
        self._capture, self._host, self._port = capture, host, port
        self._scene = CaptureScene()
        self._loops: dict[int, FrameLoop] = {}
        self._lock = threading.Lock()
        self._changed, self._ended = threading.Event(), threading.Event()
        self._server: viser.ViserServer | None = None
        self._thread = threading.Thread(target=self._run, name="viewer director", daemon=True)

    @property
    def url(self) -> str:
        """Address to open; raises RuntimeError before ``start``."""
        if self._server is None:
            raise RuntimeError("the viewer has not been started.")
        host = "localhost" if self._host in ("0.0.0.0", "::") else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._server.get_port()}"

    @property
    def paces(self) -> list[Pace]:
        """How each connected browser is served."""
        with self._lock:
            return [loop.pace for loop in self._loops.values()]

    def start(self) -> None:
        """Listen and serve; raises InputError as ``ViewerApp.start`` does."""
        server = open_server(self._host, self._port)
        server.gui.main_panel.dock_right()
        server.scene.world_axes.visible = False
        self._server, capture = server, self._capture
        gui = server.gui
        gui.add_markdown(f"**{plain(capture.path.name)}**, {capture.width} x {capture.height}")
        self.panel = CapturePanel(gui, capture, self._changed.set)
        self.playing = gui.add_checkbox("Play", False)
        self.speed = gui.add_slider("Speed", 0.1, 2.0, 0.1, 1.0)
        self.playing.on_update(lambda _: self._changed.set())
        self._sound, self._page = Sound(server), Page(server)
        for key, what, act in (
            ("space", "Play or pause", self._toggle),
            ("J", "One frame back", lambda: self.panel.step(-1)),
            ("L", "One frame on", lambda: self.panel.step(1)),
        ):
            command = gui.add_command(what, hotkey=key)  # pyright: ignore[reportArgumentType]
            command.on_trigger(lambda _, act=act: act())
        gui.add_markdown("Keys: `space` plays or pauses, `J` and `L` go a frame back and on.")
        self._changed.set()
        self._thread.start()
        server.on_client_connect(self._welcome)
        server.on_client_disconnect(self._leave)

    def stop(self) -> None:
        """End all threads and free the port; twice does no harm."""
        self._ended.set()
        self._changed.set()
        with self._lock:
            loops = list(self._loops.values())
            self._loops.clear()
        for loop in loops:
            loop.stop()
            loop.join()
        if self._thread.is_alive():
            self._thread.join(5.0)
        if self._server is not None:
            close_server(self._server)

    def _toggle(self) -> None:
        self.playing.value = not self.playing.value

    def _run(self) -> None:
        capture, panel = self._capture, self.panel
        failure = self._sound.load(capture.audio)
        if failure:
            panel.note.content = plain(failure)
        now = time.perf_counter()
        playback, shown = Playback(capture.frames, capture.fps, start_s=now), -1
        drawn, beat_due = ("", ""), now
        while not self._ended.is_set():
            self._changed.wait(TICK_S if self.playing.value else 0.2)
            self._changed.clear()
            now, asked = time.perf_counter(), int(panel.frame.value)
            plays, speed = bool(self.playing.value), float(self.speed.value)
            if now >= beat_due:
                beat_due = now + BEAT_S
                self._page.beat()
            moved = None if asked == shown else asked
            if moved is not None or (plays, speed) != (playback.playing, playback.speed):
                playback = playback.changed(now, playing=plays, speed=speed, frame=moved)
            frame = playback.frame(now)
            wrapped = frame < shown
            at_s = playback.position(now) / capture.fps
            self._sound.follow(
                now,
                at_s,
                plays=plays,
                speed=speed,
                jumped=moved is not None or wrapped,
                muted=False,
            )
            asked_for = str(panel.layer.value), str(panel.camera.value)
            if frame == shown and asked_for == drawn:
                continue
            shown, drawn = frame, asked_for
            if asked != frame:
                panel.frame.value = frame
            self._scene.show(panel.picture(SIDE))

    def _welcome(self, client: viser.ClientHandle) -> None:
        server = self._server
        assert server is not None

        def deliver(picture: np.ndarray, quality: int) -> None:
            if client.client_id in server.get_clients():
                client.scene.set_background_image(picture, format="jpeg", jpeg_quality=quality)
                client.flush()

        loop = FrameLoop(self._scene, lambda: view_of(client), deliver)
        with self._lock:
            if self._ended.is_set() or client.client_id not in server.get_clients():
                return
            self._loops[client.client_id] = loop
            loop.start()
        client.camera.on_update(lambda _: loop.wake())
        loop.wake()

    def _leave(self, client: viser.ClientHandle) -> None:
        with self._lock:
            loop = self._loops.pop(client.client_id, None)
        if loop is not None:
            loop.stop()
