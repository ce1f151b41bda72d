"""The viewer's server, over the wire that browsers use but without one."""

from __future__ import annotations

import copy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_viewer_state import make_track

import viewer.wire
from avatar.checks import InputError
from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_NAMES
from viewer.app import ViewerApp
from viewer.cameras import ClientView, viewpoint
from viewer.look import Look
from viewer.presets import PRESETS
from viewer.render_loop import FrameLoop
from viewer.sources import BY_HAND, CAPTURED, IDLE
from viewer.stage import Stage
from viewer.state import neutral
from viewer.wire import FACING

WIDTH, HEIGHT = 320, 200


class WireClient(viewer.wire.WireClient):
    """The client of the bench, which here looks at its pictures."""

    def __init__(self, url: str, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.pictures: list[np.ndarray] = []
        self.cameras: list[tuple[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        super().__init__(url, width, height, on_message=self._see)

    def _see(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message["type"] == "BackgroundImageMessage" and message["rgb_data"]:
            bgr = cv2.imdecode(np.frombuffer(message["rgb_data"], np.uint8), cv2.IMREAD_COLOR)
            self.pictures.append(bgr[..., ::-1].astype(np.int16))
        elif message["type"].startswith("SetCamera"):
            self.cameras.append((message["type"], message))

    def settled(self, seconds: float = 0.7) -> np.ndarray:
        """Wait until no picture has come for a while; return the latest."""
        end = time.monotonic() + 30
        count, quiet_since = -1, time.monotonic()
        while time.monotonic() < end:
            if len(self.pictures) != count:
                count, quiet_since = len(self.pictures), time.monotonic()
            elif count and time.monotonic() - quiet_since > seconds:
                return self.pictures[-1]
            time.sleep(0.05)
        raise AssertionError(f"{count} pictures, and no end of them")


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Return the condition's value once it is true; fail after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"nothing happened within {seconds:g} seconds")


def frame_threads() -> int:
    return sum(thread.name == "viewer frames" for thread in threading.enumerate())


@pytest.fixture
def app(tiny_avatar) -> Iterator[ViewerApp]:
    shown = ViewerApp(tiny_avatar, track=make_track(tiny_avatar, 50), port=0)
    shown.start()
    shown.panels.source.value = BY_HAND
    yield shown
    shown.stop()


def test_panels_have_a_slider_for_every_coefficient_and_a_button_for_every_preset(app):
    assert tuple(app.panels.weights) == ARKIT_NAMES
    assert set(ARKIT_NAMES) == {name for names in ARKIT_GROUPS.values() for name in names}
    for slider in app.panels.weights.values():
        assert (slider.min, slider.max, slider.value) == (0.0, 1.0, 0.0)
    assert app.panels.presets.options == tuple(PRESETS)


def test_a_browser_gets_the_picture_that_the_rasterizer_draws(app, tiny_avatar):
    client = WireClient(app.url)
    picture = client.settled()
    assert picture.shape == (HEIGHT, WIDTH, 3)
    view = ClientView(FACING, (0.0, 0.0, 0.6), 0.7, WIDTH, HEIGHT)
    moment = app.stage.moment
    expected = app.stage.draw(moment, view, HEIGHT).astype(np.int16)
    assert (expected != 255).any(-1).mean() > 0.02  # it shows somebody
    # JPEG at quality 90; random splats have more fine detail than faces have.
    assert np.abs(picture - expected).mean() < 4
    assert np.abs(picture[:, :20] - 255).max() < 12  # background at the side
    client.close()


def test_sliders_presets_and_background_change_the_picture(app):
    client = WireClient(app.url)
    before = client.settled()
    app.panels.set_weights(PRESETS["surprise"])
    surprised = client.settled()
    assert np.abs(surprised - before).max() > 40
    app.panels.set_weights({})
    assert np.abs(client.settled() - before).mean() < 0.5
    app.panels.background.value = (0, 80, 0)
    green = client.settled()
    assert np.abs(green[:, :20] - (0, 80, 0)).max() < 12
    client.close()


def test_a_slider_moved_in_the_page_moves_the_avatar(app):
    client = WireClient(app.url)
    before = client.settled()
    uuid = app.panels.weights["jawOpen"]._impl.uuid
    client.send("GuiUpdateMessage", uuid=uuid, updates={"value": 0.8})
    wait_for(lambda: app.panels.weights["jawOpen"].value == 0.8)
    after = client.settled()
    index = ARKIT_NAMES.index("jawOpen")
    assert float(app.stage.moment.state.expression[index]) == pytest.approx(0.8)
    assert np.abs(after - before).max() > 40
    client.close()


def test_each_browser_has_its_own_camera_and_its_thread_ends_with_it(app):
    before = frame_threads()
    one, two = WireClient(app.url), WireClient(app.url, 160, 240)
    first, second = one.settled(), two.settled()
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert second.shape == (240, 160, 3)
    assert frame_threads() == before + 2
    count = len(two.pictures)
    one.look_from((0.05, 0.0, 0.5))
    assert np.abs(one.settled() - first).max() > 40
    assert len(two.pictures) == count
    one.close()
    wait_for(lambda: frame_threads() == before + 1)
    two.close()
    wait_for(lambda: frame_threads() == before)


def test_captured_motion_plays_pauses_and_seeks(app):
    client = WireClient(app.url)
    client.settled()
    app.panels.source.value = CAPTURED
    index = ARKIT_NAMES.index("jawOpen")

    def jaw() -> float:
        return float(app.stage.moment.state.expression[index])

    seen = set()
    wait_for(lambda: seen.add(jaw()) or len(seen) > 5)
    app.panels.playing.value = False
    time.sleep(0.3)
    stopped = jaw()
    time.sleep(0.3)
    assert jaw() == stopped
    app.panels.frame.value = 49 if stopped < 0.5 else 0
    wait_for(lambda: jaw() == (1.0 if stopped < 0.5 else 0.0))
    app.panels.frame.value = 20
    wait_for(lambda: abs(jaw() - 20 / 49) < 1e-5)
    app.panels.weights["jawOpen"].value = 0.25
    wait_for(lambda: abs(jaw() - 20 / 49 - 0.25) < 1e-5)
    app.panels.source.value = BY_HAND
    wait_for(lambda: abs(jaw() - 0.25) < 1e-5)
    client.close()


def test_viewpoint_buttons_move_the_camera(app, tiny_avatar):
    client = WireClient(app.url)
    client.settled()
    client.cameras.clear()
    app.panels.viewpoints.value = "left 40°"
    wait_for(
        lambda: (
            {"SetCameraPositionMessage", "SetCameraLookAtMessage"} <= {k for k, _ in client.cameras}
        )
    )
    moved = [m["position"] for k, m in client.cameras if k == "SetCameraPositionMessage"][-1]
    assert moved == pytest.approx(viewpoint(tiny_avatar, "left 40°").position)
    client.close()


def test_an_avatar_that_changes_while_browsers_look_is_shown(app, tiny_avatar):
    client = WireClient(app.url)
    before = client.settled()
    black = copy.deepcopy(tiny_avatar)
    with torch.no_grad():
        black.colours.zero_()
        black.deformer.offsets.zero_()
    threads = [threading.Thread(target=app.set_avatar, args=(a,)) for a in (tiny_avatar, black) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    app.set_avatar(black)
    app.set_status("Step **100**")
    after = client.settled()
    shown = (before < 200).any(-1)
    assert after[shown].mean() < before[shown].mean() - 20
    assert app.panels.status.visible
    other = copy.deepcopy(tiny_avatar)
    other.expression_names = other.expression_names[:-1]
    with pytest.raises(ValueError, match="same 54 expression names"):
        app.set_avatar(other)
    client.close()


def test_an_avatar_without_motion_opens_and_the_panel_says_so(tiny_avatar):
    shown = ViewerApp(tiny_avatar, port=0)
    shown.start()
    try:
        assert shown.panels.source.options == (BY_HAND, IDLE)
        assert shown.panels.frame.disabled
        client = WireClient(shown.url)
        assert client.settled().shape == (HEIGHT, WIDTH, 3)
        client.close()
    finally:
        shown.stop()


def test_a_port_in_use_is_refused_in_one_sentence(tiny_avatar):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}.*--port"):
            ViewerApp(tiny_avatar, port=port).start()


def test_stop_frees_the_port_and_ends_all_threads(tiny_avatar):
    before = frame_threads()
    shown = ViewerApp(tiny_avatar, port=0)
    shown.start()
    port = shown.server.get_port()
    assert shown.url == f"http://127.0.0.1:{port}"
    client = WireClient(shown.url)
    client.settled()
    leaving = WireClient(shown.url)
    wait_for(lambda: leaving.pictures)
    leaving.close()  # its thread may be drawing while the viewer stops
    shown.stop()
    shown.stop()
    assert frame_threads() == before
    assert not any(t.name == "viewer director" for t in threading.enumerate())
    again = ViewerApp(tiny_avatar, port=port)
    again.start()
    assert again.server.get_port() == port
    again.stop()
    client.close()


def test_the_viewer_ends_well_on_ctrl_c(tiny_avatar, tmp_path):
    tiny_avatar.save(tmp_path / "me.avatar")
    program = (
        "import sys; from pathlib import Path; from avatar.model.avatar import Avatar\n"
        "from viewer.app import ViewerApp\n"
        "from viewer.opening import serve\n"
        "serve(ViewerApp(Avatar.load(Path(sys.argv[1])), port=0), lambda url: print(url, flush=True))\n"
        "print('ended')\n"
    )
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "me.avatar")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    client = WireClient(url)
    client.settled()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=20)
    client.close()
    assert process.returncode == 0, errors
    assert rest.strip() == "ended"  # and no banner of the server's
    assert "Traceback" not in errors


def test_pictures_shrink_while_moving_and_sharpen_when_still(tiny_avatar):
    """A machine (here: a deliverer) that takes 60 ms a picture gets smaller pictures in motion."""
    stage = Stage(tiny_avatar, neutral(tiny_avatar.rest), Look(resolution=600))
    position = [0.0]
    sizes: list[tuple[int, int]] = []

    def deliver(picture: np.ndarray, quality: int) -> None:
        time.sleep(0.06 * (picture.shape[0] / 400) ** 2)
        sizes.append((picture.shape[0], quality))

    def look() -> ClientView:
        return ClientView(FACING, (position[0], 0.0, 0.6), 0.7, 600, 600)

    loop = FrameLoop(stage, look, deliver)
    loop.start()
    for step in range(40):
        position[0] = 0.001 * step
        loop.wake()
        time.sleep(0.03)
    moving = sizes[-1]
    wait_for(lambda: sizes[-1][0] == 600)
    assert moving[0] < 450
    assert moving[1] < sizes[-1][1] == 90
    delivered = len(sizes)
    time.sleep(0.5)
    assert len(sizes) == delivered  # a still scene costs nothing
    assert loop.pace.height == 600
    loop.stop()
    loop.join()
    assert not loop.running
