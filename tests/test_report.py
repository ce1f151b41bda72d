"""report.html: everything that it promises is in it, it needs nothing else, and warnings are seen."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avatar.capture_data import Capture
from avatar.cli_eval import evaluate_run
from avatar.export.report import RunFacts, warnings_of, write_report
from avatar.export.report_charts import chart
from avatar.export.report_pictures import (
    ERROR_FULL,
    STRIP_VALUES,
    STRIPS,
    TILE,
    error_map,
    make_pictures,
    slider_tiles,
    worst_frames,
)
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_NAMES
from avatar.train.evaluate import EvaluateConfig, evaluate
from avatar.train.loop import fit
from configs import PRESETS

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, text and pictures, and insists that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: Counter[str] = Counter()
        self.pictures: list[dict[str, str | None]] = []
        self.captions: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["figcaption"]:
            self.captions.append(data)
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def run(small_capture: Capture, tmp_path_factory) -> Path:
    """A short run and its evaluation, as the command line leaves them."""
    folder = tmp_path_factory.mktemp("report") / "me.run"
    avatar = fit(small_capture, folder, replace(PRESETS["smoke"], steps=60, seed=3))
    evaluate_run(avatar, small_capture, folder, lambda progress: None)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "eval" / "report.html").read_text())


def test_the_page_stands_alone_and_is_small(run: Path, page: Page) -> None:
    text = (run / "eval" / "report.html").read_text()
    assert len(text) < 4_000_000
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert page.count["html"] == page.count["head"] == page.count["body"] == 1
    for picture in page.pictures:
        assert picture["alt"]
        kind, data = str(picture["src"]).split(",", 1)
        assert kind == "data:image/jpeg;base64"
        shape = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1).shape
        assert shape[:2] == (int(picture["height"] or 0), int(picture["width"] or 0))


def test_all_52_sliders_are_shown_and_named(page: Page) -> None:
    for name in ("neutral", *ARKIT_NAMES):
        assert page.captions.count(name) == 1, name


def test_the_page_has_its_parts(run: Path, page: Page) -> None:
    result = json.loads((run / "eval" / "eval.json").read_text())
    for title in STRIPS:
        assert sum(c.startswith(f"{title} ") for c in page.captions) == len(STRIP_VALUES)
    for angle in ("yaw -60°", "yaw +60°", "pitch +30°", "front"):
        assert angle in page.captions
    for name in ("mouth", "eyes", "hair", "neck", "torso"):
        assert f"{result['regions'][name]['psnr']:.2f} dB" in page.text
    assert page.count["svg"] == 4, "PSNR of frames; loss, PSNR and Gaussians over steps"
    config = json.loads((run / "config.json").read_text())
    for fact in (config["torch"], config["headsplat"], config["source_sha256"]):
        assert fact in page.text
    assert '"seed": 3' in page.text
    assert any(": face yellow" in caption for caption in page.captions)


def test_pictures_lie_beside_the_page(run: Path) -> None:
    sizes = {}
    for name in ("contact_sheet", "sliders", "turntable"):
        picture = cv2.imread(str(run / "eval" / f"{name}.jpg"))
        assert picture is not None, name
        sizes[name] = picture.shape
    assert sizes["sliders"][0] > 6 * TILE
    assert sizes["sliders"][1] > 9 * TILE


def test_worst_frames_are_the_worst_and_apart(run: Path, small_capture: Capture) -> None:
    avatar = Avatar.load(run / "avatar.avatar")
    result = json.loads((run / "eval" / "eval.json").read_text())
    frames, values = result["per_frame"]["frame"], result["per_frame"]["psnr"]
    rows = worst_frames(avatar, small_capture, result)
    worst = frames[int(np.argmin(values))]
    assert rows[0][0].caption == f"frame {worst}, held out"
    assert rows[0][1].caption == f"avatar, {min(values):.1f} dB"
    truth, drawn = rows[0][0].picture / 255, rows[0][1].picture / 255
    mse = np.square(truth - drawn).mean()
    # Bytes, and the sheet is as large as the pictures that were measured.
    assert -10 * np.log10(mse) == pytest.approx(min(values), abs=0.1)


def test_a_slider_changes_its_tile(tiny_avatar: Avatar) -> None:
    with torch.no_grad():
        index = tiny_avatar.expression_names.index("cheekPuff")
        tiny_avatar.basis[: len(ARKIT_NAMES)] = 0
        tiny_avatar.basis[index, :, 0] = 0.05
        for parameter in tiny_avatar.deformer.parameters():
            parameter.zero_()
    tiles = {t.caption: t.picture for t in slider_tiles(tiny_avatar)}
    assert list(tiles) == ["neutral", *ARKIT_NAMES]
    changed = {n for n, p in tiles.items() if not np.array_equal(p, tiles["neutral"])}
    assert "cheekPuff" in changed
    assert all(n == "cheekPuff" or n.startswith("eyeLook") for n in changed)


def test_the_error_map_is_black_where_nothing_is_wrong() -> None:
    truth = np.full((4, 6, 3), 200, np.uint8)
    picture = truth.copy()
    picture[1, 2] -= 30
    picture[2, 2] -= round(255 * ERROR_FULL) + 20
    heat = error_map(truth, picture).astype(int).sum(2)
    assert heat[0, 0] < 10
    assert heat[0, 0] < heat[1, 2] < heat[2, 2]


def test_what_is_off_is_said() -> None:
    well = {"frames": 5, "frames_left_out": 0, "psnr_all_tracked": 30.0}
    well["sliders"] = {"exploded": 0, "worst": "jawOpen", "worst_extent": 0.1, "exploded_in": []}
    assert warnings_of(well) == []
    names = ["jawOpen", "cheekPuff", "mouthLeft", "mouthRight", "tongueOut"]
    bad = well | {"frames_left_out": 3}
    bad["sliders"] = {"exploded": 7, "worst": "jawOpen", "worst_extent": 0.5, "exploded_in": names}
    left_out, exploded = warnings_of(bad)
    assert left_out.startswith("3 held-out frames")
    assert exploded.startswith("7 Gaussians have exploded")
    assert "mouthRight and 1 more" in exploded
    assert "50%" in exploded
    assert warnings_of({"frames": 9}) == [], "an evaluation of old knows no sliders"


def test_without_a_face_in_any_held_out_frame_there_is_a_page_with_a_warning(
    run: Path, small_capture: Capture, tmp_path: Path
) -> None:
    avatar = Avatar.load(run / "avatar.avatar")
    capture = Capture(small_capture.path)
    valid = torch.zeros_like(capture.track.valid)
    capture.__dict__["track"] = replace(capture.track, valid=valid)
    quick = EvaluateConfig(flip_frames=1, speed_frames=1)
    result = evaluate(avatar, capture, config=quick)
    sheet = np.zeros((8, 8, 3), np.uint8)
    pictures = make_pictures(avatar, capture, result, sheet, [])
    facts = RunFacts(facts={"<name>": "a & b"})
    write_report(tmp_path / "report.html", avatar, capture, result, pictures, facts)
    page = Page((tmp_path / "report.html").read_text())
    assert "Warning: No held-out frame could be measured" in page.text
    assert "not seen" in page.text
    assert "<name>" in page.text
    assert "a & b" in page.text


def test_charts_stay_in_their_frame() -> None:
    assert chart([1], [2], "PSNR", "frame") == ""
    drawn = Page(chart([10, 20, 40], [3, 3, 3], "a < b", "frame"))
    assert "a < b" in drawn.text
    svg = chart([0, 50, 100], [-5.0, 1e9, 0.0], "PSNR", "step")
    points = svg.split('points="')[1].split('"')[0].split()
    x, y = np.array([[float(v) for v in p.split(",")] for p in points]).T
    assert (np.diff(x) > 0).all()
    assert x[-1] <= 900
    assert y.min() >= 0
    assert y.max() <= 220
    assert y[1] == y.min()
