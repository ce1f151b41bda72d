"""A spoken text as an avatar's motion: lips, head, eyes and feeling together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from avatar.checks import InputError
from avatar.drive.emotion import EXPRESSIONS, EmotionKey, emotion_curve, with_emotion
from avatar.drive.espeak import synthesise
from avatar.drive.gestures import Curves, idled, loudness, overlaid, peaks_of, speaking
from avatar.drive.idle import IdleDriver
from avatar.drive.lips import fitted_to
from avatar.drive.motion import ARKIT_COUNT
from avatar.drive.speech import Speech, joined, silence
from avatar.drive.stage_directions import Direction, Script, parse_script
from avatar.drive.visemes import articulated, closures, segments_of
from avatar.model.avatar import Avatar
from avatar.types import HeadState

LEAD_S = 0.30
"""Silence before the first sound, in which the mouth gets ready."""
TAIL_S = 0.60
"""Silence behind the last, in which it comes to rest."""
WORDLESS_S = 2.0
"""Length of what has directions and no words, beside its pauses."""


@dataclass(frozen=True)
class Performance:
    """A text as it is spoken by an avatar."""

    speech: Speech
    states: HeadState
    """A batch; frame 0 is at the beginning of the sound."""
    fps: float


@dataclass(frozen=True)
class TimedDirection:
    """A stage direction and when it happens."""

    direction: Direction
    time_s: float


def speak(
    text: str,
    avatar: Avatar,
    *,
    voice: str | None = None,
    rate_wpm: int = 160,
    pitch: int = 50,
    emotion: tuple[str, float] = ("neutral", 1.0),
    seed: int = 0,
    captured: HeadState | None = None,
) -> Performance:
    """Speak a text with the built-in voice.

    Args:
        text: what to say, with stage directions.
        avatar: who speaks.
        voice: as ``espeak.synthesise``; None goes by the script of the letters.
        rate_wpm: words a minute, 80 to 450.
        pitch: 0 to 99.
        emotion: name and intensity that hold from the start, until a direction changes them.
        seed: of head motion, blinks and glances.
        captured: the person's own motion, a batch: blinks and glances like theirs.

    Raises:
        InputError: nothing to say, a direction that is none, or as ``espeak.synthesise``.
    """
    script = parse_script(text)
    parts = script.parts()
    spoken = synthesise([part for _, part, _ in parts], voice=voice, rate_wpm=rate_wpm, pitch=pitch)
    if not any(part.says_something for part in spoken) and not script.directions:
        raise InputError(
            f"There is nothing to say in {text.strip()[:40]!r}. Write words, or stage directions such as "
            "[smile 0.6] [nod]."
        )
    speech, timed = _composed(script, spoken)
    states = perform(speech, avatar, timed, emotion=emotion, seed=seed, captured=captured)
    return Performance(speech, states, avatar.fps)


def _composed(script: Script, spoken: Sequence[Speech]) -> tuple[Speech, list[TimedDirection]]:
    """Put the parts of a script one after another with their pauses, and its directions in time."""
    rate = spoken[0].sample_rate
    pieces, characters, timed = [silence(LEAD_S, rate)], [0], []
    begin = LEAD_S
    waiting = list(script.directions)
    for (first, text, pause), part in zip(script.parts(), spoken, strict=True):
        # What espeak-ng makes of nothing is a click of silence.
        piece = part if part.says_something else silence(0.0, rate)
        while waiting and waiting[0].character <= first + len(text):
            direction = waiting.pop(0)
            if direction.name == "pause":
                break  # the next part begins behind it
            at = begin + min(piece.time_of(direction.character - first), piece.seconds)
            timed.append(TimedDirection(direction, at))
        pieces += [piece, silence(pause, rate)]
        characters += [first, first]
        begin += piece.seconds + pause
    wordless = not any(part.says_something for part in spoken)
    pieces.append(silence(max(TAIL_S, WORDLESS_S if wordless else 0.0), rate))
    characters.append(len(script.text))
    return joined(pieces, characters), timed


def perform(
    speech: Speech,
    avatar: Avatar,
    directions: Sequence[TimedDirection] = (),
    *,
    emotion: tuple[str, float] = ("neutral", 1.0),
    seed: int = 0,
    captured: HeadState | None = None,
) -> HeadState:
    """Return the states [F] of an avatar that speaks, at its frame rate, as long as the sound.

    Args:
        speech: sound and phonemes.
        avatar: who speaks.
        directions: what else happens.
        emotion: name and intensity that hold from the start.
        seed: of head motion, blinks and glances.
        captured: as for ``speak``.
    """
    fps = avatar.fps
    frames = max(1, int(np.ceil(speech.seconds * fps - 1e-6)))
    segments = segments_of(speech.phonemes)
    closure = closures(segments, fps, frames)
    curves = Curves.still(frames, fps)
    lips = fitted_to(articulated(segments, fps, frames), avatar)
    level = loudness(speech.samples, speech.sample_rate, fps, frames)
    accents = [p.start_s for p in speech.phonemes if p.stressed] or peaks_of(level, fps)
    speaking(curves, level, accents, np.random.default_rng([seed, 7]))
    keys = [EmotionKey(0.0, *emotion)]
    for timed in directions:
        what = timed.direction
        if what.name in EXPRESSIONS:
            keys.append(EmotionKey(timed.time_s, what.name, what.amount))
        elif what.name == "look":
            curves.look(timed.time_s, what.side, what.amount)
        elif what.name != "pause":
            curves.add(what.name, timed.time_s, what.amount, what.side)
    curves.weights += lips.numpy()
    idle = IdleDriver.of(avatar, seed=seed, motion=captured)
    states = overlaid(idled(idle, frames, fps), curves, avatar.rest)
    felt = emotion_curve(keys, fps, frames)
    expression = with_emotion(states.expression, felt, closure, avatar)
    named = expression[:, :ARKIT_COUNT]
    named.copy_(named.clamp(max=1.0))
    if not bool(torch.isfinite(expression).all()):
        raise AssertionError("speech made coefficients that are not finite")
    return replace(states, expression=expression)
