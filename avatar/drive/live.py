"""A stream that arrives by itself, put on one avatar: calibrated, retargeted, filtered, never frozen.

``StreamDriver`` is the core that all live sources share. It knows no sockets and no clocks: samples
come in by ``push`` with the time at which they arrived, states go out by ``state`` for any time, and
both are pure arithmetic, so that a recorded stream gives the very same states again.

What happens to a sample: refused (counted, with the reason) or accepted; its time put on the local
clock; its neutral subtracted; the One-Euro filter (``one_euro``); the person's range
(``retarget``). Between samples states are interpolated, past the newest they are extrapolated for a
moment, then held; a stream that is lost relaxes to the avatar's rest, and fades in when it is back.

Latency: a state shows the stream as it was ``LiveConfig.delay_s`` ago, plus the filter's lag
(``OneEuroConfig.lag_s``: 53 ms for a coefficient that hardly moves, 14 ms for a mouth that opens at 2
units a second, 4 ms for a blink).
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch

from avatar.drive.live_clock import SenderClock
from avatar.drive.motion import (
    ARKIT_COUNT,
    gaze_from_weights,
    head_rotation,
    turned_about_neck,
)
from avatar.drive.one_euro import OneEuro, OneEuroConfig
from avatar.drive.retarget import (
    RetargetConfig,
    for_avatar,
    limited_gaze,
    limited_head,
    retargeted_weights,
)
from avatar.model.avatar import Avatar
from avatar.types import HeadState

WEIGHT_LIMIT = 2.0
"""Coefficients nominally lie in [0, 1]; one beyond this is no coefficient."""
ANGLE_LIMIT = 2 * math.pi
"""An angle beyond this, in radians, is degrees or nonsense."""
KEPT = 16
"""Filtered samples kept to interpolate between: half a second at 30 a second."""
RATE_S = 2.0
"""Window over which the rate of arrival is measured."""


class LiveDriver(Protocol):
    """A stream that arrives by itself, put on one avatar."""

    def state(self, now_s: float) -> HeadState:
        """Return the newest state for clock time ``now_s`` (``time.perf_counter``), filtered.

        Holds, then relaxes to rest when the stream is lost.
        """
        ...

    def note(self, now_s: float) -> str:
        """Return one line for the user: what arrives, how fast, what was dropped, how late."""
        ...

    def close(self) -> None:
        """End threads and free ports; doing so twice does no harm."""
        ...


@dataclass(frozen=True)
class FaceSample:
    """One sample of a stream."""

    weights: np.ndarray
    """[52] ARKit coefficients in ``ARKIT_NAMES`` order, nominally in [0, 1]."""
    head: np.ndarray | None = None
    """[3] yaw to the subject's left, pitch up, roll towards the subject's right shoulder, radians."""
    gaze: np.ndarray | None = None
    """[2, 2] radians as in ``HeadState``; None: the eyeLook coefficients say it."""
    time_s: float | None = None
    """When it was taken, on the sender's own clock; None: when it arrived."""
    sender: str = ""
    """Who sent it: samples of one sender only are put on an avatar."""


@dataclass(frozen=True)
class LiveConfig:
    """How a live stream is put on an avatar."""

    calibrate_s: float = 1.0
    """The median of the first so many seconds is the performer's neutral; 0 takes values as they are."""
    largest_neutral: float = 0.3
    """No coefficient's neutral is higher: whoever speaks while calibrating is still to close the mouth."""
    delay_s: float = 1 / 60
    """States show the stream of so long ago: one sample's time at 60 a second, so that most of them lie
    between two samples."""
    extrapolate_s: float = 0.025
    """How far past the newest sample motion goes on."""
    hold_s: float = 0.4
    """How long the last state is held when nothing arrives."""
    relax_s: float = 0.8
    """How long the way to rest then takes."""
    return_s: float = 0.3
    """How long the way back takes when the stream is there again (and at its start)."""
    takeover_s: float = 2.0
    """A second sender is listened to when the first has been silent for so long."""
    weights: OneEuroConfig = field(default_factory=lambda: OneEuroConfig(3.0, 4.0))
    """Filter of the coefficients; speeds in units a second."""
    angles: OneEuroConfig = field(default_factory=lambda: OneEuroConfig(2.0, 15.0))
    """Filter of head and gaze; speeds in radians a second."""
    retarget: RetargetConfig = field(default_factory=RetargetConfig)
    """How the motion is put on the person."""


