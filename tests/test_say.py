"""Talking from text: timings, directions, films whose sound and lips are in step, bad input in a sentence."""

from __future__ import annotations

import itertools
import json
import math
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_visemes import spoken_avatar

from avatar.checks import InputError
from avatar.cli_film import write_film
from avatar.cli_say import say, speaker
from avatar.drive.espeak import speakable, speech_available, synthesise, voice_for
from avatar.drive.lips import lips_closed
from avatar.drive.motion import head_angles
from avatar.drive.performance import LEAD_S, perform, speak
from avatar.drive.source import Source
from avatar.drive.speech import (
    Speech,
    TimedPhoneme,
    Word,
    joined,
    read_samples,
    read_spoken,
    read_timing,
    silence,
)
from avatar.drive.visemes import segments_of
from avatar.rig.arkit import ARKIT_INDEX
from avatar.types import HeadState

needs_voice = pytest.mark.skipif(
    not speech_available(), reason="needs the extra [speech] (espeakng-loader)"
)


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat((samples * 32767).astype("<i2"), channels).tobytes())
    return path


def timing(path: Path, entries: list) -> Path:
    path.write_text(json.dumps({"phonemes": entries}))
    return path


@needs_voice
def test_phonemes_are_timed_and_repeatable() -> None:
    (speech,) = synthesise(["Peter may map it."], voice="en-us")
    (again,) = synthesise(["Peter may map it."], voice="en-us")
    assert np.array_equal(speech.samples, again.samples)
    assert speech.phonemes == again.phonemes
    names = "".join(phoneme.name for phoneme in speech.phonemes)
    assert names.count("p") == 2
    assert names.count("m") == 2
    for before, after in zip(speech.phonemes, speech.phonemes[1:], strict=False):
        assert before.start_s < before.end_s <= after.start_s
    assert speech.phonemes[-1].end_s <= speech.seconds
    assert [word.character for word in speech.words] == [0, 6, 10, 14]


@needs_voice
def test_rate_and_pitch_are_heard() -> None:
    (slow,) = synthesise(["many words of it"], rate_wpm=100)
    (fast,) = synthesise(["many words of it"], rate_wpm=250)
    (high,) = synthesise(["many words of it"], rate_wpm=100, pitch=95)
    assert slow.seconds > 1.5 * fast.seconds
    assert not np.array_equal(high.samples, slow.samples)


@needs_voice
@pytest.mark.parametrize(
    "text",
    [
        "Здравствуй, мир",
        "γειά σου κόσμε",
        "你好，世界",
        "こんにちは世界",
        "नमस्ते",
        "안녕하세요",
        "مرحبا",
    ],
)
def test_other_scripts_are_spoken_in_their_language(text: str) -> None:
    assert voice_for(text) != "en-us"
    (speech,) = synthesise([text])
    assert speech.says_something
    assert all(segment.viseme for segment in segments_of(speech.phonemes))


def test_pictures_and_control_characters_are_not_read_out() -> None:
    text = "Hi \U0001f642\x00 you\ud800"
    assert speakable(text) == "Hi    you "
    assert voice_for("...") == "en-us"


@needs_voice
@pytest.mark.parametrize("text", ["", " ... ", "\U0001f642\U0001f44d", "\x00"])
def test_a_text_without_words_is_refused_in_a_sentence(text: str, tiny_avatar) -> None:
    with pytest.raises(InputError, match="nothing to say"):
        speak(text, tiny_avatar)


@needs_voice
def test_directions_without_words_are_played(tiny_avatar) -> None:
    performance = speak("[smile] [pause 0.5] [nod]", tiny_avatar)
    assert 2.5 < performance.speech.seconds < 4
    smile = performance.states.expression[:, ARKIT_INDEX["mouthSmileLeft"]]
    assert float(smile[-1]) > 0.3


