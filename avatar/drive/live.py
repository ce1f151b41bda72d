"""A stream of motion that arrives by itself: what a viewer asks of it."""

from __future__ import annotations

from typing import Protocol

from avatar.types import HeadState


class LiveDriver(Protocol):
    """A stream that arrives by itself, put on one avatar."""

    def state(self, now_s: float) -> HeadState:
        """Return the newest state for clock time ``now_s`` (``time.perf_counter``), filtered; it holds,
        then relaxes to rest when the stream is lost."""
        ...

    def note(self, now_s: float) -> str:
        """Return one line for the user: what arrives, how fast, what was dropped, how late."""
        ...

    def close(self) -> None:
        """End threads and free ports; twice does no harm."""
        ...
