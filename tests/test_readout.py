"""The readout: units rise with their coefficients, neutral reads neutral, streams read as clips do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.drive.live import FaceSample
from avatar.drive.readout import (
    LARGEST_NEUTRAL,
    LONGEST_BLINK_S,
    Calibration,
    Reading,
    Readout,
    calibrated,
)
from avatar.drive.readout_units import (
    ACTION_UNITS,
    AFFECT,
    EMOTIONS,
    FULL,
    PROTOTYPES,
    UNIT_LABELS,
    action_units,
    affect_of,
    emotion_scores,
    named_emotion,
    uncertainty,
)
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES

FPS = 30
UNIT = {unit.number: i for i, unit in enumerate(ACTION_UNITS)}
values = st.floats(0, 1, allow_subnormal=False)
faces = st.lists(values, min_size=52, max_size=52).map(np.array)


def face(**weights: float) -> np.ndarray:
    """Coefficients by name; names without a side set both."""
    array = np.zeros(len(ARKIT_NAMES))
    for name, value in weights.items():
        for full in (name, f"{name}Left", f"{name}Right"):
            if full in ARKIT_INDEX:
                array[ARKIT_INDEX[full]] = value
    return array


def read(
    samples: Sequence[np.ndarray | None], fps: float = FPS, calibration: Calibration | None = None
) -> tuple[Readout, list[Reading]]:
    readout, readings = Readout(calibration or Calibration()), []
    for k, weights in enumerate(samples):
        sample = None if weights is None else FaceSample(weights)
        readout, reading = readout.update(sample, k / fps)
        readings.append(reading)
    return readout, readings


def test_the_tables_name_what_there_is() -> None:
    numbers = [unit.number for unit in ACTION_UNITS]
    assert numbers == sorted(set(numbers))
    for unit in ACTION_UNITS:
        assert all(name in ARKIT_INDEX for name, _ in unit.terms)
        positive = sum(weight for _, weight in unit.terms if weight > 0)
        assert positive + unit.offset >= 1 - 1e-9  # a face that does it fully reads as 5
    for prototype in PROTOTYPES.values():
        assert set(prototype) <= set(numbers)
        if prototype:
            assert sum(w for w in prototype.values() if w > 0) == pytest.approx(1)
    assert set(AFFECT) == set(EMOTIONS)


@given(faces)
@settings(max_examples=200, deadline=None)
def test_every_face_reads_finite_and_in_range(weights: np.ndarray) -> None:
    units = action_units(weights)
    scores = emotion_scores(weights, units)
    affect = affect_of(scores)
    assert units.shape == (len(ACTION_UNITS),)
    assert ((units >= 0) & (units <= FULL)).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.abs(affect) <= 1).all()
    assert named_emotion(scores) in ("neutral", *EMOTIONS)


@given(faces, st.integers(0, len(ACTION_UNITS) - 1), values)
@settings(max_examples=200, deadline=None)
def test_a_unit_rises_with_its_own_coefficients(weights, which, more) -> None:
    unit = ACTION_UNITS[which]
    for name, weight in unit.terms:
        raised = weights.copy()
        raised[ARKIT_INDEX[name]] = max(more, weights[ARKIT_INDEX[name]])
        change = action_units(raised)[which] - action_units(weights)[which]
        assert change * math.copysign(1, weight) >= -1e-12


@given(faces, st.sampled_from([n for n in ARKIT_NAMES if n.startswith("mouthSmile")]))
@settings(max_examples=100, deadline=None)
def test_a_wider_smile_is_no_less_happy(weights, name) -> None:
    raised = weights.copy()
    raised[ARKIT_INDEX[name]] = 1.0
    happy = EMOTIONS.index("happiness")
    before = emotion_scores(weights, action_units(weights))[happy]
    assert emotion_scores(raised, action_units(raised))[happy] >= before - 1e-12


@pytest.mark.parametrize(
    ("shown", "emotion"),
    [
        (face(mouthSmile=0.8, cheekSquint=0.6), "happiness"),
        (face(browInnerUp=0.7, browDown=0.4, mouthFrown=0.8), "sadness"),
        (face(browInnerUp=0.8, browOuterUp=0.8, eyeWide=0.8, jawOpen=0.6), "surprise"),
        (face(browInnerUp=0.6, browDown=0.5, eyeWide=0.9, mouthStretch=0.8), "fear"),
        (face(browDown=0.9, eyeSquint=0.6, mouthPress=0.8), "anger"),
        (face(noseSneer=0.9, mouthUpperUp=0.6), "disgust"),
        (face(mouthSmileLeft=0.6, mouthDimpleLeft=0.6), "contempt"),
        (face(), "neutral"),
    ],
)
def test_prototypes_are_named(shown: np.ndarray, emotion: str) -> None:
    scores = emotion_scores(shown, action_units(shown))
    assert named_emotion(scores) == emotion
    if emotion != "neutral":
        expected = AFFECT[emotion]
        found = affect_of(scores)
        assert found[1] * expected[1] > 0
        if emotion != "contempt":  # half a smile is half a smile as well
            assert found[0] * expected[0] > 0


@given(faces)
@settings(max_examples=100, deadline=None)
def test_the_own_neutral_reads_neutral(weights: np.ndarray) -> None:
    neutral = np.minimum(weights, LARGEST_NEUTRAL)
    _, (reading,) = read([neutral], calibration=Calibration(neutral))
    assert (reading.units == 0).all()
    assert (reading.affect == 0).all()
    assert reading.emotion == "neutral"


def test_calibration_finds_the_rest_under_speech_and_ignores_no_face_at_all() -> None:
    generator = np.random.default_rng(0)
    weights = np.clip(generator.normal(0.3, 0.2, (400, 52)), 0.1, 1)
    head, gaze = np.full((400, 3), 0.2), np.full((400, 2, 2), np.nan)
    found = calibrated(weights, head, gaze)
    assert ((found.weights >= 0.1) & (found.weights <= 0.12)).all()
    assert found.head.tolist() == pytest.approx([0.2] * 3)
    assert (found.gaze == 0).all()
    assert (calibrated(weights[:0], head[:0], gaze[:0]).weights == 0).all()
    assert (calibrated(weights + 5, head, gaze).weights == LARGEST_NEUTRAL).all()


@given(st.lists(st.none() | faces, min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_missing_frames_stay_flags(samples) -> None:
    readout, readings = read(samples)
    assert [reading.valid for reading in readings] == [s is not None for s in samples]
    for reading in readings:
        finite = np.isfinite([*reading.units, *reading.emotions, *reading.affect, reading.shut])
        assert finite.all() if reading.valid else not finite.any()
        assert reading.valid or not (reading.blinked or reading.speaking or reading.emotion)
    summary = readout.summary()
    assert summary["frames"] == len(samples)
    assert summary["frames_with_face"] == sum(s is not None for s in samples)


@given(st.lists(st.none() | faces, min_size=2, max_size=20))
@settings(max_examples=50, deadline=None)
def test_time_reversed_every_frame_reads_the_same(samples) -> None:
    _, forth = read(samples)
    _, back = read(samples[::-1])
    for a, b in zip(forth, back[::-1], strict=True):
        np.testing.assert_array_equal(a.units, b.units)
        np.testing.assert_array_equal(a.affect, b.affect)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=60))
@settings(max_examples=200, deadline=None)
def test_time_reversed_there_are_as_many_blinks(shut) -> None:
    open_eyes = [0.0, 0.0]  # a blink at the very end is none yet
    samples = [face(eyeBlink=value) for value in (*open_eyes, *shut, *open_eyes)]
    assert read(samples)[0].totals.blinks == read(samples[::-1])[0].totals.blinks


def test_blinks_are_counted_and_long_closures_are_not() -> None:
    def closure(seconds: float, depth: float = 0.9) -> list[np.ndarray]:
        return [face(eyeBlink=depth)] * round(seconds * FPS) + [face()] * FPS

    samples = [face()] * FPS + closure(0.15) + closure(0.3) + closure(2 * LONGEST_BLINK_S)
    samples += closure(0.2, depth=0.3)  # lids that lower a little
    readout, readings = read(samples)
    assert readout.totals.blinks == 2
    assert sum(reading.blinked for reading in readings) == 2
    minutes = (len(samples) - 1) / FPS / 60
    assert readout.summary()["blinks"]["per_minute"] == pytest.approx(2 / minutes)


def test_a_blink_across_a_gap_is_not_made_up() -> None:
    samples = [face(), face(eyeBlink=0.9), *[None] * FPS, face(), face()]
    readout, _ = read(samples)
    assert readout.totals.blinks == 0
    assert readout.totals.observed_s == pytest.approx(2 / FPS)


@pytest.mark.parametrize("fps", [25, 30, 60])
@pytest.mark.parametrize(
    ("hz", "depth", "speaks"), [(4, 0.15, True), (4, 0.005, False), (0.2, 0.3, False)]
)
def test_lips_that_move_as_in_speech_seem_to_speak(fps, hz, depth, speaks) -> None:
    time = np.arange(6 * fps) / fps
    jaw = depth * (1 - np.cos(2 * np.pi * hz * time))
    _, readings = read([face(jawOpen=value) for value in jaw], fps)
    share = np.mean([reading.speaking for reading in readings[2 * fps :]])
    assert share == (1.0 if speaks else 0.0)


def test_gaze_and_head_are_measured() -> None:
    readout = Readout()
    for k in range(90):
        side = 0.4 if k // 30 % 2 else 0.0
        sample = FaceSample(
            face(), np.array([0.01 * k, 0.0, 0.0]), np.array([[side, 0.1], [side, 0.1]])
        )
        readout, _ = readout.update(sample, k / FPS)
    summary = readout.summary()
    assert summary["head_rad"]["yaw"]["max"] == pytest.approx(0.89)
    assert summary["head"]["mean_speed_rad_s"] == pytest.approx(0.3)
    assert summary["gaze_rad"]["yaw"]["mean"] == pytest.approx(0.4 / 3)
    assert readout.totals.shifts == 2
    assert summary["gaze"]["ahead_share"] == pytest.approx(2 / 3)


def test_a_turn_over_the_back_is_no_jump() -> None:
    readout = Readout()
    for k, yaw in enumerate((3.1, -3.1)):
        readout, _ = readout.update(FaceSample(face(), np.array([yaw, 0, 0])), k / FPS)
    assert readout.totals.head_path_rad == pytest.approx(2 * math.pi - 6.2)


def test_the_running_statistics_are_those_of_all_readings() -> None:
    generator = np.random.default_rng(1)
    samples = [None if k % 7 == 3 else generator.random(52) for k in range(200)]
    readout, readings = read(samples)
    units = np.stack([r.units for r in readings if r.valid])
    summary = readout.summary()["action_units"]
    for i, label in enumerate(UNIT_LABELS):
        row = summary[label]
        assert row["mean"] == pytest.approx(units[:, i].mean())
        assert row["sd"] == pytest.approx(units[:, i].std())
        assert (row["min"], row["max"]) == (units[:, i].min(), units[:, i].max())
        assert row["present_share"] == pytest.approx((units[:, i] >= 1).mean())


def test_update_leaves_the_readout_before_as_it_was() -> None:
    readout, _ = read([face(jawOpen=0.5)] * 10)
    before = readout.summary()
    later, first = readout.update(FaceSample(face(mouthSmile=1.0)), 1.0)
    _, again = readout.update(FaceSample(face(mouthSmile=1.0)), 1.0)
    assert readout.summary() == before
    assert later.totals.frames == 11
    np.testing.assert_array_equal(first.units, again.units)


def test_a_known_error_is_carried_through() -> None:
    sigma = uncertainty(0.1)
    smile, jaw = UNIT[12], UNIT[26]
    assert sigma.units[jaw] == pytest.approx(0.5)  # one coefficient, times 5
    assert sigma.units[smile] == pytest.approx(0.5 / math.sqrt(2))  # the mean of two
    generator = np.random.default_rng(2)
    middle = face(mouthSmile=0.5, cheekSquint=0.5)
    noisy = middle + 0.01 * generator.normal(size=(4000, 52))
    scores = emotion_scores(noisy, action_units(noisy))[:, EMOTIONS.index("happiness")]
    # Units at the end of their range are cut there: the carried error is an upper bound.
    carried = uncertainty(0.01).emotions[EMOTIONS.index("happiness")]
    assert 0.8 * carried < scores.std() < 1.05 * carried


def test_a_hundred_thousand_random_faces_stay_in_range() -> None:
    weights = np.random.default_rng(3).random((100_000, 52)) ** 2
    for part in np.split(weights, 10):
        units = action_units(part)
        scores = emotion_scores(part, units)
        assert ((units >= 0) & (units <= FULL)).all()
        assert ((scores >= 0) & (scores <= 1)).all()
        assert (np.abs(affect_of(scores)) <= 1).all()


def test_random_and_damaged_samples_neither_crash_nor_leave_the_range() -> None:
    generator = np.random.default_rng(3)
    readout, time_s = Readout(), 0.0
    odd = (np.nan, np.inf, -np.inf, 1e300, -1e300, 5.0, -1.0)
    for k in range(10_000):
        weights = generator.random(52)
        if k % 5 == 0:
            weights[generator.integers(52)] = odd[k // 5 % len(odd)]
        if k % 11 == 0:
            weights = weights[: generator.integers(52)]
        sample = FaceSample(weights, generator.normal(size=3)) if k % 13 else None
        time_s += (-0.1, 0.0, 0.01, 0.04, 1.0, 0.02)[generator.integers(6)]
        now = (math.nan, math.inf)[k % 2] if k % 997 == 0 else time_s
        readout, reading = readout.update(sample, now)
        assert reading.valid == bool(np.isfinite(reading.units).all())
        if reading.valid:
            assert 0 <= reading.units.min() <= reading.units.max() <= FULL
    totals = readout.totals
    assert totals.frames == 10_000
    assert 0 < totals.valid < totals.frames
    assert totals.refused > 0