@needs_voice
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"voice": "xx-none"}, "no voice 'xx-none'"),
        ({"voice": "../../etc/passwd"}, "is no name of a voice"),
        ({"rate_wpm": 20}, "between 80 and 450"),
        ({"pitch": 200}, "between 0 and 99"),
    ],
)
def test_wrong_options_are_told(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        synthesise(["Hello"], **options)


@needs_voice
def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(InputError, match="at most 20000"):
        synthesise(["word " * 5000])


@needs_voice
@settings(max_examples=12, deadline=None)
@given(st.text(max_size=40))
def test_any_text_speaks_or_is_silent(text: str) -> None:
    (speech,) = synthesise([text])
    assert np.isfinite(speech.samples).all()
    for phoneme in speech.phonemes:
        assert 0 <= phoneme.start_s < phoneme.end_s <= speech.seconds + 1e-9


@needs_voice
def test_bilabials_of_a_sentence_close_and_directions_fall_on_their_words() -> None:
    avatar = spoken_avatar()
    performance = speak(
        "Mama bought me a map. [look left] Then [happy] papa came.", avatar, emotion=("sad", 0.7)
    )
    states, fps = performance.states, performance.fps
    closed = lips_closed(states.expression, avatar)
    time = torch.arange(len(states)) / fps
    cases = [s for s in segments_of(performance.speech.phonemes) if s.viseme == "PP"]
    assert len(cases) >= 7
    for case in cases:
        inside = (time > case.start_s - 0.5 / fps) & (time < case.end_s + 0.5 / fps)
        assert bool(closed[inside].any())
    assert not bool(closed.all())
    then = performance.speech.time_of(25)
    k = round(then * fps)
    yaw = states.gaze[:, :, 0].mean(1)
    assert float(yaw[k + 4 : k + 12].mean()) > 0.25
    assert float(yaw[k - 12 : k - 2].abs().mean()) < 0.2
    smile = states.expression[:, ARKIT_INDEX["mouthSmileRight"]]
    assert float(smile[-5:].mean()) > float(smile[:5].mean()) + 0.3
    assert performance.speech.seconds > LEAD_S


@needs_voice
def test_the_head_moves_with_the_voice_and_another_seed_moves_it_otherwise() -> None:
    avatar = spoken_avatar()
    text = "This is a long and lively sentence, with many words and stresses in it. [pause 3]"
    one, again, other = (speak(text, avatar, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.states.expression, again.states.expression)
    assert torch.equal(one.states.T_world_head, again.states.T_world_head)
    assert not torch.equal(one.states.T_world_head, other.states.T_world_head)
    angles = head_angles(one.states.T_world_head[:, :3, :3])
    speed = angles.diff(dim=0).norm(dim=1)
    last = max(p.end_s for p in one.speech.phonemes if p.name)
    talks = int(last * one.fps)
    assert float(speed[8:talks].mean()) > 1.5 * float(speed[talks + 25 :].mean())
    assert float(angles.abs().max()) < 0.35


def test_another_voice_comes_with_its_timing(tmp_path: Path, tiny_avatar) -> None:
    tone = 0.3 * np.sin(np.arange(16_000) * 0.05)
    sound = write_wav(tmp_path / "tts.wav", tone)
    times = timing(
        tmp_path / "t.json",
        [{"phoneme": "m", "start": 0.1, "end": 0.2}, {"phoneme": "ɑː", "start": 0.2, "end": 0.6}],
    )
    speech = read_spoken(sound, times)
    states = perform(speech, tiny_avatar, emotion=("happy", 0.5))
    assert len(states) == 25
    jaw = states.expression[:, ARKIT_INDEX["jawOpen"]]
    assert 8 <= int(jaw.argmax()) <= 15


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "cannot be read"),
        ("[]", "no list of phonemes"),
        ('{"phonemes": []}', "no list of phonemes"),
        ('{"phonemes": [{"phoneme": "h", "start": 0.5, "end": 0.1}]}', "phoneme 0"),
        ('{"phonemes": [{"phoneme": "h", "start": 0.1}]}', "phoneme 0"),
        ('{"phonemes": [{"phoneme": 5, "start": 0.1, "end": 0.2}]}', "no short text"),
        ('{"phonemes": [{"phoneme": "h", "start": "0", "end": 0.2}]}', "must be numbers"),
        ('{"phonemes": [{"phoneme": "h", "start": 0, "end": 1e999}]}', "out of range"),
        ('{"phonemes": [{"phoneme": "h", "start": NaN, "end": 1}]}', "out of range"),
        (
            '{"phonemes": [{"phoneme": "h", "start": 0, "end": 1}, {"phoneme": "a", "start": 0.2, "end": 2}]}',
            "phoneme 1",
        ),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_wrong_timings_are_told(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(InputError, match=says):
        read_timing(path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["phonemes", "phoneme", "start", "end"]), inner)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_timing_or_one_sentence(tmp_path: Path, value: object) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps({"phonemes": value}))
    try:
        phonemes = read_timing(path)
    except InputError as error:
        assert str(path) in str(error)
        return
    assert all(math.isfinite(p.end_s) and p.start_s < p.end_s for p in phonemes)


