"""Listening: reactions to pauses and low pitch where the rule puts them, none to silence, mirrored feeling."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_say import write_wav

from avatar.capture_data import Track
from avatar.checks import InputError
from avatar.cli_say import listen
from avatar.drive.listening import (
    FEEDBACK_GAP_S,
    HOP_S,
    LOW_PITCH_S,
    PAUSE_RESPONSE_S,
    PAUSE_S,
    RESPONSE_S,
    SPEECH_BEFORE_S,
    Voice,
    backchannels,
    heard,
    listening_states,
    mirrored,
)
from avatar.drive.motion import head_angles
from avatar.rig.arkit import ARKIT_INDEX

RATE = 16_000


def voice(*parts: tuple[float, float], rate: int = RATE) -> np.ndarray:
    """Harmonic sound of (seconds, pitch in Hz); pitch 0 is silence."""
    phase, sound = 0.0, []
    for seconds, hertz in parts:
        t = np.arange(round(seconds * rate)) / rate
        turns = phase + 2 * np.pi * hertz * t
        wave = sum(np.sin(k * turns) / k for k in range(1, 8)) if hertz else np.zeros(len(t))
        phase += 2 * np.pi * hertz * seconds
        sound.append(0.2 * wave)
    return np.concatenate(sound)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
def test_pitch_and_pauses_are_heard(rate: int) -> None:
    found = heard(voice((1.0, 120.0), (0.6, 0), (1.0, 230.0), rate=rate), rate)
    time = np.arange(len(found.speaks)) * HOP_S + 0.02
    low, high = (
        found.pitch_hz[(time > 0.1) & (time < 0.9)],
        found.pitch_hz[(time > 1.7) & (time < 2.5)],
    )
    assert np.median(low) == pytest.approx(120, rel=0.03)
    assert np.median(high) == pytest.approx(230, rel=0.04)
    assert found.speaks[(time > 0.1) & (time < 0.9)].all()
    assert not found.speaks[(time > 1.2) & (time < 1.5)].any()


def lively(count: int) -> np.ndarray:
    """A pitch that is low often, but never for long."""
    return np.where(np.arange(count) % 4 == 0, 150.0, 220.0)


def test_low_pitch_after_speech_is_answered_seven_tenths_later() -> None:
    pitch = np.r_[lively(200), np.full(30, 140.0), lively(70)]
    (cue,) = backchannels(Voice(np.ones(300, bool), pitch))
    assert cue.cue == "pitch"
    assert cue.time_s == pytest.approx(2.0 + LOW_PITCH_S + RESPONSE_S, abs=0.02)


def test_low_pitch_is_not_answered_when_too_short_or_too_early() -> None:
    short = np.r_[lively(200), np.full(8, 140.0), lively(92)]
    assert not backchannels(Voice(np.ones(300, bool), short))
    speaks = np.r_[np.zeros(100, bool), np.ones(round(SPEECH_BEFORE_S / HOP_S) - 5, bool)]
    early = np.r_[np.zeros(100), np.full(len(speaks) - 100, 140.0)]
    assert not backchannels(Voice(speaks, early))


def test_a_pause_after_long_speech_is_answered() -> None:
    rising = np.linspace(120, 240, 250)
    speaks = np.r_[np.ones(250, bool), np.zeros(100, bool)]
    # Pitch only rises, so it is low at the beginning alone, before anybody has said enough.
    cues = backchannels(Voice(speaks, np.r_[rising, np.zeros(100)]))
    assert cues[-1].cue == "pause"
    assert cues[-1].time_s == pytest.approx(2.5 + PAUSE_S + PAUSE_RESPONSE_S, abs=0.03)


@pytest.mark.parametrize(
    "samples", [np.zeros(0), np.zeros(10), np.zeros(5 * RATE), 1e-5 * np.ones(RATE), np.ones(RATE)]
)
def test_silence_and_direct_current_say_nothing(samples: np.ndarray, tiny_avatar) -> None:
    assert not backchannels(heard(samples, RATE))
    states, cues = listening_states(samples, RATE, tiny_avatar)
    assert not cues
    assert len(states) >= 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.01, 1.5), st.sampled_from([0.0, 90.0, 150.0, 300.0])), max_size=8
    ),
    st.floats(0, 1),
)
def test_any_sound_is_answered_at_most_every_so_often(parts: list, noise: float) -> None:
    sound = voice(*parts) if parts else np.zeros(0)
    sound = sound + 0.1 * noise * np.random.default_rng(0).normal(size=len(sound))
    times = [cue.time_s for cue in backchannels(heard(sound, RATE))]
    assert all(
        after - before >= FEEDBACK_GAP_S - 1e-6 for before, after in itertools.pairwise(times)
    )


def test_the_head_nods_at_cues_and_the_mouth_is_silent(tiny_avatar) -> None:
    sound = voice(*[(1.6, 210.0), (0.5, 110.0), (0.8, 0.0)] * 4)
    states, cues = listening_states(sound, RATE, tiny_avatar, seed=3)
    assert len(cues) >= 4
    pitch = head_angles(states.T_world_head[:, :3, :3])[:, 1]
    near = torch.zeros(len(states), dtype=torch.bool)
    for cue in cues:
        k = round(cue.time_s * tiny_avatar.fps)
        near[k : k + 20] = True
    speed = pitch.diff().abs()
    assert float(speed[near[1:]].mean()) > 2 * float(speed[~near[1:]].mean())
    assert float(states.expression[:, ARKIT_INDEX["jawOpen"]].max()) < 0.15
    again, _ = listening_states(sound, RATE, tiny_avatar, seed=3)
    other, _ = listening_states(sound, RATE, tiny_avatar, seed=4)
    assert torch.equal(again.T_world_head, states.T_world_head)
    assert not torch.equal(other.T_world_head, states.T_world_head)


def test_a_smile_is_mirrored_later_and_softer(tiny_avatar) -> None:
    smile = [ARKIT_INDEX["mouthSmileLeft"], ARKIT_INDEX["mouthSmileRight"]]
    frames, fps = 240, 30.0
    begin = frames // 2
    expression = torch.zeros(frames, 54)
    expression[begin:, smile] = 0.8
    expression[begin:, ARKIT_INDEX["jawOpen"]] = 0.8
    eye = torch.eye(4).expand(frames, 4, 4)
    track = Track(
        K=tiny_avatar.camera.K[None],
        T_cam_world=tiny_avatar.camera.T_cam_world[None],
        lattice=tiny_avatar.lattice,
        basis=tiny_avatar.basis,
        eyeballs=tiny_avatar.eyeballs,
        expression=expression,
        gaze=torch.zeros(frames, 2, 2),
        T_world_head=eye,
        T_world_torso=eye,
        landmarks_px=torch.zeros(frames, 478, 2),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
        expression_names=tiny_avatar.expression_names,
        rig="lattice",
        fps=fps,
    )
    frames = 200
    felt = mirrored(track, 25.0, frames)
    first = round(begin * 25.0 / fps)
    assert float(felt[: first // 2, smile].abs().max()) < 0.05
    assert 0.25 < float(felt[-1, smile].min()) < 0.5
    assert not bool(felt[:, ARKIT_INDEX["jawOpen"]].any())
    states, _ = listening_states(np.zeros(frames * RATE // 25), RATE, tiny_avatar, mirror=track)
    seen = states.expression[:, smile].mean(1)
    assert float(seen[-5:].mean()) > float(seen[:5].mean()) + 0.15


def test_the_command_writes_the_listener_with_the_speakers_sound(
    tmp_path: Path, tiny_avatar
) -> None:
    tiny_avatar.save(tmp_path / "me.avatar")
    sound = write_wav(tmp_path / "other.wav", voice((1.2, 200.0), (0.4, 100.0)))
    listen(tmp_path / "me.avatar", sound, output=tmp_path / "o.mp4", size=(64, 64))
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert container.streams.audio
        assert container.streams.video[0].frames == 40
    with pytest.raises(InputError, match="does not exist"):
        listen(tmp_path / "me.avatar", tmp_path / "none.wav", output=tmp_path / "p.mp4")
