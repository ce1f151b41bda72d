"""Sound to numbers: the same from a stream as from a file, of any rate, for any file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spoken import mouth, voice_of, write_sound

from avatar.checks import InputError
from avatar.drive.audio_features import (
    FEATURES,
    LEVEL,
    PITCH,
    RATE,
    VOICING,
    FeatureStream,
    Resampler,
    read_sound,
    sound_features,
    speech_level,
)


def resampled(sound: np.ndarray, rate: int, chunk: int = 10**9) -> np.ndarray:
    resampler = Resampler(rate)
    parts = [resampler.push(sound[i : i + chunk]) for i in range(0, len(sound), chunk)]
    return np.concatenate([*parts, resampler.flush()])


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_resampled_tone_keeps_time_pitch_and_height(rate: int) -> None:
    tone = np.sin(2 * np.pi * 700 * np.arange(rate) / rate)
    out = resampled(tone, rate)
    assert len(out) == RATE
    expected = np.sin(2 * np.pi * 700 * np.arange(RATE) / RATE)
    middle = slice(200, -200)
    assert np.abs(out - expected)[middle].max() < 2e-3


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    tone = np.sin(2 * np.pi * 11000 * np.arange(48000) / 48000)
    assert np.abs(resampled(tone, 48000)[200:-200]).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.02, 1.3])
def test_a_stream_of_any_chunks_gives_the_offline_numbers(rate: int, seconds: float) -> None:
    generator = np.random.default_rng(5)
    sound = 0.3 * generator.standard_normal(int(rate * seconds))
    whole = FeatureStream(rate)
    offline = np.concatenate([whole.push(sound), whole.flush()])
    assert len(offline) == -(-len(resampled(sound, rate)) // 320)
    stream, parts, at = FeatureStream(rate), [], 0
    while at < len(sound):
        size = int(generator.integers(0, 3 * rate // 50))
        parts.append(stream.push(sound[at : at + size]))
        at += size
    live = np.concatenate([*parts, stream.flush()])
    assert live.shape == offline.shape
    np.testing.assert_allclose(live, offline, rtol=0, atol=1e-9)


def test_a_frame_is_known_as_late_as_is_said() -> None:
    stream = FeatureStream(48000)
    for k in range(1, 200):
        known = sum(len(stream.push(np.zeros(96))) for _ in range(1))
        if known:
            first = k * 96 / 48000
            break
    assert first <= stream.delay_s + 0.002 + 1e-9


def test_pitch_voicing_and_level_of_a_voice() -> None:
    time = np.arange(2 * RATE) / RATE
    tone = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 12))
    hiss = np.random.default_rng(0).standard_normal(len(time))
    for sound, voiced in ((0.1 * tone, True), (0.1 * hiss, False)):
        stream = FeatureStream()
        rows = stream.push(sound)[5:-5]
        assert (rows[:, VOICING].mean() > 0.9) == voiced
        if voiced:
            assert abs(np.median(rows[:, PITCH]) - np.log2(1.5)) < 0.03
        expected = np.log(np.mean(sound**2))
        assert abs(rows[:, LEVEL].mean() - expected) < 0.3


def test_nan_and_clipping_pass_as_something_finite() -> None:
    stream = FeatureStream()
    rows = stream.push(np.array([np.nan, np.inf, -np.inf, 1e30] * 1000))
    assert len(rows)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 8000),
        ("a.wav", "pcm_s16le", 48000),
        ("a.flac", "flac", 44100),
        ("a.m4a", "aac", 44100),
        ("a.mp3", "libmp3lame", 44100),
        ("a.ogg", "libopus", 48000),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_files_of_all_kinds_sound_alike(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int
) -> None:
    sound = voice_of(mouth(3.0), rate)
    told = sound if channels == 1 else np.stack([sound, sound], 1)
    rows = sound_features(write_sound(tmp_path / name, told, rate, codec))
    stream = FeatureStream(rate)
    plain = np.concatenate([stream.push(sound), stream.flush()])
    assert abs(len(rows) - len(plain)) <= 4  # codecs pad
    count = min(len(rows), len(plain))
    loud = plain[:count, LEVEL] > speech_level(plain) - 3
    assert np.corrcoef(rows[:count, LEVEL][loud], plain[:count, LEVEL][loud])[0, 1] > 0.9
    assert rows.shape[1] == FEATURES


def test_what_is_no_sound_is_refused_in_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "a.wav"
    text.write_text("not a wav at all" * 100)
    empty = tmp_path / "b.wav"
    empty.write_bytes(b"")
    header = tmp_path / "c.wav"
    write_sound(tmp_path / "d.wav", np.zeros(1600), 16000)
    header.write_bytes((tmp_path / "d.wav").read_bytes()[:44])
    for path in (text, empty, header, tmp_path / "missing.wav", tmp_path):
        with pytest.raises(InputError) as caught:
            sound_features(path)
        assert str(path) in str(caught.value)


def test_damaged_files_never_crash(tmp_path: Path) -> None:
    good = write_sound(tmp_path / "good.wav", voice_of(mouth(0.5)), 16000).read_bytes()
    generator = np.random.default_rng(11)
    path = tmp_path / "bad.wav"
    outcomes = {"read": 0, "refused": 0}
    for _ in range(150):
        broken = bytearray(good[: int(generator.integers(1, len(good)))])
        for _ in range(int(generator.integers(0, 12))):
            broken[int(generator.integers(min(len(broken), 64)))] = int(generator.integers(256))
        path.write_bytes(bytes(broken))
        try:
            for block in read_sound(path):
                if 4000 <= block.rate <= 384000:
                    assert np.isfinite(FeatureStream(block.rate).push(block.samples)).all()
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0


def test_impossible_rates_are_refused() -> None:
    for rate in (0, 100, 10**9):
        with pytest.raises(InputError, match="samples a second"):
            FeatureStream(rate)


def test_ten_minutes_need_the_memory_of_a_second() -> None:
    stream = FeatureStream(8000)
    block = 0.1 * np.random.default_rng(0).standard_normal(80000)
    frames = 0
    for _ in range(60):
        frames += len(stream.push(block))
        assert len(stream._held) < 700
        assert len(stream._resampler._held) < 200
    assert frames == pytest.approx(60 * 10 * 50, abs=3)
