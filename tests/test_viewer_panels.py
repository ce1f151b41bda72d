"""What the panels do: sources, files from outside, comparison, recording, exports; over the wire, no browser."""

from __future__ import annotations

import html
import io
import json
import math
import shutil
import threading
import time
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from several_cameras import MAIN, SIZES, make_capture
from test_viewer_app import WireClient, frame_threads, wait_for
from test_viewer_state import make_track

from avatar.capture_data import Capture, Landmarks
from avatar.checks import InputError
from avatar.cli_export import export
from avatar.drive.arkit_csv import write_arkit_csv
from avatar.drive.motion import FaceMotion
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.train.restore import find_avatar
from avatar.types import HeadState
from viewer.app import ViewerApp
from viewer.cameras import ClientView, turned, viewpoint
from viewer.capture_app import CaptureApp
from viewer.compare import AVATAR_ERROR, Comparison, Filmed, compared, fitted_view
from viewer.look import Look
from viewer.opening import open_path
from viewer.page import plain
from viewer.panel_capture import DETECTED, LAYERS, layered
from viewer.panel_output import SHORTCUTS, facts_of
from viewer.pose_file import MOST_BYTES, parse_pose, pose_json
from viewer.record import FPS, Recorder, write_take
from viewer.sound import as_aac
from viewer.sources import BY_HAND, CAPTURED, FILE, IDLE, SPEECH, Clip, Sources, SpokenClip
from viewer.splats import LEAST_STD, SCALE, as_splats
from viewer.stage import Stage
from viewer.state import Controls, between, neutral

JAW = ARKIT_INDEX["jawOpen"]
VIEW = ClientView((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.6), 0.7, 160, 120)


class Stream:
    """A stream that opens the jaw and counts how often it was closed."""

    def __init__(self, rest: HeadState) -> None:
        self._rest, self.closed = rest, 0

    def state(self, now_s: float) -> HeadState:
        expression = torch.zeros_like(self._rest.expression)
        expression[JAW] = 0.9
        return replace(self._rest, expression=expression)

    def note(self, now_s: float) -> str:
        return "60 frames a second arrive"

    def close(self) -> None:
        self.closed += 1


def tone(path: Path, seconds: float = 2.0) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        times = np.arange(int(16000 * seconds)) / 16000
        file.writeframes((8000 * np.sin(2 * math.pi * 300 * times)).astype("<i2").tobytes())
    return path


def jaw(app: ViewerApp) -> float:
    return float(app.stage.moment.state.expression[JAW])


@pytest.fixture
def stream(tiny_avatar) -> Stream:
    return Stream(tiny_avatar.rest)


@pytest.fixture
def app(tiny_avatar, stream, tmp_path) -> Iterator[ViewerApp]:
    def refused() -> Stream:
        raise InputError("No camera answers. Plug one in.")

    def say(text: str) -> SpokenClip:
        if "?" in text:
            raise InputError("It cannot ask.")
        return SpokenClip(make_track(tiny_avatar, 30).states(), 25.0, tone(tmp_path / "voice.wav"))

    shown = ViewerApp(
        tiny_avatar,
        track=make_track(tiny_avatar, 50),
        live={"phone": lambda: stream, "webcam": refused},
        say=say,
        port=0,
    )
    shown.start()
    yield shown
    shown.stop()


# -- sources ----------------------------------------------------------------------------------


def test_the_picker_offers_all_sources_and_idle_moves(app):
    assert app.panels.source.options == (CAPTURED, BY_HAND, IDLE, "phone", "webcam")
    app.panels.source.value = IDLE
    wait_for(lambda: app._director is not None and app._director._label == IDLE)
    first = app.stage.moment.state.T_world_torso
    wait_for(lambda: not torch.equal(app.stage.moment.state.T_world_torso, first))


