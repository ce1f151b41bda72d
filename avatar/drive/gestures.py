"""Movements that are laid over idling: nods, shakes, glances, and what a head does while it speaks.

All are written as curves on the frames of a clip, drawn by a seed and never looped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from avatar.drive.idle import IdleDriver
from avatar.drive.motion import ARKIT_COUNT, FaceMotion, head_rotation, turned_about_neck
from avatar.drive.stage_directions import LOOKS
from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.gaze import look_weights
from avatar.types import HeadState

NOD_RAD, NOD_S = math.radians(6.5), 0.75
SHAKE_RAD, SHAKE_S = math.radians(6.5), 1.1
TILT_RAD, TILT_S = math.radians(6.0), 1.6
BROWS_S, BLINK_S, WINK_S = 0.9, 0.22, 0.45
FURTHEST_GLANCE = (0.38, 0.24)
"""Yaw and pitch of a glance at amount 1, radians."""
HEAD_FOLLOWS = 0.30
"""Share of a glance that the head turns along."""
GLANCE_S, HEAD_TURN_S = 0.07, 0.45
GAZE_HOLD = 0.92
"""How much of the idle glances a directed look suppresses: eyes that are held quite still look dead."""

ACCENT_GAP_S = 0.30
ACCENT_NOD_RAD = (math.radians(0.8), math.radians(2.6))
"""Pitch of the beat that goes with a stressed syllable. Speakers' heads move about a degree or two with
the accents (Hadar et al. 1983; Munhall et al. 2004, who show that it helps to be understood)."""
ACCENT_S = 0.36
DRIFT_RAD = (math.radians(3.2), math.radians(1.6))
"""One sigma of the yaw and roll to which a speaker turns from phrase to phrase."""


@dataclass
class Curves:
    """Movement on the frames of a clip, 0 where nothing is done; functions here add to it."""

    fps: float
    weights: np.ndarray
    """[F, 52] coefficients to add."""
    head: np.ndarray
    """[F, 3] yaw, pitch, roll to add, radians."""
    gaze: np.ndarray
    """[F, 2] yaw and pitch of both eyes relative to rest, radians."""
    hold: np.ndarray
    """[F] share of the idle gaze that ``gaze`` replaces."""
    shut: np.ndarray
    """[F, 2] how far the lids of the left and the right eye are down, 0 to 1."""

    @staticmethod
    def still(frames: int, fps: float) -> Curves:
        """Return no movement."""
        return Curves(
            fps,
            np.zeros((frames, ARKIT_COUNT)),
            np.zeros((frames, 3)),
            np.zeros((frames, 2)),
            np.zeros(frames),
            np.zeros((frames, 2)),
        )

    def __len__(self) -> int:
        return len(self.head)

    @property
    def time_s(self) -> np.ndarray:
        """[F] seconds."""
        return np.arange(len(self)) / self.fps

    def add(self, name: str, at_s: float, amount: float = 1.0, side: str = "") -> None:
        """Add a gesture of ``stage_directions.GESTURES``, or raises KeyError."""
        t = self.time_s - at_s
        if name == "nod":
            self.head[:, 1] -= amount * NOD_RAD * _swing(t / NOD_S, 1.0)
        elif name == "shake":
            self.head[:, 0] += amount * SHAKE_RAD * _swing(t / SHAKE_S, 2.0)
        elif name == "tilt":
            sign = -1.0 if side == "left" else 1.0
            self.head[:, 2] += sign * amount * TILT_RAD * _bump(t / TILT_S)
        elif name == "brows":
            for brow, share in (
                ("browInnerUp", 0.45),
                ("browOuterUpLeft", 0.6),
                ("browOuterUpRight", 0.6),
            ):
                self.weights[:, ARKIT_INDEX[brow]] += share * amount * _bump(t / BROWS_S)
        elif name in ("blink", "wink"):
            length = BLINK_S if name == "blink" else WINK_S
            eyes = [0, 1] if name == "blink" else [0] if side == "left" else [1]
            for eye in eyes:
                self.shut[:, eye] = np.maximum(self.shut[:, eye], amount * _bump(t / length))
            if name == "wink":
                cheek = ARKIT_INDEX[f"cheekSquint{side.capitalize() or 'Left'}"]
                self.weights[:, cheek] += 0.35 * amount * _bump(t / length)
        else:
            raise KeyError(name)

    def look(self, at_s: float, where: str, amount: float = 1.0) -> None:
        """Turn the eyes, and the head a little, to a place of ``LOOKS`` from a time on."""
        yaw, pitch = LOOKS[where]
        target = np.array([amount * yaw * FURTHEST_GLANCE[0], amount * pitch * FURTHEST_GLANCE[1]])
        t = self.time_s
        eyes = _ramp((t - at_s) / GLANCE_S)[:, None]
        before = self.gaze.copy()
        self.gaze += eyes * (target - before)
        self.hold = np.maximum(self.hold, GAZE_HOLD * eyes[:, 0])
        head = _ramp((t - at_s) / HEAD_TURN_S)[:, None]
        # Of what the eyes were turned to before, the head had its share too.
        self.head[:, :2] += HEAD_FOLLOWS * head * (target - before)


def speaking(
    curves: Curves, level: np.ndarray, accents: Sequence[float], generator: np.random.Generator
) -> None:
    """Add what a head does while its person speaks: beats with the accents, turns from phrase to phrase.

    Args:
        curves: to add to, F frames.
        level: [F] loudness of the voice from 0 to 1.
        accents: times of stressed syllables, seconds.
        generator: of all randomness.
    """
    if not len(curves):
        return
    t, fps = curves.time_s, curves.fps
    smooth = gaussian_filter1d(level, 0.10 * fps, mode="constant")
    active = np.clip(
        gaussian_filter1d((level > 0.25).astype(float), 0.35 * fps, mode="constant"), 0, 1
    )
    # A louder voice comes with a head that is raised.
    curves.head[:, 1] += math.radians(1.1) * (smooth - 0.45 * active)
    last, place = -math.inf, np.zeros(2)
    low, high = ACCENT_NOD_RAD
    for at in sorted(accents):
        chance, size, brow, turn = generator.random(4)
        step = generator.normal(size=2)
        if at - last < ACCENT_GAP_S or chance > 0.8:
            continue
        here = float(np.interp(at, t, smooth))
        beat = _bump((t - at + 0.3 * ACCENT_S) / ACCENT_S)
        curves.head[:, 1] -= (low + size * (high - low)) * (0.4 + 0.9 * here) * beat
        if brow > 0.6:
            for name, share in (
                ("browInnerUp", 0.10),
                ("browOuterUpLeft", 0.14),
                ("browOuterUpRight", 0.14),
            ):
                curves.weights[:, ARKIT_INDEX[name]] += share * (0.5 + size) * beat
        if turn > 0.45:
            target = 0.35 * place + step * DRIFT_RAD
            share = _ramp((t - at + 0.1) / (0.45 + 0.3 * size))[:, None]
            curves.head[:, [0, 2]] += share * (target - place) * active[:, None]
            place = target
        last = at


def loudness(samples: np.ndarray, rate: int, fps: float, frames: int) -> np.ndarray:
    """Return the loudness of a voice at each frame, [F] from 0 (40 dB below its loud parts) to 1."""
    hop = max(1, rate // 100)
    count = len(samples) // hop
    if count == 0:
        return np.zeros(frames)
    blocks = samples[: count * hop].reshape(count, hop).astype(np.float64)
    rms = np.sqrt((blocks**2).mean(1))
    loud = float(np.quantile(rms, 0.95))
    if loud < 1e-5:  # silence has no loud parts to compare with
        return np.zeros(frames)
    decibel = 20 * np.log10(np.maximum(rms, 1e-7) / loud)
    level = gaussian_filter1d(np.clip((decibel + 40) / 40, 0, 1), 2.0)
    centres = (np.arange(count) + 0.5) * hop / rate
    return np.interp(np.arange(frames) / fps, centres, level, left=0.0, right=0.0)


def peaks_of(level: np.ndarray, fps: float) -> list[float]:
    """Return the times of the loud syllables, seconds: accents where the voice's stress is not known."""
    smooth = gaussian_filter1d(level, 0.05 * fps)
    middle = smooth[1:-1]
    top = (middle >= smooth[:-2]) & (middle > smooth[2:]) & (middle > 0.6)
    return [float(k + 1) / fps for k in np.flatnonzero(top)]


