"""Several cameras to one capture: up to the tracker, resumed, refused; colours, report, validity."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_calibrations import as_transforms, rig
from test_capture import ROOT, Stopped, contents, portrait, stop_at
from test_ingest import write_clip

from avatar.capture_data import Capture, CaptureCamera, Landmarks, Splits
from avatar.checks import InputError
from capture.colour_match import match_colours
from capture.folder import Stages, belongs
from capture.ingest import probe
from capture.pipeline import CaptureConfig, capture_video
from capture.settings import CaptureConfig as Settings
from capture.synchronise import synchronise

SCENE = 62
STARTS = {"left": 0, "right": 6}
LENGTH = 52
OFFSETS = (0.0, 0.24)
KINDS = ("frames", "masks")


def view(name: str, frame: int, size: int = 256) -> np.ndarray:
    """A moment of a swaying portrait, as one of the cameras sees it."""
    phase = 2 * np.pi * (frame / 50 + (frame / 40) ** 2)  # never the same twice
    aside = 0.04 if name == "left" else -0.03
    return portrait(aside + 0.05 * np.sin(phase), 0.03 * np.cos(phase), 1.2, size)


def film(folder: Path, name: str, mask: bool = False) -> Path:
    size = 256 if name == "left" else 320
    pictures = [view(name, STARTS[name] + k, size) for k in range(LENGTH)]
    if mask:
        pictures = [np.where(picture.mean(2, keepdims=True) > 99, 255, 0) for picture in pictures]
        pictures = [np.repeat(picture, 3, 2).astype(np.uint8) for picture in pictures]
        name += "_mask"
    return write_clip(folder / f"{name}.mp4", pictures)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("cameras")
    return [film(folder, name) for name in STARTS]


def prepare(clips: list[Path], output: Path, config: CaptureConfig | None = None) -> None:
    """Run a capture of several clips up to where tracking begins."""
    with pytest.raises(Stopped):
        capture_video(clips, output, config or CaptureConfig(offsets=OFFSETS), stop_at("track"))


def frames_of(folder: Path, kind: str, camera: int) -> list[int]:
    return sorted(int(path.stem) for path in (folder / kind / f"cam{camera}").iterdir())


@pytest.fixture(scope="module")
def prepared(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "me.capture"
    prepare(clips, folder)
    return folder


def test_cameras_share_a_time_line_and_gaps_are_flags(prepared: Path) -> None:
    total = LENGTH + 6
    assert frames_of(prepared, "frames", 0) == list(range(LENGTH))
    assert frames_of(prepared, "frames", 1) == list(range(6, total))
    for camera in (0, 1):
        assert frames_of(prepared, "masks", camera) == frames_of(prepared, "frames", camera)
    split = json.loads((prepared / "splits.json").read_text())
    assert split["test"] == list(Splits.default(total).test)
    found = [Landmarks.load(prepared / f"landmarks{k or ''}.safetensors") for k in (0, 1)]
    assert all(len(marks.valid) == total for marks in found)
    assert not found[0].valid[LENGTH:].any()
    assert not found[1].valid[:6].any()
    assert found[0].valid[:LENGTH].float().mean() > 0.9
    assert found[1].valid[6:].float().mean() > 0.9
    for camera, name, size in ((0, "left", 256), (1, "right", 320)):
        picture = cv2.imread(str(prepared / f"frames/cam{camera}/000030.jpg"))[..., ::-1]
        assert np.abs(picture.astype(float) - view(name, 30, size)).mean() < 4, "one moment"
    stages = Stages.read(prepared)
    assert stages is not None
    assert list(stages.done) == ["sync", "ingest", "ingest1", "common", "matte", "matte1"]
    assert stages.done["ingest1"]["values"]["missing"] == [[0, 6]]
    assert stages.done["sync"]["values"]["offsets"][1]["method"] == "given"
    assert all(belongs(path.name) for path in prepared.iterdir())


def test_motion_finds_the_offset_of_decoded_clips(tmp_path: Path) -> None:
    """Two views of one swaying portrait, without sound; the second began 13 frames later."""
    paths = []
    for name, start, size in (("left", 0, 256), ("right", 13, 320)):
        pictures = [view(name, start + k, size) for k in range(100)]
        paths.append(write_clip(tmp_path / f"{name}.mp4", pictures))
    found = synchronise([probe(path) for path in paths], None, None, lambda _: None)
    assert found["offsets"][1]["method"] == "motion"
    assert abs(found["offsets"][1]["seconds"] - 13 / 25) < 0.02
    assert [take["first"] for take in found["takes"]] == [0, 13]
    assert not found["warnings"]


@pytest.mark.parametrize(
    ("stage", "done"),
    [pytest.param("ingest", LENGTH + 20, marks=pytest.mark.slow), ("matte", LENGTH + 5)],
)
def test_a_killed_run_goes_on_with_the_camera_it_had_come_to(
    clips: list[Path], prepared: Path, tmp_path: Path, stage: str, done: int
) -> None:
    folder = tmp_path / "me.capture"
    script = f"""
