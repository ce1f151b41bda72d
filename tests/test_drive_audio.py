"""Speech on an avatar: files, the fallback, live chunks; clocks, latency, bad input."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from spoken import mouth, voice_of, write_sound

from avatar.checks import InputError
from avatar.cli_live import LiveOptions, live_sources
from avatar.drive.audio import AudioDriver, SpokenFace
from avatar.drive.audio_fallback import FALLBACK_NOTE, FallbackStream, fallback_weights
from avatar.drive.audio_features import FeatureStream, speech_level
from avatar.drive.audio_live import MOST_LATENCY_S, MicrophoneDriver, PcmDriver, mono
from avatar.drive.source import open_source
from avatar.rig.arkit import ARKIT_INDEX

JAW = ARKIT_INDEX["jawOpen"]


def features(sound: np.ndarray, rate: int = 16000) -> np.ndarray:
    stream = FeatureStream(rate)
    return np.concatenate([stream.push(sound), stream.flush()])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize("gain", [0.03, 0.3, 1.0, 20.0])  # whispered into a phone, and clipped
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_the_fallback_opens_the_mouth_with_the_voice(gain: float, rate: int) -> None:
    truth = mouth(8.0, seed=4)
    sound = np.clip(gain * voice_of(truth, rate), -1, 1)
    for known in (True, False):
        rows = features(sound, rate)
        weights = fallback_weights(rows, level=speech_level(rows) if known else None).numpy()
        assert len(weights) == len(rows)
        assert weights.min() >= 0
        assert weights.max() <= 1
        wanted = truth[(np.arange(len(weights)) * 4).clip(max=len(truth) - 1)]
        later = slice(0 if known else 150, None)  # the level is found out in the first seconds
        assert correlation(weights[later, JAW], wanted[later]) > 0.6
        elsewhere = np.roll(wanted, 137)
        assert abs(correlation(weights[later, JAW], elsewhere[later])) < 0.35


def test_the_fallback_streams_as_it_works_offline() -> None:
    rows = features(voice_of(mouth(3.0)))
    stream = FallbackStream(level=-3.0)
    parts = [stream.push(rows[k : k + 1]) for k in range(len(rows))]
    live = torch.cat([*parts, stream.flush()])
    assert torch.equal(live, fallback_weights(rows, level=-3.0))
    assert len(parts[3]) == 0
    assert len(parts[4]) == 1


def test_hiss_opens_less_than_a_vowel_and_silence_not_at_all() -> None:
    time = np.arange(16000) / 16000
    vowel = 0.1 * sum(np.sin(2 * np.pi * 130 * k * time) / (1 + abs(k - 6)) for k in range(1, 20))
    noise = np.random.default_rng(0).standard_normal(16000)
    hiss = 0.05 * (noise - np.roll(noise, 1))
    jaws = [fallback_weights(features(s), level=-3.5)[10:-10, JAW].mean() for s in (vowel, hiss)]
    assert jaws[0] > 2 * jaws[1] > 0
    assert float(fallback_weights(features(np.zeros(16000)), level=-3.5).abs().max()) == 0


def test_a_sound_file_drives_an_avatar(tmp_path: Path, tiny_avatar) -> None:
    truth = mouth(4.0, seed=2)
    path = write_sound(tmp_path / "speech.wav", voice_of(truth, 44100), 44100)
    source = open_source(str(path), tiny_avatar)
    assert source.audio == path
    assert FALLBACK_NOTE in source.note
    assert len(source) == 100  # 4 s at the avatar's 25 frames a second
    states = list(source.states())
    assert len(states) == 100
    jaw = np.array([float(s.expression[JAW]) for s in states])
    assert correlation(jaw, truth[(np.arange(100) * 8)]) > 0.6
    part = open_source(str(path), tiny_avatar, frames=(20, 60))
    assert part.audio_start_s == pytest.approx(0.8)
    for a, b in zip(part.states(), states[20:60], strict=True):
        assert torch.equal(a.expression, b.expression)
        assert torch.equal(a.T_world_head, b.T_world_head)
    with pytest.raises(InputError, match="100 frames"):
        open_source(str(path), tiny_avatar, frames=(50, 101))


def test_the_head_moves_more_while_its_owner_speaks(tmp_path: Path, tiny_avatar) -> None:
    sound = np.concatenate([voice_of(mouth(8.0, seed=3)), np.zeros(8 * 16000)])
    states = AudioDriver(write_sound(tmp_path / "a.wav", sound, 16000), tiny_avatar).batch
    turn = states.T_world_head[1:, :3, :3] - states.T_world_head[:-1, :3, :3]
    speed = turn.flatten(1).norm(dim=1)
    assert float(speed[25:175].mean()) > 1.3 * float(speed[250:].mean())
    other = AudioDriver(tmp_path / "a.wav", tiny_avatar, seed=1).batch
    assert not torch.equal(other.T_world_head, states.T_world_head)
    assert torch.equal(other.expression[:, JAW] > 0.2, states.expression[:, JAW] > 0.2)


def test_silence_is_a_person_at_rest_who_is_not_frozen(tmp_path: Path, tiny_avatar) -> None:
    path = write_sound(tmp_path / "a.wav", np.zeros(30 * 8000), 8000)
    states = AudioDriver(path, tiny_avatar).batch
    assert float(states.expression[:, JAW].max()) < 0.08
    assert float(states.expression[:, ARKIT_INDEX["eyeBlinkLeft"]].max()) > 0.5
    moved = (states.T_world_head[1:] - states.T_world_head[:-1]).abs().amax((1, 2))
    assert float(moved.median()) > 1e-5
    assert torch.isfinite(states.expression).all()


def chunks(sound: np.ndarray, rate: int):
    size = rate // 50
    for k in range(0, len(sound) - size + 1, size):
        yield sound[k : k + size], (k + size) / rate


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_live_shows_what_offline_shows_exactly_its_latency_later(rate: int, tiny_avatar) -> None:
    sound = voice_of(mouth(3.0, seed=6), rate)
    driver = PcmDriver(tiny_avatar, rate)
    assert driver.latency_s <= MOST_LATENCY_S
    offline = SpokenFace(rate, FallbackStream())
    truth = np.concatenate([offline.push(sound), offline.flush()])
    start, first = 1000.0, 1000.0 + 0.02 + 0.0199  # when the first state is asked for
    for samples, end in chunks(sound, rate):
        driver.push(samples.astype(np.float32), start + end)
        # The worst moment: just before the next chunk comes.
        now = start + end + 0.0199
        jaw = float(driver.state(now).expression[JAW])
        heard = now - start - driver.latency_s
        if heard > 0.05:
            place = heard * 50
            low = int(place)
            frame = truth[low] + (place - low) * (truth[low + 1] - truth[low])
            expected = driver._motion.state(now - first, frame).expression[JAW]
            assert abs(jaw - float(expected)) < 1e-5


def test_an_impulse_reaches_the_mouth_within_the_stated_latency(tiny_avatar) -> None:
    rate, at = 48000, 2.0
    time = np.arange(4 * rate) / rate
    burst = sum(np.sin(2 * np.pi * 140 * k * time) for k in range(3, 8)) * 0.1
    sound = np.where((time >= at) & (time < at + 0.3), burst, 0.0)
    moved = []
    for told in (sound, np.zeros_like(sound)):
        driver, jaws = PcmDriver(tiny_avatar, rate), []
        for samples, end in chunks(told, rate):
            driver.push(samples, end)
            jaws += [float(driver.state(end + d).expression[JAW]) for d in (0.0, 0.01)]
        moved.append(np.array(jaws))
    difference = moved[0] - moved[1]
    first = np.flatnonzero(difference > 0.05)[0] * 0.01 + 0.02
    assert at < first <= at + MOST_LATENCY_S


@pytest.mark.parametrize(
    ("rate", "fps", "skew"),
    [(16000, 25, 0), (44100, 30, 1e-4), pytest.param(48000, 60, -1e-4, marks=pytest.mark.slow)],
)
def test_ten_minutes_do_not_drift(rate: int, fps: int, skew: float, tiny_avatar) -> None:
    """Bursts at known times of the sound open the mouth at those times, at the end as at the start.

    Chunks come with jitter; the sound card's clock runs slow or fast by 100 millionths.
    """
    generator = np.random.default_rng(rate)
    driver = PcmDriver(tiny_avatar, rate)
    chunk_s, size = 0.1, rate // 10
    time = np.arange(int(0.4 * rate)) / rate
    burst = 0.2 * np.sin(2 * np.pi * 200 * time) + 0.2 * np.sin(2 * np.pi * 800 * time)
    silence, late = np.zeros(size), []
    playing = {100 * k + j: j for k in range(1, 60) for j in range(4)}  # every ten seconds
    curve: dict[int, list[tuple[float, float]]] = {}
    for n in range(6000):
        j = playing.get(n)
        samples = silence if j is None else burst[j * size : (j + 1) * size]
        arrival = 50 + (n + 1) * chunk_s * (1 + skew) + generator.uniform(0, 0.004)
        driver.push(samples, arrival)
        if 0 <= (n - 1) % 100 < 6 and n > 100:
            burst_start = 50 + (n // 100 * 100) * chunk_s * (1 + skew)
            first = int(np.ceil((arrival - chunk_s) * fps))
            for frame in range(first, int(arrival * fps)):
                jaw = float(driver.state(frame / fps).expression[JAW])
                curve.setdefault(n // 100, []).append((frame / fps - burst_start, jaw))
    for k in range(1, 60):
        rising = [t for t, jaw in curve.get(k, []) if jaw > 0.15]
        if rising:
            late.append(rising[0])
    assert len(late) > 50
    early, end = np.median(late[3:13]), np.median(late[-10:])
    assert abs(end - early) <= 1 / fps + 0.002
    assert driver.lost == 0


def test_lost_sound_rests_and_comes_back(tiny_avatar) -> None:
    driver = PcmDriver(tiny_avatar, 16000)
    assert "no sound" in driver.note(0.0)
    rest = float(tiny_avatar.rest.expression[JAW])
    assert abs(float(driver.state(0.0).expression[JAW]) - rest) < 0.06
    sound = voice_of(mouth(2.0, seed=1))
    for samples, end in chunks(sound, 16000):
        driver.push(samples, 5 + end)
    assert "16000 Hz" in driver.note(7.0)
    assert "fallback" in driver.note(7.0)
    shown = driver.state(8.5)
    assert abs(float(shown.expression[JAW]) - rest) < 0.06
    assert "lost" in driver.note(8.5)
    jaws = []
    for samples, end in chunks(sound, 16000):
        driver.push(samples, 20 + end)
        jaws.append(float(driver.state(20 + end).expression[JAW]))
    assert driver.lost == 1
    assert max(jaws) > 0.2
    driver.close()
    driver.close()


def test_live_chunks_may_be_of_any_kind(tiny_avatar) -> None:
    whole = np.array([[0, 0], [16384, 16384], [-32768, -32768]], np.int16)
    np.testing.assert_allclose(mono(whole), [0, 0.5, -1])
    np.testing.assert_allclose(mono(np.array([128, 255], np.uint8)), [0, 127 / 128])
    with pytest.raises(ValueError, match="samples must be"):
        mono(np.zeros((2, 2, 2)))
    driver = PcmDriver(tiny_avatar, 8000)
    generator = np.random.default_rng(0)
    for k in range(60):
        size = int(generator.integers(0, 2000))
        bad = generator.standard_normal((size, 2)) * 10 ** generator.uniform(-3, 9)
        bad[generator.random((size, 2)) < 0.1] = np.nan
        driver.push(bad.astype(np.float32), k * 0.1)
        state = driver.state(k * 0.1 + 0.05)
        assert torch.isfinite(state.expression).all()
        assert float(state.expression.abs().max()) < 2
    assert len(driver._frames) <= 100


def test_no_microphone_is_one_sentence(tiny_avatar) -> None:
    try:
        driver = live_sources(tiny_avatar, LiveOptions())["microphone"]()
    except InputError as error:
        assert any(word in str(error) for word in ("PortAudio", "sounddevice", "microphone"))
    else:  # a machine that has one
        assert isinstance(driver, MicrophoneDriver)
        driver.close()


def test_rendered_speech_carries_its_sound_in_step(
    tmp_path: Path, tiny_avatar, monkeypatch
) -> None:
    from avatar.cli import main

    tiny_avatar.save(tmp_path / "me.avatar")
    sound = np.zeros(2 * 16000)
    time = np.arange(8000) / 16000
    sound[16000:24000] = 0.4 * np.sin(2 * np.pi * 300 * time)  # from 1 s to 1.5 s
    path = write_sound(tmp_path / "speech.wav", sound, 16000)
    out = tmp_path / "out.mp4"
    arguments = [
        "avatar",
        "render",
        str(tmp_path / "me.avatar"),
        "--drive",
        str(path),
        "-o",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--size", "96", "96"])
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (0, None)
    with av.open(str(out)) as container:
        video, heard = container.streams.video[0], container.streams.audio[0]
        frames = [float(f.pts * video.time_base) for f in container.decode(video)]
    with av.open(str(out)) as container:
        parts = [
            (float(f.pts * f.time_base), f.sample_rate, f.to_ndarray().astype(float).mean(0))
            for f in container.decode(container.streams.audio[0])
        ]
    assert heard is not None
    assert len(frames) == 50
    assert frames[0] == 0
    start = next(
        t + np.flatnonzero(np.abs(x) > 0.2)[0] / rate
        for t, rate, x in parts
        if np.abs(x).max() > 0.2
    )
    assert abs(start - 1.0) <= 1 / 25


def test_a_wav_that_is_none_is_refused(tmp_path: Path, tiny_avatar) -> None:
    path = tmp_path / "a.wav"
    path.write_text("hello")
    with pytest.raises(InputError, match="cannot be read as sound"):
        open_source(str(path), tiny_avatar)