def test_a_stream_drives_says_what_arrives_and_is_closed(app, stream):
    client = WireClient(app.url)
    app.panels.source.value = "phone"
    wait_for(lambda: jaw(app) == pytest.approx(0.9))
    wait_for(lambda: "arrive" in app.panels.drive.note.content)
    app.panels.source.value = BY_HAND
    wait_for(lambda: stream.closed == 1)
    app.panels.source.value = "webcam"
    wait_for(lambda: "Plug one in" in app.panels.drive.note.content)
    assert jaw(app) == 0.0
    app.panels.source.value = "phone"
    wait_for(lambda: jaw(app) == pytest.approx(0.9))
    app.stop()
    assert stream.closed == 2
    client.close()


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C",))))
def test_a_plain_text_is_no_markup(text):
    shown = MarkdownIt("gfm-like", {"html": True, "linkify": False}).renderInline(plain(text))
    assert html.unescape(shown) == " ".join(text.split())


def test_what_a_pose_file_says_is_no_markup_in_anybodys_page(app):
    client = WireClient(app.url)
    evil = {
        "format": "headsplat.pose",
        "version": 1,
        "expression": {"<iframe srcdoc='<script>'>": 1},
    }
    upload(client, app, app.panels.pose.load, "pose.json", json.dumps(evil).encode())
    wait_for(lambda: "no ARKit name" in app.panels.status.content)
    shown = MarkdownIt("gfm-like", {"html": True, "linkify": False}).renderInline(
        app.panels.status.content
    )
    assert "<" not in shown
    assert "iframe" in shown
    client.close()


def test_a_stream_chosen_again_while_it_opens_is_opened_once_at_a_time(tiny_avatar):
    running: list[Stream] = []
    most, opened = 0, []
    go = threading.Event()

    class Exclusive(Stream):
        def close(self) -> None:
            super().close()
            running.remove(self)

    def opener() -> Stream:
        nonlocal most
        one = Exclusive(tiny_avatar.rest)
        running.append(one)
        opened.append(one)
        most = max(most, len(running))
        go.wait(10)
        return one

    sources = Sources(tiny_avatar, None, {"phone": opener}, None)
    sources.enter("phone")
    wait_for(lambda: len(opened) == 1)
    sources.enter(BY_HAND)
    sources.enter("phone")
    time.sleep(0.1)
    go.set()
    wait_for(lambda: "arrive" in sources.note("phone", 0.0))
    assert most == 1
    assert len(running) == 1
    sources.close()
    assert running == []


def upload(
    client: WireClient, app: ViewerApp, button, name: str, content: bytes, size=None
) -> None:
    client.send(
        "FileTransferStartUpload",
        source_component_uuid=button._impl.uuid,
        transfer_uuid=name,
        filename=name,
        mime_type="text/plain",
        part_count=1,
        size_bytes=len(content) if size is None else size,
    )
    client.send(
        "FileTransferPart",
        source_component_uuid=button._impl.uuid,
        transfer_uuid=name,
        part_index=0,
        content=content,
    )


def test_a_motion_file_is_uploaded_and_played(app, tmp_path):
    weights = torch.zeros(60, 52, dtype=torch.float64)
    weights[:, JAW] = 0.625
    motion = FaceMotion(torch.arange(60, dtype=torch.float64) / 30, weights)
    write_arkit_csv(tmp_path / "m.csv", motion)
    client = WireClient(app.url)
    button = app.panels.drive.upload
    upload(client, app, button, "m.csv", (tmp_path / "m.csv").read_bytes())
    wait_for(lambda: app.panels.source.value == FILE)
    wait_for(lambda: jaw(app) == pytest.approx(0.625, abs=1e-3))
    upload(client, app, button, "m.exe", b"MZ")
    wait_for(lambda: ".csv or .json" in app.panels.drive.note.content)
    upload(client, app, button, "n.csv", b"jawOpen\nnan\n")
    wait_for(
        lambda: "n.csv" in app.panels.drive.note.content or "line" in app.panels.drive.note.content
    )
    client.close()


