"""When clips began, by sound and by motion, and the time line that they share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_calibrations import clip as made_up
from test_ingest import write_clip

from avatar.checks import InputError
from avatar.types import Progress
from capture.ingest import MIN_FRAMES, probe, read_frames
from capture.sync import (
    Signals,
    listen,
    match,
    motion_signals,
    offsets_of,
    sound_signals,
    watch,
)
from capture.synchronise import check_offsets, synchronise
from capture.timeline import Take, lay_out, missing_of, ranges_of

RATE = 16000


def speech(seconds: float, seed: int) -> np.ndarray:
    """Bursts of coloured noise of uneven length: as irregular as syllables, [n] float."""
    rng = np.random.default_rng(seed)
    sound = rng.normal(0, 30, round(seconds * RATE))
    place = 0.0
    while place < seconds - 0.5:
        place += rng.uniform(0.08, 0.6)
        count = round(rng.uniform(0.05, 0.25) * RATE)
        begin = round(place * RATE)
        tone = np.sin(np.arange(count) * rng.uniform(0.05, 0.5)) + rng.normal(0, 0.5, count)
        fade = np.exp(-np.arange(count) / (0.06 * RATE))
        room = sound[begin : begin + count]
        room += (rng.uniform(1000, 6000) * tone * fade)[: len(room)]
    return sound


def microphone(sound: np.ndarray, seed: int) -> np.ndarray:
    """The same sound elsewhere in the room: another response, an echo, noise."""
    rng = np.random.default_rng(seed)
    response = np.zeros(1200)
    response[:30] = rng.normal(0, 1, 30) * np.exp(-np.arange(30) / 6)
    response[rng.integers(200, 1200, 8)] += rng.normal(0, 0.3, 8)
    heard = np.convolve(sound, response)[: len(sound)]
    heard += rng.normal(0, 0.1 * heard.std(), len(heard))
    return (heard / np.abs(heard).max() * 20000).astype(np.int16)


@pytest.mark.parametrize("seed", range(6))
def test_sound_places_clips_to_milliseconds(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    scene = speech(14, seed)
    starts = rng.uniform(0, 5, 2)
    sounds = [
        sound_signals(microphone(scene[round(s * RATE) : round((s + 7) * RATE)], seed * 10 + k))
        for k, s in enumerate(starts)
    ]
    found = match(sounds[0], sounds[1], "sound")
    assert found is not None
    assert found.clear
    assert found.confidence > 0.2
    assert abs(found.lag_s - (starts[1] - starts[0])) < 0.004
    back = match(sounds[1], sounds[0], "sound")
    assert back is not None
    assert abs(back.lag_s + found.lag_s) < 1e-3


def test_a_beat_noise_and_other_takes_are_not_believed() -> None:
    beat = np.random.default_rng(0).normal(0, 20, 8 * RATE)
    beat[:: RATE // 2] += 9000
    for one, other in (
        (beat, beat),
        (np.random.default_rng(1).normal(0, 500, 8 * RATE), np.random.default_rng(2).normal(0, 500, 8 * RATE)),
        (speech(8, 1), speech(8, 2)),
    ):  # fmt: skip
        found = match(
            sound_signals(microphone(one, 1)), sound_signals(microphone(other, 2)), "sound"
        )
        assert found is None or not found.clear
    silence = sound_signals(np.zeros(8 * RATE, np.int16))
    assert match(silence, sound_signals(microphone(speech(8, 1), 1)), "sound") is None


def test_a_clip_is_placed_through_a_third() -> None:
    scene = speech(20, 3)
    parts = [(0, 7), (4, 14), (10, 18)]
    signals: list[Signals | None] = [
        sound_signals(microphone(scene[a * RATE : b * RATE], k)) for k, (a, b) in enumerate(parts)
    ]
    placed = offsets_of(signals, [None] * 3)
    assert [round(o.seconds, 2) if o else None for o in placed] == [0, 4, 10]
    assert [o.method if o else None for o in placed] == ["reference", "sound", "sound"]
    assert offsets_of([signals[0], None, signals[1]], [None] * 3)[1] is None


def test_motion_places_cameras_of_the_rendered_head(data) -> None:
    folder = Path(data("oracle_multi/cam0.mp4")).parent
    cuts = {1: (0, 180), 3: (17, 200), 6: (31, 190)}
    signals: list[Signals | None] = []
    for camera, (begin, end) in cuts.items():
        whole = probe(folder / f"cam{camera}.mp4")
        begins = whole.start_s + begin / 25
        signals.append(watch(replace(whole, start_s=begins, frames=end - begin)))
    placed = offsets_of([None] * 3, signals)
    for offset, (begin, _) in zip(placed, cuts.values(), strict=True):
        assert offset is not None
        assert abs(offset.seconds - begin / 25) < 0.01
        assert offset.method in ("reference", "motion")


def test_motion_that_says_nothing_is_not_believed() -> None:
    rng = np.random.default_rng(0)
    face = rng.normal(100, 30, (1, 478, 3)) + rng.normal(0, 0.3, (150, 478, 3))
    found = np.ones(150, bool)
    one = motion_signals(face, found, rng.uniform(0, 1, 150), 25)
    other = motion_signals(face[::-1], found, rng.uniform(0, 1, 150), 25)
    matched = match(one, other, "motion")
    assert matched is None or not matched.clear
    blind = motion_signals(np.zeros((150, 478, 3)), ~found, np.zeros(150), 25)
    assert match(one, blind, "motion") is None


# -- the time line ----------------------------------------------------------------------------

RATES = st.sampled_from([23.976, 24.0, 25.0, 29.97, 30.0])


@settings(deadline=None, max_examples=200)
@given(
    cameras=st.lists(
        st.tuples(RATES, st.floats(-3, 3), st.integers(60, 200)), min_size=2, max_size=5
    )
)
def test_every_frame_of_the_time_line_has_the_nearest_picture(
    cameras: list[tuple[float, float, int]],
) -> None:
    clips = [
        replace(
            made_up(f"c{k}"), fps=fps, source_fps=fps, frames=n, duration_s=n / fps, start_s=0.5
        )
        for k, (fps, _, n) in enumerate(cameras)
    ]
    offsets = [offset for _, offset, _ in cameras]
    try:
        takes = lay_out(clips, offsets)
    except InputError as error:
        assert "shares" in str(error) or "at least half" in str(error)
        return
    fps = min(c.fps for c in clips)
    begins = []
    seen = np.zeros(takes[0].total, int)
    for take, clip, offset in zip(takes, clips, offsets, strict=True):
        assert take.total == takes[0].total
        assert take.first >= 0
        assert take.first + take.frames <= take.total
        assert take.frames >= MIN_FRAMES
        read = take.of(clip)
        assert read.fps == fps
        # In time, frame 0 of the line is the same instant for all.
        begins.append(offset + take.shift_s - take.first / fps)
        times = read.start_s - 0.5 + np.arange(take.frames) / fps
        assert times[0] > -0.51 / clip.fps
        assert times[-1] < (clip.frames - 1 + 0.51) / clip.fps
        seen[take.first : take.first + take.frames] += 1
    assert np.ptp(begins) < 1e-6
    assert seen[0] >= len(cameras) / 2
    assert seen[-1] >= len(cameras) / 2


def numbered(path: Path, first: int, count: int, fps: int, rate: float) -> Path:
    """A clip whose pictures tell in 12 squares which frame of a scene at ``rate`` they show."""
    pictures = []
    for k in range(count):
        moment = round((first / rate + k / fps) * rate * 8)  # an eighth of a frame
        picture = np.zeros((240, 320, 3), np.uint8)
        for bit in range(12):
            if moment >> bit & 1:
                x, y = 80 * (bit % 4), 80 * (bit // 4)
                picture[y : y + 80, x : x + 80] = 255
        pictures.append(picture)
    return write_clip(path, pictures, fps=fps)


def moment_of(picture: np.ndarray) -> float:
    bits = [picture[40 + 80 * (b // 4), 40 + 80 * (b % 4), 0] > 128 for b in range(12)]
    return sum(1 << b for b, on in enumerate(bits) if on) / 8


def test_decoded_pictures_of_one_frame_show_one_moment(tmp_path: Path) -> None:
    """Other rates, lengths and starts; a frame's moment is that of the scene at 25 frames/s."""
    plan = [("a", 0, 100, 25), ("b", 12, 130, 30), ("c", 3, 230, 50)]
    clips, offsets = [], []
    for name, first, count, fps in plan:
        clips.append(probe(numbered(tmp_path / f"{name}.mp4", first, count, fps, 25)))
        offsets.append((first - plan[0][1]) / 25)
    takes = lay_out(clips, offsets)
    assert takes[0].fps == 25
    shown = []
    for take, clip in zip(takes, clips, strict=True):
        moments = np.full(take.total, np.nan)
        read = [moment_of(picture) for picture in read_frames(take.of(clip))]
        assert len(read) == take.frames
        moments[take.first : take.first + take.frames] = read
        shown.append(moments)
    base = np.arange(takes[0].total) + round(shown[0][takes[0].first] - takes[0].first)
    assert np.nanmax(np.abs(shown[0] - base)) < 0.13
    assert np.nanmax(np.abs(shown[2] - base)) < 0.38  # half of a 50th of a second, and the eighth
    assert np.nanmax(np.abs(shown[1] - base)) < 0.58  # half of a 30th
    # a: 0 .. 99, b: 12 .. 120.3, c: 3 .. 117.5: at least two of them from 3 on.
    assert (base[0], base[-1]) == (3, 117)
    assert takes[0].first == 0
    assert np.isnan(shown[0][-17:]).all()


