"""The core of live driving: pure arithmetic on samples and times, no sockets, no clocks."""

from __future__ import annotations

import json
import math
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_avatar

from avatar.checks import InputError
from avatar.drive.live import FaceSample, LiveConfig, StreamDriver
from avatar.drive.motion import head_angles
from avatar.drive.one_euro import OneEuro, OneEuroConfig
from avatar.drive.replay import Recorder, read_recording, replay
from avatar.drive.retarget import Reach, RetargetConfig, softly_limited
from avatar.drive.source import ArkitFileDriver, open_source
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_INDEX
from avatar.types import HeadState

JAW, BLINK = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["eyeBlinkLeft"]
RATE = 60.0
AS_IT_IS = LiveConfig(calibrate_s=0.0, return_s=1e-6)


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return make_avatar()


def sample(
    time_s: float | None = None, sender: str = "a", head: tuple | None = None, **weights: float
) -> FaceSample:
    values = np.zeros(52)
    for name, value in weights.items():
        values[ARKIT_INDEX[name]] = value
    return FaceSample(values, None if head is None else np.array(head), None, time_s, sender)


def feed(stream: StreamDriver, start: float, seconds: float, **weights: float) -> float:
    """Send the same face at 60 a second; return the time of the last sample."""
    now = start
    for k in range(round(seconds * RATE)):
        now = start + k / RATE
        stream.push(sample(now, **weights), now)
    return now


def jaw(state: HeadState) -> float:
    return float(state.expression[JAW])


def yaw(state: HeadState, avatar: Avatar) -> float:
    R = avatar.rest.T_world_head[:3, :3].T @ state.T_world_head[:3, :3]
    return float(head_angles(R)[0])


def test_the_filter_trails_a_ramp_by_its_stated_lag() -> None:
    config = OneEuroConfig(3.0, 4.0)
    for speed in (0.5, 2.0, 10.0):
        step, euro, value = 1e-3, OneEuro(config), 0.0
        for k in range(4000):
            value = float(euro.add(np.array([speed * k * step]), step)[0])
        assert (speed * 3999 * step - value) / speed == pytest.approx(config.lag_s(speed), rel=0.05)


def test_the_filter_calms_a_still_face() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, (600, 1))
    euro = OneEuro(OneEuroConfig(3.0, 4.0))
    out = np.array([euro.add(value, 1 / RATE) for value in noise])
    assert out[60:].std() < 0.6 * noise.std()


def test_the_avatar_rests_before_anything_came(avatar: Avatar) -> None:
    state = StreamDriver(avatar).state(12.0)
    assert torch.equal(state.expression, avatar.rest.expression)
    assert torch.equal(state.T_world_head, avatar.rest.T_world_head)


def test_a_stream_is_followed(avatar: Avatar) -> None:
    stream = StreamDriver(avatar, AS_IT_IS)
    now = feed(stream, 100.0, 1.0, jawOpen=0.6)
    assert jaw(stream.state(now)) == pytest.approx(0.6, abs=0.01)
    assert torch.isfinite(avatar.pose(stream.state(now)).means).all()


def test_the_first_second_is_the_neutral(avatar: Avatar) -> None:
    stream = StreamDriver(avatar)
    for k in range(90):
        now = k / RATE
        stream.push(sample(now, head=(0.3, -0.1, 0.05), jawOpen=0.1, browInnerUp=0.2), now)
    state = stream.state(now)
    assert jaw(state) == pytest.approx(0, abs=0.02)
    assert yaw(state, avatar) == pytest.approx(0, abs=0.01)
    for k in range(90, 180):
        now = k / RATE
        stream.push(sample(now, head=(0.5, -0.1, 0.05), jawOpen=1.0, browInnerUp=0.2), now)
    state = stream.state(now)
    assert yaw(state, avatar) == pytest.approx(0.2, abs=0.01)
    assert jaw(state) == pytest.approx(1.0, abs=0.02)  # what is fully open stays so


