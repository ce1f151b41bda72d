"""A stream out of datagrams: a socket and a thread around ``StreamDriver``."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from avatar.checks import InputError
from avatar.drive.live import FaceSample, LiveConfig, StreamDriver
from avatar.drive.replay import Recorder
from avatar.model.avatar import Avatar
from avatar.types import HeadState

LOOPBACK = "127.0.0.1"
LARGEST = 65535
"""Bytes of the largest datagram there is."""
ROOM_BYTES = 1 << 20
"""What the system may keep for us while a picture is drawn: seconds of packets."""
WAKE_S = 0.2
"""How often the thread looks whether it is to end."""


class Parser(Protocol):
    """Turns datagrams into samples; may keep state from one to the next, and counts what it drops."""

    def samples(self, packet: bytes, address: str, arrival_s: float) -> Iterator[FaceSample]:
        """Yield the samples that a datagram completes; never raises for what it holds."""
        ...

    def refused(self) -> Iterator[str]:
        """Yield, once each, the reasons why datagrams or parts of them were dropped since last asked."""
        ...


class UdpDriver:
    """Listens on a port and drives an avatar; a ``LiveDriver``."""

    def __init__(
        self,
        avatar: Avatar,
        parser: Parser,
        *,
        label: str,
        port: int,
        listen: str = LOOPBACK,
        config: LiveConfig | None = None,
        record: Path | None = None,
    ) -> None:
        """Open the port and begin to listen, in a thread of its own.

        Args:
            avatar: who is driven.
            parser: of the protocol.
            label: what the note calls the stream.
            port: UDP port; 0 lets the system choose (see the attribute ``port``).
            listen: address to listen on; the default is not reachable from other machines, and
                ``0.0.0.0`` is from all.
            config: how the stream is put on the avatar.
            record: also write what arrives to this .jsonl file.

        Raises:
            InputError: the port is taken, the address is not one of this machine, or the recording
                cannot be written.
        """
        self.stream = StreamDriver(avatar, config, label)
        self._parser = parser
        self._socket = _bound(listen, port, label)
        self.port: int = self._socket.getsockname()[1]
        try:
            self._recorder = None if record is None else Recorder(record)
        except InputError:
            self._socket.close()
            raise
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name=label, daemon=True)
        self._thread.start()

    def state(self, now_s: float) -> HeadState:
        """See ``StreamDriver.state``."""
        return self.stream.state(now_s)

    def note(self, now_s: float) -> str:
        """See ``StreamDriver.note``; says where to send while nothing has come."""
        text = self.stream.note(now_s)
        if not self.stream.counts["accepted"]:
            text = f"{text[:-1]} on UDP port {self.port}."
        return f"{text} {self._recorder.failure}".strip() if self._recorder else text

    def calibrate(self) -> None:
        """Take the performer's neutral afresh."""
        self.stream.calibrate()

    def close(self) -> None:
        """End the thread, free the port and finish the recording; twice does no harm."""
        self._ended.set()
        self._thread.join(5.0)
        self._socket.close()
        if self._recorder is not None:
            self._recorder.close()

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                packet, address = self._socket.recvfrom(LARGEST)
            except TimeoutError:
                continue
            except OSError:
                # A sender that is gone reports itself on some systems; the port is still ours.
                if self._socket.fileno() < 0:
                    return
                time.sleep(0.01)
                continue
            self.take(packet, f"{address[0]}:{address[1]}", time.perf_counter())

    def take(self, packet: bytes, address: str, arrival_s: float) -> None:
        """Take one datagram that came from ``address`` at a time."""
        for sample in self._parser.samples(packet, address, arrival_s):
            if self._recorder is not None:
                self._recorder.add(sample, arrival_s)
            self.stream.push(sample, arrival_s)
        for reason in self._parser.refused():
            self.stream.drop(reason)


def _bound(listen: str, port: int, label: str) -> socket.socket:
    """Return a UDP socket on exactly this port."""
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        with contextlib.suppress(OSError):
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM_BYTES)
        udp.bind((listen, port))
    except (OSError, OverflowError) as error:
        udp.close()
        raise InputError(
            f"{label} cannot listen on {listen}, UDP port {port} ({error}). Choose another port, or end "
            "the program that uses this one (another viewer?)."
        ) from error
    udp.settimeout(WAKE_S)
    return udp