@dataclass(frozen=True)
class _Filtered:
    """An accepted sample, relative to the performer's neutral, filtered."""

    time_s: float
    """On the local clock."""
    values: np.ndarray
    """[59] the coefficients, yaw pitch roll, eye angles."""


HEAD = slice(ARKIT_COUNT, ARKIT_COUNT + 3)
GAZE = slice(ARKIT_COUNT + 3, ARKIT_COUNT + 7)


class StreamDriver:
    """Puts samples on an avatar; may be called from several threads."""

    def __init__(self, avatar: Avatar, config: LiveConfig | None = None, label: str = "") -> None:
        """Start without a sample: the avatar rests.

        Args:
            avatar: who is driven; rest and range are read once.
            config: settings.
            label: what the note calls the stream.
        """
        config = config or LiveConfig()
        self.config = replace(config, retarget=for_avatar(config.retarget, avatar))
        self.label = label
        self.counts: Counter[str] = Counter()
        """Accepted samples under ``accepted``, the others under the reason why they were dropped."""
        self.events: Counter[str] = Counter()
        """What was coped with: ``clock jumps``, ``performers`` that took over, ``returns`` of the stream."""
        self._avatar, self._rest = avatar, avatar.rest
        self._lock = threading.Lock()
        self._sender: str | None = None
        self._last_arrival = -math.inf
        self._arrivals: deque[float] = deque()
        self._clock = SenderClock()
        self._calibrating_since: float | None = None
        self._calibrated = self.config.calibrate_s <= 0
        self._seen: list[np.ndarray] = []
        self._neutral = np.zeros(GAZE.stop)
        self._peak = np.zeros(ARKIT_COUNT)
        self._last_raw: np.ndarray | None = None
        self._filters = (OneEuro(self.config.weights), OneEuro(self.config.angles))
        self._past: deque[_Filtered] = deque(maxlen=KEPT)
        self._fade_from = (-math.inf, 0.0)

    def push(self, sample: FaceSample, arrival_s: float) -> bool:
        """Take a sample that arrived at ``arrival_s`` on the local clock; return whether it counts.

        A sample is dropped, and counted under the reason, when it holds NaN or infinity, values that
        are no coefficients or angles, comes from another sender, or after a later one.
        """
        with self._lock:
            raw, reason = checked(sample)
            if not reason and self._sender not in (None, sample.sender):
                if arrival_s - self._last_arrival < self.config.takeover_s:
                    reason = "from another sender"
                else:
                    self._restart()
            if reason or raw is None:
                self.counts[reason] += 1
                return False
            self._sender = sample.sender
            newest = self._past[-1].time_s if self._past else None
            time_s = self._clock.local(sample.time_s, arrival_s, newest)
            self.events["clock jumps"] = self._clock.jumps
            if time_s is None:
                self.counts["late or twice"] += 1
                return False
            self._accept(raw, time_s, arrival_s)
            self.counts["accepted"] += 1
            return True

    def calibrate(self) -> None:
        """Take the performer's neutral, and range, afresh from what comes next."""
        with self._lock:
            self._calibrating_since, self._seen = None, []
            self._calibrated = self.config.calibrate_s <= 0
            self._peak = np.zeros(ARKIT_COUNT)

    def drop(self, reason: str) -> None:
        """Count something that arrived and was not even a sample."""
        with self._lock:
            self.counts[reason] += 1

    def state(self, now_s: float) -> HeadState:
        """Return the state for a time on the local clock; does not change what later calls return."""
        with self._lock:
            share = self._share(now_s)
            if share <= 0 or not self._past:
                return self._rest
            values = share * self._at(now_s - self.config.delay_s)
            reach = np.maximum(self._peak, 1e-3)
        return self._state(values, reach, share)

    @property
    def newest_time_s(self) -> float | None:
        """When the newest accepted sample was taken, on the sender's clock; None before the first."""
        return self._clock.last_time_s

    @property
    def dropped(self) -> int:
        """How many samples were dropped."""
        return self.counts.total() - self.counts["accepted"]

    def rate(self, now_s: float) -> float:
        """Return the accepted samples a second, over the last two."""
        recent = [t for t in self._arrivals if now_s - RATE_S <= t <= now_s]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 2 else 0.0

    def note(self, now_s: float) -> str:
        """Return one line: what arrives, how fast, how late, what was dropped."""
        with self._lock:
            name = self.label or "stream"
            age = now_s - self._last_arrival
            if not self._past:
                parts = [f"{name}: nothing usable has arrived yet"]
            elif age > self.config.hold_s:
                parts = [f"{name}: lost {age:.0f} s ago, at rest until it is back"]
            else:
                late = self._clock.late_s()
                lag = self.config.delay_s + self.config.weights.lag_s(2.0)
                parts = [f"{name}: {self.rate(now_s):.0f} a second", f"{1e3 * lag:.0f} ms behind"]
                if late > 0.005:
                    parts.append(f"network adds up to {1e3 * late:.0f} ms")
                if not self._calibrated:
                    parts.append("calibrating: look straight ahead, face at rest")
            reasons = {k: n for k, n in sorted(self.counts.items()) if k != "accepted" and n}
            if reasons:
                parts.append("dropped " + ", ".join(f"{n} {k}" for k, n in reasons.items()))
            return "; ".join(parts) + "."

    def close(self) -> None:
        """Do nothing: the core owns no thread and no port."""

    def _restart(self) -> None:
        """Forget the performer: another one takes over."""
        self.events["performers"] += 1
        self._clock.restart()
        self._calibrating_since, self._seen, self._last_raw = None, [], None
        self._calibrated = self.config.calibrate_s <= 0
        self._neutral, self._peak = np.zeros(GAZE.stop), np.zeros(ARKIT_COUNT)

    def _accept(self, raw: np.ndarray, time_s: float, arrival_s: float) -> None:
        config = self.config
        share = self._share(arrival_s)
        if arrival_s - self._last_arrival > config.hold_s:
            # Fade in from wherever the avatar is by now.
            self.events["returns"] += self._last_arrival > -math.inf
            self._fade_from = (arrival_s, share)
            self._filters = (OneEuro(config.weights), OneEuro(config.angles))
            self._past.clear()
        self._last_arrival = arrival_s
        self._arrivals.append(arrival_s)
        while self._arrivals[0] < arrival_s - RATE_S:
            self._arrivals.popleft()
        if self._last_raw is not None:
            # Angles wrap around; motion does not.
            turn = raw[ARKIT_COUNT:] - self._last_raw[ARKIT_COUNT:]
            raw[ARKIT_COUNT:] -= 2 * math.pi * np.round(turn / (2 * math.pi))
        self._last_raw = raw
        if not self._calibrated:
            self._learn_neutral(raw, arrival_s)
        value = raw - self._neutral
        value[:ARKIT_COUNT] /= 1 - self._neutral[:ARKIT_COUNT]  # a shut eye is 1 for everybody
        step = time_s - self._past[-1].time_s if self._past else 1 / 60
        weights = self._filters[0].add(value[:ARKIT_COUNT], max(step, 1e-3))
        angles = self._filters[1].add(value[ARKIT_COUNT:], max(step, 1e-3))
        self._peak = np.maximum(self._peak, weights)
        self._past.append(_Filtered(time_s, np.concatenate([weights, angles])))

    def _learn_neutral(self, raw: np.ndarray, arrival_s: float) -> None:
        """Take the median of what has been seen since calibration began."""
        if self._calibrating_since is None:
            self._calibrating_since = arrival_s
        self._seen.append(raw)
        neutral = np.median(self._seen, axis=0)
        neutral[:ARKIT_COUNT] = np.clip(neutral[:ARKIT_COUNT], 0, self.config.largest_neutral)
        self._neutral = neutral
        if arrival_s - self._calibrating_since >= self.config.calibrate_s:
            self._calibrated, self._seen = True, []

    def _share(self, now_s: float) -> float:
        """How much of the stream shows: 1 while it arrives, 0 at rest, smooth in between."""
        if self._last_arrival == -math.inf:
            return 0.0
        start, share = self._fade_from
        up = share + (1 - share) * _smooth((now_s - start) / self.config.return_s)
        gone = (now_s - self._last_arrival - self.config.hold_s) / self.config.relax_s
        return up * (1 - _smooth(gone))

    def _at(self, time_s: float) -> np.ndarray:
        """Return the filtered values at a time: between samples, or a little past the newest."""
        past = self._past
        newest = past[-1]
        if len(past) == 1 or time_s <= past[0].time_s:
            return (newest if len(past) == 1 else past[0]).values
        after = next(
            i for i in range(1, len(past)) if past[i].time_s >= time_s or i == len(past) - 1
        )
        a, b = past[after - 1], past[after]
        # Past the newest sample, motion goes on as between the last two, for a moment.
        end = min(time_s, newest.time_s + min(self.config.extrapolate_s, b.time_s - a.time_s))
        return a.values + (end - a.time_s) / (b.time_s - a.time_s) * (b.values - a.values)

    def _state(self, values: np.ndarray, reach: np.ndarray, share: float) -> HeadState:
        """Put values relative to neutral on the avatar; ``share`` of them is what the stream says."""
        rest, config = self._rest, self.config.retarget
        value = torch.from_numpy(values)
        avatar = self._avatar
        at_rest = rest.expression[:ARKIT_COUNT].double()
        # The performer's range is not known beforehand: it is the avatar's own until it is passed.
        own = (avatar.expression_high[:ARKIT_COUNT].double() - at_rest).clamp(min=1e-3)
        source = torch.maximum(torch.from_numpy(reach), own)
        weights = retargeted_weights(
            value[:ARKIT_COUNT], torch.zeros_like(at_rest), source, avatar, config
        )
        expression = (rest.expression * (1 - share)).clone()
        expression[:ARKIT_COUNT] = weights.to(expression.dtype)
        head = limited_head(value[HEAD], config)
        gaze = limited_gaze(value[GAZE].reshape(2, 2), config)
        dtype = rest.T_world_head.dtype
        return HeadState(
            expression,
            rest.gaze + gaze.to(dtype),
            turned_about_neck(rest.T_world_head, head_rotation(head.to(dtype))),
            rest.T_world_torso,
        )


