"""Faces, masks, judgement, and the capture folder: made, resumed, refused."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut
from test_ingest import write_clip

from avatar.capture_data import Capture, Landmarks, Splits
from avatar.checks import InputError
from avatar.types import Progress
from capture.ingest import probe, read_frames
from capture.landmarks import (
    FaceDetector,
    box_of,
    describe_models,
    overlap,
    quiet_native_output,
)
from capture.matte import Segmenter, refine, steady
from capture.matting import need_mask
from capture.people import PersonFollower, detect_landmarks
from capture.pipeline import CaptureConfig, capture_video
from capture.quality import FrameLook, count_blinks, head_angles, judge, look_at_face
from capture.report import plot

ROOT = Path(__file__).resolve().parents[1]


def portrait(x: float = 0.0, y: float = 0.0, zoom: float = 1.0, size: int = 320) -> np.ndarray:
    """The astronaut's head and shoulders, moved by fractions of the picture and enlarged."""
    picture = astronaut()
    scale = size / 400 * zoom
    matrix = np.array([[scale, 0, 0], [0, scale, 0]], np.float32)
    # Face centre of the original is near (225, 120).
    matrix[:, 2] = (size * (0.5 + x) - 225 * scale, size * (0.42 + y) - 120 * scale)
    return cv2.warpAffine(
        picture, matrix, (size, size), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
    )


def moving(count: int, size: int = 320) -> list[np.ndarray]:
    """A clip of the portrait, swaying and coming closer."""
    phase = np.linspace(0, 2 * np.pi, count)
    return [
        portrait(0.05 * np.sin(p), 0.03 * np.cos(p), 1.2 + 0.1 * np.sin(p), size) for p in phase
    ]


def two_people(size: int = 320) -> np.ndarray:
    """A smaller face on the left, a larger one on the right."""
    picture = np.zeros((size, 2 * size, 3), np.uint8)
    picture[:, :size] = portrait(0, 0, 1.7, size)
    picture[:, size:] = portrait(0, 0.02, 2.3, size)
    return picture


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    sound = rng.integers(-3000, 3000, 90000, np.int16)
    return write_clip(tmp_path_factory.mktemp("clip") / "me.mp4", moving(44), sound=sound)


# -- landmarks --------------------------------------------------------------------------------


def test_landmarks_follow_the_face() -> None:
    pictures = moving(12)
    found = detect_landmarks(pictures, 320, 320).landmarks
    assert found.points.shape == (12, 478, 3)
    assert found.valid.all()
    # The nose tip (point 1) moves as the portrait was moved: sway of 0.05 of 320 px plus zoom.
    nose = found.points[:, 1, :2].numpy()
    expected = np.array([0.05 * np.sin(p) * 320 for p in np.linspace(0, 2 * np.pi, 12)])
    assert np.corrcoef(nose[:, 0], expected)[0, 1] > 0.95
    width = np.ptp(found.points[0, :468, 0].numpy())
    depth = np.ptp(found.points[0, :468, 2].numpy())
    assert 0.3 < depth / width < 2, "z is in the unit of x"


def test_no_face_is_none_and_not_valid() -> None:
    blank = np.full((256, 256, 3), 128, np.uint8)
    with FaceDetector() as detector:
        assert detector.detect(blank) is None
    found = detect_landmarks([blank] * 3, 256, 256)
    assert not found.landmarks.valid.any()
    assert not found.landmarks.points.any()


def test_a_detector_for_single_pictures_forgets() -> None:
    with FaceDetector(single=True) as detector:
        first = detector.detect(portrait(-0.1))
        second = detector.detect(portrait(0.1))
        again = detector.detect(portrait(-0.1))
    assert first is not None
    assert second is not None
    assert again is not None
    assert np.abs(first - again).max() < 0.01
    assert box_of(second)[0] > box_of(first)[0] + 40


def test_a_face_too_small_for_face_mesh_alone_is_found_and_followed() -> None:
    pictures = []
    for k in range(8):
        picture = np.full((720, 1280, 3), 90, np.uint8)
        x = 500 + 4 * k
        picture[100:420, x : x + 320] = portrait(0, 0, 1.0, 320)
        pictures.append(picture)
    found = detect_landmarks(pictures, 1280, 720)
    assert found.landmarks.valid.all()
    assert found.frames_with_others == 0
    for k, face in enumerate(found.landmarks.points.numpy()):
        x0, y0, x1, y1 = box_of(face)
        assert 500 + 4 * k < x0 < x1 < 820 + 4 * k
        assert 100 < y0 < y1 < 420
        assert 60 < x1 - x0 < 90