def idled(idle: IdleDriver, frames: int, fps: float) -> HeadState:
    """Return the idle states [F] at the frames of a clip."""
    states = [idle.state_at(frame / fps) for frame in range(frames)]
    return HeadState(
        torch.stack([state.expression for state in states]),
        torch.stack([state.gaze for state in states]),
        torch.stack([state.T_world_head for state in states]),
        torch.stack([state.T_world_torso for state in states]),
    )


def overlaid(states: HeadState, curves: Curves, rest: HeadState) -> HeadState:
    """Lay movement over idle states [F]; coefficients are added and not limited."""
    motion = FaceMotion(
        torch.arange(len(curves), dtype=torch.float64) / curves.fps,
        torch.from_numpy(curves.weights),
        torch.from_numpy(curves.head),
    )
    assert motion.head is not None
    expression = states.expression.clone()
    expression[:, :ARKIT_COUNT] += motion.weights.to(expression)
    hold = torch.from_numpy(curves.hold).to(expression)[:, None, None]
    target = rest.gaze + torch.from_numpy(curves.gaze).to(expression)[:, None, :]
    gaze = torch.lerp(states.gaze, target.expand_as(states.gaze), hold.expand_as(states.gaze))
    # Lids go with the eyes: what idling looked at is taken back, what is looked at now put in.
    looks = torch.stack([look_weights(g) for g in gaze]) - torch.stack(
        [look_weights(g) for g in states.gaze]
    )
    expression[:, :ARKIT_COUNT] += looks.to(expression)
    _shut_lids(expression, torch.from_numpy(curves.shut).to(expression))
    turns = head_rotation(motion.head.to(expression))
    T = torch.stack(
        [turned_about_neck(pose, R) for pose, R in zip(states.T_world_head, turns, strict=True)]
    )
    return HeadState(expression, gaze, T, states.T_world_torso)


def _shut_lids(expression: Tensor, shut: Tensor) -> None:
    """Bring blinks [F, 2] into coefficients, in place."""
    for eye, side in enumerate(("Left", "Right")):
        index = ARKIT_INDEX[f"eyeBlink{side}"]
        expression[:, index] = torch.maximum(expression[:, index], shut[:, eye])


def _ramp(x: np.ndarray) -> np.ndarray:
    """Raised cosine from 0 (x <= 0) to 1 (x >= 1)."""
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(x, 0, 1))


def _bump(x: np.ndarray) -> np.ndarray:
    """Raised cosine from 0 up to 1 and down again between x = 0 and 1."""
    return np.where((x > 0) & (x < 1), 0.5 - 0.5 * np.cos(2 * np.pi * np.clip(x, 0, 1)), 0.0)


def _swing(x: np.ndarray, cycles: float) -> np.ndarray:
    """A swing that begins and ends at rest: sine under a raised cosine, 1.5 cycles for a nod of one."""
    return _bump(x) * np.sin(2 * np.pi * (cycles + 0.25) * np.clip(x, 0, 1))
