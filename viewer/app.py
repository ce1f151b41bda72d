"""The viewer: an avatar in the browser, from any side, moved by sliders or by the captured motion.

Pictures are drawn here by the project's own rasterizer and sent as JPEG, so the browser needs no GPU
and shows exactly what an exported video would.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import viser

from avatar.capture_data import Capture, Track
from avatar.drive.live import LiveDriver
from avatar.model.avatar import Avatar
from avatar.raster import available_backends
from avatar.types import HeadState
from viewer.cameras import ClientView, viewpoint
from viewer.compare import Filmed
from viewer.director import Director
from viewer.page import Page, plain
from viewer.panel_output import EXPORTS, ExportFunction
from viewer.panels import Contents, Panels
from viewer.record import Recorder
from viewer.render_loop import FrameLoop, Pace
from viewer.server import bound_uploads, close_server, open_server, view_of
from viewer.server import need_port as need_port
from viewer.sound import Sound
from viewer.sources import MOST_MOTION_BYTES, Clip, Sources, SpokenClip
from viewer.splats import Splats
from viewer.stage import Stage
from viewer.state import captured_motion, neutral

MOST_UPLOAD_BYTES = MOST_MOTION_BYTES
"""Of one file that a page sends."""

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
        capture: Capture | None = None,
        live: Mapping[str, Callable[[], LiveDriver]] | None = None,
        say: Callable[[str], SpokenClip] | None = None,
        exports: Mapping[str, tuple[str, ExportFunction]] | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        share: float = 1.0,
    ) -> None:
        """Prepare a viewer.

        Args:
            avatar: who to show. The viewer only reads it; hand over a copy of one that is being fitted.
            track: the avatar's own captured motion, played at the start; None where there is none.
            audio: the sound of the captured motion, which browsers play in step.
            capture: the capture that the track is of, to browse and to compare with.
            live: label in the source picker to what opens a stream; it raises InputError with a sentence.
            say: makes speech of a text, raising InputError with a sentence; None hides the text box.
            exports: name to suffix and function for the export panel; ply alone where None.
            host: address to listen on; the default is not reachable from other machines.
            port: port to listen on; 0 lets the system choose.
            share: see the attribute of that name.
        """
        self.share = share
        """Share of the time, in (0, 1], that may go into pictures for all browsers together; below 1 for
        a viewer beside other work. May be set at any time."""
        self.notice = ""
        """A sentence for the line above the panels, shown at the start."""
        states, self._motion_note = captured_motion(avatar, track)
        captured = None
        if states is not None and track is not None:
            captured = Clip(states, track.fps, audio)
        self._sources = Sources(avatar, captured, live or {}, say)
        self._capture = capture
        self._why_no_comparison = _why_no_comparison(capture, states, self._motion_note)
        self._exports = EXPORTS if exports is None else exports
        self._host, self._port = host, port
        filmed = None if capture is None else Filmed(capture)
        self._stage = Stage(avatar, neutral(avatar.rest), filmed=filmed)
        self._recorder = Recorder()
        self._loops: dict[int, FrameLoop] = {}
        self._leaving: list[FrameLoop] = []
        self._loops_lock = threading.Lock()
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._server: viser.ViserServer | None = None
        self._panels: Panels | None = None
        self._director: Director | None = None
        self._splats: Splats | None = None

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
        self._stage.draw(self._stage.moment, first_view, 16)
        server = open_server(self._host, self._port)
        server.gui.main_panel.dock_right()
        server.scene.set_up_direction("+y")
        server.scene.world_axes.visible = False
        server.initial_camera.position = start.position
        server.initial_camera.look_at = start.look_at
        server.initial_camera.fov = start.fov
        self._server = server
        bound_uploads(server, MOST_UPLOAD_BYTES)
        contents = Contents(
            avatar,
            self._sources,
            self._motion_note,
            _backend_in_use(),
            self._capture,
            self._why_no_comparison,
            self._exports,
        )
        self._panels = Panels(
            server,
            contents,
            self._stage,
            self._recorder,
            on_change=self._changed.set,
            on_viewpoint=self._go_to,
            view_of=view_of,
        )
        self._director = Director(
            self._stage,
            self._panels,
            self._sources,
            Sound(server),
            Page(server),
            self._recorder,
            changed=self._changed,
            paces=lambda: self.paces,
            share=lambda: self.share,
        )
        self._splats = Splats(server, self._stage)
        if self.notice:
            self._panels.show_status(plain(self.notice))
        self._changed.set()
        self._director.start()
        self._splats.start()
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
            self._director.stop()
        if self._splats is not None:
            self._splats.stop()
        if self._server is not None:
            close_server(self._server)

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

    def _welcome(self, client: viser.ClientHandle) -> None:
        """Begin to draw for a new browser."""
        client.camera.min_orbit_distance = NEAREST_M
        client.camera.max_orbit_distance = FARTHEST_M

        def deliver(picture: np.ndarray, quality: int) -> None:
            if client.client_id not in self.server.get_clients():
                return  # it left while its picture was drawn
            client.scene.set_background_image(picture, format="jpeg", jpeg_quality=quality)
            client.flush()  # viser would gather messages for another sixtieth of a second

        loop = FrameLoop(self._stage, lambda: view_of(client), deliver, self._share_of_each)
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


def _why_no_comparison(capture: Capture | None, states: HeadState | None, note: str) -> str:
    """Return why pictures cannot be compared with filmed frames; nothing where they can."""
    if capture is None:
        return "Nothing to compare with: the avatar's capture is not at hand."
    if states is None:
        return note
    if not capture.frame_path(0).is_file() or not capture.mask_path(0).is_file():
        return f"{capture.path} has lost its frames or masks, so there is nothing to compare with."
    return ""


def _backend_in_use() -> str:
    """Return name and details of the backend that ``auto`` takes on this machine."""
    states = available_backends()
    for name in ("cuda", "cpu", "reference"):
        if states.get(name, "").startswith("ok"):
            return name + states[name].removeprefix("ok")
    return "none"
