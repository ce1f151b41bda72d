"""A capture's own motion as ARKit CSV, read by the csv module."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar.checks import InputError
from avatar.cli_common import driving_source
from avatar.cli_export import export
from avatar.drive.source import open_source
from avatar.rig.arkit import ARKIT_INDEX
from avatar.train.restore import find_avatar, find_capture
from avatar.types import ignore_progress


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_captures_own_motion_as_csv(small_capture, tmp_path: Path) -> None:
    out = tmp_path / "me.csv"
    export(small_capture.path, output=out)
    rows, track = read_csv(out), small_capture.track
    assert len(rows) == len(track)
    jaw = track.expression[:, ARKIT_INDEX["jawOpen"]].numpy()
    known = track.valid.bool().numpy()
    found = np.array([float(row["JawOpen"]) for row in rows])
    np.testing.assert_allclose(found[known], jaw[known], atol=1e-6)
    yaw = np.array([float(row["HeadYaw"]) for row in rows])
    assert np.abs(np.median(yaw)) < 0.2  # relative to the usual pose
    export(small_capture.path, output=out, frames=7)
    assert len(read_csv(out)) == 7
    with pytest.raises(InputError, match="avatar train"):
        export(small_capture.path, output=tmp_path / "me.ply")
    with pytest.raises(InputError, match="--drive"):
        export(small_capture.path, output=out, drive="other.csv")
    with pytest.raises(InputError, match="frames"):
        export(small_capture.path, output=out, frame=10_000)
    assert names(tmp_path) == ["me.csv"]


def test_the_persons_own_track_limits_what_files_drive(
    small_capture, tiny_avatar, tmp_path
) -> None:
    (tmp_path / "me.capture").symlink_to(small_capture.path)
    motion = tmp_path / "turn.csv"
    motion.write_text("time,jawOpen,HeadYaw\n0,0.1,1.5\n1,0.5,-1.5\n")
    driven = driving_source(
        str(motion), tiny_avatar, tmp_path, tmp_path / "me.mp4", None, ignore_progress
    )
    own, usual = (
        open_source(str(motion), tiny_avatar, track=track) for track in (small_capture.track, None)
    )
    heads = [
        torch.stack([s.T_world_head for s in source.states()]) for source in (driven, own, usual)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.allclose(heads[0], heads[2], atol=1e-3)


def test_the_capture_of_an_avatar_is_found_or_the_reason_told(
    small_capture, tiny_avatar, tmp_path
) -> None:
    tiny_avatar.save(tmp_path / "me.avatar")
    avatar, home = find_avatar(tmp_path)
    assert find_capture(home, avatar) == (None, "")
    (tmp_path / "me.capture").symlink_to(small_capture.path)
    found, trouble = find_capture(home, avatar)
    assert found is not None
    assert found.source_sha256 == small_capture.source_sha256
    assert trouble == ""
    avatar.header["source_sha256"] = "0" * 64
    assert "another clip" in find_capture(home, avatar)[1]
    # A run whose capture was moved away, and one of which nothing can be read.
    run = tmp_path / "me.run"
    run.mkdir()
    head = '{"format": "headsplat.run", "version": 1'
    (run / "config.json").write_text(head + ', "capture": "../gone.capture"}')
    assert "gone.capture" in find_capture(run, avatar)[1]
    for text in (head + "}", head + ', "capture": 5}', "none"):
        (run / "config.json").write_text(text)
        found, trouble = find_capture(run, avatar)
        assert found is None
        assert "config.json" in trouble
    tiny_avatar.save(run / "avatar.avatar")
    with pytest.raises(InputError, match=r"no captured motion to play.*config\.json"):
        export(run, output=tmp_path / "me.mp4")