def checked(sample: FaceSample) -> tuple[np.ndarray | None, str]:
    """Return the sample's values [59] in one array, or the reason why they cannot be used."""
    weights = np.asarray(sample.weights, np.float64)
    if weights.shape != (ARKIT_COUNT,):
        return None, "of another number of coefficients"
    head = np.zeros(3) if sample.head is None else np.asarray(sample.head, np.float64)
    if sample.gaze is None:
        gaze = gaze_from_weights(torch.from_numpy(weights)).numpy()
    else:
        gaze = np.asarray(sample.gaze, np.float64)
    if head.shape != (3,) or gaze.shape != (2, 2):
        return None, "of another number of angles"
    values = np.concatenate([weights, head, gaze.reshape(4)])
    times = [] if sample.time_s is None else [sample.time_s]
    if not np.isfinite(values).all() or not np.isfinite(times).all():
        return None, "with NaN or infinity"
    if np.abs(weights).max() > WEIGHT_LIMIT or np.abs(values[ARKIT_COUNT:]).max() > ANGLE_LIMIT:
        return None, "out of range"
    values[:ARKIT_COUNT] = np.clip(weights, 0, 1)
    return values, ""


def _smooth(x: float) -> float:
    """Rise from 0 at 0 to 1 at 1, level at both ends."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)