def test_an_upload_of_4_gigabytes_is_refused_before_it_is_kept(app):
    client = WireClient(app.url)
    wait_for(lambda: client.arrivals)
    states = app.server.gui._current_file_upload_states
    button = app.panels.drive.upload
    upload(client, app, button, "big.csv", b"x" * 1000, size=4 * 2**30)
    wait_for(lambda: any("Notification" in m["type"] for m in client.messages))
    assert not states
    upload(client, app, button, "liar.csv", b"x" * 100_000, size=10)
    time.sleep(0.3)
    assert not states  # it sent more than it said
    client.close()


def test_a_text_is_spoken(app):
    app.panels.drive.text.value = "Hello"
    app.panels.drive._speak()
    wait_for(lambda: app.panels.source.value == SPEECH)
    wait_for(lambda: app.panels.drive.muted.visible)
    app.panels.drive.text.value = "Why?"
    app.panels.drive._speak()
    assert "cannot ask" in app.panels.drive.note.content


def test_a_text_without_a_speaker(tiny_avatar):
    with pytest.raises(InputError, match="what to say"):
        Sources(tiny_avatar, None, {}, None).speak("Hello")


# -- poses as files ---------------------------------------------------------------------------


def test_a_pose_comes_back(app):
    controls = Controls({"jawOpen": 0.5, "browInnerUp": 0.25}, (5.0, -3.0), (10.0, 0.0, -2.5))
    assert parse_pose(pose_json(controls)) == controls
    app.panels.pose.set_controls(controls)
    assert app.panels.controls() == controls


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_pose_or_refused_in_a_sentence(content):
    with pytest.raises(InputError):
        parse_pose(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {"format": st.just("headsplat.pose"), "version": st.just(1)},
        optional={
            "expression": json_values
            | st.dictionaries(
                st.sampled_from(ARKIT_NAMES), st.floats(-1, 2) | json_values, max_size=3
            ),
            "gaze_deg": json_values | st.lists(st.floats(), min_size=2, max_size=2),
            "head_deg": json_values | st.lists(st.floats(), min_size=3, max_size=3),
        },
    )
)
@settings(max_examples=300, deadline=None)
def test_any_json_is_a_pose_within_range_or_refused(value):
    try:
        controls = parse_pose(json.dumps(value).encode())
    except InputError as error:
        assert len(str(error)) < 500
        return
    assert all(name in ARKIT_INDEX and 0 <= w <= 1 for name, w in controls.weights.items())
    assert all(abs(a) <= 90 for a in (*controls.gaze_deg, *controls.head_deg))


def test_poses_that_are_too_large_too_deep_or_too_new():
    with pytest.raises(InputError, match="at most"):
        parse_pose(b" " * (MOST_BYTES + 1))
    with pytest.raises(InputError):
        parse_pose(b"[" * 30_000)
    with pytest.raises(InputError, match="newer headsplat"):
        parse_pose(b'{"format": "headsplat.pose", "version": 2}')


# -- light, turntable, motion between frames ----------------------------------------------------


def test_light_is_on_the_person_and_not_on_the_background(tiny_avatar):
    stage = Stage(tiny_avatar, neutral(tiny_avatar.rest), Look(background=(90, 90, 90)))
    usual = stage.draw(stage.moment, VIEW, 120).astype(float)
    stage.change(look=Look(background=(90, 90, 90), exposure=1.0, warmth=1.0))
    lit = stage.draw(stage.moment, VIEW, 120).astype(float)
    assert np.array_equal(lit[:, :10], usual[:, :10])
    person = np.abs(usual - 90).max(-1) > 30
    gain = lit[person].mean(0) / usual[person].mean(0)
    assert gain[0] > gain[1] > gain[2] > 1.0
    assert Look().gains is None