def test_who_speaks_while_calibrating_can_still_close_the_mouth(avatar: Avatar) -> None:
    stream = StreamDriver(avatar)
    feed(stream, 0.0, 1.5, jawOpen=0.9)
    assert jaw(stream.state(1.5)) > 0.6
    now = feed(stream, 1.5, 1.0)
    assert jaw(stream.state(now)) == pytest.approx(0, abs=0.01)


def test_a_lost_stream_is_held_then_relaxes_then_returns(avatar: Avatar) -> None:
    config = replace(AS_IT_IS, return_s=0.3)
    stream = StreamDriver(avatar, config)
    now = feed(stream, 0.0, 1.0, jawOpen=0.6)
    assert jaw(stream.state(now + 0.3)) == pytest.approx(0.6, abs=0.02)
    values = [jaw(stream.state(now + t)) for t in np.arange(0.0, 2.0, 1 / RATE)]
    assert values[-1] == 0
    assert max(abs(np.diff(values))) < 0.05  # no jump
    assert "lost" in stream.note(now + 2)
    back = now + 3.0
    returned = []
    for k in range(40):
        stream.push(sample(back + k / RATE, jawOpen=0.6), back + k / RATE)
        returned.append(jaw(stream.state(back + k / RATE)))
    assert returned[0] == pytest.approx(0, abs=0.02)
    assert returned[-1] == pytest.approx(0.6, abs=0.02)
    assert max(np.diff(returned)) < 0.1
    assert stream.events["returns"] == 1


def test_states_lie_between_samples_and_go_on_for_a_moment_only(avatar: Avatar) -> None:
    stream = StreamDriver(avatar, AS_IT_IS)
    for k in range(60):
        stream.push(sample(k / RATE, jawOpen=k / 100), k / RATE)
    now = 59 / RATE
    fine = [jaw(stream.state(now - 0.1 + t)) for t in np.arange(0, 0.1, 0.002)]
    assert (np.diff(fine) > 0).all()
    ahead = [jaw(stream.state(now + t)) for t in (0.05, 0.1, 0.3)]
    assert ahead[0] == ahead[1] == ahead[2]
    assert ahead[0] - jaw(stream.state(now)) < 0.03


def test_a_state_does_not_depend_on_who_asked_before(avatar: Avatar) -> None:
    asked, not_asked = StreamDriver(avatar), StreamDriver(avatar)
    for k in range(120):
        face = sample(k / RATE, jawOpen=0.3 + 0.3 * math.sin(k / 5))
        asked.push(face, k / RATE)
        asked.state(k / RATE + 0.01)
        asked.state(k / RATE + 7)
        not_asked.push(face, k / RATE)
    assert torch.equal(asked.state(2.0).expression, not_asked.state(2.0).expression)


def test_late_and_double_samples_are_dropped(avatar: Avatar) -> None:
    stream = StreamDriver(avatar, AS_IT_IS)
    assert stream.push(sample(1.00), 1.00)
    assert not stream.push(sample(1.00), 1.01)
    assert not stream.push(sample(0.98), 1.02)
    assert stream.push(sample(1.03), 1.03)
    assert stream.counts == {"accepted": 2, "late or twice": 2}
    assert stream.dropped == 2


@pytest.mark.parametrize("jump", [-3600.0, -2.0, 5.0, 86400.0])
def test_a_clock_that_is_set_anew_does_not_stop_the_face(avatar: Avatar, jump: float) -> None:
    stream = StreamDriver(avatar, AS_IT_IS)
    feed(stream, 0.0, 1.0, jawOpen=0.2)
    for k in range(60):
        stream.push(sample(1 + k / RATE + jump, jawOpen=0.8), 1 + k / RATE)
    assert jaw(stream.state(2.0)) == pytest.approx(0.8, abs=0.02)
    assert stream.events["clock jumps"] == 1
    assert stream.counts["accepted"] == 120


