"""`avatar analyse`: any source in, the same numbers out as JSON, CSV, plot and table; bad input is said."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from avatar.capture_data import TRACK_TENSORS, Track
from avatar.checks import InputError
from avatar.cli_analyse import analyse as command
from avatar.cli_analyse import summary_lines
from avatar.drive.arkit_csv import write_arkit_csv
from avatar.drive.live import FaceSample
from avatar.drive.motion import FaceMotion, head_rotation
from avatar.drive.readout import Readout
from avatar.drive.readout_clip import (
    FORMAT,
    VERSION,
    FaceClip,
    analyse,
    as_json,
    read_clip,
    write_csv,
)
from avatar.drive.readout_plot import write_plot
from avatar.drive.readout_units import EMOTIONS, UNIT_LABELS
from avatar.drive.replay import Recorder
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rotations import rigid

FPS, FRAMES = 30, 150


def smiling() -> FaceMotion:
    """Five seconds: a smile that comes and goes, two blinks, a slow turn of the head."""
    time = np.arange(FRAMES) / FPS
    weights = np.zeros((FRAMES, 52))
    smile = 0.8 * np.clip(np.sin(2 * np.pi * time / 5), 0, 1)
    for side in ("Left", "Right"):
        weights[:, ARKIT_INDEX[f"mouthSmile{side}"]] = smile
        weights[:, ARKIT_INDEX[f"cheekSquint{side}"]] = 0.5 * smile
        for start in (30, 100):
            weights[start : start + 5, ARKIT_INDEX[f"eyeBlink{side}"]] = 0.95
    head = np.stack([0.3 * np.sin(time), 0 * time, 0 * time], 1)
    return FaceMotion(
        torch.from_numpy(time),
        torch.from_numpy(weights),
        torch.from_numpy(head),
        torch.zeros(FRAMES, 2, 2, dtype=torch.float64),
    )


def tracked(motion: FaceMotion, missing: tuple[int, ...] = ()) -> Track:
    """The same motion as a track."""
    frames = len(motion)
    assert motion.head is not None
    assert motion.gaze is not None
    valid = torch.ones(frames, dtype=torch.bool)
    valid[list(missing)] = False
    given = {
        "K": torch.eye(3)[None],
        "T_cam_world": torch.eye(4)[None],
        "expression": motion.weights.float(),
        "gaze": motion.gaze.float(),
        "T_world_head": rigid(head_rotation(motion.head.float()), torch.zeros(frames, 3)),
        "T_world_torso": torch.eye(4).expand(frames, 4, 4),
        "valid": valid,
    }
    sizes = {"C": 1, "E": 52, "F": frames, "S": 4, "T": 4}
    tensors = {
        name: given.get(name, torch.zeros(*(int(sizes.get(dim, dim)) for dim in spec.split())))
        for name, spec in TRACK_TENSORS.items()
    }
    return Track(**tensors, expression_names=ARKIT_NAMES, rig="lattice", fps=float(FPS))


def capture_folder(folder: Path, track: Track) -> Path:
    folder.mkdir()
    track.save(folder / "track.safetensors")
    header = {
        "format": "headsplat.capture", "version": 1, "frames": len(track), "fps": track.fps,
        "cameras": [{"width": 64, "height": 64}],
    }  # fmt: skip
    (folder / "capture.json").write_text(json.dumps(header))
    return folder


def recorded(path: Path, motion: FaceMotion) -> Path:
    recorder = Recorder(path)
    for i in range(len(motion)):
        assert motion.head is not None
        assert motion.gaze is not None
        sample = FaceSample(
            motion.weights[i].numpy(), motion.head[i].numpy(), motion.gaze[i].numpy(),
            float(motion.time_s[i]) + 5.0, "phone",
        )  # fmt: skip
        recorder.add(sample, 100.0 + float(motion.time_s[i]) + 0.01 * (i % 3))
    recorder.close()
    return path


@pytest.fixture
def sources(tmp_path) -> dict[str, Path]:
    motion = smiling()
    write_arkit_csv(tmp_path / "take.csv", motion)
    frames = [
        dict(zip(ARKIT_NAMES, row, strict=True)) | {"time": time}
        for row, time in zip(motion.weights.tolist(), motion.time_s.tolist(), strict=True)
    ]
    (tmp_path / "take.json").write_text(json.dumps(frames))
    return {
        "csv": tmp_path / "take.csv",
        "json": tmp_path / "take.json",
        "jsonl": recorded(tmp_path / "take.jsonl", motion),
        "capture": capture_folder(tmp_path / "me.capture", tracked(motion)),
        "folder": tmp_path,
    }


def test_every_kind_of_source_reads_alike(sources) -> None:
    read = {kind: analyse(read_clip(path)) for kind, path in sources.items()}
    smile = UNIT_LABELS.index("AU12")
    for kind, found in read.items():
        assert len(found.readings) == FRAMES, kind
        units = found.series("units")
        np.testing.assert_allclose(
            units[:, smile], read["csv"].series("units")[:, smile], atol=1e-4
        )
        assert units[:, smile].max() == pytest.approx(4.0, abs=0.01)
        assert found.readout.totals.blinks == 2, kind
        assert found.readout.summary()["emotion_shares"]["happiness"] > 0.2
    for kind in ("csv", "jsonl", "capture"):
        yaw = read[kind].readout.summary()["head_rad"]["yaw"]
        assert yaw["max"] - yaw["min"] == pytest.approx(0.6, abs=0.01)
    assert read["json"].readout.summary()["head_rad"] is None


def test_a_stream_read_live_is_the_clip_read_afterwards(sources) -> None:
    clip = read_clip(sources["jsonl"])
    offline = analyse(clip)
    live = Readout(offline.calibration)
    for sample, time_s, expected in zip(clip.samples, clip.time_s, offline.readings, strict=True):
        live, reading = live.update(sample, float(time_s))
        np.testing.assert_array_equal(reading.units, expected.units)
        assert (reading.blinked, reading.speech) == (expected.blinked, expected.speech)
    assert live.summary() == offline.readout.summary()


def test_frames_without_a_face_are_flags_in_all_outputs(tmp_path) -> None:
    missing = (0, 50, 51, 149)
    folder = capture_folder(tmp_path / "a.capture", tracked(smiling(), missing))
    analysis = analyse(read_clip(folder))
    report = json.loads(json.dumps(as_json(analysis), allow_nan=False))
    frames = report["frames"]
    assert [i for i, valid in enumerate(frames["valid"]) if not valid] == list(missing)
    for values in (*frames["action_units"].values(), frames["valence"], frames["emotion"]):
        assert [i for i, value in enumerate(values) if value is None] == list(missing)
    write_csv(tmp_path / "a.csv", analysis)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == FRAMES
    assert rows[50]["valid"] == "0"
    assert rows[50]["AU12"] == ""
    write_plot(tmp_path / "a.png", analysis)
    assert Image.open(tmp_path / "a.png").size[0] > 800


def test_the_report_says_what_it_is(sources) -> None:
    report = as_json(analyse(read_clip(sources["csv"])))
    assert (report["format"], report["version"]) == (FORMAT, VERSION)
    assert [unit["label"] for unit in report["units_read"]] == list(UNIT_LABELS)
    assert set(report["frames"]["emotions"]) == set(EMOTIONS)
    assert "faces, not feelings" in report["limits"][0]
    assert 0 < report["sigma"]["valence"] < 0.5


def test_the_command_writes_all_files_and_nothing_half(sources, tmp_path, capfd) -> None:
    names = {"json_file": "a.json", "plot_file": "a.png", "csv_file": "a.csv"}
    command(sources["csv"], **{key: tmp_path / name for key, name in names.items()})
    assert json.loads((tmp_path / "a.json").read_text())["version"] == VERSION
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50  # not an empty canvas
    assert not list(tmp_path.glob(".a*"))
    shown = capfd.readouterr().err
    assert "AU12  lip corner puller" in shown
    assert "2 (" in shown  # blinks


def test_a_face_is_never_found() -> None:
    clip = FaceClip(np.arange(10) / FPS, (None,) * 10, "nobody")
    analysis = analyse(clip)
    json.dumps(as_json(analysis), allow_nan=False)
    assert any("no face" in line for line in summary_lines(analysis))


def test_one_frame_alone_can_be_analysed(tmp_path) -> None:
    motion = smiling()
    one = replace(
        motion, time_s=motion.time_s[:1], weights=motion.weights[:1], head=None, gaze=None
    )
    write_arkit_csv(tmp_path / "one.csv", one)
    analysis = analyse(read_clip(tmp_path / "one.csv"))
    json.dumps(as_json(analysis), allow_nan=False)
    write_plot(tmp_path / "one.png", analysis)
    assert summary_lines(analysis)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("clip.mp4", b"x", "avatar capture"),
        ("take.wav", b"x", "cannot be analysed"),
        ("take.csv", b"a,b\n1,2\n", "unknown column"),
        ("take.jsonl", b"{}\n", "no recorded stream"),
        ("take.jsonl", b'{"format": "headsplat.stream", "version": 1}\n', "no sample"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path, name, content, says) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_clip(tmp_path / name)
    with pytest.raises(InputError, match="There is no"):
        read_clip(tmp_path / "nothing.csv")


def test_a_plot_of_another_kind_or_place_is_refused(sources, tmp_path) -> None:
    with pytest.raises(InputError, match=r"must end in \.png"):
        command(sources["csv"], plot_file=tmp_path / "a.svg")
    with pytest.raises(InputError, match="cannot be written"):
        write_plot(tmp_path / "no" / "a.png", analyse(read_clip(sources["csv"])))


def test_recordings_of_two_senders_and_of_a_broken_clock(tmp_path) -> None:
    recorder = Recorder(tmp_path / "two.jsonl")
    face = np.zeros(52)
    for i in range(10):
        recorder.add(FaceSample(face, time_s=1.0, sender="a"), i / FPS)  # stands still
        recorder.add(FaceSample(face, time_s=i / FPS, sender="b"), i / FPS)
    recorder.close()
    clip = read_clip(tmp_path / "two.jsonl")
    assert len(clip) == 10
    assert clip.time_s[-1] == pytest.approx(9 / FPS)
    assert math.isclose(analyse(clip).readout.totals.observed_s, 9 / FPS)


def test_the_command_line_knows_it(sources) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "avatar.cli", "analyse", str(sources["csv"]), "--json", "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["format"] == FORMAT
