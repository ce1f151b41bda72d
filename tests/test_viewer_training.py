"""A fit that somebody watches: over the wire that browsers use, but without one."""

from __future__ import annotations

import _thread
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import fails_with_one_sentence, run
from test_train import tensors_of
from test_viewer_app import WireClient, wait_for

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.train.evaluate import EvaluateConfig, evaluate
from avatar.train.loop import StepReport, Trainer, fit
from configs import PRESETS
from viewer.training import WATCHING_SHARE, TrainingView, _duration, compare

SHORT = replace(PRESETS["smoke"], steps=60)
ENDLESS = replace(PRESETS["smoke"], steps=1_000_000)


class Fit:
    """A fit with a view, on a thread of its own; the last step it took."""

    def __init__(self, capture: Capture, folder: Path, config=ENDLESS) -> None:
        self.view = TrainingView(capture, port=0)
        self.step = 0
        self.avatar: Avatar | None = None
        self._thread = threading.Thread(target=self._run, args=(capture, folder, config))
        self._thread.start()
        wait_for(lambda: self.step > 0)

    def _run(self, capture: Capture, folder: Path, config) -> None:
        self.avatar = fit(capture, folder, config, listener=self._listen)

    def _listen(self, trainer: Trainer, report: StepReport) -> bool:
        self.trainer = trainer
        going = self.view(trainer, report)
        self.step = report.step
        return going

    def click(self, client: WireClient, button) -> None:
        """Press a button as a page does."""
        client.send("GuiUpdateMessage", uuid=button._impl.uuid, updates={"value": True})

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def watched(small_capture, tmp_path) -> Iterator[Fit]:
    fitted = Fit(small_capture, tmp_path / "me.run")
    with fitted.view:
        yield fitted
        fitted.view._stop()
        fitted.join()


def test_a_browser_sees_the_avatar_form(watched):
    client = WireClient(watched.view.app.url)
    wait_for(lambda: client.pictures)
    count = len(watched.view.app.stage.moment.avatar)
    # Two further copies of the avatar, and pictures of them that differ.
    version = watched.view.app.stage.moment.version
    wait_for(lambda: watched.view.app.stage.moment.version >= version + 2)
    wait_for(lambda: len(client.pictures) >= 4)
    one, other = client.pictures[0], client.pictures[-1]
    assert (other != 255).any(-1).mean() > 0.02
    assert one.shape != other.shape or np.abs(one - other).max() > 10
    shown = watched.view.app.stage.moment.avatar
    assert shown is not watched.trainer.avatar
    assert not shown.means.requires_grad
    assert shown.means.data_ptr() != watched.trainer.avatar.means.data_ptr()
    assert len(shown) == count
    client.close()


def test_without_a_browser_nothing_is_copied(watched):
    wait_for(lambda: watched.step > 10)  # what is shown first is on stage by then
    version = watched.view.app.stage.moment.version
    begun = watched.step
    wait_for(lambda: watched.step > begun + 100)
    assert watched.view.app.stage.moment.version == version


def test_the_panel_tells_how_the_fit_goes(watched):
    client = WireClient(watched.view.app.url)
    panel = watched.view._panel
    wait_for(lambda: "Gaussians" in panel._numbers.content)
    wait_for(lambda: " left." in panel._numbers.content)
    wait_for(lambda: panel._curves.visible)
    steps, losses, psnrs = (np.asarray(column) for column in panel._curves.data)
    assert len(steps) == len(losses) == len(psnrs) >= 2
    assert (np.diff(steps) > 0).all()
    assert np.isfinite(losses).all()
    client.close()


def test_a_pause_holds_the_fit_and_gives_the_machine_to_pictures(watched):
    client = WireClient(watched.view.app.url)
    panel, app = watched.view._panel, watched.view.app
    wait_for(lambda: client.pictures)
    assert app.share == WATCHING_SHARE
    watched.click(client, panel._toggle)
    wait_for(lambda: panel._toggle.label == "Continue")
    step = watched.trainer.step
    client.look_from((0.1, 0.0, 0.5))  # the camera is free all the while
    before = len(client.pictures)
    wait_for(lambda: len(client.pictures) > before)
    assert app.share == 1
    assert watched.trainer.step == step
    # What is shown is what was reached.
    assert torch.equal(app.stage.moment.avatar.means, watched.trainer.avatar.means)
    watched.click(client, panel._toggle)
    wait_for(lambda: watched.step > step + 3)
    assert panel._toggle.label == "Pause"
    assert app.share == WATCHING_SHARE
    client.close()