def test_a_clock_that_stands_still_is_not_believed(avatar: Avatar) -> None:
    stream = StreamDriver(avatar, AS_IT_IS)
    for k in range(120):
        stream.push(sample(7.0, jawOpen=0.5 * (k > 60)), k / RATE)
    assert jaw(stream.state(2.0)) == pytest.approx(0.5, abs=0.02)
    assert stream.counts["accepted"] > 100


def test_network_jitter_does_not_shake_the_face(avatar: Avatar) -> None:
    generator = np.random.default_rng(1)
    even, shaken = StreamDriver(avatar, AS_IT_IS), StreamDriver(avatar, AS_IT_IS)
    arrived, gaps = 0.0, []
    for k in range(240):
        face = sample(k / RATE, jawOpen=0.5 + 0.4 * math.sin(2 * math.pi * k / RATE))
        even.push(face, k / RATE)
        arrived = max(arrived + 1e-4, k / RATE + float(generator.exponential(0.01)))
        shaken.push(face, arrived)
        if k > 60:
            gaps.append(jaw(shaken.state(arrived)) - jaw(even.state(arrived)))
    assert np.abs(gaps).max() < 0.08


def test_two_senders_at_once_the_first_keeps_it(avatar: Avatar) -> None:
    stream = StreamDriver(avatar, AS_IT_IS)
    for k in range(60):
        stream.push(sample(k / RATE, "first", jawOpen=0.2), k / RATE)
        stream.push(sample(50 + k / RATE, "second", jawOpen=0.9), k / RATE)
    assert jaw(stream.state(1.0)) == pytest.approx(0.2, abs=0.02)
    assert stream.counts["from another sender"] == 60
    assert "60 from another sender" in stream.note(1.0)
    for k in range(60):
        stream.push(sample(60 + k / RATE, "second", jawOpen=0.9), 5 + k / RATE)
    assert jaw(stream.state(6.0)) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 55.0])
def test_what_is_no_number_never_reaches_the_face(avatar: Avatar, value: float) -> None:
    stream = StreamDriver(avatar, AS_IT_IS)
    feed(stream, 0.0, 0.5, jawOpen=0.4)
    assert not stream.push(sample(0.6, jawOpen=value), 0.6)
    assert not stream.push(sample(0.6, head=(value, 0, 0)), 0.6)
    if not math.isfinite(value):
        assert not stream.push(sample(value), 0.6)
    assert not stream.push(FaceSample(np.zeros(51)), 0.6)
    assert not stream.push(FaceSample(np.zeros(52), np.zeros(2)), 0.6)
    state = stream.state(0.6)
    assert torch.isfinite(state.expression).all()
    assert jaw(state) == pytest.approx(0.4, abs=0.02)
    assert stream.dropped >= 4


def test_any_sequence_gives_finite_smooth_states(avatar: Avatar) -> None:
    generator = np.random.default_rng(3)
    stream = StreamDriver(avatar)
    now = 0.0
    for _ in range(3000):
        now += float(generator.exponential(0.02)) + 3.0 * float(generator.random() < 0.003)
        time_s = None if generator.random() < 0.1 else now + float(generator.normal(0, 0.05))
        head = generator.normal(0, 2, 3) if generator.random() < 0.9 else None
        weights = generator.normal(0.3, 0.5, 52)
        if generator.random() < 0.05:
            weights[3] = math.nan
        who = "b" if generator.random() < 0.2 else "a"
        stream.push(FaceSample(weights, head, None, time_s, who), now)
        state = stream.state(now + float(generator.random()) * 0.1)
        assert torch.isfinite(state.expression).all()
        assert torch.isfinite(state.gaze).all()
        R = state.T_world_head[:3, :3]
        assert torch.allclose(R @ R.T, torch.eye(3), atol=1e-4)
        assert float(state.expression[:52].abs().max()) <= 1.3
    assert stream.counts.total() == 3000


