"""A sender's clock put on the local one: jitter, jumps, standstill, samples late or twice."""

from __future__ import annotations

from collections import deque

import numpy as np

SAME_CLOCK_S = 0.5
"""A sender's clock that gains or loses so much against ours between two samples was set anew."""
STANDSTILL = 5
"""Samples in a row whose time does not advance: that clock is no clock."""
DRIFT = 1e-3
"""Seconds a second by which two clocks may drift apart."""


class SenderClock:
    """Puts one sender's times on the local clock; pure arithmetic, no clock of its own.

    The offset between the clocks is that of the sample that was under way the shortest, so that the
    network's jitter does not become the face's.
    """

    def __init__(self) -> None:
        """Know nothing of the sender yet."""
        self.jumps = 0
        """How often the sender's clock was set anew."""
        self.last_time_s: float | None = None
        """The newest time on the sender's clock; None before the first."""
        self._own_clock = True
        self._standstill = 0
        self._offset = 0.0
        self._last_arrival = 0.0
        self._jitter: deque[float] = deque(maxlen=120)

    def restart(self) -> None:
        """Forget the sender: another one takes over."""
        self._own_clock, self._standstill, self.last_time_s = True, 0, None
        self._jitter.clear()

    def local(self, time_s: float | None, arrival_s: float, newest_s: float | None) -> float | None:
        """Put a time on the local clock; None for one that is not after the last.

        Args:
            time_s: on the sender's clock; None where it gives none.
            arrival_s: when it arrived, local clock.
            newest_s: local time that the sample before was given; None where there is none.
        """
        if time_s is None or not self._own_clock:
            if newest_s is not None and arrival_s <= newest_s:
                return None
            self._last_arrival = arrival_s
            return arrival_s
        if self.last_time_s is not None:
            step = time_s - self.last_time_s
            if step <= 0 and abs(step) < SAME_CLOCK_S:
                self._standstill += 1
                if self._standstill >= STANDSTILL:
                    self._own_clock = False  # times are of no use: go by arrival from now on
                return None
            if abs(step - (arrival_s - self._last_arrival)) > SAME_CLOCK_S:
                # Lost samples advance both clocks alike; this one was set anew.
                self.jumps += 1
                self.last_time_s = None
                self._jitter.clear()
        found = arrival_s - time_s
        if self.last_time_s is None:
            self._offset = found
        else:
            self._offset = min(self._offset + DRIFT * max(time_s - self.last_time_s, 0.0), found)
        self._standstill, self.last_time_s, self._last_arrival = 0, time_s, arrival_s
        self._jitter.append(found - self._offset)
        local = time_s + self._offset
        if newest_s is not None and local <= newest_s:
            local = newest_s + 1e-3  # the offset shrank: time goes on all the same
        return local

    def late_s(self) -> float:
        """Return how much longer than the fastest samples are under way, 95th percentile, seconds."""
        return float(np.percentile(self._jitter, 95)) if self._jitter else 0.0