def test_timing_of_another_sound_is_refused(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "a.wav", np.zeros(8000))
    times = timing(tmp_path / "t.json", [{"phoneme": "h", "start": 5.0, "end": 6.0}])
    with pytest.raises(InputError, match=r"ends at 6\.00 s"):
        read_spoken(sound, times)


def test_sounds_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_bytes(b"RIFF not a wave")
    (tmp_path / "text.wav").write_text("hello")
    empty = write_wav(tmp_path / "empty.wav", np.zeros(0))
    for path in (tmp_path / "no.wav", tmp_path / "text.wav", empty, tmp_path / "none.wav"):
        with pytest.raises(InputError, match=path.name):
            read_samples(path)


def test_stereo_and_8_khz_are_heard(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(np.arange(8000) * 2 * np.pi * 300 / 8000)
    sound = read_samples(write_wav(tmp_path / "s.wav", tone, 8000, channels=2))
    assert abs(len(sound) - 16_000) < 200
    assert np.isclose(np.sqrt((sound[2000:-2000] ** 2).mean()), 0.5 / np.sqrt(2), rtol=0.05)


def test_a_written_speech_is_read_again(tmp_path: Path) -> None:
    samples = (0.4 * np.sin(np.arange(16_000) * 0.1)).astype(np.float32)
    Speech(samples, 16_000, ()).write(tmp_path / "s.wav")
    assert np.allclose(read_samples(tmp_path / "s.wav"), samples, atol=1e-4)


def test_joined_speeches_keep_their_times() -> None:
    one = Speech(np.zeros(100, np.float32), 100, (TimedPhoneme("a", 0.2, 0.4),), (Word(0.2, 0),))
    whole = joined([silence(0.5, 100), one, silence(1.0, 100), one], [0, 0, 4, 4])
    assert whole.seconds == pytest.approx(3.5)
    assert [round(p.start_s, 3) for p in whole.phonemes] == [0.7, 2.7]
    assert [word.character for word in whole.words] == [0, 4]
    assert whole.time_of(1) == pytest.approx(2.7)
    assert whole.time_of(9) == pytest.approx(3.5)


class _Jaw:
    """Plays a jaw that drops at one frame and stays."""

    def __init__(self, avatar, frames: int, event: int, fps: float) -> None:
        self.fps = fps
        self._avatar, self._frames, self._event = avatar, frames, event

    def states(self):
        rest = self._avatar.rest
        for frame in range(self._frames):
            expression = rest.expression.clone()
            expression[ARKIT_INDEX["jawOpen"]] = 1.0 if frame >= self._event else 0.0
            yield HeadState(expression, rest.gaze, rest.T_world_head, rest.T_world_torso)


@pytest.mark.parametrize("fps", [25.0, 29.97, 60.0])
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_sound_and_picture_of_a_film_are_in_step(tmp_path: Path, fps: float, rate: int) -> None:
    avatar = spoken_avatar()
    event, frames = 20, 40
    samples = np.zeros(int(frames / fps * rate))
    click = round(event / fps * rate)
    samples[click : click + rate // 100] = 0.9 * np.sin(np.arange(rate // 100) * 0.5)
    sound = write_wav(tmp_path / "click.wav", samples, rate)
    film = tmp_path / "film.mp4"
    source = Source(_Jaw(avatar, frames, event, fps), frames, sound)
    write_film(film, avatar, source, "capture", (64, 64), None)
    seen, heard = _events(film)
    assert abs(seen - event / fps) < 0.5 / fps
    assert abs(heard - seen) < 1 / fps


def _events(film: Path) -> tuple[float, float]:
    """Return when the picture of a film changes most, and when its sound begins, seconds."""
    with av.open(str(film)) as container:
        pictures = [
            (float(frame.time), frame.to_ndarray(format="rgb24").astype(float))
            for frame in container.decode(video=0)
        ]
    with av.open(str(film)) as container:
        parts, first = [], None
        for frame in container.decode(audio=0):
            first = float(frame.time) if first is None else first
            parts.append(frame.to_ndarray().mean(0))
            rate = frame.sample_rate
    change = [
        np.abs(after - before).mean() for (_, before), (_, after) in itertools.pairwise(pictures)
    ]
    sound = np.abs(np.concatenate(parts))
    assert first is not None
    begin = int(np.argmax(sound > 0.3 * sound.max()))
    return pictures[int(np.argmax(change)) + 1][0], first + begin / rate


@needs_voice
def test_the_command_writes_a_film_with_sound(tmp_path: Path, tiny_avatar) -> None:
    tiny_avatar.save(tmp_path / "me.avatar")
    out = tmp_path / "out.mp4"
    say(tmp_path / "me.avatar", "[smile] Hi mum!", output=out, size=(64, 64), emotion="happy:0.3")
    with av.open(str(out)) as container:
        assert container.streams.audio
        seconds = float(container.duration / av.time_base)
    assert 1.0 < seconds < 4.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["me.avatar", "out.mp4"]


def test_a_voice_without_timing_is_played_or_told(tmp_path: Path, tiny_avatar) -> None:
    tiny_avatar.save(tmp_path / "me.avatar")
    sound = write_wav(tmp_path / "a.wav", 0.2 * np.sin(np.arange(16_000) * 0.08))
    out = tmp_path / "out.mp4"
    try:
        say(tmp_path / "me.avatar", output=out, wav=sound, size=(64, 64))
    except InputError as error:
        assert "--phonemes" in str(error)
        assert not out.exists()
    else:
        assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "Give a text"),
        ({"text": "Hi", "wav": Path("a.wav")}, "Give a text"),
        ({"text": "Hi", "phonemes": Path("t.json")}, "give its sound too"),
        ({"text": "Hi", "emotion": "hungry"}, "There is no emotion"),
        ({"text": "Hi [smirk]"}, "no stage direction"),
        ({"wav": Path("none.wav")}, "does not exist"),
    ],
)
def test_wrong_commands_are_told(tmp_path: Path, tiny_avatar, arguments: dict, says: str) -> None:
    tiny_avatar.save(tmp_path / "me.avatar")
    text = arguments.pop("text", "")
    with pytest.raises(InputError, match=says):
        say(tmp_path / "me.avatar", text, output=tmp_path / "o.mp4", **arguments)
    assert not (tmp_path / "o.mp4").exists()


