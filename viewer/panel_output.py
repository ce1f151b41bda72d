"""The panels of what leaves the viewer (videos, pictures, other programs' formats) and of what it is."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import viser

from avatar.checks import InputError
from avatar.export.ply import write_ply
from avatar.export.sequence import png_bytes
from avatar.export.signature import Signature
from avatar.model.avatar import Avatar
from avatar.types import HeadState
from viewer.cameras import ClientView
from viewer.page import plain
from viewer.record import Recorder, recorded, still
from viewer.stage import Stage

ExportFunction = Callable[[Path, Avatar, HeadState], object]
"""Writes an avatar in a state to a path."""

PROGRESS_S = 0.5
"""How often progress is written."""


def export_ply(path: Path, avatar: Avatar, state: HeadState) -> None:
    """Write the posed Gaussians in the 3DGS layout."""
    with torch.no_grad():
        write_ply(path, avatar.pose(state))


EXPORTS: dict[str, tuple[str, ExportFunction]] = {"ply (3DGS)": (".ply", export_ply)}
"""Name to suffix and function: what the export panel offers where nothing else is given."""


class OutputPanel:
    """Record, picture, export; results are downloaded by the browser that asked."""

    def __init__(
        self,
        gui: viser.GuiApi,
        stage: Stage,
        recorder: Recorder,
        exports: Mapping[str, tuple[str, ExportFunction]],
        view_of: Callable[[viser.ClientHandle], ClientView | None],
    ) -> None:
        """Build it.

        Args:
            gui: where.
            stage: what shows.
            recorder: notes what shows, once a second and more.
            exports: name to suffix and function.
            view_of: returns a browser's view.
        """
        self._stage, self._recorder = stage, recorder
        self._exports, self._view_of = dict(exports), view_of
        self._client: viser.ClientHandle | None = None
        self.record = gui.add_button(
            "Record a video",
            hint="What this browser sees, while it plays; drawn at full resolution afterwards.",
        )
        self.record.on_click(lambda event: self.toggle_record(event.client))
        self.picture = gui.add_button("Take a picture (PNG)")
        self.picture.on_click(lambda event: self.take_picture(event.client))
        with gui.add_folder("Export"):
            self.format = gui.add_dropdown("Format", tuple(self._exports))
            self.export = gui.add_button("Export as it shows", hint="The pose of this moment.")
            self.export.on_click(lambda event: self._export(event.client))
        self.note = gui.add_markdown("", visible=False)

    def say(self, text: str) -> None:
        """Write a line below the buttons; an empty one hides it."""
        self.note.content, self.note.visible = plain(text), bool(text)

    def toggle_record(self, client: viser.ClientHandle | None) -> None:
        """Begin to record for a browser, or end and send the video."""
        if self._recorder.recording:
            self.finish()
        elif client is not None and not self.record.disabled:
            self._client = client
            self._recorder.start(lambda: self._view_of(client), time.perf_counter())
            self.record.label = "Stop and save"
            self.say("Recording.")

    def finish(self) -> None:
        """End the recording, draw it in a thread of its own, send it."""
        take, client = self._recorder.stop(), self._client
        self.record.disabled, self.record.label = True, "Record a video"

        def work() -> None:
            told = 0.0

            def progress(done: int, total: int) -> None:
                nonlocal told
                if time.monotonic() - told > PROGRESS_S:
                    told = time.monotonic()
                    self.say(f"Drawing frame {done} of {total}.")

            try:
                content = recorded(take, self._stage, progress)
                if client is not None:
                    client.send_file_download("avatar.mp4", content, save_immediately=True)
                self.say(f"The video has {len(take.frames)} frames, {len(content) / 2**20:.1f} MB.")
            except (InputError, OSError) as error:  # the system's own: a full disk, with its path
                self.say(str(error))
            finally:
                self.record.disabled = False

        threading.Thread(target=work, name="viewer recording", daemon=True).start()

    def take_picture(self, client: viser.ClientHandle | None) -> None:
        """Send what a browser shows as a PNG, at full resolution."""
        view = None if client is None else self._view_of(client)
        if client is None or view is None:
            return
        moment = self._stage.moment
        signature = Signature(moment.avatar)
        picture = signature.marked(still(self._stage, moment, view))
        content = png_bytes(picture, signature.manifest("image/png", "avatar.png"))
        client.send_file_download("avatar.png", content, save_immediately=True)

    def _export(self, client: viser.ClientHandle | None) -> None:
        if client is None:
            return
        suffix, write = self._exports[str(self.format.value)]
        moment = self._stage.moment
        self.export.disabled = True
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"avatar{suffix}"
                write(path, moment.avatar, moment.state)
                content = path.read_bytes()
            client.send_file_download(path.name, content, save_immediately=True)
            self.say(f"{path.name}: {len(content) / 2**20:.1f} MB.")
        except (InputError, OSError) as error:
            self.say(str(error))
        finally:
            self.export.disabled = False


SHORTCUTS: tuple[tuple[str, str], ...] = (
    ("space", "play or pause"),
    ("J", "one frame back"),
    ("L", "one frame on"),
    ("home", "first frame"),
    ("M", "sound off or on"),
    ("1", "view: as filmed"),
    ("2", "view: front"),
    ("3", "view: left 40°"),
    ("4", "view: right 40°"),
    ("5", "view: three-quarter"),
    ("0", "reset the expression"),
    ("R", "random expression"),
    ("T", "turntable"),
    ("C", "compare with the filmed frame"),
    ("B", "drawn by the browser or by this program"),
    ("V", "record a video, or stop"),
    ("P", "take a picture"),
)
"""Key and what it does; in the page's command palette (Ctrl or Cmd and K) too."""

_UNSAFE = re.compile(r"[^\w\s.,:;()+/@'%-]")


def facts_of(avatar: Avatar) -> str:
    """Return an avatar's header as Markdown: who it shows, consent, how it was made."""
    header = avatar.header

    def text(value: object) -> str:
        # From a file: it must not be able to put markup into the page.
        return _UNSAFE.sub(" ", str(value))[:300].strip()

    config = header.get("config")
    config = config if isinstance(config, dict) else {}
    seconds = header.get("seconds")
    rows = [
        ("Shows", text(header.get("who") or "") or "The file does not say who this is."),
        ("Consent", text(header.get("consent") or "") or "The file holds no consent note."),
        ("Made", text(header.get("created") or "") or "at a time that the file does not say"),
        ("By", f"headsplat {text(header.get('headsplat') or 'of an unknown version')}"),
        ("From the clip", text(header.get("source_sha256") or "unknown")[:16]),
        ("Steps of fitting", text(header.get("steps") or config.get("steps") or "unknown")),
        ("Gaussians", f"{len(avatar):,}, deformer {text(avatar.deformer.kind)}"),
        ("Filmed at", f"{avatar.camera.width} x {avatar.camera.height}, {avatar.fps:g} frames/s"),
    ]
    if isinstance(seconds, dict) and isinstance(seconds.get("total"), int | float):
        rows.append(("Took", f"{seconds['total']:.0f} s in all"))
    return "\n".join(["| | |", "|---|---|", *(f"| **{name}** | {value} |" for name, value in rows)])


def shortcuts_text() -> str:
    """Return the list of keys as Markdown."""
    rows = "\n".join(f"| `{key}` | {what} |" for key, what in SHORTCUTS)
    return f"| Key | |\n|---|---|\n{rows}\n\nMouse: turn, right button or two fingers move, wheel nears."
