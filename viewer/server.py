"""viser's server, opened the way this program wants it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import numpy as np
import rich
import viser
from viser import _messages

from avatar.checks import InputError
from viewer.cameras import ClientView


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


def open_server(host: str, port: int) -> viser.ViserServer:
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
    server.gui.configure_theme(show_logo=False, show_share_button=False)
    return server


def close_server(server: viser.ViserServer) -> None:
    """End a server and free its port."""
    with _viser_quiet():
        server.stop()


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


def view_of(client: viser.ClientHandle) -> ClientView | None:
    """Return what a browser shows; None while its window has no area or its camera is no camera."""
    camera = client.camera
    width, height, fov = int(camera.image_width), int(camera.image_height), float(camera.fov)
    finite = np.isfinite(camera.wxyz).all() and np.isfinite(camera.position).all()
    if width < 1 or height < 1 or not finite or not 0.0 < fov < np.pi:
        return None
    w, x, y, z = (float(v) for v in camera.wxyz)
    px, py, pz = (float(v) for v in camera.position)
    return ClientView((w, x, y, z), (px, py, pz), fov, width, height)


def bound_uploads(server: viser.ViserServer, most_bytes: int) -> None:
    """Refuse uploads of more than ``most_bytes`` before any of them is kept: viser takes any size.

    A page that sends more than it said it would is refused too. Of all uploads of one moment, no more than
    four times as much is kept.
    """
    gui = server.gui
    states = gui._current_file_upload_states
    begin, take = gui._handle_file_transfer_start, gui._handle_file_transfer_part
    interface = gui._websock_interface

    def start(client_id: int, message: _messages.FileTransferStartUpload) -> None:
        kept = sum(state["total_bytes"] for state in states.values())
        fits = 0 <= message.size_bytes <= most_bytes and kept + message.size_bytes <= 4 * most_bytes
        if fits and 0 <= message.part_count <= max(1, message.size_bytes):
            begin(client_id, message)  # pyright: ignore[reportArgumentType]
            return
        client = server.get_clients().get(client_id)
        if client is not None:
            client.add_notification(
                "The file is too large",
                f"At most {most_bytes >> 20} MB are taken here.",
                color="red",
            )

    def part(client_id: int, message: _messages.FileTransferPart) -> None:
        state = states.get(message.transfer_uuid)
        if state is None:
            return
        if state["transferred_bytes"] + len(message.content) > state["total_bytes"]:
            states.pop(message.transfer_uuid, None)
            return
        take(client_id, message)  # pyright: ignore[reportArgumentType]

    for kind, handler in (
        (_messages.FileTransferStartUpload, start),
        (_messages.FileTransferPart, part),
    ):
        interface.unregister_handler(kind)
        interface.register_handler(kind, handler)  # pyright: ignore[reportArgumentType]