def test_clips_apart_are_refused_by_name() -> None:
    clips = [replace(made_up(name), frames=100) for name in "abc"]
    with pytest.raises(InputError, match=r"c\.mp4 shares 0\.0 s with the other clips"):
        lay_out(clips, [0, 0.1, 9])
    with pytest.raises(InputError, match=r"a\.mp4 shares 0\.0 s"):
        lay_out(clips[:2], [0, 1e6])
    assert lay_out(clips, [0, 0.04, 0.08], max_frames=60)[0].total == 60


def test_missing_frames_as_ranges() -> None:
    assert ranges_of(frozenset({5, 1, 2, 3, 9})) == [[1, 4], [5, 6], [9, 10]]
    assert missing_of({"missing": [[1, 4], [9, 10]]}) == frozenset({1, 2, 3, 9})
    assert missing_of({}) == frozenset()


@pytest.mark.parametrize("offsets", [(0.0,), (0.0, 1.0, 2.0), (0.0, float("nan")), (0.0, 1e9)])
def test_offsets_that_do_not_fit_are_refused(offsets: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="--offsets"):
        check_offsets(offsets, 2)


def test_synchronising_decoded_clips_by_their_sound(tmp_path: Path) -> None:
    """Two clips of pictures that say nothing; the sound tells, and the better sound is named."""
    scene = np.repeat(speech(8, 5), 3)
    wall = [np.full((240, 320, 3), 90 + k % 2, np.uint8) for k in range(125)]
    paths = []
    for k, start in enumerate((0.0, 1.23)):
        begin = round(start * 48000)
        sound = microphone(scene[begin : begin + 5 * 48000], k).astype(float)
        if k == 0:
            sound = 0.1 * sound + np.random.default_rng(0).normal(0, 300, len(sound))
        paths.append(write_clip(tmp_path / f"{k}.mp4", wall, sound=sound.astype(np.int16)))
    clips = [probe(path) for path in paths]
    assert all(listen(clip) for clip in clips)
    said: list[Progress] = []
    found = synchronise(clips, None, None, said.append)
    assert not said, "no picture was looked at"
    assert found["offsets"][1]["method"] == "sound"
    assert abs(found["offsets"][1]["seconds"] - 1.23) < 0.005
    assert found["sound"] == 1
    takes = [Take(**take) for take in found["takes"]]
    assert (takes[0].first, takes[1].first) == (0, 31)
    assert not found["warnings"]


def test_clips_that_nothing_tells_begin_together_with_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for k in range(2):
        wall = [rng.integers(80, 90, (240, 320, 3), np.uint8) for _ in range(60)]
        paths.append(write_clip(tmp_path / f"{k}.mp4", wall))
    found = synchronise([probe(path) for path in paths], None, None, lambda _: None)
    assert found["offsets"][1] == {"seconds": 0.0, "method": "assumed", "confidence": 0.0}
    assert "Clap once" in found["warnings"][0]
    assert found["sound"] is None
