"""Bounds on connections: how many there are, and how long one may take to say what it wants."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Guards:
    """All connections of a server; to be used on its event loop only."""

    def __init__(self, *, most: int, most_of_address: int, head_s: float, idle_s: float) -> None:
        """Set the bounds.

        Args:
            most: connections in all, and ``most_of_address`` from one address; more are closed at once.
            head_s: seconds in which a new connection must have sent a request's head.
            idle_s: seconds from the end of a request to the next one's whole head.
        """
        self._most, self._most_of_address = most, most_of_address
        self.head_s, self.idle_s = head_s, idle_s
        self._by_protocol: dict[asyncio.BaseProtocol, _Guard] = {}
        self._of_address: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self._by_protocol)

    def guard(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        """Return a protocol that hands all on to ``protocol``, within the bounds."""
        return _Guard(self, protocol)

    @contextmanager
    def busy(self, protocol: asyncio.BaseProtocol) -> Iterator[None]:
        """Stop the clock of a connection while its request is worked on."""
        guard = self._by_protocol.get(protocol)
        if guard is not None:
            guard.stop_clock()
        try:
            yield
        finally:
            if guard is not None:
                guard.start_clock(self.idle_s)

    def close(self) -> None:
        """Close all connections."""
        for guard in list(self._by_protocol.values()):
            guard.abort()

    def enter(self, guard: _Guard, address: str) -> bool:
        """Count a connection in; returns False where there are too many."""
        mine = self._of_address.get(address, 0)
        if len(self._by_protocol) >= self._most or mine >= self._most_of_address:
            return False
        self._by_protocol[guard.inner] = guard
        self._of_address[address] = mine + 1
        return True

    def leave(self, guard: _Guard, address: str) -> None:
        """Count a connection out."""
        del self._by_protocol[guard.inner]
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]


class _Guard(asyncio.Protocol):
    """One connection."""

    def __init__(self, guards: Guards, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self._guards = guards
        self._address: str | None = None
        self._transport: asyncio.Transport | None = None
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._guards.enter(self, address):
            transport.abort()
            return
        self._address = address
        self.inner.connection_made(transport)
        self.start_clock(self._guards.head_s)

    def data_received(self, data: bytes) -> None:
        if self._address is not None:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._address is not None else None

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_clock()
        if self._address is not None:
            self._guards.leave(self, self._address)
            self._address = None
            self.inner.connection_lost(exc)

    def start_clock(self, seconds: float) -> None:
        self.stop_clock()
        if self._address is not None:
            self._clock = asyncio.get_running_loop().call_later(seconds, self.abort)

    def stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