def test_the_turntable_goes_round_the_head(tiny_avatar):
    class Turn:
        avatar, turn_rad = tiny_avatar, math.pi / 2

    start = viewpoint(tiny_avatar, "front")
    view = replace(VIEW, position=start.position)
    turn = turned(view, Turn())
    centre = tiny_avatar.rest.T_world_head[:3, 3].numpy()
    before, after = (np.array(v.position) - centre for v in (view, turn))
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), abs=1e-6)
    assert after[1] == pytest.approx(before[1], abs=1e-6)
    assert after[0] == pytest.approx(before[2], abs=1e-6)  # to the subject's left


def test_between_frames_motion_is_smooth(tiny_avatar):
    states = make_track(tiny_avatar, 10).states()
    assert torch.equal(between(states, 3.0).expression, states[3].expression)
    half = between(states, 3.5)
    middle = (states[3].expression + states[4].expression) / 2
    assert torch.allclose(half.expression, middle, atol=1e-6)
    R = half.T_world_head[:3, :3]
    assert torch.allclose(R @ R.T, torch.eye(3), atol=1e-5)
    assert torch.equal(between(states, 9.9).expression, states[9].expression)


# -- comparison and capture ---------------------------------------------------------------------


def test_a_perfect_avatar_has_no_error_and_a_split_shows_both(small_capture, tiny_avatar):
    filmed = Filmed(small_capture).frame(3, (200, 200), (10, 20, 30))
    assert np.abs(filmed[:2, :2].astype(int) - (10, 20, 30)).max() <= 2  # no person in the corner
    picture = np.full((220, 300, 3), 255, np.uint8)
    box = (50, 10, 200, 200)
    picture[10:210, 50:250] = filmed
    shown, psnr = compared(picture.copy(), filmed, box, Comparison(3, 0.5, AVATAR_ERROR))
    assert psnr > 60
    assert shown[10:210, 155:250].max() < 12  # no error is dark
    assert np.array_equal(shown[10:210, 50:145], filmed[:, :95])
    other = np.full_like(picture, 255)
    shown, psnr = compared(other, filmed, box, Comparison(3, 0.25))
    assert psnr < 20
    assert np.array_equal(shown[10:210, 50:95], filmed[:, :45])
    assert (shown[10:210, 105:] == 255).all()


def test_the_comparison_is_drawn_as_the_captures_camera_saw(tiny_avatar, small_capture):
    camera, (left, top, width, height) = fitted_view(tiny_avatar.camera, (300, 150))
    assert (left, top, width, height) == (75, 0, 150, 150)
    point = torch.tensor([0.02, 0.03, 0.05, 1.0])
    for cam, x0 in ((tiny_avatar.camera, 0.0), (camera, 75.0)):
        seen = cam.K @ (cam.T_cam_world @ point)[:3]
        x = float(seen[0] / seen[2]) - x0
        share = x / (cam.width if x0 == 0 else width)
        assert share == pytest.approx(float(0.5 + 0.02 * 140 / 0.55 / 96), abs=0.01)


def test_a_filmed_frame_that_is_gone_leaves_the_avatar(tiny_avatar, small_capture, tmp_path):
    folder = tmp_path / "me.capture"
    shutil.copytree(small_capture.path, folder)
    capture = Capture(folder)
    capture.frame_path(7).write_bytes(b"damaged")
    stage = Stage(tiny_avatar, neutral(tiny_avatar.rest), filmed=Filmed(capture))
    pictures = []
    for frame in (6, 7):
        stage.change(comparison=Comparison(frame))
        pictures.append(stage.draw(stage.moment, VIEW, 120))
        assert math.isnan(stage.psnr) == (frame == 7)
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_a_capture(small_capture, layer):
    picture = layered(small_capture, 5, layer, 200)
    assert picture.shape == (200, 200, 3)
    plain = layered(small_capture, 5, LAYERS[0], 200)
    assert (layer == LAYERS[0]) == np.array_equal(picture, plain)


