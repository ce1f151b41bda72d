"""The fit: it learns, it resumes exactly, kill -9 costs nothing but time."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import of_kind

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.model.avatar import FEATURES, GAUSSIAN_PARAMETERS, Avatar
from avatar.model.create import describe_person, hull
from avatar.model.create_views import VIEW_SIDE, Views
from avatar.train.checkpoint import checkpoints, load_newest, save_checkpoint
from avatar.train.densify import plan_densification, shown_share
from avatar.train.evaluate import EvaluateConfig, evaluate
from avatar.train.frames import FrameStore
from avatar.train.hidden import witnesses
from avatar.train.loop import Trainer, fit
from configs import PRESETS

QUICK = replace(PRESETS["smoke"], steps=40)
LARGER = 4
"""Times that ``large_capture`` is larger than ``small_capture``."""


@pytest.fixture(scope="module")
def large_capture(small_capture, tmp_path_factory) -> Capture:
    """The small capture as a camera of more pixels would have seen it."""
    folder = tmp_path_factory.mktemp("large") / "me.capture"
    size = (small_capture.width * LARGER, small_capture.height * LARGER)
    header = json.loads((small_capture.path / "capture.json").read_text())
    header["cameras"][0] |= {"width": size[0], "height": size[1]}
    (folder / "frames" / "cam0").mkdir(parents=True)
    (folder / "masks" / "cam0").mkdir(parents=True)
    (folder / "capture.json").write_text(json.dumps(header))
    (folder / "splits.json").write_bytes((small_capture.path / "splits.json").read_bytes())
    track = small_capture.track
    K = torch.diag(torch.tensor([LARGER, LARGER, 1.0])) @ track.K
    replace(track, K=K, landmarks_px=track.landmarks_px * LARGER).save(folder / "track.safetensors")
    for frame in range(small_capture.frames):
        for path in (small_capture.frame_path(frame), small_capture.mask_path(frame)):
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / path.relative_to(small_capture.path)), large)
    return Capture(folder)


def tensors_of(avatar: Avatar) -> dict[str, torch.Tensor]:
    return {name: getattr(avatar, name).detach() for name in GAUSSIAN_PARAMETERS}


def test_a_fit_beats_its_start_on_frames_it_never_saw(small_capture, tmp_path):
    start = fit(small_capture, tmp_path / "start", replace(QUICK, steps=1))
    before = evaluate(start, small_capture)["psnr"]
    avatar = fit(small_capture, tmp_path / "me.run", PRESETS["smoke"])
    result = evaluate(avatar, small_capture)
    assert result["psnr"] > before + 3
    lines = (tmp_path / "me.run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == PRESETS["smoke"].steps
    assert list((tmp_path / "me.run" / "tensorboard").iterdir())


def test_an_interrupted_fit_resumes_to_the_same_avatar_bit_for_bit(small_capture, tmp_path):
    whole = tensors_of(fit(small_capture, tmp_path / "whole", QUICK))
    trainer = Trainer(small_capture, tmp_path / "broken", QUICK)
    for report in trainer.steps():
        if report.step == 17:
            trainer.save_checkpoint()
        if report.step == 23:  # densification lies between: see smoke's rounds
            break
    resumed = tensors_of(fit(small_capture, tmp_path / "broken", QUICK, resume=True))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    steps = [
        json.loads(x)["step"]
        for x in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps))


def test_a_run_killed_before_its_first_checkpoint_starts_over_with_a_clean_log(
    small_capture, tmp_path
):
    config = replace(QUICK, checkpoint_seconds=1e6)  # none on a slow machine either
    for report in Trainer(small_capture, tmp_path / "me.run", config).steps():
        if report.step == 30:  # past the first line of the log, before any checkpoint
            break
    assert not checkpoints(tmp_path / "me.run" / "checkpoints")
    fit(small_capture, tmp_path / "me.run", config, resume=True)
    lines = (tmp_path / "me.run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["step"] for x in lines] == [25, 40]


def test_a_run_is_not_overwritten_by_accident(small_capture, tmp_path):
    fit(small_capture, tmp_path / "me.run", replace(QUICK, steps=2))
    with pytest.raises(InputError, match="already holds a run"):
        fit(small_capture, tmp_path / "me.run", replace(QUICK, steps=2))
    with pytest.raises(InputError, match="other settings"):
        fit(small_capture, tmp_path / "me.run", replace(QUICK, steps=3), resume=True)


def test_densification_keeps_its_budget_and_drops_the_faint(tiny_avatar):
    with torch.no_grad():
        tiny_avatar.logit_opacities[:30] = -10.0
    pull = torch.arange(len(tiny_avatar)).float()
    config = replace(QUICK.densify, maximum=280, growth=0.5)
    plan = plan_densification(tiny_avatar, pull, config, torch.Generator().manual_seed(0))
    assert len(plan.source) == 280
    assert (plan.source >= 30).all()
    # The most pulled are the ones split: ten rooms, ten last rows twice.
    twice = torch.bincount(plan.source, minlength=300) == 2
    assert twice[-10:].all()
    assert int(twice.sum()) == 10
    assert (plan.shrink > 0).sum() == 20


def test_densification_keeps_the_parts_sorted_and_in_their_branches(tiny_avatar):
    avatar = of_kind(tiny_avatar, "branches")
    with torch.no_grad():
        for parameter in avatar.deformer.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator())
    config = replace(QUICK.densify, maximum=500, growth=0.3)
    pull = torch.rand(len(avatar), generator=torch.Generator())
    plan = plan_densification(avatar, pull, config, torch.Generator().manual_seed(0))
    part = avatar.part[plan.source]
    assert (part.diff() >= 0).all()
    fresh = torch.bincount(part[plan.fresh], minlength=3)
    assert (fresh > 0).all()  # every part has split Gaussians, so sorting had something to do
    features = torch.randn(FEATURES, generator=torch.Generator())
    before = avatar.deformer(features)
    avatar.set_binding(avatar.binding()[plan.source])
    avatar.deformer.select(plan.source)
    torch.testing.assert_close(avatar.deformer(features), before[plan.source])


def test_what_stands_behind_others_is_not_shown(tiny_avatar):
    with torch.no_grad():
        tiny_avatar.deformer.offsets.zero_()
        tiny_avatar.torso_logits.fill_(-9.0)
        # One before a wall that hides one behind it; the camera looks from +z.
        tiny_avatar.follow.zero_()
        tiny_avatar.means[:, 2] = 0.0
        tiny_avatar.means[:3] = torch.tensor([[0, 0, 0.1], [0, 0, -0.1], [9.0, 0, 0]])
        tiny_avatar.means[3:20] = torch.zeros(3)
        tiny_avatar.log_scales[3:20] = -2.5
        tiny_avatar.logit_opacities[3:20] = 9.0
        tiny_avatar.eye.fill_(-1)
        tiny_avatar.log_scales[:3] = -5.0
        tiny_avatar.set_binding(tiny_avatar.binding())
    share = shown_share(tiny_avatar, [tiny_avatar.rest], tiny_avatar.camera)
    assert share[0] == pytest.approx(1, abs=0.1)
    assert share[1] < 0.001
    assert share[2] == 0  # beside the picture


def test_hidden_gaussians_stay_as_they_were_made(small_capture, tmp_path):
    """White blobs behind the chest grew from traces of gradient that Adam blew up."""
    config = replace(QUICK, densify=replace(QUICK.densify, rounds=0))
    trainer = Trainer(small_capture, tmp_path / "me.run", config)
    # Limits of place and colour hold from the start on, for hidden ones too.
    trainer.state.placement.hold(trainer.avatar)
    start = {name: value.clone() for name, value in tensors_of(trainer.avatar).items()}
    held = torch.ones(len(trainer.avatar), dtype=torch.bool)
    for _ in trainer.steps():
        held &= trainer.state.hidden
    assert 20 < int(held.sum()) < len(held) / 2
    for name, value in tensors_of(trainer.avatar).items():
        assert torch.equal(value[held], start[name][held]), name
    moved = (trainer.avatar.means - start["means"]).detach().abs().amax(1) > 0
    assert moved[~trainer.state.hidden].float().mean() > 0.95


def test_every_stretch_of_head_pose_has_a_witness(small_capture, tmp_path):
    """What only an unwatched pose shows would be held, and stand out from the head there."""
    trainer = Trainer(small_capture, tmp_path / "me.run", replace(QUICK, hidden_frames=2))
    track, turned = small_capture.track, trainer.store.frames[-3:]
    T = track.T_world_head.clone()
    T[turned, :3, 3] += 0.3
    rows = witnesses(replace(track, T_world_head=T), trainer.store, 2)
    assert rows.max() >= len(trainer.store) - 3


def test_a_target_on_a_colour_changes_the_background_only(small_capture):
    store = FrameStore(small_capture, torch.tensor([0]), 192)
    colour = torch.tensor([0.2, 0.5, 0.9])
    white, mask, _ = store.target(0)
    mixed, _, _ = store.target(0, background=colour)
    assert torch.equal(mixed[mask == 1], white[mask == 1])
    torch.testing.assert_close(
        mixed[mask == 0], colour.expand_as(mixed)[mask == 0], atol=0.005, rtol=0
    )


def test_a_frame_read_small_is_the_average_of_all_its_pixels(large_capture):
    frames = range(0, large_capture.frames, 20)
    whole = [large_capture.frame(frame) for frame in frames]
    assert whole[0].flags.c_contiguous
    for side in (128, 192, 340, 341, 700, 1024):
        size = large_capture.size_within(side)
        read = np.stack([large_capture.frame(frame, size=size) for frame in frames])
        expected = [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in whole]
        difference = read.astype(float) - np.stack(expected)
        # Levels of 255. OpenCV's average of four rounds halves up, which is an eighth of a level.
        assert abs(difference.mean()) < 0.15
        assert np.abs(difference).mean() < 0.5


def test_a_large_frame_that_is_damaged_is_named(large_capture, tmp_path):
    (tmp_path / "frames" / "cam0").mkdir(parents=True)
    for name in ("capture.json", "frames/cam0/000000.jpg"):
        (tmp_path / name).write_bytes((large_capture.path / name).read_bytes())
    picture = cv2.imread(str(tmp_path / "frames/cam0/000000.jpg"))
    broken = Capture(tmp_path)
    assert broken.frame(0, size=(128, 128)).shape == (128, 128, 3)
    cv2.imwrite(str(tmp_path / "frames/cam0/000000.jpg"), picture[:-24])
    with pytest.raises(InputError, match=r"000000\.jpg is 1024x1000; expected a 1024x1024"):
        broken.frame(0, size=(128, 128))


def test_pictures_beyond_the_memory_are_read_again_and_equal(small_capture):
    frames = torch.arange(6)
    whole = FrameStore(small_capture, frames, 192)
    bounded = FrameStore(small_capture, frames, 192, cache_bytes=4 * 192 * 192 * 4 - 1)
    assert len(whole._pixels) == len(whole) == len(bounded) == 6
    assert len(bounded._pixels) == 3
    for row in range(6):
        for half in (False, True):
            a, b = whole.target(row, half), bounded.target(row, half)
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])


def test_a_missing_frame_stops_the_reading(large_capture, tmp_path):
    for name in ("capture.json", "splits.json", "track.safetensors", "masks"):
        (tmp_path / name).symlink_to(large_capture.path / name)
    with pytest.raises(InputError, match=r"00000\d\.jpg cannot be read"):
        FrameStore(Capture(tmp_path), torch.arange(8), 192)


def test_an_avatar_is_laid_out_from_bounded_pictures(small_capture, large_capture):
    frames = torch.arange(0, 48, 6)
    surfaces, colours = [], []
    for capture in (small_capture, large_capture):
        views = Views(capture, frames)
        assert max(views.pictures[0].shape[:2]) == min(VIEW_SIDE, capture.width)
        assert views.masks[0].shape == views.pictures[0].shape[:2]
        assert views.cameras[0].width == views.masks[0].shape[1]
        person = describe_person(capture, frames)
        surfaces.append(hull(person, views)[0])
        colours.append(views.sample(0, views.project(0, person.lattice, views.T_cam_head[0])[0]))
    low, high = (torch.stack([s.amin(0), s.amax(0)]) for s in surfaces)
    # Two voxels: the masks' edges are drawn with more and finer pixels.
    torch.testing.assert_close(low, high, atol=0.012, rtol=0)
    # The same points of the face have the same colours, an edge here and there aside.
    assert (colours[0] - colours[1]).abs().mean() < 0.02


def test_an_avatar_is_measured_at_the_size_it_was_trained_at(
    small_capture, large_capture, tmp_path
):
    from capture.landmarks import FaceDetector

    avatar = fit(small_capture, tmp_path / "me.run", replace(QUICK, steps=10))
    quick = EvaluateConfig(flip_frames=1, speed_frames=1)
    shown: list[tuple[int, ...]] = []
    with FaceDetector() as detector:
        small, large = (
            evaluate(
                avatar,
                capture,
                detect=detector.detect,
                picture=lambda _, truth, picture: shown.extend([truth.shape, picture.shape]),
                config=quick,
            )
            for capture in (small_capture, large_capture)
        )
    assert small["resolution"] == large["resolution"] == [192, 192]
    assert set(shown) == {(192, 192, 3)}
    # The same pictures but for the larger files' own coding and resampling.
    assert large["psnr"] == pytest.approx(small["psnr"], abs=0.2)
    assert large["lmd_px"] == pytest.approx(small["lmd_px"], abs=0.2)
    chosen = evaluate(avatar, large_capture, config=replace(quick, max_side=128))
    assert chosen["resolution"] == [128, 128]
    avatar.header.clear()  # a file that does not say
    silent = evaluate(avatar, small_capture, config=quick)
    assert silent["resolution"] == [small_capture.width, small_capture.height]


def test_frames_that_are_left_out_are_counted_and_measured_too(small_capture, tmp_path):
    avatar = fit(small_capture, tmp_path / "me.run", replace(QUICK, steps=1))
    quick = EvaluateConfig(flip_frames=1, speed_frames=1)
    whole = evaluate(avatar, small_capture, config=quick)
    begin, end = small_capture.splits.test
    assert whole["frames"] == end - begin == len(whole["per_frame"]["psnr"])
    assert whole["frames_left_out"] == 0
    assert whole["psnr_all_tracked"] == whole["psnr"]
    each = dict(zip(whole["per_frame"]["frame"], whole["per_frame"]["psnr"], strict=True))

    # The worst three are not trusted, and in one more no face was found.
    worst = sorted(each, key=each.__getitem__)[:3]
    faceless = next(frame for frame in each if frame not in worst)
    track = small_capture.track
    valid, points = track.valid.clone(), track.landmarks_px.clone()
    valid[[*worst, faceless]] = False
    points[faceless] = 0
    capture = Capture(small_capture.path)
    capture.__dict__["track"] = replace(track, valid=valid, landmarks_px=points)
    result = evaluate(avatar, capture, config=quick)
    trusted = [value for frame, value in each.items() if valid[frame]]
    tracked = [value for frame, value in each.items() if frame != faceless]
    assert result["frames"] == len(trusted) == len(result["per_frame"]["psnr"])
    assert result["frames_left_out"] == 4
    # Values a frame are rounded to a thousandth.
    assert result["psnr"] == pytest.approx(np.mean(trusted), abs=1e-3)
    assert result["psnr_all_tracked"] == pytest.approx(np.mean(tracked), abs=1e-3)
    assert result["psnr_all_tracked"] < result["psnr"]

    capture.__dict__["track"] = replace(track, valid=torch.zeros_like(valid))
    nothing = evaluate(avatar, capture, config=quick)
    assert nothing["frames"] == 0
    assert nothing["psnr"] is None
    assert nothing["psnr_all_tracked"] == pytest.approx(whole["psnr"])


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"x": torch.tensor([step])}, {"step": step})
    assert len(checkpoints(tmp_path)) == 2
    checkpoints(tmp_path)[-1].write_bytes(b"damaged")
    found = load_newest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 2
    checkpoints(tmp_path)[0].write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged"):
        load_newest(tmp_path)
    assert load_newest(tmp_path / "none") is None


@pytest.mark.slow
def test_kill_nine_at_random_moments_loses_nothing_but_time(small_capture, tmp_path):
    """Five kills, each resumed; the result is within 0.2 dB of an unbroken run."""
    steps = 6000
    config = replace(PRESETS["smoke"], steps=steps)
    whole = evaluate(fit(small_capture, tmp_path / "whole", config), small_capture)["psnr"]
    moments = random.Random(0)
    run: Path = tmp_path / "killed"
    base = [sys.executable, "-m", "avatar.cli", "train", str(small_capture.path)]
    base += ["-o", str(run), "--preset", "smoke", "--steps", str(steps)]
    kills = 0
    for _ in range(5):
        command = [*base, *(["--resume"] if (run / "config.json").exists() else [])]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(4, 8))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 3, "the fit ended before it could be killed: give it more steps"
    done = subprocess.run([*base, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    broken = evaluate(Avatar.load(run / "avatar.avatar"), small_capture)["psnr"]
    assert abs(broken - whole) < 0.2
