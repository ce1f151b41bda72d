"""A sender's clock on the local one: steady under jitter, honest about jumps, given up at a standstill."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.drive.live_clock import STANDSTILL, SenderClock


def fed(clock: SenderClock, pairs: Sequence[tuple[float | None, float]]) -> list[float | None]:
    """Local times of (sender's time, arrival); only accepted ones count as the sample before."""
    newest, found = None, []
    for time_s, arrival in pairs:
        local = clock.local(time_s, arrival, newest)
        newest = local if local is not None else newest
        found.append(local)
    return found


def test_the_networks_jitter_does_not_become_the_faces() -> None:
    generator = np.random.default_rng(0)
    times = np.arange(300) / 60
    arrivals = 1000 + times + generator.exponential(0.01, 300)
    arrivals = np.maximum.accumulate(arrivals)
    clock = SenderClock()
    local = np.array(fed(clock, list(zip(times.tolist(), arrivals.tolist(), strict=True))))
    steps = np.diff(local[60:])
    assert steps.std() < 0.001
    assert np.diff(arrivals[60:]).std() > 0.005
    assert clock.late_s() > 0.005


def test_a_clock_set_anew_is_followed_and_counted() -> None:
    clock = SenderClock()
    pairs = [(k / 60, 10 + k / 60) for k in range(60)]
    pairs += [(500 + k / 60, 11 + k / 60) for k in range(60)]
    local = fed(clock, pairs)
    assert clock.jumps == 1
    assert local[-1] == pytest.approx(pairs[-1][1], abs=0.01)


def test_a_clock_that_stands_still_is_given_up() -> None:
    clock = SenderClock()
    local = fed(clock, [(7.0, k / 60) for k in range(20)])
    assert local[1 : STANDSTILL + 1] == [None] * STANDSTILL
    assert all(time is not None for time in local[STANDSTILL + 1 :])
    clock.restart()
    assert clock.last_time_s is None
    assert clock.local(3.0, 5.0, None) == 5.0


@given(
    st.lists(st.tuples(st.none() | st.floats(-1e6, 1e6), st.floats(0, 1)), min_size=1, max_size=60)
)
@settings(max_examples=200, deadline=None)
def test_local_time_only_goes_on(steps) -> None:
    arrival, pairs = 0.0, []
    for time_s, step in steps:
        arrival += step
        pairs.append((time_s, arrival))
    local = [time for time in fed(SenderClock(), pairs) if time is not None]
    assert all(b > a for a, b in pairwise(local))
