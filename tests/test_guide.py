"""The page to follow when filming: one source for the terminal and docs/capture.md, complete and short."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest

from avatar.rig import draw_shapes
from avatar.rig.arkit import ARKIT_NAMES
from capture.guide import (
    READING,
    READING_S,
    SCRIPT,
    WORDS_A_SECOND,
    as_markdown,
    as_text,
    pose_for,
    total_seconds,
)

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_document_is_the_guide() -> None:
    assert (DOCS / "capture.md").read_text() == as_markdown(), (
        "run: python -m capture.guide > docs/capture.md"
    )


def test_one_take_is_under_90_seconds() -> None:
    assert 60 < total_seconds() < 90
    assert f"about {total_seconds():.0f} seconds" in as_text().replace("\n", " ")
    assert len(READING.split()) / WORDS_A_SECOND == pytest.approx(READING_S, rel=0.1)


def test_every_coefficient_but_the_tongue_has_a_pose() -> None:
    assert [name for name in ARKIT_NAMES if pose_for(name) is None] == ["tongueOut"]
    named = [shape for part in SCRIPT for step in part.steps for shape in step.shapes]
    assert len(named) == len(set(named)), "a coefficient is asked for once"
    with pytest.raises(ValueError, match="smileLeft"):
        pose_for("smileLeft")


def test_the_page_for_a_terminal_has_every_step_and_no_markup() -> None:
    page = as_text(80)
    assert max(map(len, page.splitlines())) <= 80
    assert not re.search(r"\*|`|<!--|^#|^>", page, re.MULTILINE)
    flat = " ".join(page.split())
    for part in SCRIPT:
        for step in part.steps:
            assert " ".join(step.text.split()) in flat
    assert "eyeBlinkLeft" not in page, "names of coefficients are for the document"


def test_the_page_of_shapes_shows_all_52() -> None:
    page = (DOCS / "arkit.md").read_text()
    for name in ARKIT_NAMES:
        assert re.search(rf"^\| {name} \|", page, re.MULTILINE), name
    shown = [n for names in draw_shapes.SHEETS.values() for n in names if " + " not in n]
    assert sorted(shown) == sorted(ARKIT_NAMES)
    for picture in re.findall(r"\]\((pictures/[^)]+)\)", page):
        assert (DOCS / picture).stat().st_size < 300_000, picture
        assert cv2.imread(str(DOCS / picture)) is not None, picture


def test_a_drawn_shape_moves_where_its_name_says() -> None:
    rest = draw_shapes.draw_shape("tongueOut")
    puffed = draw_shapes.draw_shape("cheekPuff")
    assert [view.shape for view in puffed] == [(draw_shapes.CELL, draw_shapes.CELL, 3)] * 2
    changed = (puffed[0].astype(int) - rest[0]).__abs__().max(2) > 40
    rows = changed.mean(1)
    third = draw_shapes.CELL // 3
    assert rows[third:].sum() > 10 * rows[:third].sum(), "cheeks move, the forehead does not"
    where, direction, size = draw_shapes.describe("jawOpen")
    assert where in ("chin", "lower lip")
    assert "down" in direction
    assert size > 15
    assert draw_shapes.describe("tongueOut") == ("none", "none", 0.0)
