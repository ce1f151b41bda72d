"""Emotions: smooth, named, on a speaking mouth whose closures they leave; and stage directions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_visemes import spoken_avatar

from avatar.checks import InputError
from avatar.drive.emotion import (
    EMOTIONS,
    EXPRESSIONS,
    EmotionKey,
    emotion_curve,
    emotion_named,
    emotional_states,
    expression_weights,
    with_emotion,
)
from avatar.drive.lips import LipGap, lips_closed
from avatar.drive.stage_directions import LOOKS, NAMES, Script, parse_script
from avatar.rig.arkit import ARKIT_INDEX
from avatar.types import HeadState


def test_the_eight_emotions_are_there_and_spelt_in_arkit() -> None:
    assert set(EMOTIONS) == {
        *("neutral", "happy", "sad", "angry", "surprised", "afraid", "disgusted", "contempt"),
    }
    for parts in EXPRESSIONS.values():
        for part in parts:
            assert any(f"{part}{side}" in ARKIT_INDEX for side in ("", "Left", "Right")), part


def test_emotions_differ_and_scale() -> None:
    faces = torch.stack([expression_weights(name) for name in EMOTIONS])
    apart = torch.cdist(faces, faces) + torch.eye(len(faces))
    assert float(apart.min()) > 0.3
    assert torch.allclose(expression_weights("happy", 0.5), 0.5 * expression_weights("happy"))
    assert not bool(expression_weights("neutral").any())


def test_onsets_are_smooth() -> None:
    keys = [
        EmotionKey(1.0, "happy", 0.8),
        EmotionKey(2.0, "angry", 1.0),
        EmotionKey(2.1, "neutral", 1),
    ]
    curve = emotion_curve(keys, 50.0, 200)
    assert not bool(curve[:50].any())
    assert torch.allclose(curve[95], expression_weights("happy", 0.8))
    assert float(curve.diff(dim=0).abs().max()) < 0.12
    assert float(curve[-1].abs().max()) < 1e-9


def test_an_emotion_from_the_start_is_there_from_the_first_frame() -> None:
    curve = emotion_curve([EmotionKey(0.0, "sad", 1.0)], 25.0, 5)
    assert torch.allclose(curve[0], expression_weights("sad"))


@pytest.mark.parametrize("name", EMOTIONS)
def test_closed_lips_stay_closed_whatever_is_felt(name: str) -> None:
    avatar = spoken_avatar()
    speech = torch.zeros(2, 54)
    speech[:, ARKIT_INDEX["jawOpen"]] = torch.tensor([0.05, 0.3])
    closure = torch.tensor([1.0, 0.0])
    felt = expression_weights(name).expand(2, 52)
    both = with_emotion(speech, felt, closure, avatar)
    assert lips_closed(both, avatar).tolist() == [True, False]
    if name != "neutral":
        changed = (both[1] - speech[1]).abs()
        assert float(changed.max()) > 0.1
        upper = [
            v for k, v in ARKIT_INDEX.items() if k.startswith(("brow", "eye", "cheek", "nose"))
        ]
        assert (
            float((both[0] - speech[0])[upper].abs().max()) > 0.05
        )  # also while the lips are shut


def test_an_emotion_on_any_motion_keeps_its_closed_lips() -> None:
    avatar = spoken_avatar()
    lips = LipGap.of(avatar)
    expression = torch.zeros(3, 54)
    expression[1:, ARKIT_INDEX["jawOpen"]] = torch.tensor([0.2, 0.4])
    expression = lips.shut(expression, torch.tensor([1.0, 0.0, 0.0]))
    eye = torch.eye(4).expand(3, 4, 4)
    states = HeadState(expression, torch.zeros(3, 2, 2), eye, eye)
    nothing = emotional_states(states, torch.zeros(3, 52), avatar)
    assert torch.equal(nothing.expression, expression)
    for name in ("surprised", "disgusted", "happy"):
        felt = expression_weights(name).expand(3, 52)
        after = emotional_states(states, felt, avatar)
        assert lips_closed(after.expression, avatar).tolist() == [True, False, False]


def test_named_with_intensity() -> None:
    assert emotion_named("happy:0.6") == ("happy", 0.6)
    assert emotion_named(" Sad ") == ("sad", 1.0)
    with pytest.raises(InputError, match="Did you mean happy"):
        emotion_named("hapy")
    for wrong in ("happy:2", "happy:x", "happy:-1", "happy:nan"):
        with pytest.raises(InputError, match="between 0 and 1"):
            emotion_named(wrong)


def test_a_script_is_parted_into_words_and_directions() -> None:
    script = parse_script("[smile 0.6] Hello [look left] there. [pause 0.5] [nod] [angry 0.8]No!")
    assert script.text == " Hello  there.   No!"
    assert [(d.name, d.amount, d.side) for d in script.directions] == [
        ("smile", 0.6, ""), ("look", 1.0, "left"), ("pause", 0.5, ""), ("nod", 1.0, ""), ("angry", 0.8, ""),
    ]  # fmt: skip
    look, angry = script.directions[1], script.directions[4]
    assert script.text[look.character :].strip().startswith("there")
    assert script.text[angry.character :] == "No!"
    first, second = script.parts()
    assert (first[1].strip(), first[2]) == ("Hello  there.", 0.5)
    assert (second[1].strip(), second[2]) == ("No!", 0.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[smil 0.6] Hi", "Did you mean smile"),
        ("[look lefd]", "Did you mean left"),
        ("[look]", "does not say where"),
        ("[nod 3]", "between 0 and 1"),
        ("[pause 99]", "a pause lasts up to 30 seconds"),
        ("[pause nan]", "is not understood"),
        ("[happy 0.5 0.6]", "at most one number"),
        ("[]", "is empty"),
        ("Hello [smile", "letter 7 of the text is not closed"),
        ("a ] b", "closes nothing"),
        ("[a [smile]]", "is not closed"),
        ("[qqqqqq]", "There are: neutral"),
        ("[nod]" * 1001, "more than 1000"),
    ],
)
def test_wrong_directions_are_told_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_script(text)


def test_escaped_brackets_are_words() -> None:
    assert parse_script(r"as he said \[sic\] \\ here") == Script(r"as he said [sic] \ here", ())


@given(
    st.text(
        alphabet=st.sampled_from("[]\\ .0123456789abelnodksmiucpghrty\U0001f642あß\n\0"),
        max_size=60,
    )
)
def test_any_text_is_a_script_or_one_sentence(text: str) -> None:
    try:
        script = parse_script(text)
    except InputError as error:
        assert 10 < len(str(error)) < 400
        return
    assert len(script.text) <= len(text)
    assert "".join(part for _, part, _ in script.parts()) == script.text
    for direction in script.directions:
        assert direction.name in NAMES
        assert 0 <= direction.character <= len(script.text)


@given(
    st.lists(
        st.one_of(
            st.text(alphabet=st.characters(blacklist_characters="[]\\"), max_size=12),
            st.tuples(st.sampled_from(sorted(EXPRESSIONS)), st.floats(0, 1)),
            st.tuples(st.just("look"), st.sampled_from(sorted(LOOKS))),
        ),
        max_size=12,
    )
)
def test_what_is_written_is_read(pieces: list) -> None:
    text = "".join(p if isinstance(p, str) else f"[{p[0]} {p[1]}]" for p in pieces)
    script = parse_script(text)
    assert script.text == "".join(p for p in pieces if isinstance(p, str))
    found = [(d.name, d.side if d.name == "look" else d.amount) for d in script.directions]
    assert found == [p for p in pieces if not isinstance(p, str)]
