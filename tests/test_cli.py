"""The command line: bad input ends in one sentence and exit code 1, and leaves nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from avatar.capture_data import Capture
from avatar.checks import InputError


def run(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "avatar.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def fails_with_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("avatar: "), done.stderr
    for word in words:
        assert word in last, last
    return last


def write_clip(path: Path, frames: int, width: int = 256, height: int = 256) -> Path:
    """A clip of moving noise: a video without a face."""
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
            noise = generator.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
            picture = noise.repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for name in (
        "create",
        "capture",
        "train",
        "eval",
        "render",
        "view",
        "export",
        "bench",
        "sample",
        "doctor",
    ):
        assert name in done.stdout


@pytest.mark.parametrize("command", ["create", "train", "render", "view"])
def test_every_command_explains_its_options(command):
    done = run(command, "--help")
    assert done.returncode == 0
    assert "usage: avatar" in done.stdout
    assert "pixels" in done.stdout or "folder" in done.stdout


def test_wrong_usage_exits_with_two():
    assert run("train").returncode == 2


def test_a_clip_that_does_not_exist(tmp_path):
    done = run("create", tmp_path / "none.mp4", "-o", tmp_path / "out")
    fails_with_one_sentence(done, "none.mp4")


def test_a_text_file_is_no_video(tmp_path):
    clip = tmp_path / "notes.mp4"
    clip.write_text("not a video")
    done = run("create", clip, "-o", tmp_path / "out")
    fails_with_one_sentence(done, "notes.mp4")
    assert not (tmp_path / "out" / "me.capture" / "capture.json").exists()


def test_a_clip_without_a_face(tmp_path):
    clip = write_clip(tmp_path / "noise.mp4", 40)
    done = run("create", clip, "-o", tmp_path / "out")
    fails_with_one_sentence(done, "face")
    assert not (tmp_path / "out" / "me.capture" / "capture.json").exists()


def test_training_on_what_is_no_capture(tmp_path):
    (tmp_path / "me.capture").mkdir()
    done = run("train", tmp_path / "me.capture", "-o", tmp_path / "me.run")
    fails_with_one_sentence(done, "me.capture", "avatar capture")
    assert not (tmp_path / "me.run").exists()


def test_viewing_what_is_no_avatar(tmp_path):
    file = tmp_path / "me.avatar"
    file.write_bytes(b"\x00" * 100)
    fails_with_one_sentence(run("view", file), "me.avatar")


def test_driving_by_a_file_that_does_not_exist(tiny_avatar, tmp_path):
    tiny_avatar.save(tmp_path / "me.avatar")
    done = run("render", tmp_path / "me.avatar", "--drive", "none.csv", "-o", tmp_path / "out.mp4")
    fails_with_one_sentence(done, "none.csv")
    assert not (tmp_path / "out.mp4").exists()


def test_cuda_asked_for_by_name_is_refused_with_the_reason(small_capture, tmp_path):
    done = run("train", small_capture.path, "-o", tmp_path / "me.run", "--device", "cuda")
    fails_with_one_sentence(done, "cuda")


def test_arkit_weights_drive_a_video(tiny_avatar, tmp_path):
    tiny_avatar.save(tmp_path / "me.avatar")
    weights = [{"jawOpen": k / 10} for k in range(10)]
    (tmp_path / "talk.json").write_text(json.dumps({"fps": 25, "frames": weights}))
    out = tmp_path / "out.mp4"
    done = run(
        "render",
        tmp_path / "me.avatar",
        "--drive",
        tmp_path / "talk.json",
        "-o",
        out,
        "--camera",
        "front",
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10


def test_doctor_reports_the_kernels():
    done = run("doctor", "--json", "-")
    assert done.returncode == 0, done.stderr
    findings = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings["kernels: cpu"]["ok"]
    assert findings["kernels: reference"]["ok"]
    assert not findings["kernels: cuda"]["ok"]
    assert findings["face models"]["ok"]


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("capture.json", b"{", "capture.json"),
        ("capture.json", b'{"format": "other", "version": 1}', "capture.json"),
        ("track.safetensors", b"", "track.safetensors"),
        ("splits.json", b'{"train": [0, 9999]}', "splits.json"),
    ],
)
def test_a_damaged_capture_is_named(small_capture, tmp_path, name, damage, words):
    broken = tmp_path / "me.capture"
    broken.mkdir()
    for file in small_capture.path.iterdir():
        (broken / file.name).symlink_to(file)
    (broken / name).unlink()
    (broken / name).write_bytes(damage)
    with pytest.raises(InputError, match=words):
        capture = Capture(broken)
        _ = capture.track, capture.splits


def test_a_missing_frame_is_named(small_capture, tmp_path):
    broken = tmp_path / "me.capture"
    broken.mkdir()
    (broken / "capture.json").symlink_to(small_capture.path / "capture.json")
    with pytest.raises(InputError, match=r"000003\.jpg cannot be read"):
        Capture(broken).frame(3)