def test_a_capture_of_several_cameras_shows_each(tmp_path):
    """Its main camera began after the others."""
    capture = make_capture(tmp_path / "three.capture")
    header = json.loads((capture.path / "capture.json").read_text())
    header["cameras"][MAIN]["missing"] = [[0, 2]]
    (capture.path / "capture.json").write_text(json.dumps(header))
    capture = Capture(capture.path)
    points = torch.full((capture.frames, 478, 3), 40.0)
    marks = Landmarks(points, torch.ones(capture.frames, dtype=torch.bool))
    marks.save(capture.landmarks_path(2))
    for frame in (0, 1):  # as a camera that is not there yet leaves it
        capture.frame_path(frame).unlink()
    for camera, (width, height) in enumerate(SIZES):
        for layer in LAYERS if camera != 0 else LAYERS[:2]:
            assert layered(capture, 15, layer, 200, camera).shape == (height, width, 3)
    tracked = [layered(capture, 15, "tracked face", 200, camera) for camera in (0, 2)]
    for camera, picture in zip((0, 2), tracked, strict=True):
        assert not np.array_equal(picture, layered(capture, 15, LAYERS[0], 200, camera))
    dotted = layered(capture, 15, "landmarks", 200, 2)
    assert np.abs(dotted[40, 40].astype(int) - DETECTED).max() < 30
    app = open_path(capture.path, port=0)
    assert isinstance(app, CaptureApp)
    app.start()
    try:
        assert "no face" not in str(app.panel.note.content)
        assert app.panel.picture(200).shape == (SIZES[MAIN][1], SIZES[MAIN][0], 3)
        app.panel.camera.value = tuple(app.panel.camera.options)[2]
        assert app.panel.picture(200).shape == (SIZES[2][1], SIZES[2][0], 3)
    finally:
        app.stop()


def test_a_capture_opens_without_an_avatar_and_plays(small_capture):
    app = open_path(small_capture.path, port=0)
    assert isinstance(app, CaptureApp)
    app.start()
    try:
        client = WireClient(app.url)
        first = client.settled()
        app.panel.layer.value = "mask"
        time.sleep(0.2)
        assert np.abs(client.settled() - first).mean() > 5
        app.playing.value = True
        wait_for(lambda: int(app.panel.frame.value) > 5)
        app.playing.value = False
        app.panel._go_to_worst()
        worst = int(small_capture.track.residual_px.argmax())
        wait_for(lambda: int(app.panel.frame.value) == worst)
        client.close()
    finally:
        app.stop()


def test_captures_without_frames_or_track(small_capture, tmp_path):
    (tmp_path / "x.capture").mkdir()
    with pytest.raises(InputError, match=r"capture\.json"):
        open_path(tmp_path / "x.capture", port=0)
    text = (small_capture.path / "capture.json").read_text()
    (tmp_path / "x.capture" / "capture.json").write_text(text)
    with pytest.raises(InputError, match="no frames"):
        open_path(tmp_path / "x.capture", port=0)


# -- opening ------------------------------------------------------------------------------------


def test_what_paths_open(tiny_avatar, tmp_path):
    tiny_avatar.header = {"source_sha256": "0" * 64}
    tiny_avatar.save(tmp_path / "me.avatar")
    assert len(find_avatar(tmp_path)[0]) == len(tiny_avatar)
    assert isinstance(open_path(tmp_path / "me.avatar", port=0), ViewerApp)
    with pytest.raises(InputError, match="folder without an avatar"):
        open_path(tmp_path.parent / tmp_path.name / "..", port=0)
    with pytest.raises(InputError, match="does not exist"):
        open_path(tmp_path / "other.avatar", port=0)


def test_a_newer_avatar_and_one_without_its_network(tiny_avatar, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "me.avatar"
    tiny_avatar.save(path)
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()["header"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"header": json.dumps(header | {"version": 99})})
    with pytest.raises(InputError, match="newer headsplat"):
        open_path(path, port=0)
    less = {n: t for n, t in tensors.items() if not n.startswith("deformer.network")}
    assert len(less) < len(tensors)
    save_file(less, path, metadata={"header": json.dumps(header)})
    with pytest.raises(InputError, match="deformer"):
        open_path(path, port=0)


