"""The viewer as a person has it: a real browser, driven over its debugging protocol."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import make_avatar

from avatar.export.web_browser import Chromium, find_chromium
from avatar.model.avatar import Avatar
from viewer.app import ViewerApp

WIDTH, HEIGHT = 1100, 640

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_chromium() is None, reason="needs the Chromium browser, which is not installed"
    ),
]


class Browser(Chromium):
    """One page, its mouse, and pictures that can be subtracted."""

    def __init__(self, profile: Path) -> None:
        super().__init__(profile, width=WIDTH, height=HEIGHT)

    def picture(self) -> np.ndarray:
        """Return the page as it looks, int16 [H, W, 3] RGB."""
        return super().picture().astype(np.int16)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drag with the left mouse button, in ten moves."""
        button = {"button": "left", "clickCount": 1}
        mouse = "Input.dispatchMouseEvent"
        self.page(mouse, type="mousePressed", x=start[0], y=start[1], **button)
        for step in range(1, 11):
            x, y = (a + (b - a) * step / 10 for a, b in zip(start, end, strict=True))
            self.page(mouse, type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.page(mouse, type="mouseReleased", x=end[0], y=end[1], **button)


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Return the condition's value once it is true; fail after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"nothing happened within {seconds:g} seconds")


MIDDLE = (slice(120, 620), slice(150, 650))
"""Where the head is: left of the panel, beside the note about software WebGL."""


def click(browser: Browser, text: str) -> None:
    """Click the button or tab that shows exactly this text, with the mouse."""
    script = f"""(() => {{
        const all = [...document.querySelectorAll('button, [role=tab]')];
        const found = all.find(e => e.innerText.trim() === {text!r});
        if (!found) return null;
        found.scrollIntoView({{block: 'center'}});
        const box = found.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    }})()"""
    x, y = (round(v) for v in wait_for(lambda: browser.run(script)))
    browser.drag((x, y), (x, y))


def settled(browser: Browser) -> np.ndarray:
    """Return the middle of the page once three pictures, half a second apart, are alike."""
    last, alike = browser.picture()[MIDDLE], 0
    for _ in range(60):
        time.sleep(0.5)
        now = browser.picture()[MIDDLE]
        alike = alike + 1 if np.abs(now - last).max() <= 2 else 0
        if alike == 2:
            return now
        last = now
    raise AssertionError("the page does not come to rest")


def difference(browser: Browser, before: np.ndarray) -> float:
    """Mean absolute difference of the page's middle from what it was, grey levels of 255."""
    return float(np.abs(browser.picture()[MIDDLE] - before).mean())


def test_a_browser_shows_the_avatar_and_what_is_done_to_it(tmp_path):
    app = ViewerApp(make_avatar(gaussians=3000), port=0)
    app.start()
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(app.url)
        wait_for(lambda: app.paces and app.paces[0].width, 60)
        # The page begins with its own small camera before it takes the one that it is told.
        wait_for(lambda: (browser.picture()[MIDDLE] < 200).any(-1).mean() > 0.05)
        before = settled(browser)
        assert (before < 200).any(-1).mean() > 0.05
        text = browser.run("document.body.innerText")
        for word in (
            "frames/s",
            "Drive",
            "Expression",
            "Gaze and head",
            "Look",
            "No captured motion",
        ):
            assert word in text or (word == "frames/s" and "still" in text), text

        click(browser, "Expression")
        wait_for(lambda: "jawOpen" in browser.run("document.body.innerText"))
        click(browser, "mouth open")
        wait_for(lambda: app.panels.weights["jawOpen"].value == 0.7)
        # The open mouth changes the mean by 1.8 grey levels; a picture drawn again by software WebGL
        # by up to 0.3, and one at the smaller canvas that viser takes on slow machines by 0.5.
        wait_for(lambda: difference(browser, before) > 1.2)
        app.panels.set_weights({})
        wait_for(lambda: difference(browser, before) < 0.8)

        browser.drag((400, 400), (520, 380))
        wait_for(lambda: difference(browser, before) > 5)
        click(browser, "as filmed")
        wait_for(lambda: difference(browser, before) < 0.8)
    finally:
        browser.close()
        app.stop()


def test_a_browser_watches_a_fit_pauses_it_and_ends_it_early(small_capture, tmp_path):
    run = tmp_path / "me.run"
    command = [sys.executable, "-m", "avatar.cli", "train", str(small_capture.path), "-o", str(run)]
    command += ["--preset", "smoke", "--steps", "100000", "--view", "--port", "0"]
    said = tmp_path / "stderr.txt"
    with open(said, "w") as file:
        process = subprocess.Popen(command, stderr=file)
    browser = None
    try:
        url = wait_for(lambda: re.search(r"Watch it at (\S+)", said.read_text()), 60).group(1)
        browser = Browser(tmp_path / "profile")
        browser.open(url)

        def text() -> str:
            return browser.run("document.body ? document.body.innerText : ''")

        def shown_step() -> int:
            found = re.search(r"Step ([\d,]+) of 100,000", text())
            return int(found.group(1).replace(",", "")) if found else 0

        wait_for(lambda: shown_step() > 0, 60)
        wait_for(lambda: (browser.picture()[MIDDLE] < 200).any(-1).mean() > 0.05, 60)
        first, step = browser.picture()[MIDDLE], shown_step()
        # It forms: later the same view shows something else.
        wait_for(lambda: shown_step() > step + 50)
        wait_for(lambda: difference(browser, first) > 0.5)
        wait_for(lambda: browser.run("document.querySelectorAll('.uplot canvas').length") == 1)

        click(browser, "Pause")
        wait_for(lambda: "Continue" in text())
        held = shown_step()
        still = settled(browser)
        assert shown_step() == held
        browser.drag((400, 400), (520, 380))  # free to look around meanwhile
        wait_for(lambda: difference(browser, still) > 3)
        cv2.imwrite(str(tmp_path / "paused.png"), browser.picture()[..., ::-1])
        assert shown_step() == held
        click(browser, "Continue")
        wait_for(lambda: shown_step() > held)

        click(browser, "Stop and keep")
        assert process.wait(60) == 0, said.read_text()
        avatar = Avatar.load(run / "avatar.avatar")
        assert held < avatar.header["steps"] < 100_000
    finally:
        if browser is not None:
            browser.close()
        process.kill()
        process.wait(20)