@needs_voice
def test_the_viewer_is_handed_speech(tiny_avatar) -> None:
    spoken = speaker(tiny_avatar)
    assert spoken is not None
    clip, other = spoken("Hello there"), spoken("Good bye")
    assert clip.audio is not None
    assert other.audio is not None
    assert clip.audio != other.audio
    assert clip.audio.exists()  # a browser may still be fetching it
    assert (
        abs(len(read_samples(clip.audio)) / 16_000 - len(clip.states) / clip.fps)
        < 1 / clip.fps + 0.01
    )
    with pytest.raises(InputError, match="no stage direction"):
        spoken("[hallo]")


def test_bilabials_are_measured_on_lip_gaps() -> None:
    from capture.say_bench import bilabials, lip_gaps

    phonemes = (
        TimedPhoneme("ɑ", 0, 0.4),
        TimedPhoneme("m", 0.4, 0.48),
        TimedPhoneme("b", 0.8, 0.88),
    )
    times = np.arange(25) / 25
    gaps = np.full(25, 0.1)
    gaps[11], gaps[21] = 0.01, np.nan
    closed, parted = bilabials(phonemes, gaps, times, 25.0)
    assert (closed.gap, closed.frame) == (0.01, 11)
    assert parted.gap == 0.1
    points = np.zeros((1, 478, 3))
    points[0, [33, 263], 0] = -50, 50
    points[0, [82, 13, 312], 1] = -4
    points[0, [87, 14, 317], 1] = 6
    assert lip_gaps(points)[0] == pytest.approx(0.1)