def test_a_performer_of_larger_range_is_scaled_into_the_avatars(avatar: Avatar) -> None:
    small = make_avatar()
    small.expression_high[JAW] = 0.5
    stream = StreamDriver(small, AS_IT_IS)
    now = feed(stream, 0.0, 1.0, jawOpen=1.0)
    assert jaw(stream.state(now)) == pytest.approx(0.5, abs=0.02)
    now = feed(stream, now + 1 / RATE, 1.0, jawOpen=0.5)
    assert jaw(stream.state(now)) == pytest.approx(0.25, abs=0.02)
    stream.calibrate()  # forgets the range
    now = feed(stream, now + 1 / RATE, 1.0, jawOpen=0.3)
    assert jaw(stream.state(now)) == pytest.approx(0.3, abs=0.02)


def test_a_head_turns_no_further_than_was_filmed_and_a_margin(avatar: Avatar) -> None:
    reach = Reach(head_low=(-0.3, -0.2, -0.2), head_high=(0.3, 0.2, 0.2))
    config = replace(AS_IT_IS, retarget=RetargetConfig(reach=reach, head_margin=0.1))
    stream = StreamDriver(avatar, config)
    reached = []
    for turn in (0.2, 0.35, 1.5):
        start = 10 * turn
        for k in range(90):
            stream.push(sample(start + k / RATE, head=(turn, 0, 0)), start + k / RATE)
        reached.append(yaw(stream.state(start + 1.5), avatar))
    assert reached[0] == pytest.approx(0.2, abs=0.005)
    assert 0.3 < reached[1] < 0.35
    assert 0.38 < reached[2] <= 0.4 + 1e-4


def test_a_files_head_and_gaze_are_limited_alike(avatar: Avatar, tmp_path: Path) -> None:
    path = tmp_path / "face.csv"
    path.write_text("time,jawOpen,HeadYaw,LeftEyeYaw\n0,0,0,0\n1,0.5,1.4,-0.9\n")
    config = RetargetConfig(reach=Reach(head_high=(0.3, 0.2, 0.2)), head_margin=0.1)
    last = ArkitFileDriver(path, avatar, None, config).batch[-1]
    assert yaw(last, avatar) == pytest.approx(0.4, abs=1e-3)
    assert float((last.gaze - avatar.rest.gaze)[0, 0]) == pytest.approx(0.55, abs=0.01)
    free = RetargetConfig(head_margin=math.inf, gaze_margin=math.inf)
    assert yaw(ArkitFileDriver(path, avatar, None, free).batch[-1], avatar) == pytest.approx(
        1.4, abs=1e-3
    )
    half = replace(free, head=0.5)
    assert yaw(ArkitFileDriver(path, avatar, None, half).batch[-1], avatar) == pytest.approx(
        0.7, abs=1e-3
    )


def test_the_soft_limit_is_smooth_and_keeps_what_is_within() -> None:
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    y = softly_limited(x, torch.tensor(-0.3), torch.tensor(0.5), 0.2)
    inside = (x >= -0.3) & (x <= 0.5)
    assert torch.equal(y[inside], x[inside])
    slope = y.diff() / x.diff()
    assert float(slope.min()) >= 0
    assert float(slope.diff().abs().max()) < 0.02
    assert float(y.max()) <= 0.7
    assert float(y.min()) >= -0.5


def recorded(folder: Path) -> tuple[Path, list[tuple[FaceSample, float]]]:
    """A stream with gaps, a late sample, NaN and a second sender."""
    generator = np.random.default_rng(5)
    path, sent = folder / "take.jsonl", []
    recorder = Recorder(path)
    arrival = 1000.0
    for k in range(200):
        arrival += float(generator.exponential(1 / RATE)) + 1.5 * (k == 120)
        weights = generator.random(52).astype(np.float32)
        weights[5] = math.nan if k == 50 else weights[5]
        time_s = None if k > 180 else k / RATE - 0.05 * (k == 90)
        head = generator.normal(0, 0.2, 3).astype(np.float32)
        one = FaceSample(weights, head, None, time_s, "b" if k % 17 == 3 else "a")
        recorder.add(one, arrival)
        sent.append((one, arrival))
    assert not path.exists()  # a reader never sees half of it
    recorder.close()
    recorder.close()
    return path, sent


