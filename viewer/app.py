"""The viewer: an avatar in the browser, from any side, moved by sliders or by the captured motion.

Pictures are drawn here by the project's own rasterizer and sent as JPEG, so the browser needs no GPU
and shows exactly what an exported video would.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rich
import viser

from avatar.capture_data import Track
from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.raster import available_backends
from avatar.types import HeadState
from viewer.cameras import ClientView, viewpoint
from viewer.panels import BY_HAND, Panels
from viewer.render_loop import FrameLoop, Pace, Stage, draw
from viewer.state import Playback, captured_motion, neutral, posed

TICK_S = 1 / 60
"""How often captured motion looks at the clock; finer than any clip's frame rate."""
SHOW_FRAME_S = 0.15
"""How often the frame slider follows the motion: each move is a message to every browser."""
SHOW_PACE_S = 1.0
"""How often the frame-rate line is written."""
NEAREST_M, FARTHEST_M = 0.12, 6.0
"""How close to and far from the head the mouse wheel goes."""


class ViewerApp:
    """A viewer that runs beside the caller's own work.

    ``start`` returns at once; ``set_avatar`` may be called from any thread while browsers look on, for
    example by a running fit; ``stop`` ends all threads and frees the port.
    """

    def __init__(
        self,
        avatar: Avatar,
        *,
        track: Track | None = None,
        audio: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        share: float = 1.0,
    ) -> None:
        """Prepare a viewer.

        Args:
            avatar: who to show. The viewer only reads it; hand over a copy of one that is being fitted.
            track: the avatar's own captured motion, played at the start; None where there is none.
            audio: the sound of the captured motion. The panel says so where there is one; browsers do
                not play it.
            host: address to listen on; the default is not reachable from other machines.
            port: port to listen on; 0 lets the system choose.
            share: see the attribute of that name.
        """
        self.share = share
        """Share of the time, in (0, 1], that may go into pictures for all browsers together; below 1 for
        a viewer beside other work. May be set at any time."""
        self._motion, self._motion_note = captured_motion(avatar, track)
        if self._motion is not None and audio is not None:
            self._motion_note += " The viewer plays it without its sound."
        self._fps = track.fps if track else avatar.fps
        self._host, self._port = host, port
        self._stage = Stage(avatar, neutral(avatar.rest))
        self._loops: dict[int, FrameLoop] = {}
        self._leaving: list[FrameLoop] = []
        self._loops_lock = threading.Lock()
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._server: viser.ViserServer | None = None
        self._panels: Panels | None = None
        self._director: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Address to open in a browser; raises RuntimeError before ``start``."""
        host = "localhost" if self._host in ("0.0.0.0", "::") else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server.get_port()}"

    @property
    def server(self) -> viser.ViserServer:
        """The viser server; raises RuntimeError before ``start``."""
        if self._server is None:
            raise RuntimeError("the viewer has not been started.")
        return self._server

    @property
    def panels(self) -> Panels:
        """The controls; raises RuntimeError before ``start``."""
        if self._panels is None:
            raise RuntimeError("the viewer has not been started.")
        return self._panels

    @property
    def stage(self) -> Stage:
        """What all browsers see."""
        return self._stage

    @property
    def paces(self) -> list[Pace]:
        """How each connected browser is served."""
        with self._loops_lock:
            return [loop.pace for loop in self._loops.values()]

    def start(self) -> None:
        """Listen and serve, in threads of its own.

        Raises:
            InputError: the port is taken, the address is not one of this machine, or no rasterizer runs
                here.
            RuntimeError: it was started before.
        """
        if self._server is not None:
            raise RuntimeError("a viewer can be started once; make another.")
        avatar = self._stage.moment.avatar
        start = viewpoint(avatar, "as filmed")
        # A machine that cannot draw says so here, rather than in a thread behind an empty page.
        first_view = ClientView((0.0, 1.0, 0.0, 0.0), start.position, start.fov, 16, 16)
        draw(self._stage, self._stage.moment, first_view, 16)
        server = _open_server(self._host, self._port)
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
        server.scene.set_up_direction("+y")
        server.scene.world_axes.visible = False
        server.initial_camera.position = start.position
        server.initial_camera.look_at = start.look_at
        server.initial_camera.fov = start.fov
        self._server = server
        self._panels = Panels(
            server,
            avatar,
            frames=0 if self._motion is None else len(self._motion),
            motion=self._motion_note,
            backend=_backend_in_use(),
            on_change=self._changed.set,
            on_viewpoint=self._go_to,
        )
        self._director = threading.Thread(target=self._direct, name="viewer director", daemon=True)
        self._director.start()
        server.on_client_connect(self._welcome)
        server.on_client_disconnect(self._leave)

    def stop(self) -> None:
        """End all threads and free the port; doing so twice does no harm."""
        self._ended.set()
        self._changed.set()
        with self._loops_lock:
            loops = [*self._loops.values(), *self._leaving]
            self._loops.clear()
        for loop in loops:
            loop.stop()
        for loop in loops:
            loop.join()
        if self._director is not None:
            self._director.join(5.0)
        if self._server is not None:
            with _viser_quiet():
                self._server.stop()

    def set_avatar(self, avatar: Avatar) -> None:
        """Show another version of the same person, for example after more steps of a fit.

        Args:
            avatar: the version; nothing may change it afterwards (hand over a copy).

        Raises:
            ValueError: its coefficients are others than those of the avatar that was shown before.
        """
        shown = self._stage.moment.avatar
        if avatar.expression_names != shown.expression_names:
            raise ValueError(
                f"set_avatar needs the same {len(shown.expression_names)} expression names as before; "
                f"got {len(avatar.expression_names)}. Make another viewer for another person."
            )
        self._stage.change(avatar=avatar)
        if self._panels is not None:
            self._panels.show_facts(len(avatar))

    def set_status(self, text: str) -> None:
        """Show a line of Markdown above the panels; an empty one hides it."""
        self.panels.show_status(text)

    def _direct(self) -> None:
        """Turn controls and clock into what the stage shows, until the end."""
        panels, motion = self.panels, self._motion
        now = time.perf_counter()
        playback = Playback(0 if motion is None else len(motion), self._fps, start_s=now)
        frame_due = pace_due = now
        frame_posed = -1
        while not self._ended.is_set():
            # Nobody looking on needs no finer clock than a slider.
            fast = playback.playing and panels.source.value != BY_HAND and bool(self._loops)
            fast = fast and self.share == 1
            changed = self._changed.wait(TICK_S if fast else SHOW_FRAME_S)
            self._changed.clear()
            now = time.perf_counter()
            frame = -1
            if motion is not None and panels.source.value != BY_HAND:
                playback = playback.changed(
                    now,
                    playing=bool(panels.playing.value),
                    speed=float(panels.speed.value),
                    frame=panels.chosen_frame(),
                )
                frame = playback.frame(now)
                if playback.playing and now >= frame_due:
                    frame_due = now + SHOW_FRAME_S
                    panels.show_frame(frame)
            if changed or frame != frame_posed:
                frame_posed = frame
                self._stage.change(state=self._state(frame), look=panels.look())
            if now >= pace_due:
                pace_due = now + SHOW_PACE_S
                panels.pace.content = _describe(self.paces, self._stage.pose_s)

    def _state(self, frame: int) -> HeadState:
        """Return the state at a frame of the captured motion, or posed by hand at -1."""
        rest = self._stage.moment.avatar.rest
        base = neutral(rest) if frame < 0 or self._motion is None else self._motion[frame]
        return posed(base, self.panels.controls())

    def _welcome(self, client: viser.ClientHandle) -> None:
        """Begin to draw for a new browser."""
        client.camera.min_orbit_distance = NEAREST_M
        client.camera.max_orbit_distance = FARTHEST_M

        def deliver(picture: np.ndarray, quality: int) -> None:
            if client.client_id not in self.server.get_clients():
                return  # it left while its picture was drawn
            client.scene.set_background_image(picture, format="jpeg", jpeg_quality=quality)

        loop = FrameLoop(self._stage, lambda: _view_of(client), deliver, self._share_of_each)
        with self._loops_lock:
            if self._ended.is_set() or client.client_id not in self.server.get_clients():
                return
            self._loops[client.client_id] = loop
            loop.start()
        client.camera.on_update(lambda _: loop.wake())
        loop.wake()  # for a move between its first picture and the line above

    def _share_of_each(self) -> float:
        """Return the share of the time that one browser's pictures may take."""
        return self.share if self.share == 1 else self.share / max(1, len(self._loops))

    def _leave(self, client: viser.ClientHandle) -> None:
        """End the thread of a browser that went away."""
        with self._loops_lock:
            loop = self._loops.pop(client.client_id, None)
            if loop is not None:
                loop.stop()
                # It may still be drawing: a program that ends then must wait for it.
                self._leaving = [one for one in self._leaving if one.running] + [loop]

    def _go_to(self, name: str, client: viser.ClientHandle | None) -> None:
        """Move a browser's camera (all of them where none is named) to a viewpoint."""
        goal = viewpoint(self._stage.moment.avatar, name)
        clients = self.server.get_clients().values() if client is None else (client,)
        for one in clients:
            with one.atomic():
                one.camera.up_direction = (0.0, 1.0, 0.0)
                one.camera.position = goal.position
                one.camera.look_at = goal.look_at
                one.camera.fov = goal.fov


