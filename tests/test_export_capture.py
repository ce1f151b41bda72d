"""A capture's own motion as ARKit CSV, read by the csv module."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from avatar.checks import InputError
from avatar.cli_export import export
from avatar.rig.arkit import ARKIT_INDEX


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