import os, signal, sys
from pathlib import Path
from capture.pipeline import CaptureConfig, capture_video

def listen(progress):
    if progress.stage == {stage!r} and progress.done >= {done}:
        os.kill(os.getpid(), signal.SIGKILL)

clips = [Path(name) for name in sys.argv[2:]]
capture_video(clips, Path(sys.argv[1]), CaptureConfig(offsets={OFFSETS}), listen)
"""
    command = [sys.executable, "-c", script, str(folder), *map(str, clips)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    kind = {"ingest": "frames", "matte": "masks"}[stage]
    suffix = {"ingest": "jpg", "matte": "png"}[stage]
    kept = folder / kind / "cam0" / f"000030.{suffix}"
    begun = folder / kind / "cam1" / f"000006.{suffix}"
    before = kept.stat().st_mtime_ns, begun.stat().st_mtime_ns
    (folder / ".landmarks1.abc123.safetensors").write_text("half a fi")
    prepare(clips, folder)
    assert contents(folder) == contents(prepared)
    assert kept.stat().st_mtime_ns == before[0], "the finished camera is kept"
    assert begun.stat().st_mtime_ns > before[1], "the unfinished one is made anew"


def test_another_offset_makes_that_camera_anew_and_no_other(
    clips: list[Path], prepared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "me.capture"
    shutil.copytree(prepared, folder)

    def stamps(camera: int) -> dict[Path, int]:
        files = [path for kind in KINDS for path in (folder / kind / f"cam{camera}").iterdir()]
        return {path: path.stat().st_mtime_ns for path in files}

    before = [stamps(camera) for camera in (0, 1)]
    prepare(clips, folder, CaptureConfig(offsets=(0.0, 0.23)))
    assert stamps(0) == before[0]
    assert not set(stamps(1).items()) & set(before[1].items())
    for kind in KINDS:
        assert frames_of(folder, kind, 1) == frames_of(prepared, kind, 1)


def test_overwriting_leaves_nothing_of_a_capture_of_more_cameras(
    clips: list[Path], prepared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "me.capture"
    shutil.copytree(prepared, folder)
    for name in ("pyramid/720/cam1/000000-12345678.png", "frames/cam7/000000.jpg"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("of the capture before")
    (folder / "landmarks7.safetensors").write_text("of the capture before")
    with pytest.raises(InputError, match="holds the capture of another video"):
        capture_video(clips[:1], folder)
    prepare(clips[:1], folder, CaptureConfig(overwrite=True))
    names = sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.parent.parent != folder
    )
    kinds = [name for name in names if not name.endswith((".jpg", ".png"))]
    assert kinds == [
        "frames", "landmarks.safetensors", "masks", "splits.json", "stages.json",
    ]  # fmt: skip
    for kind in KINDS:
        assert [path.name for path in (folder / kind).iterdir()] == ["cam0"]


def test_given_masks_follow_their_clips(clips: list[Path], tmp_path: Path) -> None:
    masks = tuple(film(tmp_path, name, mask=True) for name in STARTS)
    prepare(clips, tmp_path / "me.capture", CaptureConfig(offsets=OFFSETS, mask=masks))
    for camera, name, size in ((0, "left", 256), (1, "right", 320)):
        mask = cv2.imread(str(tmp_path / f"me.capture/masks/cam{camera}/000030.png"), 0)
        expected = view(name, 30, size).mean(2) > 99
        assert ((mask > 127) == expected).mean() > 0.97
    short = write_clip(tmp_path / "short.mp4", [np.zeros((256, 256, 3), np.uint8)] * 45)
    with pytest.raises(InputError, match=r"short\.mp4 has 45 pictures .* has 52"):
        capture_video(clips, tmp_path / "other", CaptureConfig(mask=(masks[0], short)))
    assert not (tmp_path / "other").exists()
    # Near enough to be of that clip, and still too short for the frames that are used.
    shorter = tmp_path / "shorter.mp4"
    write_clip(shorter, [np.zeros((256, 256, 3), np.uint8)] * (LENGTH - 1))
    with pytest.raises(InputError, match=r"shorter\.mp4 has 51 pictures .* has 52"):
        capture_video(
            clips, tmp_path / "other", CaptureConfig(offsets=OFFSETS, mask=(shorter, masks[1]))
        )
    assert not (tmp_path / "other" / "frames").exists()


def test_a_calibration_straightens_frames_and_admits_a_camera_without_a_face(
    clips: list[Path], tmp_path: Path
) -> None:
    hair = [cv2.GaussianBlur(view("left", k), (0, 0), 25) for k in range(LENGTH)]
    behind = write_clip(tmp_path / "behind.mp4", hair)
    videos = [clips[0], behind]
    with pytest.raises(InputError, match=r"behind\.mp4 shows (no face in any|the face together)"):
        capture_video(videos, tmp_path / "refused", CaptureConfig(offsets=(0, 0)))
    assert not (tmp_path / "refused/capture.json").exists()
    value = json.loads(as_transforms(rig(2, bend=(0.1, 0, 0, 0))))
    for frame, name in zip(value["frames"], ("left", "behind"), strict=True):
        frame |= {
            "file_path": name,
            "w": 256,
            "h": 256,
            "cx": 128,
            "cy": 128,
            "fl_x": 300,
            "fl_y": 300,
        }
    file = tmp_path / "transforms.json"
    file.write_text(json.dumps(value))
    config = CaptureConfig(offsets=(0, 0), calibration=file)
    folder = tmp_path / "me.capture"
    prepare(videos, folder, config)
    stages = Stages.read(folder)
    assert stages is not None
    picture = cv2.imread(str(folder / "frames/cam0/000010.jpg"))[..., ::-1].astype(float)
    own = np.array([[300, 0, 127.5], [0, 300, 127.5], [0, 0, 1.0]])
    straight = cv2.undistort(view("left", 10), own, np.array([0.1, 0, 0, 0]))
    inner = slice(16, -16), slice(16, -16)
    assert np.abs(picture - straight)[inner].mean() < 4
    assert np.abs(picture - view("left", 10))[inner].mean() > 5
    stamp = (folder / "frames/cam0/000010.jpg").stat().st_mtime_ns
    value["frames"][0]["transform_matrix"][0][3] += 0.1
    file.write_text(json.dumps(value))
    prepare(videos, folder, config)
    assert (folder / "frames/cam0/000010.jpg").stat().st_mtime_ns == stamp, "poses change no frame"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CaptureConfig(offsets=(0.0,)), "--offsets takes one number for each of the 2 clips"),
        (CaptureConfig(offsets=(0.0, 99.0)), "shares 0.0 s with the other clips"),
        (CaptureConfig(mask=Path("m.mp4")), "--mask takes one mask clip for each of the 2"),
        (CaptureConfig(focal_mm=(26.0, 28.0, 24.0)), "one value for all cameras or one for each"),
        (CaptureConfig(mirrored=("front",)), "--mirrored-clips names 'front'"),
        (CaptureConfig(calibration=Path("gone.json")), "gone.json does not exist"),
    ],
)
def test_what_does_not_fit_the_clips_is_refused_before_anything_is_written(
    clips: list[Path], tmp_path: Path, config: CaptureConfig, message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        capture_video(clips, tmp_path / "me.capture", config)
    left = tmp_path / "me.capture"
    assert not left.exists() or [path.name for path in left.iterdir()] == ["stages.json"]


def test_one_clip_takes_no_offsets_and_no_calibration(clips: list[Path], tmp_path: Path) -> None:
    for config in (CaptureConfig(offsets=(0.0,)), CaptureConfig(calibration=Path("c.json"))):
        with pytest.raises(InputError, match="is for several cameras"):
            capture_video(clips[:1], tmp_path / "me.capture", config)


def test_settings_of_each_clip() -> None:
    config = Settings(mirrored=("right.mp4",), focal_mm=(26.0, 52.0), max_frames=9)
    assert config.ingest_of(Path("x/right.mp4")).mirrored
    assert not config.ingest_of(Path("left.mp4")).mirrored
    assert config.ingest_of(Path("left.mp4")).max_frames is None
    assert config.focal_widths(2) == [26 / 36, 52 / 36]
    assert Settings(focal_mm=36.0).focal_widths(3) == [1.0, 1.0, 1.0]
    assert Settings().focal_widths(2) == [None, None]


# -- colours ----------------------------------------------------------------------------------


def test_colours_are_matched_through_a_camera_between() -> None:
    """Cameras 0 and 2 never have a face in one frame; camera 1 shares frames with both."""
    from capture.people import detect_landmarks

    pictures = [view("left", k) for k in range(24)]
    marks = detect_landmarks(pictures, 256, 256).landmarks
    assert marks.valid.all()
    gains = np.array([[1, 1, 1], [1.12, 1.0, 0.85], [0.8, 0.9, 1.1]])
    frames = torch.arange(24)
    seen = [frames < 14, frames >= 0, frames >= 14]

    def camera(k: int):
        return lambda f: np.clip(np.round(pictures[f] * gains[k]), 0, 255).astype(np.uint8)

    landmarks = [Landmarks(marks.points, marks.valid & flags) for flags in seen]
    found, alone = match_colours([camera(k) for k in range(3)], landmarks, 0)
    assert not alone
    np.testing.assert_allclose(np.array(found) * gains, 1, atol=0.01)
    found, _ = match_colours([camera(k) for k in range(3)], landmarks, 1)
    np.testing.assert_allclose(np.array(found) * gains, gains[[1, 1, 1]], atol=0.01)
    never = [landmarks[0], Landmarks(marks.points, marks.valid & False)]
    assert match_colours([camera(0), camera(1)], never, 0) == ([(1.0, 1.0, 1.0)] * 2, [1])


def test_equal_cameras_are_left_as_they_are() -> None:
    from capture.people import detect_landmarks

    pictures = [view("left", k) for k in range(12)]
    marks = detect_landmarks(pictures, 256, 256).landmarks
    noisy = [np.clip(p + np.random.default_rng(k).normal(0, 3, p.shape), 0, 255).astype(np.uint8)
             for k, p in enumerate(pictures)]  # fmt: skip
    found, _ = match_colours([pictures.__getitem__, noisy.__getitem__], [marks, marks], 0)
    assert found == [(1.0, 1.0, 1.0)] * 2


def test_a_cameras_entry_goes_both_ways() -> None:
    camera = CaptureCamera("a.mp4", 640, 480, frozenset({0, 1, 7}), (1.1, 1.0, 0.9))
    assert CaptureCamera.from_json(0, json.loads(json.dumps(camera.to_json()))) == camera


@pytest.mark.parametrize(
    "entry",
    [
        {"missing": [[0, 10**15]]},
        {"missing": [[5, 2]]},
        {"missing": [[-3, 2]]},
        {"missing": 7},
        {"width": float("inf")},
        {"gain": [1, 1]},
        {"gain": [0, 1, 1]},
        None,
    ],
)
def test_damaged_entries_of_cameras_are_one_sentence(tmp_path: Path, entry: dict | None) -> None:
    whole = {"width": 640, "height": 480, "source": "a.mp4"}
    cameras = [whole, None if entry is None else {**whole, **entry}]
    header = {"format": "headsplat.capture", "version": 1, "frames": 9, "fps": 25}
    (tmp_path / "capture.json").write_text(json.dumps({**header, "cameras": cameras}))
    with pytest.raises(InputError, match=r"capture\.json is damaged"):
        Capture(tmp_path)
