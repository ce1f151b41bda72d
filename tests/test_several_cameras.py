"""Captures of several cameras: what is fitted to, what is never looked at, what is measured."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from several_cameras import FRAMES, MAIN, MISSING, SIZES, make_capture

import avatar.train.pictures as pictures
from avatar.capture_data import COPIES, Capture
from avatar.checks import InputError
from avatar.cli_common import camera_indices
from avatar.cli_eval import evaluate_run
from avatar.model.avatar import GAUSSIAN_PARAMETERS, Avatar
from avatar.model.create import choose_views, create_avatar
from avatar.train.densify import shown_share
from avatar.train.evaluate import EvaluateConfig, evaluate
from avatar.train.evaluate_cameras import preview_camera
from avatar.train.frames import AHEAD, FrameStore, training_cameras, training_frames
from avatar.train.loop import Trainer, fit
from avatar.train.pictures import read_pixels, with_mask
from avatar.types import ignore_progress
from configs import PRESETS

QUICK = replace(PRESETS["smoke"], steps=40, max_side=128)


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Capture:
    return make_capture(tmp_path_factory.mktemp("three") / "me.capture")


@pytest.fixture
def copied(capture, tmp_path) -> Capture:
    shutil.copytree(capture.path, tmp_path / "copied.capture")
    return Capture(tmp_path / "copied.capture")


def tensors_of(avatar: Avatar) -> dict[str, torch.Tensor]:
    return {name: getattr(avatar, name).detach() for name in GAUSSIAN_PARAMETERS}


def test_rows_are_the_pictures_that_there_are(capture):
    frames = training_frames(capture)
    store = FrameStore(capture, frames, 128, cameras=training_cameras(capture))
    rows = set(zip(store.frames.tolist(), store.cameras.tolist(), strict=True))
    expected = {(f, k) for f in range(24) for k in range(3) if f != 9 and f not in MISSING[k]}
    assert rows == expected
    assert len(store) == len(rows)
    for row in (0, 7, len(store) - 1):
        frame, camera = int(store.frames[row]), int(store.cameras[row])
        shown, mask, view = store.target(row)
        assert (shown.shape[1], shown.shape[0]) == SIZES[camera] == (view.width, view.height)
        assert (mask.numpy() * 255).round().astype(np.uint8).tolist() == capture.mask(
            frame, camera
        ).tolist()
        torch.testing.assert_close(view.K, capture.track.K[camera])
        assert torch.equal(store.states[row].T_world_head, capture.track.T_world_head[frame])


def test_a_frame_that_no_fitted_camera_has_is_no_training_frame(capture):
    assert 11 in training_frames(capture)
    assert 11 not in training_frames(capture, (1,))
    assert 5 in training_frames(capture, (1,))


def test_pictures_of_held_cameras_are_never_read(copied, capture, tmp_path):
    held = replace(QUICK, hold_cameras=(2,))
    with_them = tensors_of(fit(capture, tmp_path / "with.run", held))
    shutil.rmtree(copied.path / "frames" / "cam2")
    shutil.rmtree(copied.path / "masks" / "cam2")
    without = fit(copied, tmp_path / "without.run", held)
    for name, value in tensors_of(without).items():
        assert torch.equal(value, with_them[name]), name
    assert json.loads((tmp_path / "with.run/config.json").read_text())["config"][
        "hold_cameras"
    ] == [2]
    assert Avatar.load(tmp_path / "with.run/avatar.avatar").header["config"]["hold_cameras"] == [2]
    # The camera does teach where it is not held.
    everything = tensors_of(fit(capture, tmp_path / "all.run", QUICK))
    assert not torch.equal(everything["colours"][:100], with_them["colours"][:100])
    assert (
        "hold_cameras" not in json.loads((tmp_path / "all.run/config.json").read_text())["config"]
    )


def test_the_main_camera_can_be_held(copied, tmp_path):
    for kind in ("frames", "masks"):
        shutil.rmtree(copied.path / kind / f"cam{MAIN}")
    avatar = fit(copied, tmp_path / "me.run", replace(QUICK, steps=5, hold_cameras=(MAIN,)))
    assert preview_camera(avatar, copied) == MAIN
    views = choose_views(copied, training_frames(copied, (MAIN,)), (0, 2), 8)
    assert MAIN not in views.camera_of
    assert len({int(k) for k in views.camera_of}) == 2


def test_a_fit_to_three_cameras_is_resumed_exactly(capture, tmp_path):
    config = replace(QUICK, hold_cameras=(0,))
    whole = tensors_of(fit(capture, tmp_path / "whole.run", config))
    trainer = Trainer(capture, tmp_path / "broken.run", config)
    for report in trainer.steps():
        if report.step == 13:
            trainer.save_checkpoint()
        if report.step == 16:
            break
    resumed = tensors_of(fit(capture, tmp_path / "broken.run", config, resume=True))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    with pytest.raises(InputError, match="other settings"):
        fit(capture, tmp_path / "broken.run", QUICK, resume=True)


def test_what_memory_has_no_room_for_gives_the_same_avatar(capture, tmp_path, monkeypatch):
    """Read ahead, and from copies on disk."""
    config = replace(QUICK, steps=150, max_side=64)
    whole = tensors_of(fit(capture, tmp_path / "whole.run", config))
    monkeypatch.setattr("avatar.train.loop.cache_bytes", lambda *_: 5 * 64 * 64 * 4)
    monkeypatch.setattr(pictures, "SPARE_DISK_BYTES", 0)
    again = fit(capture, tmp_path / "bounded.run", config)
    for name, value in tensors_of(again).items():
        assert torch.equal(value, whole[name]), name
    copies = list((capture.path / COPIES).rglob("*.png"))
    shutil.rmtree(capture.path / COPIES)
    rows = 3 * 24 - 3 - sum(f < 24 for frames in MISSING for f in frames)
    assert 0 < len(copies) < rows


def test_what_is_expected_is_read_ahead_and_equal(capture):
    frames, cameras = training_frames(capture), (0, 1, 2)
    whole = FrameStore(capture, frames, 128, cameras=cameras)
    bare = FrameStore(capture, frames, 128, cameras=cameras, cache_bytes=0)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0)).tolist()
    for place, row in enumerate(order):
        bare.expect(order[place : place + 2 * AHEAD])
        assert len(bare._ahead) == min(AHEAD, len(order) - place)
        assert torch.equal(bare.target(row)[0], whole.target(row)[0])
    bare.expect([])
    assert not bare._ahead
    bare.close()


def test_a_picture_that_is_gone_stops_the_fit_by_name(copied, tmp_path):
    copied.frame_path(7, 2).unlink()
    with pytest.raises(InputError, match=r"cam2/000007\.jpg cannot be read"):
        fit(copied, tmp_path / "me.run", replace(QUICK, steps=200))


def test_masked_pictures_are_mixed_as_exact_division_has_it():
    values = np.arange(256, dtype=np.uint8)
    picture = np.repeat(values[:, None, None], 3, 2).repeat(256, 1)
    mask = values[None].repeat(256, 0)
    alpha = mask[..., None].astype(np.int64)
    exact = (picture * alpha + 255 * (255 - alpha) + 127) // 255
    mixed = with_mask(picture, mask)
    assert np.array_equal(mixed[..., :3], exact)
    assert np.array_equal(mixed[..., 3], mask)


def test_copies_of_large_frames_are_lossless_and_follow_what_they_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "SPARE_DISK_BYTES", 0)
    large = make_capture(tmp_path / "large.capture", scale=4)
    size = large.size_within(128, 1)
    read = read_pixels(large, 0, 1, size, keep=True)
    (copy,) = (large.path / COPIES / "128" / "cam1").iterdir()
    marked = read.copy()
    marked[0, 0] = 7
    cv2.imwrite(str(copy), marked)
    assert np.array_equal(read_pixels(large, 0, 1, size), marked)  # it is the copy that is read
    copy.write_bytes(copy.read_bytes()[:20])
    assert np.array_equal(read_pixels(large, 0, 1, size, keep=True), read)
    # Another picture in its place: the copy is not taken, and goes.
    cv2.imwrite(str(large.frame_path(0, 1)), 255 - cv2.imread(str(large.frame_path(0, 1))))
    other = read_pixels(large, 0, 1, size, keep=True)
    assert not np.array_equal(other, read)
    assert [p.name != copy.name for p in copy.parent.iterdir()] == [True]
    # None is made where frames are hardly larger, the disk is full or the folder cannot be written.
    shutil.rmtree(large.path / COPIES)
    read_pixels(large, 0, 1, (400, 300), keep=True)
    monkeypatch.setattr(pictures, "SPARE_DISK_BYTES", 1 << 60)
    read_pixels(large, 0, 1, size, keep=True)
    assert not list((large.path / COPIES).rglob("*.png"))
    shutil.rmtree(large.path / COPIES)
    monkeypatch.setattr(pictures, "SPARE_DISK_BYTES", 0)
    (large.path / COPIES).write_text("in the way")
    assert np.array_equal(read_pixels(large, 0, 1, size, keep=True), other)


def test_an_evaluation_says_how_each_camera_sees_the_avatar(capture, tmp_path):
    run = tmp_path / "me.run"
    avatar = fit(capture, run, replace(QUICK, steps=120, hold_cameras=(2,)))
    shown: dict[int, list[int]] = {}
    quick = EvaluateConfig(flip_frames=1, speed_frames=1)
    result = evaluate(
        avatar,
        capture,
        config=quick,
        camera_picture=lambda camera, frame, *_: shown.setdefault(camera, []).append(frame),
    )
    rows = result["cameras"]
    assert [row["camera"] for row in rows] == [0, 1, 2]
    assert [row["held"] for row in rows] == [False, False, True]
    assert [row["main"] for row in rows] == [False, True, False]
    assert [tuple(row["resolution"]) for row in rows] == [
        capture.size_within(128, k) for k in range(3)
    ]
    # The six held-out frames, less those that a camera lacks.
    assert [row["frames"] for row in rows] == [6, 5, 4]
    assert result["frames"] == 5
    assert rows[MAIN]["psnr"] == pytest.approx(result["psnr"], abs=1e-3)
    assert rows[2]["frames_all"] == FRAMES - 1 - len(MISSING[2])
    assert "psnr_all" not in rows[0]
    assert all(12 < row["psnr"] < 60 and 0 < row["ssim"] < 1 for row in rows)
    assert shown[2] == list(range(24, 30))  # every one, for the preview
    assert shown[0] == [24, 25, 26, 27, 28, 29]
    assert shown[1] == [24, 25, 27, 28, 29]
    # What is seen from a side that is fitted to is better than what is not.
    assert rows[0]["psnr"] > rows[2]["psnr"]


def test_the_report_and_the_preview_show_every_camera(capture, tmp_path):
    import av

    run = tmp_path / "me.run"
    avatar = fit(capture, run, replace(QUICK, steps=5, hold_cameras=(2,)))
    result = evaluate_run(avatar, capture, run, ignore_progress)
    assert json.loads((run / "eval/eval.json").read_text())["cameras"] == result["cameras"]
    page = (run / "eval/report.html").read_text()
    for camera in range(3):
        assert f"camera {camera}" in page
    assert "camera 2, never fitted to" in page
    with av.open(str(run / "eval/preview.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.width, stream.height) == (2 * 80, 120)
        assert sum(1 for _ in film.decode(stream)) == 6


@pytest.mark.parametrize("text", ["x", "1,", "-1", "1;2", "1.5", "9999999"])
def test_lists_of_cameras_are_read_or_refused_in_a_sentence(text):
    with pytest.raises(InputError, match="--hold-cameras"):
        camera_indices(text)
    assert camera_indices("") == ()
    assert camera_indices("5, 2,5") == (2, 5)


@pytest.mark.parametrize(
    ("held", "said"), [((3,), "cameras 0 to 2; got 3"), ((0, 1, 2), "every camera")]
)
def test_cameras_that_are_not_there_are_refused_before_anything_is_made(
    capture, tmp_path, held, said
):
    with pytest.raises(InputError, match=said):
        fit(capture, tmp_path / "me.run", replace(QUICK, hold_cameras=held))
    assert not (tmp_path / "me.run").exists()


def test_a_first_avatar_has_the_colours_of_all_sides(capture):
    """Seen by a camera from aside, it is more like the person when that camera was looked at."""
    from avatar.raster import rasterize
    from avatar.train.metrics import psnr

    frames, found = training_frames(capture), {}
    for cameras in ((MAIN,), (0, 1, 2)):
        generator = torch.Generator().manual_seed(0)
        avatar = create_avatar(
            capture, frames, QUICK.create, cameras=cameras, generator=generator
        ).requires_grad_(False)
        state = capture.track.states()[10]
        drawn = rasterize(avatar.pose(state), capture.camera(0), background=torch.ones(3)).rgb
        found[len(cameras)] = psnr(drawn, torch.from_numpy(capture.on_white(10, 0)))
    assert found[3] > found[1] + 0.5


def test_the_bench_says_whose_calibration_it_was(capture, tmp_path):
    from avatar.train.novel_views import CameraRig, calibration_errors

    track = capture.track
    rig = CameraRig(
        K=track.K[0].double(),
        T_cam_world=track.T_cam_world.double(),
        corners_m=torch.zeros(FRAMES, 4, 3).double(),
    )
    same = calibration_errors(capture, rig)
    assert same["rotation_deg"] < 0.001
    assert same["centre_share"] < 1e-4
    turned = rig.T_cam_world.clone()
    angle = torch.tensor(2.0).deg2rad().double()
    turn = torch.eye(4).double()
    turn[0, 0] = turn[1, 1] = angle.cos()
    turn[0, 1], turn[1, 0] = -angle.sin(), angle.sin()
    turned[2] = turn @ turned[2]
    off = calibration_errors(capture, replace(rig, T_cam_world=turned))
    assert off["rotation_deg"] == pytest.approx(2.0, abs=0.01)
    with pytest.raises(InputError, match="has 3 cameras and the truth 2"):
        calibration_errors(capture, replace(rig, T_cam_world=turned[:2]))


def test_the_bench_measures_held_cameras(capture, tmp_path):
    from io import StringIO

    from rich.console import Console

    from avatar.train.bench_avatar import bench_avatars, print_table

    config, quick = replace(QUICK, steps=4), EvaluateConfig(flip_frames=1, speed_frames=1)
    with pytest.raises(InputError, match="cameras 0 to 2; got 7"):
        bench_avatars(
            [capture.path], replace(config, hold_cameras=(7,)), ["rigid"], tmp_path / "bench"
        )
    result = bench_avatars(
        [capture.path],
        replace(config, hold_cameras=(2,)),
        ["rigid"],
        tmp_path / "bench",
        evaluation=quick,
    )
    (row,) = result["rows"]
    assert [camera["held"] for camera in row["cameras"]] == [False, False, True]
    assert row["calibration"] is None
    page = StringIO()
    print_table(result, Console(file=page, width=160))
    assert "camera 2, never fitted to" in page.getvalue()


def test_what_stands_beside_one_picture_and_reaches_into_it_is_not_hidden():
    """Another camera shows it whole and moves it; held, it would be a smear at the picture's edge."""
    from conftest import make_avatar

    person = make_avatar(1).requires_grad_(False)
    person.eye.fill_(-1)
    person.set_binding(person.binding())
    for value, tensor in ((3.0, person.logit_opacities), (-4.5, person.log_scales)):
        tensor.fill_(value)
    for parameter in person.deformer.parameters():
        parameter.zero_()
    camera = person.camera
    found = []
    for x in (0.0, 0.225, 0.4):  # in the middle, just beyond the edge, far beyond it
        person.means.copy_(torch.tensor([[x, 0.0, 0.0]]))
        shares = [
            float(shown_share(person, [person.rest], camera, framed=framed)[0])
            for framed in (False, True)
        ]
        found.append(shares)
    assert found[0] == pytest.approx([1.0, 1.0], abs=0.05)
    assert found[1][0] < 0.4 < found[1][1]
    assert found[2][1] < 0.03
