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
from types import SimpleNamespace

import pytest
import torch

from avatar.checks import InputError
from avatar.model.avatar import GAUSSIAN_PARAMETERS, Avatar
from avatar.train.checkpoint import checkpoints, load_newest, save_checkpoint
from avatar.train.densify import plan_densification, shown_share
from avatar.train.evaluate import evaluate
from avatar.train.frames import FrameStore
from avatar.train.loop import Trainer, fit
from configs import PRESETS

QUICK = replace(PRESETS["smoke"], steps=40)


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
    for report in Trainer(small_capture, tmp_path / "me.run", QUICK).steps():
        if report.step == 30:  # past the first line of the log, before any checkpoint
            break
    assert not checkpoints(tmp_path / "me.run" / "checkpoints")
    fit(small_capture, tmp_path / "me.run", QUICK, resume=True)
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
    start = {name: value.clone() for name, value in tensors_of(trainer.avatar).items()}
    held = torch.ones(len(trainer.avatar), dtype=torch.bool)
    for _ in trainer.steps():
        held &= trainer._hidden
    assert 20 < int(held.sum()) < len(held) / 2
    for name, value in tensors_of(trainer.avatar).items():
        assert torch.equal(value[held], start[name][held]), name
    moved = (trainer.avatar.means - start["means"]).detach().abs().amax(1) > 0
    assert moved[~trainer._hidden].float().mean() > 0.95


def test_every_stretch_of_head_pose_has_a_witness(small_capture, tmp_path):
    """What only an unwatched pose shows would be held, and stand out from the head there."""
    trainer = Trainer(small_capture, tmp_path / "me.run", replace(QUICK, hidden_frames=2))
    track, turned = small_capture.track, trainer.store.frames[-3:]
    T = track.T_world_head.clone()
    T[turned, :3, 3] += 0.3
    trainer.capture = SimpleNamespace(track=replace(track, T_world_head=T))
    assert trainer._choose_witnesses().max() >= len(trainer.store) - 3


def test_a_target_on_a_colour_changes_the_background_only(small_capture):
    store = FrameStore(small_capture, torch.tensor([0]), 192)
    colour = torch.tensor([0.2, 0.5, 0.9])
    white, mask, _ = store.target(0)
    mixed, _, _ = store.target(0, background=colour)
    assert torch.equal(mixed[mask == 1], white[mask == 1])
    torch.testing.assert_close(
        mixed[mask == 0], colour.expand_as(mixed)[mask == 0], atol=0.005, rtol=0
    )


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
