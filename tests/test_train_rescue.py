"""What a fit does when numbers stop being numbers, when memory runs out, and with captures it cannot use."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_cli import fails_with_one_sentence, run
from test_train import tensors_of

from avatar.capture_data import RIG, Capture
from avatar.checks import InputError
from avatar.cli_fit import claim_run
from avatar.model.avatar import Avatar
from avatar.tensorfile import read_tensors, write_json, write_tensors
from avatar.train.checkpoint import checkpoints, load_newest
from avatar.train.frames import CACHE_BYTES
from avatar.train.loop import Trainer, fit
from avatar.train.memory import available_bytes, cache_bytes, needed_bytes, ran_out
from avatar.train.rollback import MOST_ROLLBACKS, RATE_FACTOR, read_metrics, spoilt
from avatar.types import Progress
from configs import PRESETS

QUICK = replace(PRESETS["smoke"], steps=40)
SLOW_TO_SAVE = replace(QUICK, checkpoint_seconds=1e9)


def poison(trainer: Trainer, name: str) -> None:
    """Do to a parameter what a gradient that divides by zero would."""
    with torch.no_grad():
        getattr(trainer.avatar, name)[::3] = math.nan


def events(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "event" in line]


# -- numbers that are none --------------------------------------------------------------------


def test_a_loss_that_is_no_number_goes_back_to_the_last_checkpoint(small_capture, tmp_path):
    told: list[Progress] = []
    trainer = Trainer(small_capture, tmp_path, SLOW_TO_SAVE, report=told.append)
    steps, order = [], {}
    for report in trainer.steps():
        steps.append(report.step)
        if report.step == 12:
            trainer.save_checkpoint()
            before = trainer._order.clone()
        if report.step == 15 and trainer.rollbacks == 0:
            poison(trainer, "log_scales")
        if report.step == 13:
            order[trainer.rollbacks] = trainer._order.clone()
            rates = {group["name"]: group["lr"] for group in trainer.adam.param_groups}
    # Step 16 is where it shows; 13 is the first after the checkpoint.
    assert steps == [*range(1, 16), *range(13, 41)]
    assert trainer.rollbacks == 1
    assert torch.equal(before[1:], order[0])
    assert not torch.equal(order[0], order[1][: len(order[0])])
    turn = (1 + math.cos(math.pi * 12 / 40)) / 2
    share = QUICK.rates.final + (1 - QUICK.rates.final) * turn
    assert rates["means"] == pytest.approx(QUICK.rates.means * share * RATE_FACTOR)
    assert spoilt(trainer._state()[0]) is None
    (event,) = events(tmp_path)
    assert event["step"] == 12
    assert event["failed_at"] == 16
    assert event["rates"] == RATE_FACTOR
    (message,) = [p.message for p in told if "back to step" in p.message]
    assert "step 16" in message
    assert "step 12" in message
    # Whoever reads the curve meets no event in it, and no step twice.
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [25, 40]


def test_without_a_checkpoint_it_starts_over(small_capture, tmp_path):
    trainer = Trainer(small_capture, tmp_path, SLOW_TO_SAVE)
    steps = []
    for report in trainer.steps():
        steps.append(report.step)
        if len(steps) == 5:
            poison(trainer, "log_scales")
        if len(steps) == 6:
            seconds = report.seconds
    assert steps == [1, 2, 3, 4, 5, *range(1, 41)]
    assert seconds > 0
    # The time that was lost counts as time spent.
    assert trainer.seconds > seconds
    assert Avatar.load(tmp_path / "start.avatar").means.shape[0] > 0


def test_parameters_that_are_no_numbers_never_reach_a_file(small_capture, tmp_path):
    """NaN colours give a finite loss: what is not drawn is not missed."""
    trainer = Trainer(small_capture, tmp_path, SLOW_TO_SAVE)
    for report in trainer.steps():
        if report.step == 20 and trainer.rollbacks == 0:
            good = trainer.save_checkpoint()
            assert good is not None
        if report.step == 30 and trainer.rollbacks == 0:
            poison(trainer, "colours")
            assert trainer.save_checkpoint() is None
            assert checkpoints(tmp_path / "checkpoints") == [good]
    assert trainer.rollbacks == 1
    avatar = trainer.finish(tmp_path / "avatar.avatar")
    assert torch.isfinite(Avatar.load(tmp_path / "avatar.avatar").colours).all()
    assert avatar.header["steps"] == 40


def test_a_fit_that_is_ended_while_it_is_spoilt_keeps_the_last_good_state(small_capture, tmp_path):
    def listener(trainer: Trainer, report) -> bool:
        if report.step == 10:
            trainer.save_checkpoint()
        if report.step == 14:
            poison(trainer, "colours")
            return False
        return True

    avatar = fit(small_capture, tmp_path, SLOW_TO_SAVE, listener=listener)
    assert avatar.header["steps"] == 10
    assert torch.isfinite(Avatar.load(tmp_path / "avatar.avatar").colours).all()


def test_lower_rates_and_the_other_order_survive_a_kill(small_capture, tmp_path):
    def fit_until(end: int, folder: Path) -> Trainer:
        trainer = Trainer(small_capture, folder, SLOW_TO_SAVE)
        for report in trainer.steps():
            if report.step == 15 and trainer.rollbacks == 0:
                poison(trainer, "log_scales")
            if trainer.rollbacks == 1 and report.step == end:
                break
        return trainer

    whole = fit_until(40, tmp_path / "whole")
    fit_until(5, tmp_path / "killed")  # as kill -9 would: no checkpoint since the rollback
    resumed = Trainer(small_capture, tmp_path / "killed", SLOW_TO_SAVE, resume=True)
    assert resumed.rollbacks == 1
    assert [r.step for r in resumed.steps()] == list(range(1, 41))
    expected = tensors_of(whole.avatar)
    for name, value in tensors_of(resumed.avatar).items():
        assert torch.equal(value, expected[name]), name
    assert len(events(tmp_path / "killed")) == 1


def test_rates_far_too_high_end_in_one_sentence_after_three_returns(small_capture, tmp_path):
    rates = replace(QUICK.rates, colours=1e6)
    with pytest.raises(InputError, match="--overwrite") as error:
        fit(small_capture, tmp_path, replace(SLOW_TO_SAVE, rates=rates))
    assert "learning rates" in str(error.value)
    assert "report.html" in str(error.value)
    assert [e["rates"] for e in events(tmp_path)] == [RATE_FACTOR**k for k in (1, 2, 3)]
    assert MOST_ROLLBACKS == 3
    assert not (tmp_path / "avatar.avatar").exists()
    found = load_newest(tmp_path / "checkpoints")  # refuses NaN
    assert found is not None
    assert found[1]["rollbacks"] == 3


def test_lower_rates_rescue_a_fit_whose_rates_are_too_high(small_capture, tmp_path):
    """Without any poison: the rate itself blows it up, and the halved ones do not."""
    rates = replace(QUICK.rates, colours=500.0)
    avatar = fit(small_capture, tmp_path, replace(SLOW_TO_SAVE, rates=rates))
    assert 1 <= len(events(tmp_path)) <= MOST_ROLLBACKS
    assert spoilt(dict(avatar.state_dict())) is None


def test_curves_of_no_run_and_of_a_cut_line(tmp_path):
    assert read_metrics(tmp_path / "none") == []
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 25, "loss": 1.0}\n{"event": "x", "step": 30}\n{"step": 5')
    assert read_metrics(log) == [{"step": 25, "loss": 1.0}]


# -- memory -----------------------------------------------------------------------------------


def test_memory_that_is_there_is_known():
    available = available_bytes()
    if not Path("/proc/meminfo").is_file():
        assert available is None
        return
    assert available is not None
    assert 1 << 20 < available < 1 << 50


def test_pictures_take_what_the_fit_leaves(small_capture):
    needed = needed_bytes(small_capture, QUICK)
    assert cache_bytes(small_capture, QUICK, None) == CACHE_BYTES
    assert cache_bytes(small_capture, QUICK, needed + (100 << 30)) == CACHE_BYTES
    assert cache_bytes(small_capture, QUICK, needed + 1000) == 800
    with pytest.raises(InputError, match=r"needs at least .* GB .* --preset"):
        cache_bytes(small_capture, QUICK, needed - 1)
    assert needed_bytes(small_capture, PRESETS["overnight"]) > 3 * needed
    # Mouth and torso have fewer offset shapes than the head; a rigid deformer has none.
    one, none = (
        replace(QUICK, create=replace(QUICK.create, shapes=20, deformer=kind))
        for kind in ("blendshapes", "rigid")
    )
    parts = replace(one, create=replace(one.create, deformer="branches"))
    sizes = [needed_bytes(small_capture, config) for config in (none, parts, one)]
    assert sizes == sorted(set(sizes))


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory as Linux tells it")
def test_a_fit_takes_at_least_what_is_estimated(small_capture, tmp_path):
    """An estimate above the truth would refuse machines that can do it."""
    config = replace(QUICK, create=replace(QUICK.create, face=20_000), steps=6)
    code = f"""