def test_the_larger_of_two_people_is_taken_and_the_other_noticed() -> None:
    picture = two_people()
    found = detect_landmarks([picture] * 6, 640, 320)
    assert found.landmarks.valid.all()
    assert (found.landmarks.points[:, 1, 0] > 320).all()
    assert found.frames_with_others >= 5


def face_at(x: float, size: float) -> np.ndarray:
    """478 made-up points in a square."""
    rng = np.random.default_rng(0)
    points = rng.random((478, 3)).astype(np.float32)
    points[:2] = [[0, 0, 0], [1, 1, 0]]
    return points * size + np.array([x, 100, 0], np.float32)


def test_the_person_seen_longest_wins_over_who_is_there_first() -> None:
    follower = PersonFollower(640, 320)
    follower.add([face_at(20, 90)])
    for _ in range(9):
        follower.add([face_at(20, 90), face_at(300, 120)])
    result = follower.result()
    assert result.landmarks.valid.tolist() == [False] + [True] * 9
    assert (result.landmarks.points[1:, :, 0] >= 300).all()
    assert result.frames_with_others == 10


def test_a_person_who_leaves_and_returns_elsewhere_is_the_same_person() -> None:
    follower = PersonFollower(640, 320)
    for k in range(5):
        follower.add([face_at(20 + k, 100)])
    for _ in range(3):
        follower.add([])
    for k in range(5):
        follower.add([face_at(400 + k, 110)])
    result = follower.result()
    assert result.landmarks.valid.tolist() == [True] * 5 + [False] * 3 + [True] * 5
    assert result.frames_with_others == 0


def test_overlap_of_boxes() -> None:
    a = np.array([0.0, 0, 2, 2])
    assert overlap(a, a) == 1
    assert overlap(a, np.array([1.0, 0, 3, 2])) == pytest.approx(1 / 3)
    assert overlap(a, np.array([5.0, 5, 6, 6])) == 0
    assert overlap(np.zeros(4), np.zeros(4)) == 0


def test_native_chatter_is_dropped_and_other_lines_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_native_output():
        os.write(2, b"W0000 00:00:1.0 12 feedback_manager.cc:114] noise\n")
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
        os.write(2, b"something is really wrong\n")
    assert capfd.readouterr().err == "something is really wrong\n"


def test_models_start_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    assert "478" in describe_models()
    with FaceDetector() as detector, Segmenter() as segmenter:
        assert detector.detect(portrait()) is not None
        segmenter(portrait())
    assert capfd.readouterr().err == ""


# -- matte ------------------------------------------------------------------------------------


