"""The command line: bad input ends in one sentence and exit code 1, and leaves nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.export.report import left_out
from avatar.train.loop import fit
from configs import PRESETS


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


def test_capturing_needs_a_clip_and_a_folder():
    for arguments, missing in (((), "a VIDEO"), (("clip.mp4",), "-o OUTPUT")):
        done = run("capture", *arguments)
        assert done.returncode == 2
        assert missing in done.stderr
        assert "--guide" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ((), 2, "needs a VIDEO"),
        (("a.mp4", "--mirrored", "--mirrored-clips", "a.mp4"), 2, "leave out --mirrored-clips"),
        (("a.mp4", "--calibration-unit", "mm"), 2, "--calibration-unit needs --calibration"),
        ((".",), 1, "avatar capture"),
    ],
)
def test_creating_refuses_what_goes_not_together(given, code, words):
    done = run("create", *given)
    assert done.returncode == code
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_options_of_the_clips_of_all_cameras():
    from avatar.cli_clips import ClipOptions
    from avatar.cli_common import UsageError

    a, b, m, n = (Path(f"{name}.mp4") for name in "abmn")
    both = ClipOptions(mask=(m, n))
    assert both.with_clips((a, b)) == ([a, b], both)
    # --mask MASK CLIP: the list swallows the clip.
    assert ClipOptions(mask=(m, a)).with_clips(()) == ([a], ClipOptions(mask=(m,)))
    config = ClipOptions(
        mask=(m, n), mirrored_clips=("b.mp4",), focal_mm=(26.0, 24.0), offsets=(0.0, 0.5)
    ).config(overwrite=True)
    assert config.masks() == (m, n)
    assert not config.ingest_of(a).mirrored
    assert config.ingest_of(b).mirrored
    assert config.focal_widths(2) == [26 / 36, 24 / 36]
    assert config.offsets == (0.0, 0.5)
    assert config.overwrite
    with pytest.raises(UsageError, match="leave out --mirrored-clips"):
        ClipOptions(mirrored=True, mirrored_clips=("a.mp4",))


def test_options_that_are_not_given_are_the_captures_own():
    from avatar.cli_clips import ClipOptions
    from capture.settings import CaptureConfig

    assert ClipOptions().config() == CaptureConfig()
    assert ClipOptions().of_clips_alone() == []


def test_the_guide_needs_neither():
    from capture.guide import as_text

    done = run("capture", "--guide")
    assert done.returncode == 0, done.stderr
    assert done.stdout == as_text()


def test_a_mirrored_clip_can_be_flipped_back():
    for command in ("create", "capture"):
        assert "--mirrored" in run(command, "--help").stdout


def test_the_size_of_stored_frames_is_an_option():
    from capture.pipeline import CaptureConfig

    for command in ("create", "capture"):
        text = " ".join(run(command, "--help").stdout.replace("│", " ").split())
        _, option = text.split("--max-side INT")
        assert option.index(f"(default: {CaptureConfig().max_side})") < option.index("--")


def test_a_size_too_small_for_a_face_is_refused(small_clip, tmp_path):
    target = tmp_path / "me.capture"
    done = run("capture", small_clip, "-o", target, "--max-side", "100")
    fails_with_one_sentence(done, "--max-side", "240", "100")
    assert not target.exists()


def test_frames_are_stored_at_the_size_asked_for(tmp_path):
    # Without a face it ends right after the frames, which are all that is looked at.
    clip = write_clip(tmp_path / "noise.mp4", 40, 480, 320)
    target = tmp_path / "me.capture"
    fails_with_one_sentence(run("capture", clip, "-o", target, "--max-side", "240"), "face")
    assert cv2.imread(str(target / "frames" / "cam0" / "000000.jpg")).shape == (160, 240, 3)


def test_frames_that_are_left_out_are_told_of(small_capture, tmp_path):
    """Leaving out what was blurred flatters: whoever reads the PSNR must see it."""
    folder = tmp_path / "me.capture"
    folder.mkdir()
    for file in small_capture.path.iterdir():
        if file.name != "track.safetensors":
            (folder / file.name).symlink_to(file)
    track, (begin, end) = small_capture.track, small_capture.splits.test
    valid = track.valid.clone()
    valid[begin : begin + 2] = False
    replace(track, valid=valid).save(folder / "track.safetensors")
    fit(Capture(folder), tmp_path / "me.run", replace(PRESETS["smoke"], steps=1))
    done = run("eval", tmp_path / "me.run", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert "2 held-out frames are left out" in done.stderr
    result = json.loads(done.stdout)
    assert result["frames_left_out"] == 2
    assert result["frames"] == end - begin - 2
    report = (tmp_path / "me.run" / "eval" / "report.html").read_text()
    assert left_out(result) in report
    assert f"{result['psnr_all_tracked']:.2f} dB with all" in left_out(result)


def test_an_evaluation_that_leaves_out_nothing_or_is_of_old_says_nothing():
    assert left_out({"frames": 9, "psnr": 30.0}) == ""
    assert left_out({"frames": 9, "frames_left_out": 0, "psnr_all_tracked": 30.0}) == ""
    one = left_out({"frames": 0, "frames_left_out": 1, "psnr_all_tracked": None})
    assert one.startswith("1 held-out frame is left out")
    assert "None" not in one


def test_tracking_is_measured(small_capture):
    done = run("bench", "track", small_capture.path, "--json", "-")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["frames"] == small_capture.frames
    assert row["seconds"]["total"] == pytest.approx(sum(small_capture.seconds.values()))
    assert 0 < row["residual_512_px"] < 20
    assert row["focal_px"] == pytest.approx(float(small_capture.track.K[0, 0, 0]))
    assert "truth" not in row
    shown = run("bench", "track", small_capture.path)
    assert shown.returncode == 0, shown.stderr
    assert "residual" in shown.stdout


def test_measuring_what_is_no_capture(tmp_path):
    fails_with_one_sentence(run("bench", "track", tmp_path), "capture.json")
    fails_with_one_sentence(run("bench", "track"), "at least one")


def test_the_two_benches_keep_their_own_options():
    assert "--gpu" in run("bench", "rasterizer", "--help").stdout
    assert "--truth" in run("bench", "track", "--help").stdout
    fails_with_one_sentence(run("bench", "rasterizer", "--plot", "table.txt"), ".png")
    assert run("bench", "track", "--gpu").returncode == 2


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
