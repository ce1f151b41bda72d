"""What a path opens in the viewer: an avatar, a capture, or a run, finished or not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from avatar.capture_data import Capture, Track
from avatar.checks import InputError
from avatar.drive.live import LiveDriver
from avatar.model.avatar import Avatar
from avatar.train.restore import find_avatar, find_capture
from viewer.app import ViewerApp
from viewer.capture_app import CaptureApp
from viewer.panel_output import ExportFunction
from viewer.sources import SpokenClip

LiveSources = Callable[[Avatar, Track | None], Mapping[str, Callable[[], LiveDriver]]]
"""Takes the avatar and its own track, None where that is not at hand; returns label to opener, as ``ViewerApp`` takes them."""
Speaker = Callable[[Avatar], Callable[[str], SpokenClip] | None]
"""Takes the avatar; returns what makes speech of a text, None where nothing here can."""


def is_capture(path: Path) -> bool:
    """Whether a path is a capture folder, finished or begun."""
    known = (path / "capture.json").is_file() or path.suffix == ".capture"
    return path.is_dir() and known


def open_path(
    path: Path,
    *,
    live: LiveSources | None = None,
    say: Speaker | None = None,
    exports: Mapping[str, tuple[str, ExportFunction]] | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
) -> ViewerApp | CaptureApp:
    """Return the viewer of what a path names; ``start`` begins to serve.

    Args:
        path: a .avatar file, a capture folder, a run, or a folder that ``avatar create`` made.
        live: of an avatar, the streams that can drive it.
        say: of an avatar, what makes it speak.
        exports: as ``ViewerApp`` takes them.
        host: address to listen on.
        port: port to listen on; 0 lets the system choose.

    Raises:
        InputError: there is nothing of the kind, or it is damaged; the sentence says which.
    """
    if is_capture(path):
        return CaptureApp(Capture(path), host=host, port=port)
    avatar, home = find_avatar(path)
    capture, trouble = find_capture(home, avatar)
    track = None
    if capture is not None:
        try:
            track = capture.track
        except InputError as error:
            trouble = str(error)
    app = ViewerApp(
        avatar,
        track=track,
        audio=None if capture is None else capture.audio,
        capture=capture,
        live=None if live is None else live(avatar, track),
        say=None if say is None else say(avatar),
        exports=exports,
        host=host,
        port=port,
    )
    app.notice = trouble
    return app


def open_subject(path: Path) -> tuple[Avatar, Track]:
    """Return an avatar and its own captured motion, for measuring.

    Raises:
        InputError: as ``find_avatar``, or its capture is not at hand.
    """
    avatar, home = find_avatar(path)
    capture, trouble = find_capture(home, avatar)
    if capture is None:
        raise InputError(
            f"{path}: the avatar's capture is not at hand, so it has no motion to play. {trouble}".strip()
        )
    return avatar, capture.track


def serve(app: ViewerApp | CaptureApp, ready: Callable[[str], None] | None = None) -> None:
    """Serve until Ctrl-C.

    Args:
        app: not started yet.
        ready: called with the address to open, once browsers can.

    Raises:
        InputError: the port is taken, the address is not one of this machine, or nothing draws here.
    """
    app.start()
    try:
        if ready is not None:
            ready(app.url)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        app.stop()