def disc(size: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return ((columns - x) ** 2 + (rows - y) ** 2 < radius**2).astype(np.float32)


def face_points(x: float, y: float, half: float) -> np.ndarray:
    """Landmarks of the astronaut's face, moved to a centre and a half width."""
    with FaceDetector(single=True) as detector:
        face = detector.detect(portrait())
    assert face is not None
    box = box_of(face)
    face = face[:, :2] - (box[:2] + box[2:]) / 2
    return (face * (2 * half / (box[2] - box[0])) + (x, y)).astype(np.float32)


def test_refining_keeps_the_person_with_the_face_and_drops_blobs() -> None:
    probability = np.maximum(disc(256, 110, 120, 60), disc(256, 225, 225, 25))
    image = np.where(probability[..., None] > 0, (200, 150, 120), (40, 60, 90)).astype(np.uint8)
    mask = refine(image, probability, face_points(110, 120, 25))
    assert mask[120, 110] == 255
    assert mask[225, 225] == 0
    truth = disc(256, 110, 120, 60) > 0
    agree = ((mask > 127) & truth).sum() / ((mask > 127) | truth).sum()
    assert agree > 0.97


def test_refining_moves_a_rough_edge_to_the_pictures_edge() -> None:
    truth = disc(256, 128, 128, 80)
    rough = cv2.resize(cv2.resize(truth, (32, 32), interpolation=cv2.INTER_AREA), (256, 256))
    rng = np.random.default_rng(0)
    image = np.where(truth[..., None] > 0, (190, 140, 110), (70, 90, 60))
    image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    before = np.abs(rough - truth).mean()
    after = np.abs(refine(image, rough, None) / 255.0 - truth).mean()
    assert after < 0.25 * before


def test_a_small_hole_is_filled_and_a_large_one_stays() -> None:
    person = disc(256, 128, 128, 110)
    probability = person * (1 - disc(256, 128, 205, 7)) * (1 - disc(256, 60, 150, 24))
    image = np.where(person[..., None] > 0, (180, 150, 120), (30, 40, 50)).astype(np.uint8)
    mask = refine(image, probability, face_points(140, 100, 32))
    assert mask[205, 128] > 200
    assert mask[150, 60] == 0


def test_neck_and_face_are_person_whatever_the_segmenter_says() -> None:
    face = face_points(128, 100, 40)
    body = np.zeros((256, 256), np.float32)
    body[200:] = 0.9
    image = np.full((256, 256, 3), 128, np.uint8)
    mask = refine(image, body, face)
    assert mask[100, 128] == 255
    assert mask[int(face[152, 1]) + 6, 128] == 255, "below the chin"


def test_refining_an_empty_probability_gives_an_empty_mask() -> None:
    image = np.full((128, 96, 3), 128, np.uint8)
    mask = refine(image, np.zeros((64, 48), np.float32), None)
    assert mask.shape == (128, 96)
    assert not mask.any()


def test_the_median_drops_a_flicker_and_follows_a_motion() -> None:
    still, flash = np.zeros((4, 4)), np.ones((4, 4))
    assert (steady([still, flash, still]) == still).all()
    assert (steady([still, still + 0.5, flash]) == 0.5).all()


def test_segmenting_the_portrait_finds_head_and_shoulders() -> None:
    image = portrait()
    with Segmenter() as segmenter, FaceDetector(single=True) as detector:
        mask = refine(image, segmenter(image), detector.detect(image))
    assert mask.shape == image.shape[:2]
    assert mask[134, 160] == 255, "face"
    assert mask[300, 160] == 255, "chest"
    assert mask[5, 5] == 0, "background"
    assert 0.25 < (mask > 127).mean() < 0.75


def test_masks_agree_with_the_rendered_heads_truth(data) -> None:
    import av

    clip, truth = data("oracle_mono/cam0.mp4"), data("oracle_mono/cam0_mask.mp4")
    with av.open(str(clip)) as a, av.open(str(truth)) as b:
        images = [f.to_ndarray(format="rgb24") for _, f in zip(range(30), a.decode(video=0))]  # noqa: B905
        masks = [f.to_ndarray(format="gray") for _, f in zip(range(30), b.decode(video=0))]  # noqa: B905
    scores = []
    with Segmenter() as segmenter, FaceDetector() as detector:
        for image, mask in zip(images, masks, strict=True):
            found = refine(image, segmenter(image), detector.detect(image)) > 127
            scores.append((found & (mask > 127)).sum() / (found | (mask > 127)).sum())
    # 0.994 on average over the whole clip; 0.966 for the plain segmenter.
    assert np.mean(scores) > 0.985


# -- quality ----------------------------------------------------------------------------------


def looks_of(pictures: Iterable[np.ndarray], points: np.ndarray) -> dict[str, np.ndarray]:
    rows = [look_at_face(p, f) for p, f in zip(pictures, points, strict=True)]
    names = ("sharpness", "brightness", "dark", "bright")
    return {n: np.array([np.nan if r is None else getattr(r, n) for r in rows]) for n in names}


@pytest.fixture(scope="module")
def measured() -> tuple[list[np.ndarray], Landmarks]:
    pictures = moving(20)
    return pictures, detect_landmarks(pictures, 320, 320).landmarks


def test_blur_dark_and_bright_pictures_are_told(measured) -> None:
    pictures, landmarks = measured
    points = landmarks.points.numpy()

    def verdicts(change) -> dict[str, str]:
        looks = looks_of([change(p) for p in pictures], points)
        quality = judge(landmarks, looks, fps=25, frames_with_others=0)
        return {key: item.verdict for key, item in quality.items.items()}

    plain = verdicts(lambda p: p)
    assert plain["sharpness"] != "bad"
    assert plain["brightness"] == "ok"
    assert plain["face_found"] == "ok"
    assert plain["others"] == "ok"
    assert plain["duration_s"] == "bad"
    assert plain["yaw_range"] == "warn", "a still portrait does not turn"
    assert verdicts(lambda p: cv2.GaussianBlur(p, (0, 0), 3))["sharpness"] == "bad"
    assert verdicts(lambda p: p // 8)["brightness"] == "bad"
    bright = verdicts(lambda p: np.clip(p * 2.5, 0, 255).astype(np.uint8))
    assert bright["clipped_bright"] == "bad"


def test_half_blurred_frames_are_counted(measured) -> None:
    pictures, landmarks = measured
    mixed = [cv2.GaussianBlur(p, (0, 0), 2.5) if k % 2 else p for k, p in enumerate(pictures)]
    looks = looks_of(mixed, landmarks.points.numpy())
    item = judge(landmarks, looks, fps=25, frames_with_others=0).items["blurred"]
    assert item.value == pytest.approx(50, abs=10)
    assert item.verdict == "bad"


def test_few_faces_and_other_people_are_told(measured) -> None:
    pictures, landmarks = measured
    looks = looks_of(pictures, landmarks.points.numpy())
    few = Landmarks(landmarks.points, torch.arange(20) < 8)
    quality = judge(few, looks, fps=25, frames_with_others=6)
    assert quality.items["face_found"].value == 40
    assert quality.items["face_found"].verdict == "bad"
    assert quality.items["others"].value == 30
    assert quality.overall == "bad"
    for item in quality.items.values():
        assert item.advice.endswith(".")
    json.dumps(quality.as_json(), allow_nan=False)


def test_head_angles_have_the_documented_signs() -> None:
    points = np.zeros((3, 478, 3), np.float32)
    points[:, 33], points[:, 263] = (-50, 0, 0), (50, 0, 0)
    points[:, 10], points[:, 152] = (0, -80, 0), (0, 80, 0)
    points[0, 263, 2] = 50  # the subject's left eye is farther away: turned to the left
    points[1, 10, 2] = 80  # the forehead is farther away: looks up
    points[2, 263, 1] = 30  # the left eye is lower: leans to the left
    angles = head_angles(points)
    assert angles[0, 0] == pytest.approx(26.6, abs=0.1)
    assert angles[1, 1] == pytest.approx(26.6, abs=0.1)
    assert angles[2, 2] == pytest.approx(16.7, abs=0.1)


def test_blinks_are_counted_and_long_closures_are_not() -> None:
    opening = np.full(250, 0.3)
    opening[40:44] = opening[100:103] = opening[200:205] = 0.1
    assert count_blinks(opening, 25) == 3
    opening[120:180] = 0.1
    assert count_blinks(opening, 25) == 3
    assert count_blinks(np.zeros(0), 25) == 0


def test_a_face_outside_of_the_picture_is_not_measured() -> None:
    face = face_points(160, 140, 50)
    image = portrait()
    assert isinstance(look_at_face(image, face), FrameLook)
    assert look_at_face(image, face + 1000) is None


# -- report -----------------------------------------------------------------------------------


def test_plots_break_at_gaps_and_survive_constants() -> None:
    curve = np.array([0.0, 1, np.nan, np.nan, 2, 3, 4])
    assert plot({"a <b>": curve}, 25, unit="px").count("<polyline") == 2
    assert "a &lt;b&gt;" in plot({"a <b>": curve}, 25, unit="px")
    assert "nan" not in plot({"flat": np.ones(9)}, 25, unit="px")
    assert "Nothing" in plot({"none": np.full(4, np.nan)}, 25, unit="px")


# -- the folder -------------------------------------------------------------------------------


class Stopped(Exception):
    """Raised by a listener: the user's Ctrl-C, placed exactly."""


def stop_at(stage: str, done: int = 0):
    """A listener that stops the job at a stage's report; "track" is whatever follows the matte."""
    known = {"synchronise", "ingest", "matte"}

    def listen(progress: Progress) -> None:
        here = progress.stage if progress.stage in known else "track"
        if here == stage and progress.done >= done:
            raise Stopped

    return listen


def prepare(clip: Path, output: Path, config: CaptureConfig = CaptureConfig()) -> None:
    """Run a capture up to where tracking begins."""
    with pytest.raises(Stopped):
        capture_video([clip], output, config, stop_at("track"))


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a prepared folder but the stage times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "stages.json"
    }


@pytest.fixture(scope="module")
def prepared(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "me.capture"
    prepare(clip, folder)
    return folder


def test_a_prepared_folder_has_the_documented_layout(prepared: Path) -> None:
    names = set(contents(prepared))
    frames = {f"frames/cam0/{k:06d}.jpg" for k in range(44)}
    masks = {f"masks/cam0/{k:06d}.png" for k in range(44)}
    assert names == frames | masks | {"audio.wav", "landmarks.safetensors", "splits.json"}
    assert len(Landmarks.load(prepared / "landmarks.safetensors").valid) == 44
    split = json.loads((prepared / "splits.json").read_text())
    assert split["test"] == list(Splits.default(44).test)
    picture = cv2.imread(str(prepared / "frames/cam0/000003.jpg"))[..., ::-1].astype(float)
    assert np.abs(picture - moving(44)[3]).mean() < 4
    with pytest.raises(InputError, match="not finished"):
        Capture(prepared)


@pytest.mark.parametrize(
    ("stage", "done"),
    [("ingest", 9), pytest.param("matte", 1, marks=pytest.mark.slow), ("matte", 30)],
)
def test_killed_and_run_again_gives_the_same_folder(
    clip: Path, prepared: Path, tmp_path: Path, stage: str, done: int
) -> None:
    folder = tmp_path / "me.capture"
    script = f"""
import os, signal, sys
from pathlib import Path
from capture.pipeline import capture_video

def listen(progress):
    if progress.stage == {stage!r} and progress.done >= {done}:
        os.kill(os.getpid(), signal.SIGKILL)

capture_video([Path(sys.argv[1])], Path(sys.argv[2]), report=listen)
"""
    command = [sys.executable, "-c", script, str(clip), str(folder)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    (folder / ".stages.abc123.json").write_text("half a fi")
    frame = folder / "frames/cam0/000004.jpg"
    before = frame.stat().st_mtime_ns
    prepare(clip, folder)
    assert contents(folder) == contents(prepared)
    kept = frame.stat().st_mtime_ns == before
    assert kept == (stage == "matte"), "a finished stage is kept, an unfinished one made again"


def test_finished_stages_are_kept_until_their_settings_or_files_change(
    clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "me.capture"
    prepare(clip, folder)
    frame, mask = folder / "frames/cam0/000004.jpg", folder / "masks/cam0/000004.png"

    def stamps() -> tuple[int, int]:
        return frame.stat().st_mtime_ns, mask.stat().st_mtime_ns

    first = stamps()
    prepare(clip, folder)
    assert stamps() == first
    (folder / "masks/cam0/000007.png").unlink()
    prepare(clip, folder)
    second = stamps()
    assert second[0] == first[0]
    assert second[1] > first[1]
    prepare(clip, folder, CaptureConfig(max_frames=41))
    third = stamps()
    assert third[0] > second[0]
    assert len(list((folder / "frames/cam0").iterdir())) == 41
    assert len(list((folder / "masks/cam0").iterdir())) == 41


def test_another_videos_folder_is_refused_and_replaced_on_request(
    clip: Path, tmp_path: Path
) -> None:
    other = write_clip(tmp_path / "other.mp4", moving(42))
    folder = tmp_path / "me.capture"
    prepare(clip, folder)
    before = contents(folder)
    with pytest.raises(InputError, match="holds the capture of another video"):
        capture_video([other], folder)
    assert contents(folder) == before
    prepare(other, folder, CaptureConfig(overwrite=True))
    assert len(list((folder / "frames/cam0").iterdir())) == 42
    assert not (folder / "audio.wav").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_things_is_left_alone(
    clip: Path, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "thesis.doc").write_text("years of work")
    (tmp_path / "frames").mkdir()
    with pytest.raises(InputError, match="is not empty"):
        capture_video([clip], tmp_path, CaptureConfig(overwrite=overwrite))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames", "thesis.doc"]


def test_output_that_cannot_be_made_is_named(clip: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(InputError, match="is a file"):
        capture_video([clip], blocker)
    with pytest.raises(InputError, match="cannot be written"):
        capture_video([clip], blocker / "me.capture")


def test_a_full_disk_is_named_and_the_rerun_goes_on(
    clip: Path, prepared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "me.capture"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # The smallest frame fits, a larger one does not: the write itself fails, as on a full disk.
    sizes = [p.stat().st_size for p in sorted((prepared / "frames/cam0").iterdir())]
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) - 1, limit[1]))
    try:
        with pytest.raises(InputError, match=r"frames/cam0/\d+\.jpg cannot be written") as caught:
            capture_video([clip], folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert "run the same command again" in str(caught.value)
    prepare(clip, folder)
    assert contents(folder) == contents(prepared)


def test_a_clip_without_a_face_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wall = np.clip(rng.normal(120, 20, (256, 320, 3)), 0, 255).astype(np.uint8)
    path = write_clip(tmp_path / "wall.mp4", [wall] * 42, options={"crf": "30"})
    with pytest.raises(InputError, match="shows no face in any of its 42 frames"):
        capture_video([path], tmp_path / "me.capture")


def test_no_video_and_the_same_twice_are_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got none"):
        capture_video([], tmp_path / "me.capture")
    with pytest.raises(InputError, match=r"me\.mp4 is the same clip as .*me\.mp4"):
        capture_video([clip, clip], tmp_path / "me.capture")
    assert not (tmp_path / "me.capture").exists()


@pytest.mark.parametrize("stated", [0.0, -26.0, 9.9, 400.1, math.nan, math.inf])
def test_a_focal_length_that_no_camera_has_is_refused(
    clip: Path, tmp_path: Path, stated: float
) -> None:
    with pytest.raises(InputError, match="--focal-mm must lie between 10 and 400"):
        capture_video([clip], tmp_path / "me.capture", CaptureConfig(focal_mm=stated))
    assert not (tmp_path / "me.capture").exists()


def test_a_stated_focal_length_is_believed() -> None:
    believed, found = CaptureConfig(focal_mm=72.0).track, CaptureConfig().track
    assert believed.focal_widths == 2.0
    assert believed.focal_spread < 0.05 < found.focal_spread


def test_a_given_mask_clip_is_used(clip: Path, prepared: Path, tmp_path: Path) -> None:
    given = [np.repeat(disc(256, 100 + k, 128, 60)[..., None] * 255, 3, 2) for k in range(44)]
    path = write_clip(tmp_path / "mask.mp4", [picture.astype(np.uint8) for picture in given])
    folder = tmp_path / "me.capture"
    prepare(clip, folder, CaptureConfig(mask=path))
    mask = cv2.imread(str(folder / "masks/cam0/000009.png"), cv2.IMREAD_GRAYSCALE)
    expected = cv2.resize(given[9][..., 0], (320, 320), interpolation=cv2.INTER_AREA)
    assert np.abs(mask.astype(float) - expected).mean() < 4
    before = (folder / "stages.json").read_bytes()
    short = write_clip(tmp_path / "short.mp4", [p.astype(np.uint8) for p in given[:43]])
    for output in (folder, tmp_path / "new.capture"):
        with pytest.raises(InputError, match=r"short\.mp4 has 43 pictures .* the video has 44"):
            capture_video([clip], output, CaptureConfig(mask=short))
    assert (folder / "stages.json").read_bytes() == before
    assert not (tmp_path / "new.capture").exists(), "said before anything is made"


def test_a_mask_of_what_is_left_of_a_damaged_clip(tmp_path: Path) -> None:
    """The container tells of a picture more than can be decoded: only decoding says if the mask is short."""
    whole = write_clip(tmp_path / "whole.mp4", moving(44))
    with av.open(str(whole)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.pos is not None]
    start, size = max(places)
    content = bytearray(whole.read_bytes())
    content[start : start + size] = bytes(size)
    (tmp_path / "damaged.mp4").write_bytes(content)
    damaged = probe(tmp_path / "damaged.mp4")
    assert damaged.frames == 44
    decoded = sum(1 for _ in read_frames(damaged))
    assert decoded < 44
    white = [np.full((256, 256, 3), 255, np.uint8)] * decoded
    mask = probe(write_clip(tmp_path / "mask.mp4", white))
    need_mask(mask, damaged)
    with pytest.raises(InputError, match=f"has {decoded} pictures .* the video has 44"):
        need_mask(mask, probe(whole))


def test_a_finished_capture_says_everything(small_capture: Capture, small_clip: Path) -> None:
    header = small_capture.header
    assert header["frames"] == len(small_capture.track)
    assert set(header["seconds"]) == {"ingest", "landmarks", "matte", "track"}
    assert header["stages"][:4] == ["ingest", "landmarks", "matte", "track"]
    assert header["quality"]["overall"] in {"ok", "warn", "bad"}
    assert header["cameras"][0]["source"] == small_clip.name
    page = (small_capture.path / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 10
    assert page.count("<svg") >= 4
    assert "http" not in page, "the page needs nothing from outside"
    before = {p: p.stat().st_mtime_ns for p in small_capture.path.rglob("*") if p.is_file()}
    again = capture_video([small_clip], small_capture.path)
    assert again.header == header
    assert {p: p.stat().st_mtime_ns for p in before} == before, "nothing is done twice"