import torch
from pathlib import Path
from avatar.capture_data import Capture
from avatar.train.loop import Trainer
from avatar.train.memory import needed_bytes
from configs import PRESETS
from dataclasses import replace
torch.set_num_threads(1)
capture = Capture(Path({str(small_capture.path)!r}))
smoke = PRESETS["smoke"]
config = replace(smoke, create=replace(smoke.create, face={config.create.face}), steps=6)
def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(name))
before = memory("VmRSS:")
trainer = Trainer(capture, Path({str(tmp_path / "me.run")!r}), config)
for _ in trainer.steps(): pass
trainer.save_checkpoint()
print(needed_bytes(capture, config), memory("VmHWM:") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    needed, taken = map(int, done.stdout.split())
    assert needed < taken < 10 * needed


def impossible_numpy() -> None:
    np.empty((1 << 30, 1 << 20))


def impossible_torch() -> None:
    torch.empty(1 << 30, 1 << 20)


def impossible_opencv() -> None:
    cv2.resize(np.zeros((1, 1, 3), np.uint8), (1 << 20, 1 << 20))


@pytest.mark.parametrize("take", [impossible_numpy, impossible_torch, impossible_opencv])
def test_every_library_s_word_for_no_memory_is_known(take: Callable[[], None]):
    with pytest.raises(Exception) as error:  # noqa: PT011 (which one it is differs, and is the point)
        take()
    assert ran_out(error.value), repr(error.value)


def test_other_errors_are_not_taken_for_it():
    for error in (ValueError("out of memory"), RuntimeError("shapes differ"), OSError(28, "full")):
        assert not ran_out(error)


def test_no_memory_for_the_gaussians_ends_in_one_sentence(small_capture, tmp_path, monkeypatch):
    # As on a system that does not say how much there is, so that nothing is refused beforehand.
    monkeypatch.setattr("avatar.train.loop.available_bytes", lambda: None)
    config = replace(QUICK, create=replace(QUICK.create, face=1 << 44))
    with pytest.raises(InputError, match=r"Memory ran out.*--preset.*--max-side"):
        fit(small_capture, tmp_path / "me.run", config)


LIMITED = """
import resource, sys
import avatar.cli, avatar.train.loop, avatar.raster.library, configs, torch, numpy
from torch.utils import tensorboard
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
extra = int(sys.argv.pop(1)) << 20
resource.setrlimit(resource.RLIMIT_AS, (taken + extra, taken + extra))
avatar.cli.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_a_process_that_gets_no_more_memory_says_so_and_can_be_resumed(small_capture, tmp_path):
    folder = tmp_path / "me.run"
    trainer = Trainer(small_capture, folder, replace(PRESETS["smoke"], steps=40))
    for report in trainer.steps():
        if report.step == 20:
            trainer.save_checkpoint()
            break
    command = ["train", str(small_capture.path), "-o", str(folder), "--preset", "smoke"]
    command += ["--steps", "40", "--resume"]
    limited = [sys.executable, "-c", LIMITED, "24", *command]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=300, check=False)
    fails_with_one_sentence(done, "Memory ran out", "--preset", "--resume")
    assert not (folder / "avatar.avatar").exists()
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert Avatar.load(folder / "avatar.avatar").header["steps"] == 40


# -- captures and avatars that cannot be used ---------------------------------------------------


@pytest.fixture
def copied(small_capture, tmp_path) -> Path:
    """A capture folder of its own: frames linked, the small files to be spoilt."""
    folder = tmp_path / "me.capture"
    folder.mkdir()
    for file in small_capture.path.iterdir():
        if file.suffix in (".json", ".safetensors"):
            shutil.copyfile(file, folder / file.name)
        else:
            (folder / file.name).symlink_to(file)
    return folder


def rewritten(path: Path, format: str, version: int = 1, **fields) -> None:
    """Write a tensor file again with another version or other header fields."""
    tensors, header = read_tensors(path, format=format, version=99)
    header = {k: v for k, v in header.items() if k not in ("format", "version")} | fields
    write_tensors(path, tensors, format=format, version=version, header=header)


def training_fails(capture: Path, *words: str) -> None:
    """Training on it ends in one sentence, and leaves neither a run nor harm to one that is there."""
    folder = capture.parent / "new.run"
    done = run("train", capture, "-o", folder, "--preset", "smoke", "--steps", "5")
    fails_with_one_sentence(done, *words)
    assert not folder.exists()
    before = capture.parent / "old.run"
    before.mkdir()
    (before / "config.json").write_text("{}")
    (before / "avatar.avatar").write_text("kept")
    with pytest.raises(InputError, match=re.escape(words[0])):
        fit(Capture(capture), before, QUICK, overwrite=True)
    assert (before / "avatar.avatar").read_text() == "kept"


def test_a_capture_without_a_track(copied):
    (copied / "track.safetensors").unlink()
    training_fails(copied, "track.safetensors", "does not exist", "avatar capture")


def test_a_capture_with_five_valid_frames(copied):
    track = Capture(copied).track
    valid = torch.zeros_like(track.valid)
    valid[3:8] = True
    replace(track, valid=valid).save(copied / "track.safetensors")
    training_fails(copied, "5 training frames", "at least 10", "Film again")


def test_a_capture_of_another_rig(copied):
    rewritten(copied / "track.safetensors", "headsplat.track", rig="smplx")
    training_fails(copied, "'smplx'", RIG, "track.safetensors")


def test_a_track_of_a_newer_version(copied):
    rewritten(copied / "track.safetensors", "headsplat.track", version=2)
    training_fails(copied, "version 2", "newer headsplat")


def test_a_capture_of_a_newer_version_with_other_fields(copied):
    write_json(copied / "capture.json", {"format": "headsplat.capture", "version": 7, "views": []})
    training_fails(copied, "version 7", "newer headsplat")


@pytest.mark.parametrize(
    ("version", "rig", "words"),
    [(2, "smplx", ("'smplx'", "lattice")), (3, RIG, ("version 3", "newer headsplat"))],
)
def test_an_avatar_of_another_rig_or_a_newer_version(tiny_avatar, tmp_path, version, rig, words):
    file = tmp_path / "me.avatar"
    tiny_avatar.save(file)
    rewritten(file, "headsplat.avatar", version=version, rig=rig)
    out = tmp_path / "me.ply"
    fails_with_one_sentence(run("export", file, "-o", out), "me.avatar", *words)
    assert not out.exists()


def test_a_run_of_a_newer_version(small_capture, tmp_path):
    folder = tmp_path / "me.run"
    fit(small_capture, folder, replace(QUICK, steps=1))
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | {"version": 2}))
    fails_with_one_sentence(run("eval", folder), "version 2", "newer headsplat")


# -- several presets in one folder --------------------------------------------------------------


def test_another_preset_keeps_the_run_that_was_there(small_capture, tmp_path):
    one, two = replace(PRESETS["smoke"], steps=2), replace(PRESETS["smoke"], steps=3)
    me, kept = tmp_path / "me.run", tmp_path / "me.smoke.run"
    assert claim_run(tmp_path, small_capture, one, overwrite=False) == (False, "")
    fit(small_capture, me, one)
    assert claim_run(tmp_path, small_capture, one, overwrite=False) == (True, "")

    resume, notice = claim_run(tmp_path, small_capture, two, overwrite=False)
    assert not resume
    assert str(kept) in notice
    assert not me.exists()
    assert Avatar.load(kept / "avatar.avatar").header["steps"] == 2
    fit(small_capture, me, two)

    # Back to the first: its run comes back, and the second is the one that is kept.
    resume, notice = claim_run(tmp_path, small_capture, one, overwrite=False)
    assert resume
    assert "me.smoke.2.run" in notice
    assert Avatar.load(me / "avatar.avatar").header["steps"] == 2
    assert Avatar.load(tmp_path / "me.smoke.2.run" / "avatar.avatar").header["steps"] == 3
    assert Capture((me / json.loads((me / "config.json").read_text())["capture"]).resolve())


def test_overwriting_is_asked_for(small_capture, tmp_path):
    fit(small_capture, tmp_path / "me.run", replace(QUICK, steps=2))
    assert claim_run(tmp_path, small_capture, QUICK, overwrite=True) == (False, "")
    assert not list(tmp_path.glob("me.*.run"))


def test_a_run_without_anything_in_it_is_not_kept(small_capture, tmp_path):
    (tmp_path / "me.run").mkdir()
    write_json(tmp_path / "me.run" / "config.json", {})
    assert claim_run(tmp_path, small_capture, QUICK, overwrite=False) == (False, "")
    assert not list(tmp_path.glob("me.*.run"))


@pytest.mark.parametrize("held", [(), (1, 2)])
def test_a_run_of_other_settings_is_known_by_the_preset_it_began_with(
    small_capture, tmp_path, held
):
    draft = replace(PRESETS["draft"], seed=7, hold_cameras=held)
    folder = tmp_path / "me.run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "step_000001.safetensors").touch()
    known = {"format": "headsplat.run", "version": 1, "config": draft.to_json()}
    write_json(folder / "config.json", known)
    claim_run(tmp_path, small_capture, QUICK, overwrite=False)
    assert (tmp_path / "me.draft.run").is_dir()
    folder.mkdir()
    (folder / "avatar.avatar").touch()
    claim_run(tmp_path, small_capture, QUICK, overwrite=False)
    assert (tmp_path / "me.other.run").is_dir()


@pytest.mark.slow
def test_create_again_with_other_settings_takes_the_capture_as_it_is(small_clip, tmp_path):
    base = ["create", small_clip, "-o", tmp_path, "--preset", "smoke", "--steps"]
    done = run(*base, "5")
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "me.capture" / "capture.json").stat().st_mtime_ns
    done = run(*base, "6")
    assert done.returncode == 0, done.stderr
    assert "is kept in" in done.stderr
    assert (tmp_path / "me.capture" / "capture.json").stat().st_mtime_ns == made
    assert Avatar.load(tmp_path / "me.avatar").header["steps"] == 6
    assert (tmp_path / "me.smoke.run" / "eval" / "preview.mp4").is_file()
