"""Phonemes to mouth shapes: every name has one, neighbours blend, bilabials shut, rounding comes early."""

from __future__ import annotations

import pytest
import torch
from conftest import make_avatar
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.drive.lips import HEADROOM, LipGap, bounded, fitted_to, lips_closed
from avatar.drive.speech import TimedPhoneme
from avatar.drive.visemes import (
    VISEMES,
    articulated,
    closures,
    segments_of,
    viseme_weights,
    visemes_of,
)
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import generic_arkit_basis

FPS = 25.0


def timed(names: str, length: float = 0.08) -> list[TimedPhoneme]:
    """Phonemes parted by spaces, each of one length; ``_`` is a pause."""
    return [
        TimedPhoneme("" if name == "_" else name, k * length, (k + 1) * length)
        for k, name in enumerate(names.split())
    ]


def spoken_avatar():
    """A small avatar with the real ARKit shapes, whose lips part a little at rest."""
    avatar = make_avatar()
    with torch.no_grad():
        avatar.basis[: len(ARKIT_NAMES)] = generic_arkit_basis()
        avatar.expression_high.fill_(0.4)
    return avatar


@pytest.mark.parametrize(
    ("phoneme", "expected"),
    [
        ("p", ["PP"]), ("mʲ", ["PP", "YY"]), ("b", ["PP"]), ("v", ["FF"]), ("ɱ", ["FF"]), ("ð", ["TH"]),
        ("ˈiː", ["IY"]), ("tʃ", ["TT", "CH"]), ("ˌaɪ", ["AA", "IY"]), ("œ̃", ["OW"]), ("ˈɑ̃", ["AA"]),
        ("ɡ", ["KK"]), ("ç", ["KK"]), ("o̞", ["OW"]), ("ä", ["AA"]), ("s.", ["SS"]), ("", ["sil"]),
        ("ˈ", ["sil"]), ("5", ["sil"]), ("kʷ", ["KK"]), ("ə-", ["AH"]),
    ],
)  # fmt: skip
def test_ipa_names_of_many_languages(phoneme: str, expected: list[str]) -> None:
    assert visemes_of(phoneme) == expected


def test_unknown_letters_go_by_the_letter_they_are_variants_of() -> None:
    assert visemes_of("ᶆ") == ["PP"]  # m with palatal hook
    assert visemes_of("ⱥ") == ["AA"]  # a with stroke
    assert visemes_of("漢") == ["TT"]  # nothing is known of it: a plain consonant


@given(st.text(max_size=16))
def test_any_text_has_visemes(name: str) -> None:
    found = visemes_of(name)
    assert found
    assert set(found) <= set(VISEMES)


@pytest.mark.parametrize("name", VISEMES)
def test_visemes_are_coefficients(name: str) -> None:
    weights = viseme_weights(name)
    assert weights.shape == (52,)
    assert bool(((weights >= 0) & (weights <= 1)).all())
    for value in VISEMES[name]:  # a misspelt name would be lost
        assert any(f"{value}{side}" in ARKIT_INDEX for side in ("", "Left", "Right")), value


def test_rounding_anticipates() -> None:
    pucker = ARKIT_INDEX["mouthPucker"]
    curve = articulated(segments_of(timed("_ _ s t uː t s _ _")), 100.0, 72)[:, pucker]
    # u lasts from 0.32 to 0.40 s. A tenth of a second before, lips are rounder than as long behind it.
    assert curve[22] > 1.3 * curve[50]
    assert curve[22] > 0.1
    flat = articulated(segments_of(timed("_ _ s t iː t s _ _")), 100.0, 72)[:, pucker]
    assert flat.max() < 0.02


def test_vowels_open_and_rest_comes_back() -> None:
    jaw = ARKIT_INDEX["jawOpen"]
    curve = articulated(segments_of(timed("_ _ _ ˈɑː _ _ _", 0.15)), 100.0, 105)[:, jaw]
    assert curve.max() > 0.25
    assert 0.45 < float(curve.argmax()) / 100 < 0.62
    assert curve[[0, -1]].max() < 0.05


