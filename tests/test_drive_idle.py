"""Idling: a pure function of time that blinks, breathes and looks about as its person does."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.drive.idle import BLINKS, IdleDriver, IdleStatistics, _blinks
from avatar.drive.motion import head_angles
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.types import Driver, HeadState

REST = HeadState(torch.zeros(54), torch.full((2, 2), 0.03), torch.eye(4), torch.eye(4))
LID = ARKIT_INDEX["eyeBlinkLeft"]


def lids(driver: IdleDriver, seconds: float, fps: float = 60.0) -> np.ndarray:
    return np.array(
        [float(driver.state_at(i / fps).expression[LID]) for i in range(int(seconds * fps))]
    )


def test_it_is_a_driver_whose_states_are_those_of_their_times():
    driver = IdleDriver(REST, 30.0, seed=3)
    assert isinstance(driver, Driver)
    for frame, state in enumerate(islice(driver.states(), 40)):
        again = driver.state_at(frame / 30.0)
        assert torch.equal(state.expression, again.expression)
        assert torch.equal(state.T_world_head, again.T_world_head)


@given(st.integers(0, 2**40), st.floats(0, 1e7))
@settings(max_examples=60, deadline=None)
def test_at_any_time_and_seed_the_state_is_sound(seed, t):
    state = IdleDriver(REST, seed=seed).state_at(t)
    for name in ("expression", "gaze", "T_world_head", "T_world_torso"):
        assert torch.isfinite(getattr(state, name)).all()
    assert float(state.expression.min()) >= 0
    assert float(state.expression.max()) <= 1.001
    for T in (state.T_world_head, state.T_world_torso):
        assert torch.allclose(T[:3, :3] @ T[:3, :3].T, torch.eye(3), atol=1e-4)
        assert float(T[:3, 3].norm()) < 0.03  # it idles, it does not walk about
    assert float(head_angles(state.T_world_head[:3, :3]).abs().max()) < 0.2


def test_the_order_of_questions_and_the_seed():
    driver = IdleDriver(REST, seed=1)
    times = [7.3, 0.0, 100.25, 7.31]
    first = [driver.state_at(t) for t in times]
    other = IdleDriver(REST, seed=1)
    for t, state in zip(reversed(times), reversed(first), strict=True):
        assert torch.equal(other.state_at(t).expression, state.expression)
        assert torch.equal(other.state_at(t).gaze, state.gaze)
    assert not torch.equal(
        IdleDriver(REST, seed=2).state_at(7.3).T_world_head, first[0].T_world_head
    )


@pytest.mark.parametrize("t", [-0.1, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(t):
    with pytest.raises(ValueError, match="finite and not negative"):
        IdleDriver(REST).state_at(t)
    with pytest.raises(ValueError, match="positive"):
        IdleDriver(REST, 0.0)


@pytest.mark.parametrize("rate", [pytest.param(0.15, marks=pytest.mark.slow), 0.4])
def test_blinks_come_at_the_persons_rate_at_uneven_times_and_close_the_eyes(rate):
    driver = IdleDriver(REST, seed=5, statistics=IdleStatistics(blinks_per_s=rate, blink_depth=0.9))
    curve = lids(driver, 90)
    shut = curve > 0.45
    begins = np.flatnonzero(shut[1:] & ~shut[:-1]) / 60.0
    assert 0.75 * rate * 90 < len(begins) < 1.4 * rate * 90
    gaps = np.diff(begins)
    assert gaps.std() > 0.15 * gaps.mean()
    assert 0.8 < curve.max() <= 0.91
    left, right = (ARKIT_INDEX[name] for name in BLINKS)
    state = driver.state_at(float(np.argmax(curve)) / 60.0)
    assert state.expression[left] == state.expression[right]


def test_it_does_not_loop():
    driver = IdleDriver(REST, seed=0)
    window = torch.stack([driver.state_at(i / 5).T_world_head[:3].flatten() for i in range(50)])
    for start in range(10, 240, 5):
        later = torch.stack(
            [driver.state_at(start + i / 5).T_world_head[:3].flatten() for i in range(50)]
        )
        assert float((later - window).abs().max()) > 2e-3


def test_eyes_fixate_and_jump_and_lids_follow():
    driver = IdleDriver(REST, seed=4)
    gaze = torch.stack([driver.state_at(i / 100).gaze[0] for i in range(3000)])
    speed = torch.linalg.norm(gaze.diff(dim=0), dim=1) * 100
    assert float((speed < 0.01).float().mean()) > 0.85  # mostly still
    assert float(speed.max()) > 1.0  # radians a second: a saccade
    moved = torch.linalg.norm(gaze - REST.gaze[0], dim=1)
    state = driver.state_at(float(moved.argmax()) / 100)
    look = [i for i, name in enumerate(ARKIT_NAMES) if name.startswith("eyeLook")]
    assert float(state.expression[look].max()) > 0.05


def test_a_persons_own_figures_are_measured():
    frames, fps = 500, 25.0
    expression = torch.zeros(frames, 54)
    for at in range(20, 500, 48):  # ten blinks in 20 s
        for name in BLINKS:
            expression[at : at + 4, ARKIT_INDEX[name]] = torch.tensor([0.4, 0.85, 0.8, 0.3])
    expression[300:340, [ARKIT_INDEX[name] for name in BLINKS]] = 0.9  # eyes shut on purpose
    gaze = torch.zeros(frames, 2, 2)
    gaze[::2, :, 0] = 0.2
    states = HeadState(
        expression, gaze, torch.eye(4).expand(frames, 4, 4), torch.eye(4).expand(frames, 4, 4)
    )
    rest = replace(REST, gaze=torch.zeros(2, 2))
    measured = IdleStatistics.of(states, torch.ones(frames, dtype=torch.bool), fps, rest)
    assert 0.3 < measured.blinks_per_s < 0.5
    assert 0.85 < measured.blink_depth < 1.0
    assert measured.head_rad == (0.0, 0.0, 0.0)
    assert measured.gaze is not None
    assert measured.gaze.shape == (frames, 2)
    assert (
        IdleStatistics.of(states, torch.zeros(frames, dtype=torch.bool), fps, rest)
        == IdleStatistics()
    )
    # A head that never moved in the clip does not move when idle, but for breath.
    driver = IdleDriver(rest, fps, statistics=measured)
    turns = torch.stack([driver.state_at(i / 3).T_world_head[:3, :3] for i in range(60)])
    assert float(head_angles(turns).abs().max()) < 0.006


def test_blinks_in_a_curve_without_any():
    assert _blinks(torch.full((100,), 0.2), 25.0)[0] == 0


def test_it_poses_an_avatar(tiny_avatar):
    driver = IdleDriver.of(tiny_avatar, seed=1)
    with torch.no_grad():
        one, two = (tiny_avatar.pose(driver.state_at(t)).means for t in (0.0, 1.7))
    assert torch.isfinite(one).all()
    assert float((one - two).abs().max()) > 1e-4
