"""The viewer's page in a real browser: every panel, keys, sound in step, a server that goes and comes back.

Screenshots are left in test-output/viewer.
"""

from __future__ import annotations

import json
import math
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_avatar
from test_viewer_browser import MIDDLE, Browser, click, settled, wait_for
from test_viewer_state import make_track

from avatar.export.web_browser import find_chromium
from viewer.app import ViewerApp
from viewer.capture_app import CaptureApp
from viewer.page import GONE
from viewer.panel_capture import LAYERS
from viewer.panel_look import BY_BROWSER
from viewer.sources import BY_HAND

OUTPUT = Path(__file__).resolve().parents[1] / "test-output" / "viewer"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_chromium() is None, reason="needs the Chromium browser, which is not installed"
    ),
]


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    # The page's own errors, kept where a script can ask for them.
    opened.page(
        "Page.addScriptToEvaluateOnNewDocument",
        source="window.told = []; for (const kind of ['error', 'warn']) { const was = console[kind];"
        "console[kind] = (...a) => { window.told.push(kind + ': ' + a.map(String).join(' '));"
        "was(...a); }; } addEventListener('error', e => window.told.push('error: ' + e.message));",
    )
    yield opened
    opened.close()


def keep(browser: Browser, name: str) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(OUTPUT / f"{name}.png"), browser.picture()[..., ::-1].astype(np.uint8))


def press(browser: Browser, key: str, code: str, number: int) -> None:
    about = {"key": key, "code": code, "windowsVirtualKeyCode": number}
    for kind in ("keyDown", "keyUp"):
        browser.page("Input.dispatchKeyEvent", type=kind, **about)


def own_errors(browser: Browser) -> list[str]:
    """What the page complained about, but for viser's own bounding sphere and WebGL without a GPU."""
    told = json.loads(browser.run("JSON.stringify(window.told)"))
    known = ("computeBoundingSphere", "WebGL", "GPU stall", "software", "THREE.")
    return [t for t in told if t.startswith("error") and not any(k in t for k in known)]


def text_of(browser: Browser) -> str:
    return browser.run("document.body ? document.body.innerText : ''") or ""