def test_a_recording_gives_the_very_same_states(avatar: Avatar, tmp_path: Path) -> None:
    path, sent = recorded(tmp_path)
    live = StreamDriver(avatar)
    times = np.arange(1000.0, sent[-1][1] + 2, 1 / 50)
    states, k = [], 0
    for now in times.tolist():
        while k < len(sent) and sent[k][1] <= now:
            live.push(*sent[k])
            k += 1
        states.append(live.state(now))
    again = replay(list(read_recording(path)), avatar, None, times)
    for name in ("expression", "gaze", "T_world_head", "T_world_torso"):
        expected = torch.stack([getattr(state, name) for state in states])
        assert torch.equal(getattr(again, name), expected), name
    assert live.dropped > 10


def test_a_recording_drives_a_rendering(avatar: Avatar, tmp_path: Path) -> None:
    path, sent = recorded(tmp_path)
    source = open_source(str(path), avatar)
    assert source.fps == avatar.fps
    assert len(source) == int((sent[-1][1] - sent[0][1]) * avatar.fps) + 1
    part = open_source(str(path), avatar, frames=(5, 9))
    assert torch.equal(next(part.states()).expression, list(source.states())[5].expression)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1"),
        ("{}\n", "no recorded stream"),
        ('{"format": "headsplat.stream", "version": 99}\n', "newer"),
        ('{"format": "headsplat.stream", "version": 1}\n', "no sample"),
        ('{"format": "headsplat.stream", "version": 1}\n[1]\n', "line 2"),
        ('{"format": "headsplat.stream", "version": 1}\n{"at": 1}\n', "line 2"),
        ('{"format": "headsplat.stream", "version": 1}\n{"at": 1, "weights": [1, 2]}\n', "52"),
        ('{"format": "headsplat.stream", "version": 1}\n{"at": "x", "weights": []}\n', "line 2"),
    ],
)
def test_a_damaged_recording_is_refused_in_a_sentence(
    avatar: Avatar, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(str(path), avatar)


def test_mutated_recordings_never_crash(avatar: Avatar, tmp_path: Path) -> None:
    path, _ = recorded(tmp_path)
    good = path.read_bytes()[:6000]
    generator = np.random.default_rng(7)
    bad = tmp_path / "mutated.jsonl"
    refused = 0
    for _ in range(300):
        content = bytearray(good)
        for _ in range(int(generator.integers(1, 8))):
            content[int(generator.integers(len(content)))] = int(generator.integers(256))
        bad.write_bytes(content)
        try:
            for one, arrival in read_recording(bad):
                assert isinstance(one, FaceSample)
                assert math.isfinite(arrival)
        except InputError as error:
            refused += 1
            assert "mutated.jsonl" in str(error)
    assert refused > 100


def test_a_recording_must_be_writable_and_named_jsonl(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="jsonl"):
        Recorder(tmp_path / "take.csv")
    with pytest.raises(InputError, match="cannot be written"):
        Recorder(tmp_path / "nowhere" / "take.jsonl")
    header = json.loads(recorded(tmp_path)[0].read_text().splitlines()[0])
    assert header == {"format": "headsplat.stream", "version": 1}


def test_a_full_disk_ends_the_recording_and_not_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "take.jsonl"
    path.write_text("what stood there")
    recorder = Recorder(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        for k in range(400):
            recorder.add(sample(k / RATE), k / RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not be written" in recorder.failure
    recorder.close()
    assert path.read_text() == "what stood there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["take.jsonl"]


def test_a_disk_that_is_full_at_the_end_is_told(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "take.jsonl")
    recorder.add(sample(0.0), 0.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(InputError, match=r"take\.jsonl is lost"):
            recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    recorder.close()
    assert list(tmp_path.iterdir()) == []