@pytest.mark.parametrize("paused", [False, True])
def test_stopping_early_keeps_the_avatar_as_it_is(watched, tmp_path, paused):
    client = WireClient(watched.view.app.url)
    wait_for(lambda: client.pictures)
    if paused:
        watched.click(client, watched.view._panel._toggle)
        wait_for(lambda: watched.view._panel._toggle.label == "Continue")
    watched.click(client, watched.view._panel._stop)
    watched.join()
    avatar = Avatar.load(tmp_path / "me.run" / "avatar.avatar")
    assert avatar.header["steps"] == watched.trainer.step < ENDLESS.steps
    assert watched.avatar is not None
    assert torch.equal(avatar.means, watched.avatar.means)
    client.close()


def test_a_held_out_frame_stands_beside_the_avatar(watched, small_capture):
    client = WireClient(watched.view.app.url)
    panel = watched.view._panel
    assert not panel._pair.visible
    panel._compare.value = True
    wait_for(lambda: panel._pair.visible)
    height, width, _ = panel._pair.image.shape
    assert width == 2 * height
    frame = panel.compared_frame()
    begin, end = small_capture.splits.test
    assert begin <= frame < end
    assert f"Frame {frame}" in panel._pair.label
    client.close()


def test_comparing_measures_as_the_evaluation_does(small_capture, tmp_path):
    avatar = fit(small_capture, tmp_path, replace(SHORT, steps=5))
    result = evaluate(avatar, small_capture, config=EvaluateConfig(flip_frames=1, speed_frames=1))
    frame, expected = (result["per_frame"][name][0] for name in ("frame", "psnr"))
    picture, value = compare(avatar, small_capture, frame)
    assert value == pytest.approx(expected, abs=1e-3)
    assert picture.shape == (192, 384, 3)


def test_times_are_told_as_people_tell_them():
    told = [_duration(seconds) for seconds in (0.2, 59.4, 59.6, 200, 7500)]
    assert told == ["0 s", "59 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]


def test_two_browsers_share_what_one_would_get(watched):
    clients = [WireClient(watched.view.app.url) for _ in range(2)]
    wait_for(lambda: len(watched.view.app.paces) == 2)
    assert watched.view.app._share_of_each() == WATCHING_SHARE / 2
    for client in clients:
        client.close()


def test_being_watched_does_not_change_the_avatar(small_capture, tmp_path):
    alone = tensors_of(fit(small_capture, tmp_path / "alone", SHORT))
    fitted = Fit(small_capture, tmp_path / "watched", SHORT)
    with fitted.view:
        client = WireClient(fitted.view.app.url)
        fitted.join()
        client.close()
    assert fitted.avatar is not None
    for name, value in tensors_of(fitted.avatar).items():
        assert torch.equal(value, alone[name]), name


def test_ctrl_c_in_a_pause_leaves_a_checkpoint(small_capture, tmp_path):
    with TrainingView(small_capture, port=0) as view:

        def listener(trainer: Trainer, report: StepReport) -> bool:
            if report.step == 7:
                view._toggle()
                threading.Timer(0.5, _thread.interrupt_main).start()
            return view(trainer, report)

        with pytest.raises(KeyboardInterrupt):
            fit(small_capture, tmp_path, ENDLESS, listener=listener)
    resumed = Trainer(small_capture, tmp_path, ENDLESS, resume=True)
    assert resumed.step == 7


def test_a_port_that_is_taken_costs_no_time(small_capture, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="--port"):
            TrainingView(small_capture, port=port)
        folder = tmp_path / "me.run"
        done = run("train", small_capture.path, "-o", folder, "--view", "--port", str(port))
        fails_with_one_sentence(done, str(port), "--port")
        assert not folder.exists()
        done = run("create", "me.mp4", "-o", folder, "--view", "--port", str(port))
        fails_with_one_sentence(done, str(port), "--port")
        assert not folder.exists()


def test_the_options_are_explained():
    for command in ("train", "create"):
        text = run(command, "--help").stdout
        assert "--view" in text
        assert "--port" in text
        assert "pause" in text