def test_a_run_without_an_avatar_opens_at_its_newest_checkpoint(small_capture, tmp_path):
    from avatar.train.loop import Trainer, fit
    from configs import PRESETS

    class Stopped(Exception):
        pass

    def stop(trainer: Trainer, report) -> bool:
        if report.step == 12:
            trainer.save_checkpoint()
            stop.means = trainer.avatar.means.detach().clone()  # type: ignore[attr-defined]
            raise Stopped
        return True

    run = tmp_path / "me.run"
    with pytest.raises(Stopped):
        fit(small_capture, run, replace(PRESETS["smoke"], steps=60), listener=stop)
    avatar, home = find_avatar(run)
    assert home == run
    assert avatar.header["steps"] == 12
    assert torch.equal(avatar.means, stop.means)  # type: ignore[attr-defined]
    app = open_path(run, port=0)
    assert isinstance(app, ViewerApp)
    assert app._why_no_comparison == ""
    export(run, output=tmp_path / "me.ply")
    assert (tmp_path / "me.ply").stat().st_size > len(avatar)


# -- what leaves ----------------------------------------------------------------------------------


def downloads(client: WireClient) -> dict[str, bytes]:
    """Files that came whole, by name."""
    names = {
        m["transfer_uuid"]: (m["filename"], m["part_count"])
        for m in client.messages
        if m["type"] == "FileTransferStartDownload"
    }
    parts: dict[str, dict[int, bytes]] = {}
    for m in client.messages:
        if m["type"] == "FileTransferPart":
            parts.setdefault(m["transfer_uuid"], {})[m["part_index"]] = m["content"]
    return {
        name: b"".join(parts[key][i] for i in range(count))
        for key, (name, count) in names.items()
        if len(parts.get(key, {})) == count
    }


def test_pictures_videos_and_files_reach_the_browser_that_asked(app):
    client, other = WireClient(app.url), WireClient(app.url)
    client.settled(0.2) if not app.panels.playing.value else wait_for(lambda: client.pictures)
    handle = wait_for(lambda: next(iter(app.server.get_clients().values()), None))
    output = app.panels.output
    output.take_picture(handle)
    output._export(handle)
    output.toggle_record(handle)
    assert app._recorder.recording
    time.sleep(1.2)
    output.toggle_record(handle)
    got = wait_for(lambda: f if len(f := downloads(client)) == 3 else None, 60)
    with Image.open(io.BytesIO(got["avatar.png"])) as picture:
        assert picture.size == (320, 200)
    assert got["avatar.ply"].startswith(b"ply\nformat binary_little_endian")
    with av.open(io.BytesIO(got["avatar.mp4"])) as video:
        frames = [f.to_ndarray(format="rgb24").astype(int) for f in video.decode(video=0)]
    assert abs(len(frames) - 1.2 * FPS) < 12
    assert frames[0].shape == (200, 320, 3)
    assert max(np.abs(frames[0] - f).max() for f in frames[1:]) > 30  # it moves
    assert not downloads(other)
    client.close()
    other.close()


def test_a_recording_carries_its_sound_where_that_was_played_in_one_piece(tiny_avatar, tmp_path):
    stage, sound = Stage(tiny_avatar, neutral(tiny_avatar.rest)), tone(tmp_path / "a.wav")
    for jumped in (False, True):
        recorder = Recorder()
        recorder.start(lambda: VIEW, 100.0)
        for i in range(10):
            recorder.note(
                100.0 + (i + 0.5) / FPS, stage.moment, (sound, i / FPS), jumped and i == 5
            )
        take = recorder.stop()
        assert len(take.frames) == 10
        assert (take.audio is None) == jumped
        write_take(tmp_path / "t.mp4", take, stage, lambda done, total: None)
        with av.open(str(tmp_path / "t.mp4")) as video:
            assert bool(video.streams.audio) != jumped
    with pytest.raises(InputError, match="Nothing was recorded"):
        write_take(tmp_path / "n.mp4", replace(take, frames=()), stage, lambda done, total: None)


