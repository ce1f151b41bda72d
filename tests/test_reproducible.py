"""One seed is one avatar, byte for byte; a run knows exactly what it was started on."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.train.evaluate import EvaluateConfig, evaluate
from avatar.train.loop import Trainer, fit
from avatar.train.run_folder import can_resume, run_seconds
from configs import PRESETS

QUICK = replace(PRESETS["smoke"], steps=60)


@pytest.fixture(scope="module")
def first(small_capture, tmp_path_factory) -> Path:
    """A finished run."""
    run = tmp_path_factory.mktemp("first") / "me.run"
    fit(small_capture, run, QUICK)
    return run


def bytes_of(run: Path) -> bytes:
    return (run / "avatar.avatar").read_bytes()


def test_two_runs_with_one_seed_leave_equal_files(small_capture, first, tmp_path):
    # Where and how often it was saved makes no difference.
    often = {"checkpoint_seconds": 0.1}
    fit(small_capture, tmp_path / "elsewhere" / "other.run", QUICK)
    assert bytes_of(tmp_path / "elsewhere" / "other.run") == bytes_of(first)
    trainer = Trainer(small_capture, tmp_path / "often.run", replace(QUICK, **often))
    for _ in trainer.steps():
        pass
    trainer.config = QUICK  # the header says what was asked for
    trainer.finish(tmp_path / "often.run" / "avatar.avatar")
    assert bytes_of(tmp_path / "often.run") == bytes_of(first)


def test_another_seed_is_another_avatar(small_capture, first, tmp_path):
    fit(small_capture, tmp_path / "me.run", replace(QUICK, seed=1))
    assert bytes_of(tmp_path / "me.run") != bytes_of(first)


@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_the_number_of_threads_makes_no_difference(
    small_capture, first, tmp_path, threads, monkeypatch
):
    monkeypatch.setenv("HEADSPLAT_THREADS", threads)
    fit(small_capture, tmp_path / "me.run", QUICK)
    assert bytes_of(tmp_path / "me.run") == bytes_of(first)


def test_a_run_that_was_broken_off_leaves_the_file_of_a_whole_one(small_capture, first, tmp_path):
    """Before its first checkpoint, and after one."""
    run = tmp_path / "me.run"
    for stop, save in ((5, False), (31, True)):
        trainer = Trainer(small_capture, run, QUICK, resume=(run / "config.json").is_file())
        for report in trainer.steps():
            if report.step == stop:
                break
        if save:
            trainer.save_checkpoint()
    fit(small_capture, run, QUICK, resume=True)
    assert bytes_of(run) == bytes_of(first)


def test_time_is_told_by_the_run_and_not_by_the_avatar(small_capture, first):
    with safe_open(first / "avatar.avatar", "pt") as file:
        header = json.loads(file.metadata()["header"])
    assert "seconds" not in header
    assert list(header)[2:] == sorted(list(header)[2:])
    result = json.loads((first / "result.json").read_text())
    assert result["steps"] == QUICK.steps
    assert result["seconds"]["train"] > 0
    quick = EvaluateConfig(flip_frames=1, speed_frames=1)
    from avatar.model.avatar import Avatar

    avatar = Avatar.load(first / "avatar.avatar")
    measured = evaluate(avatar, small_capture, config=quick, seconds=run_seconds(first))
    assert measured["seconds"]["train"] == result["seconds"]["train"]
    assert measured["seconds"]["track"] > 0
    silent = evaluate(avatar, small_capture, config=quick)
    assert silent["seconds"]["train"] == 0


@pytest.mark.parametrize("text", ["", "[]", '{"format": "headsplat.result"}', '{"seconds": 3}'])
def test_a_run_without_a_result_does_not_say_what_it_took(tmp_path, text):
    assert run_seconds(tmp_path) == {}
    (tmp_path / "result.json").write_text(text)
    assert run_seconds(tmp_path) == {}


def test_a_run_on_another_track_of_the_same_clip_is_not_resumed(small_capture, first, tmp_path):
    run, copied = tmp_path / "me.run", tmp_path / "me.capture"
    shutil.copytree(first, run)
    shutil.copytree(small_capture.path, copied)
    track = copied / "track.safetensors"
    known = json.loads((run / "config.json").read_text())
    assert known["track_sha256"] == hashlib.sha256(track.read_bytes()).hexdigest()
    assert can_resume(Capture(copied), run, QUICK)
    moved = small_capture.track.expression.clone()
    moved[3] += 0.01
    replace(small_capture.track, expression=moved).save(track)
    again = Capture(copied)
    assert again.source_sha256 == small_capture.source_sha256
    assert not can_resume(again, run, QUICK)
    with pytest.raises(InputError, match="another capture"):
        fit(again, run, QUICK, resume=True)