def write_tone(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        times = np.arange(int(16000 * seconds)) / 16000
        file.writeframes((8000 * np.sin(2 * math.pi * 300 * times)).astype("<i2").tobytes())


def test_every_panel_and_the_keys(browser, small_capture):
    avatar = make_avatar(gaussians=3000)
    app = ViewerApp(avatar, track=make_track(avatar, 50), capture=small_capture, port=0)
    app.start()
    try:
        begun = time.monotonic()
        browser.page("Page.navigate", url=app.url)
        wait_for(lambda: app.paces and app.paces[0].width, 60)
        keep(browser, "drive")
        print(f"first picture after {time.monotonic() - begun:.1f} s")
        app.panels.source.value = BY_HAND
        words = {
            "Expression": "Search",
            "Gaze and head": "Save pose",
            "Look": "Exposure",
            "Compare": "Split",
            "Capture": "Layer",
            "Save": "Record a video",
            "About": "consent",
        }
        for tab, word in words.items():
            click(browser, tab)
            wait_for(lambda word=word: word in text_of(browser))
            time.sleep(0.5)
            keep(browser, tab.lower().replace(" ", "_"))
        still = settled(browser)
        browser.drag((400, 300), (400, 300))
        press(browser, "3", "Digit3", 51)  # view: left 40 degrees
        wait_for(lambda: np.abs(browser.picture()[MIDDLE] - still).mean() > 1)
        press(browser, "r", "KeyR", 82)
        wait_for(lambda: any(slider.value for slider in app.panels.weights.values()))
        press(browser, "0", "Digit0", 48)
        wait_for(lambda: not any(slider.value for slider in app.panels.weights.values()))
        plays = app.panels.playing.value
        press(browser, " ", "Space", 32)
        wait_for(lambda: app.panels.playing.value != plays)
        assert own_errors(browser) == []
    finally:
        app.stop()


def test_a_search_leaves_what_it_finds(browser):
    app = ViewerApp(make_avatar(gaussians=500), port=0)
    app.start()
    try:
        browser.page("Page.navigate", url=app.url)
        wait_for(lambda: "Expression" in text_of(browser), 60)
        click(browser, "Expression")
        wait_for(lambda: "jawOpen" in text_of(browser))
        app.panels.expression.search.value = "smile left"
        wait_for(lambda: "jawOpen" not in text_of(browser))
        assert "mouthSmileLeft" in text_of(browser)
        assert "mouthSmileRight" not in text_of(browser)
        keep(browser, "search")
        app.panels.expression.search.value = "nonsense"
        wait_for(lambda: "No coefficient" in text_of(browser))
        app.panels.expression.search.value = ""
        wait_for(lambda: "jawOpen" in text_of(browser))
    finally:
        app.stop()


def test_the_browser_draws_the_gaussians_itself_much_as_the_server_does(browser):
    app = ViewerApp(make_avatar(gaussians=3000), port=0)
    app.start()
    try:
        browser.page("Page.navigate", url=app.url)
        wait_for(lambda: app.paces and app.paces[0].width, 60)
        wait_for(lambda: (browser.picture()[MIDDLE] < 200).any(-1).mean() > 0.05)
        by_server = settled(browser)
        app.panels.look_panel.drawn_by.value = BY_BROWSER
        wait_for(lambda: app.paces[0].width == 4)
        time.sleep(1.0)
        wait_for(lambda: (browser.picture()[MIDDLE] < 200).any(-1).mean() > 0.05)
        by_browser = settled(browser)
        keep(browser, "drawn_by_browser")
        dark = (by_server < 200).any(-1), (by_browser < 200).any(-1)
        overlap = (dark[0] & dark[1]).sum() / (dark[0] | dark[1]).sum()
        # Random splats with sharp edges, and another blending: alike in place and shade, not in pixels.
        assert overlap > 0.8
        assert np.abs(by_server - by_browser).mean() < 15
        assert own_errors(browser) == []
    finally:
        app.stop()


def test_sound_follows_the_shown_frame(browser, tmp_path):
    avatar = make_avatar(gaussians=500)
    write_tone(tmp_path / "voice.wav", 8.0)
    app = ViewerApp(avatar, track=make_track(avatar, 200), audio=tmp_path / "voice.wav", port=0)
    app.start()
    director = app._director
    assert director is not None

    def apart() -> float:
        """Seconds by which the page's sound and the motion are apart for certain.

        The page reads at some moment between question and answer, which a busy machine sets far apart.
        """
        before = time.perf_counter()
        at = browser.run("window.headsplatSound ? window.headsplatSound.currentTime : -1")
        after = time.perf_counter()
        shown = director._playback.position((before + after) / 2) / director._playback.fps
        return max(0.0, abs(at - shown) - (after - before) / 2)

    def in_step() -> bool:
        return apart() < 0.1

    try:
        browser.page("Page.navigate", url=app.url)
        wait_for(lambda: browser.run("!!window.headsplatSound"), 60)
        browser.drag((400, 300), (400, 300))  # browsers are silent before the first click
        wait_for(lambda: browser.run("!window.headsplatSound.paused"))
        wait_for(in_step)

        def stays_in_step() -> bool:
            offsets = []
            for _ in range(15):
                time.sleep(0.2)
                offsets.append(apart())
            # The clip goes round within 8 s; a reading may fall on that very moment.
            return sorted(offsets)[-3] < 0.1

        # Another process on the machine may hold up the browser's sound for a moment.
        wait_for(stays_in_step)
        app.panels.frame.value = 120
        wait_for(in_step)
        app.panels.speed.value = 0.5
        wait_for(lambda: browser.run("Math.abs(window.headsplatSound.playbackRate - 0.5) < 0.16"))
        wait_for(in_step)
        app.panels.playing.value = False
        wait_for(lambda: browser.run("window.headsplatSound.paused"))
        wait_for(in_step)
        app.panels.frame.value = 10
        wait_for(lambda: abs(browser.run("window.headsplatSound.currentTime") - 10 / 25) < 0.1)
        app.panels.drive.muted.value = True
        wait_for(lambda: browser.run("window.headsplatSound.muted"))
        assert own_errors(browser) == []
    finally:
        app.stop()


def test_the_page_says_that_the_server_is_gone_and_finds_it_again(browser):
    avatar = make_avatar(gaussians=500)
    app = ViewerApp(avatar, port=0)
    app.start()
    port = app.server.get_port()
    browser.page("Page.navigate", url=app.url)
    wait_for(lambda: app.paces and app.paces[0].width, 60)
    wait_for(lambda: "frames/s" in text_of(browser) or "still" in text_of(browser))
    app.stop()
    wait_for(lambda: GONE in text_of(browser))
    keep(browser, "server_gone")
    again = ViewerApp(avatar, port=port)
    again.start()
    try:
        wait_for(lambda: again.paces and again.paces[0].width, 60)
        wait_for(lambda: GONE not in text_of(browser))
        assert browser.run("document.title") == "headsplat"
    finally:
        again.stop()


def test_a_capture_is_browsed_without_an_avatar(browser, small_capture):
    app = CaptureApp(small_capture, port=0)
    app.start()
    try:
        browser.page("Page.navigate", url=app.url)
        wait_for(lambda: app.paces and app.paces[0].width, 60)
        wait_for(lambda: (browser.picture()[MIDDLE] < 200).any(-1).mean() > 0.3)
        plain = settled(browser)
        wait_for(lambda: browser.run("document.querySelectorAll('.uplot canvas').length") == 1)
        for layer in LAYERS[1:]:
            app.panel.layer.value = layer
            wait_for(lambda: np.abs(browser.picture()[MIDDLE] - plain).max() > 60)
            settled(browser)
            keep(browser, f"capture_{layer.replace(' ', '_')}")
            app.panel.layer.value = LAYERS[0]
            wait_for(lambda: np.abs(browser.picture()[MIDDLE] - plain).mean() < 3)
        app.playing.value = True
        wait_for(lambda: app.panel.frame.value > 10)
        assert own_errors(browser) == []
    finally:
        app.stop()