@pytest.mark.parametrize("fps", [12.0, 25.0, 30.0, 60.0])
@pytest.mark.parametrize("length", [0.02, 0.035, 0.06, 0.12])
def test_every_bilabial_shuts_at_a_frame(fps: float, length: float) -> None:
    for shift in range(7):
        begin = 0.4 + shift * 0.0061
        phonemes = [
            TimedPhoneme("ɑ", 0.0, begin),
            TimedPhoneme("m", begin, begin + length),
            TimedPhoneme("ɑ", begin + length, 1.0),
        ]
        closure = closures(segments_of(phonemes), fps, int(fps))
        time = torch.arange(int(fps)) / fps
        inside = (time > begin - 0.5 / fps) & (time < begin + length + 0.5 / fps)
        assert closure[inside].max() > 0.999
        assert closure[time < begin - 0.12].max() == 0


def test_shutting_shuts_a_real_mouth_whatever_else_it_does() -> None:
    avatar = spoken_avatar()
    lips = LipGap.of(avatar)
    weights = torch.rand(64, 54, generator=torch.Generator().manual_seed(1)) * 0.4
    weights[:, ARKIT_INDEX["mouthClose"]] = 0
    assert not bool(lips_closed(weights, avatar).all())
    shut = lips.shut(weights, torch.ones(64))
    assert bool(lips_closed(shut, avatar).all())
    # The gap is what the posed lattice shows, not a number of its own.
    moved = avatar.lattice + torch.einsum("e,evc->vc", avatar.feasible(shut[0]), avatar.basis)
    gap = float((moved[13] - moved[14])[1])
    assert gap == pytest.approx(float(lips.gap(shut[:1])), abs=2e-3)


def test_open_lips_are_left_alone_and_closing_is_gradual() -> None:
    avatar = spoken_avatar()
    lips = LipGap.of(avatar)
    weights = torch.zeros(1, 54)
    weights[:, ARKIT_INDEX["jawOpen"]] = 0.3
    assert torch.equal(lips.shut(weights, torch.zeros(1)), weights)
    gaps = [float(lips.gap(lips.shut(weights, torch.tensor([c])))) for c in (0.0, 0.3, 0.6, 1.0)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] <= 1e-6 < gaps[2]


def test_a_sentence_on_a_face_closes_its_bilabials_and_opens_its_vowels() -> None:
    avatar = spoken_avatar()
    segments = segments_of(timed("_ m ˈɑː m ˈʌ b ɪ p iː _ _"))
    weights = fitted_to(articulated(segments, FPS, 22), avatar)
    shut = LipGap.of(avatar).shut(weights, closures(segments, FPS, 22))
    closed = lips_closed(shut, avatar)
    for segment in segments:
        if segment.viseme == "PP":
            time = torch.arange(22) / FPS
            inside = (time > segment.start_s - 0.02) & (time < segment.end_s + 0.02)
            assert bool(closed[inside].any())
    assert not bool(closed.all())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=4), st.floats(0.001, 0.5), st.floats(0.0, 0.2)), max_size=30
    ),
    st.sampled_from([10.0, 25.0, 59.94]),
)
def test_any_phonemes_give_finite_bounded_motion(
    spoken: list[tuple[str, float, float]], fps: float
) -> None:
    phonemes, now = [], 0.0
    for name, length, gap in spoken:
        phonemes.append(TimedPhoneme(name, now + gap, now + gap + length))
        now += gap + length
    frames = int(now * fps) + 1
    segments = segments_of(phonemes)
    weights = articulated(segments, fps, frames)
    closure = closures(segments, fps, frames)
    assert bool(torch.isfinite(weights).all())
    assert float(weights.min()) >= 0
    assert float(weights.max()) <= 1
    assert float(closure.min()) >= 0
    assert float(closure.max()) <= 1


def test_extremes_stay_near_what_was_filmed() -> None:
    avatar = make_avatar()
    with torch.no_grad():
        avatar.expression_high.fill_(0.1)
    most = fitted_to(torch.ones(1, 52), avatar)
    blinks = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]
    others = [k for k in range(52) if k not in blinks]
    assert float(most[:, others].max()) <= 0.1 + HEADROOM + 1e-6
    small = torch.full((1, 52), 0.05)
    assert torch.equal(bounded(small, avatar), small)


def test_lips_open_little_further_than_was_filmed() -> None:
    avatar = spoken_avatar()
    lips = LipGap.of(avatar)
    weights = torch.zeros(3, 54)
    weights[:, ARKIT_INDEX["jawOpen"]] = torch.tensor([0.1, 0.5, 1.0])
    held = lips.within_range(weights)
    assert torch.equal(held[0], weights[0])
    gaps = lips.gap(held)
    assert bool((gaps.diff() > 0).all())
    assert float(gaps[-1]) < 1.1 * lips.range_m < float(lips.gap(weights)[-1])
