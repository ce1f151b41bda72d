"""A client of the viewer without a browser: viser's own messages over a websocket.

What ``avatar bench view`` and the tests look on with. It tells a camera as viser's page does, takes
pictures as they come and notes when.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import viser
import zstandard
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

FACING = (0.0, 1.0, 0.0, 0.0)
"""Rotation of a camera that looks along -z (half a turn about x), as one before a face does."""


class WireClient:
    """One connection. ``on_message`` sees every message; pictures are kept as they were encoded."""

    def __init__(
        self,
        url: str,
        width: int = 512,
        height: int = 512,
        *,
        position: tuple[float, float, float] = (0.0, 0.0, 0.6),
        fov: float = 0.7,
        on_message: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Connect and tell a camera.

        Args:
            url: the viewer's http address.
            width: canvas width, pixels.
            height: canvas height, pixels.
            position: camera centre in the world, metres.
            fov: vertical field of view, radians.
            on_message: called with each message from the server, on the reading thread; its binary
                fields are bytes.

        Raises:
            OSError: nobody listens there.
        """
        protocol = Subprotocol(f"viser-v{viser.__version__}")
        self._socket = connect(
            url.replace("http://", "ws://"),
            subprotocols=[protocol],
            compression=None,
            max_size=2**26,
        )
        self._size, self._fov, self._on_message = (width, height), fov, on_message
        self.arrivals: list[tuple[float, int, int]] = []
        """Of each picture: when it came, ``time.perf_counter`` seconds, its bytes and its height."""
        self.latest = b""
        """The latest picture, as it was encoded."""
        self.labels: dict[str, str] = {}
        """Labels of the page's controls to their ids, as far as they have been told."""
        self._come = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.look_from(position)

    def look_from(self, position: tuple[float, float, float]) -> None:
        """Stand at ``position``, looking along -z."""
        width, height = self._size
        self.send(
            "ViewerCameraMessage",
            wxyz=FACING,
            position=position,
            fov=self._fov,
            near=0.01,
            far=100.0,
            image_height=height,
            image_width=width,
            look_at=(position[0], position[1], 0.0),
            up_direction=(0.0, 1.0, 0.0),
        )

    def send(self, kind: str, **fields: Any) -> None:
        """Send one message."""
        self._socket.send(msgspec.msgpack.encode({"type": kind, **fields}))

    def set_value(self, label: str, value: Any) -> None:
        """Change a control as its user does; raises KeyError where the page has none of that label."""
        self.send("GuiUpdateMessage", uuid=self.labels[label], updates={"value": value})

    def wait_quiet(self, seconds: float, limit_s: float = 30.0) -> None:
        """Wait until no picture has come for ``seconds``; raises TimeoutError after ``limit_s``."""
        end = time.perf_counter() + limit_s
        while time.perf_counter() < end:
            count = len(self.arrivals)
            with self._come:
                came = self._come.wait_for(lambda: len(self.arrivals) > count, seconds)  # noqa: B023
            if not came and count:
                return
        raise TimeoutError(f"pictures came for {limit_s:g} seconds without a pause.")

    def wait_picture(self, count: int, seconds: float) -> float:
        """Wait for picture number ``count`` (from 0); return when it came; raises TimeoutError."""
        with self._come:
            if not self._come.wait_for(lambda: len(self.arrivals) > count, seconds):
                raise TimeoutError(f"no picture came within {seconds:g} seconds.")
        return self.arrivals[count][0]

    def close(self) -> None:
        """Leave."""
        self._socket.close()
        self._reader.join(5.0)

    def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):  # the server stopped, or this client left
            for raw in self._socket:
                if isinstance(raw, bytes):
                    self._take(raw, time.perf_counter())

    def _take(self, raw: bytes, now: float) -> None:
        for message in messages_of(raw):
            if message["type"] == "BackgroundImageMessage" and message["rgb_data"]:
                self.latest = message["rgb_data"]
                with Image.open(io.BytesIO(self.latest)) as picture:  # reads the header alone
                    height = picture.height
                with self._come:
                    self.arrivals.append((now, len(self.latest), height))
                    self._come.notify_all()
            props = message.get("props")
            if isinstance(props, Mapping) and props.get("label") and "uuid" in message:
                self.labels[str(props["label"])] = message["uuid"]
            if self._on_message is not None:
                self._on_message(message)


def messages_of(raw: bytes) -> list[dict[str, Any]]:
    """Return the messages of one websocket frame from viser's server, their binary fields as bytes."""
    size, packed = (int.from_bytes(raw[k : k + 8], "little") for k in (0, 8))
    inner = zstandard.ZstdDecompressor().decompress(raw[16 : 16 + packed], size)
    content = msgspec.msgpack.decode(inner)
    offset, buffers = 16 + packed, []
    for length in content["binaryBufferLengths"]:
        offset += -offset % 8
        buffers.append(raw[offset : offset + length])
        offset += length

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            if "__binary_index" in value:
                return buffers[value["__binary_index"]]
            return {name: filled(inner) for name, inner in value.items()}
        return [filled(inner) for inner in value] if isinstance(value, list) else value

    return [filled(message) for message in content["messages"]]
