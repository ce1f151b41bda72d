"""Idling: breathing, small motion, blinks and glances while nothing else drives an avatar.

A pure function of time: every state is computed from the time and the seed alone, so it can be asked for
in any order, at any rate, and never loops. What comes and goes slowly is a sum of sines whose periods
have no common multiple; what comes in events (a blink, a glance) falls into slots of time, at a place in
the slot that a counter-based random generator gives for the slot's number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from avatar.drive.motion import head_angles, head_rotation, interpolated, turned_about_neck
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.gaze import look_weights
from avatar.types import HeadState

BLINKS = ("eyeBlinkLeft", "eyeBlinkRight")

CLOSING_SHARE = 0.35
"""Lids fall faster than they rise: the share of a blink's time before they are shut."""
SHUT_RATE = (0.05, 0.7)
"""Blinks a second that are believed of a clip: fewer are too few to have been counted, more is a person
in a draught."""
LONGEST_BLINK_S = 0.5
"""Eyes shut for longer are shut on purpose."""

BREATHS_PER_S = 0.23
"""About 14 a minute, an adult at rest."""
BREATH_M = 0.0015
"""How far the shoulders rise and fall to either side, metres."""
BREATH_TORSO_RAD = 0.006
"""How far the chest turns back with it."""
HEAD_SHARE = 0.45
"""Share of a person's own head motion in the clip (who talks in it) that stays when idle."""
MOST_HEAD_RAD = (0.045, 0.035, 0.025)
"""Limits on the spread (one sigma) of yaw, pitch and roll, radians."""
GAZE_SHARE = 0.6
"""Glances go this far towards where the person was seen to look, relative to rest."""
MOST_GAZE_RAD = (0.30, 0.18)
"""Limits on glances, yaw and pitch."""
FACE_SWAY = 0.025
"""One sigma of the slow motion of brows and mouth corners, in coefficient units."""
SWAYING = (
    *("browInnerUp", "mouthSmileLeft", "mouthSmileRight", "mouthPressLeft", "mouthPressRight"),
    *("jawOpen", "eyeSquintLeft", "eyeSquintRight"),
)

_BLINK, _GLANCE, _SINES = 1, 2, 3  # streams of random numbers


@dataclass(frozen=True)
class IdleStatistics:
    """How a person moves when not asked to: their own figures, or the literature's."""

    blinks_per_s: float = 0.28
    """17 a minute at rest (Bentivoglio et al. 1997)."""
    blink_depth: float = 1.0
    """Coefficient of eyeBlink with the lids shut."""
    blink_s: float = 0.24
    """From open to open, seconds."""
    glance_s: float = 1.4
    """Mean time from one glance to the next, seconds."""
    head_rad: tuple[float, float, float] = (0.03, 0.022, 0.015)
    """One sigma of yaw, pitch and roll about the middle, radians."""
    gaze: Tensor | None = None
    """[M, 2] yaw and pitch of glances relative to rest, radians; None draws them from a normal
    distribution."""

    @staticmethod
    def of(states: HeadState, valid: Tensor, fps: float, rest: HeadState) -> IdleStatistics:
        """Measure a person's own captured motion.

        Args:
            states: a batch of F tracked states.
            valid: [F] bool, frames that show the face.
            fps: frames a second.
            rest: the single rest state.

        Returns:
            The person's figures; the literature's where fewer than two seconds are valid.
        """
        if int(valid.sum()) < 2 * fps:
            return IdleStatistics()
        usual = IdleStatistics()
        filled = interpolated(states, valid.bool())
        lids = filled.expression[:, [ARKIT_INDEX[name] for name in BLINKS]].mean(1)
        count, depth = _blinks(lids, fps)
        seconds = len(states) / fps
        low, high = SHUT_RATE
        # Few blinks in a short clip say little: the usual rate counts as half a minute of watching.
        rate = (count + 30 * usual.blinks_per_s) / (seconds + 30)
        R = rest.T_world_head[:3, :3].T @ filled.T_world_head[:, :3, :3]
        spread = head_angles(R).std(0)
        gaze = (filled.gaze - rest.gaze).mean(1)
        gaze = gaze - gaze.median(0).values
        limit = gaze.new_tensor(MOST_GAZE_RAD)
        return IdleStatistics(
            blinks_per_s=min(max(rate, low), high),
            blink_depth=depth if count else usual.blink_depth,
            head_rad=(
                min(HEAD_SHARE * float(spread[0]), MOST_HEAD_RAD[0]),
                min(HEAD_SHARE * float(spread[1]), MOST_HEAD_RAD[1]),
                min(HEAD_SHARE * float(spread[2]), MOST_HEAD_RAD[2]),
            ),
            gaze=(GAZE_SHARE * gaze).clamp(-limit, limit),
        )


