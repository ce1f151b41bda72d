"""Facial motion over time, independent of any avatar: ARKit coefficients, head turn, gaze.

What files and live senders of ARKit data carry. Angles follow the project's conventions: yaw to the
subject's left, pitch up, roll towards the subject's right shoulder, radians.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar.checks import check
from avatar.rig.arkit import ARKIT_INDEX
from avatar.rotations import (
    head_angles,
    head_rotation,
    rigid,
)
from avatar.types import HeadState

ARKIT_COUNT = len(ARKIT_INDEX)

GAZE_AT_FULL_LOOK = (0.60, 0.52)
"""Yaw and pitch in radians of an eye whose eyeLook coefficient is 1. Apple documents none;
regression of the eye angles on the coefficients of six Live Link Face recordings (15 000 frames,
correlation above 0.99) gives 0.59 to 0.62 sideways and 0.47 to 0.56 up and down."""

NECK_PIVOT = (0.0, -0.07, -0.02)
"""[3] metres, head frame: the point about which a head turns where only its rotation is known,
about the middle of the cervical spine, below and a little behind the ears."""


@dataclass(frozen=True)
class FaceMotion:
    """One person's facial motion, sampled at increasing times."""

    time_s: Tensor
    """[F] float64 seconds, strictly increasing, starting at 0."""
    weights: Tensor
    """[F, 52] ARKit coefficients in ``ARKIT_NAMES`` order, nominally in [0, 1]."""
    head: Tensor | None = None
    """[F, 3] yaw, pitch, roll of the head relative to facing straight ahead; None if unknown."""
    gaze: Tensor | None = None
    """[F, 2, 2] as in ``HeadState``, relative to looking straight ahead; None if unknown."""

    def __post_init__(self) -> None:
        sizes = check("time_s", self.time_s, "F")
        check("weights", self.weights, f"F {ARKIT_COUNT}", sizes)
        if self.head is not None:
            check("head", self.head, "F 3", sizes)
        if self.gaze is not None:
            check("gaze", self.gaze, "F 2 2", sizes)
        if len(self.time_s) == 0 or bool((self.time_s.diff() <= 0).any()):
            raise ValueError("time_s must hold at least one time and be strictly increasing.")

    def __len__(self) -> int:
        return self.time_s.shape[0]

    def resampled(self, fps: float) -> FaceMotion:
        """Return the motion at 0, 1 / fps, 2 / fps ... up to its last sample, linear in between."""
        duration = float(self.time_s[-1])
        # The tolerance keeps the last frame of a file that was written at this very rate.
        time = np.arange(int(duration * fps + 1e-4) + 1) / fps
        known = self.time_s.numpy()

        def at(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            flat = values.reshape(len(known), -1).numpy()
            columns = [np.interp(time, known, column) for column in flat.T]
            return (
                torch.from_numpy(np.stack(columns, -1))
                .to(values.dtype)
                .reshape(-1, *values.shape[1:])
            )

        weights = at(self.weights)
        assert weights is not None
        return FaceMotion(torch.from_numpy(time), weights, at(self.head), at(self.gaze))


def gaze_from_weights(weights: Tensor) -> Tensor:
    """Return the gaze [..., 2, 2] in radians that the eyeLook coefficients of [..., 52] mean."""
    yaw, pitch = GAZE_AT_FULL_LOOK

    def w(name: str) -> Tensor:
        return weights[..., ARKIT_INDEX[name]]

    left = torch.stack(
        [
            yaw * (w("eyeLookOutLeft") - w("eyeLookInLeft")),
            pitch * (w("eyeLookUpLeft") - w("eyeLookDownLeft")),
        ],
        -1,
    )
    right = torch.stack(
        [
            yaw * (w("eyeLookInRight") - w("eyeLookOutRight")),
            pitch * (w("eyeLookUpRight") - w("eyeLookDownRight")),
        ],
        -1,
    )
    return torch.stack([left, right], -2)


def turned_about_neck(T_world_head: Tensor, R: Tensor) -> Tensor:
    """Return T_world_head [4, 4] turned by R [..., 3, 3] about the neck: poses [..., 4, 4]."""
    pivot = torch.tensor(NECK_PIVOT, dtype=R.dtype, device=R.device)
    return T_world_head @ rigid(R, pivot - R @ pivot)


def motion_states(motion: FaceMotion, rest: HeadState, fps: float) -> HeadState:
    """Return the states of a person at ``rest`` who moves like ``motion``, at ``fps``, as a batch.

    Coefficients are taken as they are; the person's own residual shapes stay at 0. The head turns
    about the neck from its pose at rest and the torso stays. Gaze is relative to the gaze at rest,
    as the direction in which a person's irises lie when they look straight ahead differs among
    people; where the motion has no eye angles, the eyeLook coefficients give them.

    Args:
        motion: the motion at its own times.
        rest: the single rest state of the avatar, E coefficients.
        fps: states a second of the result.
    """
    motion = motion.resampled(fps)
    frames, dtype = len(motion), rest.T_world_head.dtype
    weights = motion.weights.to(dtype)
    expression = torch.zeros(frames, rest.expression.shape[-1], dtype=dtype)
    expression[:, :ARKIT_COUNT] = weights
    angles = torch.zeros(frames, 3, dtype=dtype) if motion.head is None else motion.head.to(dtype)
    gaze = gaze_from_weights(weights) if motion.gaze is None else motion.gaze.to(dtype)
    return HeadState(
        expression,
        rest.gaze + gaze,
        turned_about_neck(rest.T_world_head, head_rotation(angles)),
        rest.T_world_torso.expand(frames, 4, 4),
    )


class BatchDriver:
    """A ``Driver`` that plays a batch of states."""

    def __init__(self, batch: HeadState, fps: float) -> None:
        """Take the states and how many of them play a second."""
        self.batch, self.fps = batch, fps

    def __len__(self) -> int:
        return len(self.batch)

    def states(self) -> Iterator[HeadState]:
        """Yield one state a frame."""
        return iter(self.batch)


def motion_from_states(states: HeadState, rest: HeadState, fps: float) -> FaceMotion:
    """Return a batch of states as motion relative to ``rest``, less translation and residuals."""
    R = rest.T_world_head[:3, :3].T @ states.T_world_head[:, :3, :3]
    return FaceMotion(
        time_s=torch.arange(len(states), dtype=torch.float64) / fps,
        weights=states.expression[:, :ARKIT_COUNT].double(),
        head=head_angles(R).double(),
        gaze=(states.gaze - rest.gaze).double(),
    )


def interpolated(states: HeadState, known: Tensor) -> HeadState:
    """Return the batch with every frame that is not ``known`` filled in from its known neighbours.

    Coefficients, gaze and positions are linear in time, rotations turn at constant speed; before
    the first and behind the last known frame the state is held.

    Args:
        states: a batch of F states.
        known: [F] bool, at least one true.

    Raises:
        ValueError: no frame is known.
    """
    index = torch.nonzero(known.cpu())[:, 0]
    if len(index) == 0:
        raise ValueError("interpolation needs at least one known frame.")
    if len(index) == len(states):
        return states
    frame = torch.arange(len(states))
    after = torch.searchsorted(index, frame).clamp(max=len(index) - 1)
    before = (torch.searchsorted(index, frame, right=True) - 1).clamp(min=0)
    a, b = index[before], index[after]
    dtype = states.expression.dtype
    share = ((frame - a).to(dtype) / (b - a).clamp(min=1).to(dtype)).clamp(0, 1)
    return states.between(a, b, share)
