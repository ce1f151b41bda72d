"""Stage directions in a text: ``[smile 0.6] Hello [look left] ... [pause 0.5] [nod] [angry 0.8]``.

A direction is a name and at most two words in square brackets, and happens when the word behind it is
spoken. A backslash takes a bracket's meaning away: ``\\[sic\\]`` is read out.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from avatar.checks import InputError
from avatar.drive.emotion import EXPRESSIONS

LOOKS: dict[str, tuple[float, float]] = {
    "camera": (0.0, 0.0),
    "left": (1.0, 0.0),
    "right": (-1.0, 0.0),
    "up": (0.0, 1.0),
    "down": (0.0, -1.0),
    "away": (0.8, -0.5),
}
"""Where to look: shares of the furthest glance to the subject's left and up."""
GESTURES = ("nod", "shake", "tilt", "blink", "wink", "brows")
SIDES = ("left", "right")
SIDED = ("tilt", "wink")
"""Gestures that take a side."""
LONGEST_PAUSE_S = 30.0
DIRECTIONS_AT_MOST = 1000
NAMES = (*EXPRESSIONS, "look", "pause", *GESTURES)

_SYNTAX = "Write for example [smile 0.6], [look left], [pause 0.5] or [nod]"


@dataclass(frozen=True)
class Direction:
    """One direction."""

    name: str
    """One of ``NAMES``."""
    amount: float
    """Intensity from 0 to 1; seconds for a pause."""
    side: str
    """Where to look, or which side of a gesture; empty otherwise."""
    character: int
    """Index in the spoken text of what follows it."""


@dataclass(frozen=True)
class Script:
    """A text and what happens while it is spoken."""

    text: str
    """What is spoken, without directions."""
    directions: tuple[Direction, ...]
    """In order."""

    def parts(self) -> list[tuple[int, str, float]]:
        """Return the text cut at its pauses: index of the first character, text, seconds of pause behind."""
        pauses = [d for d in self.directions if d.name == "pause"]
        edges = [0, *(d.character for d in pauses), len(self.text)]
        seconds = [*(d.amount for d in pauses), 0.0]
        return [
            (first, self.text[first:last], pause)
            for first, last, pause in zip(edges[:-1], edges[1:], seconds, strict=True)
        ]


def parse_script(text: str) -> Script:
    """Part a text into what is spoken and its directions.

    Raises:
        InputError: a direction that is none; the sentence names it, where it is, and what is nearest.
    """
    spoken: list[str] = []
    directions: list[Direction] = []
    index = 0
    while index < len(text):
        letter = text[index]
        if letter == "\\" and text[index + 1 : index + 2] in ("[", "]", "\\"):
            spoken.append(text[index + 1])
            index += 2
        elif letter == "[":
            end = text.find("]", index)
            if end < 0 or "[" in text[index + 1 : end]:
                raise InputError(
                    f"The bracket at letter {index + 1} of the text is not closed. {_SYNTAX}; "
                    "a bracket that is to be read out is written \\[."
                )
            if len(directions) == DIRECTIONS_AT_MOST:
                raise InputError(
                    f"The text has more than {DIRECTIONS_AT_MOST} stage directions. Cut it into parts."
                )
            directions.append(_direction(text[index + 1 : end], len(spoken), index + 1))
            index = end + 1
        elif letter == "]":
            raise InputError(
                f"The bracket at letter {index + 1} of the text closes nothing. {_SYNTAX}; "
                "a bracket that is to be read out is written \\]."
            )
        else:
            spoken.append(letter)
            index += 1
    return Script("".join(spoken), tuple(directions))


def _direction(content: str, character: int, place: int) -> Direction:
    """Read what stands between two brackets; raises InputError."""
    shown = f"[{content[:40]}]"
    words = content.lower().split()
    if not words:
        raise InputError(f"The stage direction at letter {place} is empty. {_SYNTAX}.")
    name, rest = words[0], words[1:]
    if name not in NAMES:
        raise InputError(
            f"There is no stage direction {shown} (letter {place}). {_nearest(name, NAMES)}"
        )
    choices = tuple(LOOKS) if name == "look" else SIDES if name in SIDED else ()
    side, amount = "", None
    for word in rest:
        value = _number(word)
        if value is not None and amount is None:
            amount = value
        elif value is None and choices and not side:
            if word not in choices:
                raise InputError(
                    f"{shown} (letter {place}): '{word[:20]}' is no side. {_nearest(word, choices)}"
                )
            side = word
        else:
            expects = "a side and a number" if choices else "one number"
            raise InputError(
                f"{shown} (letter {place}): '{word[:20]}' is not understood; {name} takes at most "
                f"{expects}. {_SYNTAX}."
            )
    if name == "look" and not side:
        raise InputError(f"{shown} (letter {place}) does not say where: {', '.join(LOOKS)}.")
    if name == "pause":
        amount = 0.5 if amount is None else amount
        if not 0 < amount <= LONGEST_PAUSE_S:
            raise InputError(
                f"{shown} (letter {place}): a pause lasts up to {LONGEST_PAUSE_S:g} seconds; got {amount:g}."
            )
    else:
        amount = 1.0 if amount is None else amount
        if not 0 <= amount <= 1:
            raise InputError(
                f"{shown} (letter {place}): the intensity must lie between 0 and 1; got {amount:g}."
            )
    return Direction(name, amount, side or ("left" if name in SIDED else ""), character)


def _number(word: str) -> float | None:
    """Return a word as a finite number; None where it is none."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _nearest(name: str, names: tuple[str, ...]) -> str:
    """Return the sentence that offers the nearest names, or all."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(names)}."