class IdleDriver:
    """A ``Driver`` that idles without end, and a function of time (``state_at``)."""

    def __init__(
        self,
        rest: HeadState,
        fps: float = 25.0,
        *,
        seed: int = 0,
        statistics: IdleStatistics | None = None,
    ) -> None:
        """Prepare.

        Args:
            rest: the single state about which to idle: the avatar's at rest.
            fps: states a second of ``states``.
            seed: another seed is another person's restlessness.
            statistics: how this person moves; the literature's figures where None.

        Raises:
            ValueError: fps is not positive.
        """
        if not fps > 0:
            raise ValueError(f"fps must be positive; got {fps}.")
        self._rest, self._fps, self._seed = rest, float(fps), int(seed)
        self.statistics = statistics or IdleStatistics()
        generator = np.random.default_rng([self._seed, _SINES, 0])
        # Seven signals of the head and torso, then one for each coefficient that sways.
        signals = 7 + len(SWAYING)
        # Irregular by construction: random frequencies have no common period.
        self._hertz = generator.uniform(0.03, 0.35, (signals, 4))
        self._phase = generator.uniform(0, 2 * math.pi, (signals, 4))
        weights = 1 / self._hertz**0.7
        self._weights = weights / np.sqrt((weights**2).sum(1, keepdims=True) / 2)
        self._breath_phase = generator.uniform(0, 2 * math.pi, 3)
        self._event = lru_cache(maxsize=512)(self._draw_event)

    @staticmethod
    def of(avatar: Avatar, *, seed: int = 0, motion: HeadState | None = None) -> IdleDriver:
        """Return an idle driver for an avatar, moving as its captured motion (a batch) shows the person."""
        statistics = None
        if motion is not None:
            valid = torch.ones(len(motion), dtype=torch.bool)
            statistics = IdleStatistics.of(motion, valid, avatar.fps, avatar.rest)
        return IdleDriver(avatar.rest, avatar.fps, seed=seed, statistics=statistics)

    @property
    def fps(self) -> float:
        """States per second of ``states``."""
        return self._fps

    def states(self) -> Iterator[HeadState]:
        """Yield states without end."""
        frame = 0
        while True:
            yield self.state_at(frame / self._fps)
            frame += 1

    def state_at(self, t: float) -> HeadState:
        """Return the single state at time ``t``, seconds from the start.

        Raises:
            ValueError: t is negative or not finite.
        """
        if not (math.isfinite(t) and t >= 0):
            raise ValueError(f"time must be finite and not negative; got {t}.")
        rest, sway = self._rest, self._sway(t)
        breath = self._breath(t)
        like = rest.expression
        gaze = rest.gaze + like.new_tensor(self._gaze(t))
        expression = like.clone()
        named = expression[: len(ARKIT_NAMES)]
        named += look_weights(gaze) - look_weights(rest.gaze)
        for name, value in zip(SWAYING, sway[7:], strict=True):
            named[ARKIT_INDEX[name]] += FACE_SWAY * float(value)
        shut = self._shut(t)
        for name in BLINKS:
            index = ARKIT_INDEX[name]
            # From where the lid is at rest down to shut, whatever the gaze does with it.
            named[index] += shut * max(0.0, self.statistics.blink_depth - float(like[index]))
        # A mouth that is shut at rest stays shut; nothing leaves the range that it had.
        named.copy_(torch.maximum(named, like[: len(ARKIT_NAMES)].clamp(max=0.0)))
        angles = like.new_tensor(
            [s * float(v) for s, v in zip(self.statistics.head_rad, sway[:3], strict=True)]
        )
        angles[1] += 0.4 * BREATH_TORSO_RAD * breath
        T_head = turned_about_neck(rest.T_world_head, head_rotation(angles))
        T_torso = rest.T_world_torso.clone()
        lift = BREATH_M * breath
        drift = like.new_tensor([0.0015 * float(v) for v in sway[3:6]])
        T_torso[:3, 3] += drift * like.new_tensor([1.0, 0.3, 1.0])
        T_torso[1, 3] += lift
        turn = head_rotation(
            like.new_tensor([0.15 * float(angles[0]), BREATH_TORSO_RAD * breath, 0])
        )
        T_torso[:3, :3] = T_torso[:3, :3] @ turn
        # The head rides on the torso: it makes the same shift, a little less of the breath.
        T_head = T_head.clone()
        T_head[:3, 3] += drift * like.new_tensor([1.0, 0.3, 1.0])
        T_head[1, 3] += 0.7 * lift
        return HeadState(expression, gaze, T_head, T_torso)

    def _sway(self, t: float) -> np.ndarray:
        """Slow signals of about unit spread."""
        waves = np.sin(2 * math.pi * self._hertz * t + self._phase)
        return (self._weights * waves).sum(1) * 0.75

    def _breath(self, t: float) -> float:
        """Chest, -1 (out) to 1 (in): a rate that wanders, quicker in than out."""
        a, b, c = self._breath_phase
        wander = 0.9 * math.sin(2 * math.pi * 0.031 * t + b) + 0.6 * math.sin(
            2 * math.pi * 0.0173 * t + c
        )
        phase = 2 * math.pi * BREATHS_PER_S * t + a + wander
        return math.sin(phase + 0.35 * math.sin(phase))

    def _draw_event(self, stream: int, slot: int) -> tuple[float, float, float]:
        """Three numbers in [0, 1) of a slot of a stream; slots count from -1."""
        a, b, c = np.random.default_rng([self._seed, stream, slot + 1]).random(3)
        return float(a), float(b), float(c)

    def _shut(self, t: float) -> float:
        """How far the lids are shut by a blink, 0 to 1."""
        every = 1 / self.statistics.blinks_per_s
        slot, most = math.floor(t / every), 0.0
        for k in (slot - 1, slot):
            if k < 0:
                continue
            place, length, double = self._event(_BLINK, k)
            begin = (k + 0.85 * place) * every
            lasts = self.statistics.blink_s * (0.8 + 0.5 * length)
            most = max(most, _lid((t - begin) / lasts))
            if double > 0.9:  # now and then a second one follows at once
                most = max(most, 0.8 * _lid((t - begin - 1.3 * lasts) / lasts))
        return most

    def _gaze(self, t: float) -> tuple[float, float]:
        """Yaw and pitch of both eyes relative to rest: fixations, and saccades between them."""
        every = self.statistics.glance_s
        slot = math.floor(t / every)
        if t < (slot + 0.8 * self._event(_GLANCE, slot)[0]) * every:
            slot -= 1
        begin = (slot + 0.8 * self._event(_GLANCE, slot)[0]) * every
        before, after = self._target(slot - 1), self._target(slot)
        degrees = math.degrees(math.dist(before, after))
        # Saccades last 2.2 ms a degree and 21 ms (Carpenter 1988, the main sequence).
        share = min(1.0, max(0.0, (t - begin) / (0.021 + 0.0022 * degrees)))
        share = share * share * (3 - 2 * share)
        return (
            before[0] + share * (after[0] - before[0]),
            before[1] + share * (after[1] - before[1]),
        )

    def _target(self, slot: int) -> tuple[float, float]:
        """Where the eyes rest in a slot, yaw and pitch relative to rest."""
        if slot < 0:
            return 0.0, 0.0
        _, which, chance = self._event(_GLANCE, slot)
        if chance < 0.45:  # every other time back to whom one looks at
            return 0.02 * (which - 0.5), 0.02 * (chance - 0.2)
        seen = self.statistics.gaze
        if seen is not None and len(seen):
            yaw, pitch = seen[int(which * len(seen))].tolist()
            return yaw, pitch
        turn, reach = 2 * math.pi * which, math.sqrt(max(0.0, chance - 0.45)) * 0.22
        return reach * math.cos(turn), 0.5 * reach * math.sin(turn)


def _lid(phase: float) -> float:
    """How far a lid is down at a phase of the blink, 0 to 1 in and out."""
    if not 0 < phase < 1:
        return 0.0
    if phase < CLOSING_SHARE:
        return 0.5 - 0.5 * math.cos(math.pi * phase / CLOSING_SHARE)
    return 0.5 + 0.5 * math.cos(math.pi * (phase - CLOSING_SHARE) / (1 - CLOSING_SHARE))


def _blinks(lids: Tensor, fps: float) -> tuple[int, float]:
    """Return the number of blinks in a curve [F] of lid coefficients, and their median depth."""
    open_at = float(lids.median())
    threshold = open_at + 0.45 * max(float(lids.max()) - open_at, 0.4)
    shut = (lids > threshold).tolist()
    depths: list[float] = []
    first = None
    for frame, now in enumerate([*shut, False]):
        if now and first is None:
            first = frame
        elif not now and first is not None:
            if (frame - first) / fps <= LONGEST_BLINK_S:
                depths.append(float(lids[first:frame].max()))
            first = None
    # A clip at 25 frames/s rarely catches the moment in which the lid is lowest.
    depth = min(1.0, 1.1 * float(np.median(depths))) if depths else 1.0
    return len(depths), max(depth, 0.6)