def test_sound_for_pages_is_as_long_as_the_file_and_silence_is_refused(tmp_path):
    with av.open(io.BytesIO(as_aac(tone(tmp_path / "a.wav", 1.5)))) as file:
        stream = file.streams.audio[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(1.5, abs=0.1)
    (tmp_path / "b.wav").write_bytes(b"RIFF no sound")
    with pytest.raises(InputError, match="without sound"):
        as_aac(tmp_path / "b.wav")


def test_splats_keep_their_shape_in_half_precision(tiny_avatar):
    with torch.no_grad():
        gaussians = tiny_avatar.pose(neutral(tiny_avatar.rest))
    centres, covariances, colours, opacities = as_splats(gaussians)
    stored = covariances.astype(np.float16).astype(np.float64)
    assert np.isfinite(stored).all()
    want = np.sort((gaussians.scales.detach().numpy() * SCALE).clip(LEAST_STD), axis=1)
    got = np.sort(np.sqrt(np.linalg.eigvalsh(stored).clip(0)), axis=1)
    assert np.median(np.abs(got / want - 1)) < 0.01
    assert np.allclose(centres / SCALE, gaussians.means.detach().numpy(), atol=1e-6)
    assert opacities.shape == (len(tiny_avatar), 1)
    assert 0 <= colours.min() <= colours.max() <= 1


def test_facts_of_a_hostile_header_are_plain_text(tiny_avatar):
    tiny_avatar.header = {
        "who": "Ada <script>alert(1)</script> {evil} | x",
        "consent": "Given on paper",
        "headsplat": "0.1",
        "config": "not a dict",
    }
    text = facts_of(tiny_avatar)
    assert "Ada" in text
    assert "Given on paper" in text
    assert not set("<>{}[]`") & set(text)
    tiny_avatar.header = {}
    assert "does not say who" in facts_of(tiny_avatar)


def test_keys_are_listed_once_and_bound(app):
    client = WireClient(app.url)
    keys = [key for key, _ in SHORTCUTS]
    assert len(set(keys)) == len(keys)
    commands = wait_for(
        lambda: (
            c
            if len(c := [m for m in client.messages if m["type"] == "RegisterCommandMessage"])
            == len(keys)
            else None
        )
    )
    by_key = {m["props"]["hotkey"]: m["uuid"] for m in commands}
    assert set(by_key) == set(keys)
    plays = app.panels.playing.value
    client.send("CommandTriggerMessage", uuid=by_key["space"])
    wait_for(lambda: app.panels.playing.value != plays)
    client.send("CommandTriggerMessage", uuid=by_key["R"])
    wait_for(lambda: app.panels.controls().weights)
    client.send("CommandTriggerMessage", uuid=by_key["3"])
    wait_for(lambda: any(kind == "SetCameraPositionMessage" for kind, _ in client.cameras))
    client.close()


def test_a_client_that_vanishes_disturbs_no_other(app):
    before = frame_threads()
    one, two = WireClient(app.url), WireClient(app.url)
    wait_for(lambda: len(one.arrivals) > 3 and len(two.arrivals) > 3)
    two._socket.socket.close()  # no farewell, in the middle of its pictures
    wait_for(lambda: frame_threads() == before + 1)
    count = len(one.arrivals)
    wait_for(lambda: len(one.arrivals) > count + 10)
    one.close()


def test_a_clip_holds_what_it_was_given(tiny_avatar, small_capture):
    clip = Clip(make_track(tiny_avatar, 5).states(), 25.0)
    sources = Sources(tiny_avatar, clip, {}, None)
    assert sources.labels == (CAPTURED, BY_HAND, IDLE)
    assert sources.clip(CAPTURED) is clip
    with pytest.raises(InputError, match="at most"):
        sources.add_file("a.csv", b" " * (32 * 2**20 + 1))
    assert isinstance(small_capture, Capture)