def view(
    avatar: Avatar,
    *,
    track: Track | None = None,
    audio: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Show an avatar in the browser until Ctrl-C.

    Args:
        avatar: who to show.
        track: the avatar's own captured motion; None where there is none.
        audio: the sound of the captured motion; see ``ViewerApp``.
        host: address to listen on; the default is not reachable from other machines.
        port: port to listen on; 0 lets the system choose.
        ready: called with the address to open, once browsers can.

    Raises:
        InputError: the port is taken, or the address is not one of this machine.
    """
    app = ViewerApp(avatar, track=track, audio=audio, host=host, port=port)
    app.start()
    try:
        if ready is not None:
            ready(app.url)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        app.stop()


def need_port(host: str, port: int) -> None:
    """Raise InputError unless a viewer can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # As the server itself does; without it a port would count as taken for a minute after use.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"The viewer cannot listen on {host}, port {port} ({error}). "
            "Choose another port with --port, or end the program that uses this one."
        ) from error


def _open_server(host: str, port: int) -> viser.ViserServer:
    """Start viser on exactly this port: by itself it would take the next free one without a word."""
    need_port(host, port)
    with _viser_quiet():
        server = viser.ViserServer(host=host, port=port, label="headsplat", verbose=False)
    if port not in (0, server.get_port()):
        with _viser_quiet():
            server.stop()
        raise InputError(
            f"Port {port} was taken by another program a moment ago. Choose another port with --port."
        )
    return server


@contextlib.contextmanager
def _viser_quiet() -> Iterator[None]:
    """Keep viser's banner off the terminal: the command line says in one line where the viewer is."""
    console = rich.get_console()
    before = console.quiet
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = before


def _view_of(client: viser.ClientHandle) -> ClientView | None:
    """Return what a browser shows; None while its window has no area or its camera is no camera."""
    camera = client.camera
    width, height, fov = int(camera.image_width), int(camera.image_height), float(camera.fov)
    finite = np.isfinite(camera.wxyz).all() and np.isfinite(camera.position).all()
    if width < 1 or height < 1 or not finite or not 0.0 < fov < np.pi:
        return None
    w, x, y, z = (float(v) for v in camera.wxyz)
    px, py, pz = (float(v) for v in camera.position)
    return ClientView((w, x, y, z), (px, py, pz), fov, width, height)


def _backend_in_use() -> str:
    """Return name and details of the backend that ``auto`` takes on this machine."""
    states = available_backends()
    for name in ("cuda", "cpu", "reference"):
        if states.get(name, "").startswith("ok"):
            return name + states[name].removeprefix("ok")
    return "none"


def _describe(paces: list[Pace], pose_s: float) -> str:
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
