"""A clip played as a camera: faces are found, fitted and followed; a camera that goes away comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar.checks import InputError
from avatar.drive.live import LiveConfig
from avatar.drive.motion import ARKIT_COUNT, head_rotation
from avatar.drive.replay import read_recording
from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.lattice import deform, lattice_table
from capture.live import ClipCamera, FaceReader, WebcamDriver, open_camera
from capture.live_bench import bench_live
from capture.live_fit import LiveFit, LiveFitConfig
from capture.track.projection import Pinhole, Pose, project
from capture.track.threads import one_thread_a_call

SIZE = (640, 480)


@pytest.fixture(autouse=True)
def one_thread():
    with one_thread_a_call():
        yield


FPS = 30
JAW = ARKIT_INDEX["jawOpen"]


def drawn(weights: dict[str, float], angles: tuple[float, float, float]) -> np.ndarray:
    """The generic face's points [478, 3] before a camera, as a perfect detector finds them."""
    expression = torch.zeros(ARKIT_COUNT)
    for name, value in weights.items():
        expression[ARKIT_INDEX[name]] = value
    points = deform(lattice_table().neutral, generic_arkit_basis(), expression)
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    pose = Pose(
        (flip @ head_rotation(torch.tensor(angles)))[None], torch.tensor([[0.01, 0.0, 0.6]])
    )
    camera = Pinhole(1.5 * SIZE[0], (SIZE[0] / 2, SIZE[1] / 2))
    pixels = project(points, pose, camera)[0]
    depth = (points @ pose.R[0].T)[:, 2:] * camera.focal / 0.6
    return torch.cat([pixels, depth], 1).numpy()


def settled(noise: float = 0.0) -> tuple[LiveFit, np.random.Generator]:
    fit, generator = LiveFit(*SIZE), np.random.default_rng(0)
    for k in range(40):
        points = drawn({}, (0.0, 0.0, 0.0))
        fit.add(points + noise * generator.normal(size=points.shape), k / FPS)
    assert fit.settled
    return fit, generator


def test_a_known_face_is_found_again() -> None:
    fit, _ = settled()
    weights = {"jawOpen": 0.5, "mouthSmileLeft": 0.6, "mouthSmileRight": 0.6, "browInnerUp": 0.5}
    angles = (0.2, -0.1, 0.05)
    for k in range(30):
        found = fit.add(drawn(weights, angles), 2 + k / FPS)
    for name, value in weights.items():
        assert found.weights[ARKIT_INDEX[name]] == pytest.approx(value, abs=0.2), name
    assert found.head.tolist() == pytest.approx(angles, abs=0.02)
    others = [i for i in range(52) if found.weights[i] > 0.3]
    assert len(others) <= 6  # nothing else to speak of


def test_blinks_are_seen_at_once() -> None:
    fit, _ = settled()
    shut = {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}
    found = fit.add(drawn(shut, (0.0, 0.0, 0.0)), 2.0)
    assert min(found.weights[ARKIT_INDEX[name]] for name in shut) > 0.7
    found = fit.add(drawn({}, (0.0, 0.0, 0.0)), 2.04)
    assert max(found.weights[ARKIT_INDEX[name]] for name in shut) < 0.2


def test_a_still_face_stays_still_under_noise() -> None:
    fit, generator = settled(noise=0.4)
    jaws = []
    for k in range(60):
        points = drawn({}, (0.0, 0.0, 0.0))
        found = fit.add(points + 0.4 * generator.normal(size=points.shape), 2 + k / FPS)
        jaws.append(found.weights[JAW])
        assert np.abs(found.head).max() < 0.05
    assert max(jaws) < 0.15


def test_the_rig_is_fitted_again_from_new_attitudes() -> None:
    fit = LiveFit(*SIZE, LiveFitConfig(settle_frames=8, settle_used=3))
    for k in range(60):
        turn = 0.5 * np.sin(k / 10) * (k > 8)
        before = fit.add(drawn({}, (float(turn), 0.0, 0.0)), k / FPS)
    assert fit.rig_due
    fit.adopt(fit.better_rig())
    assert not fit.rig_due
    after = fit.add(drawn({}, (float(turn), 0.0, 0.0)), 2.5)
    assert after.head.tolist() == pytest.approx(before.head.tolist(), abs=0.04)  # no jump


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "it did not happen"
        time.sleep(0.02)


def test_a_clip_as_a_camera_drives_and_comes_back_when_it_went(
    small_clip: Path, tiny_avatar, tmp_path: Path
) -> None:
    opened: list[float] = []

    def opener() -> ClipCamera:
        opened.append(time.perf_counter())
        if len(opened) == 2:
            raise InputError("There is no camera 0.")  # not plugged in again yet
        return ClipCamera(small_clip)

    record = tmp_path / "take.jsonl"
    driver = WebcamDriver(tiny_avatar, opener, config=LiveConfig(calibrate_s=0.2), record=record)
    try:
        wait_for(lambda: driver.stream.counts["accepted"] > 10)
        state = driver.state(time.perf_counter())
        assert torch.isfinite(tiny_avatar.pose(state).means).all()
        # The clip ends: the camera is gone.
        wait_for(lambda: "no picture" in driver.note(time.perf_counter()))
        seen = driver.stream.counts["accepted"]
        assert torch.isfinite(driver.state(time.perf_counter()).expression).all()
        wait_for(lambda: driver.stream.counts["accepted"] > seen + 3)
        assert len(opened) >= 3
    finally:
        driver.close()
        driver.close()
    samples = list(read_recording(record))
    assert len(samples) > 10
    assert np.std([one.head[0] for one, _ in samples if one.head is not None]) > 0


def test_pictures_without_a_face_give_no_sample() -> None:
    reader = FaceReader()
    try:
        assert reader.sample(np.full((240, 320, 3), 90, np.uint8), 0.0) is None
        assert not reader.settled
    finally:
        reader.close()


def test_a_clip_is_scaled_to_a_cameras_size(small_clip: Path) -> None:
    camera = ClipCamera(small_clip, realtime=False, size=(128, 128))
    picture = camera.read()
    assert picture is not None
    assert max(picture.shape[:2]) == 128
    camera.close()


@pytest.mark.parametrize("spec", ["97", "99999999999", "no-such-clip.mp4", ""])
def test_no_camera_is_told_in_a_sentence(spec: str) -> None:
    with pytest.raises(InputError, match="camera"):
        open_camera(spec)


def test_a_file_that_is_no_video_is_no_camera(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError):
        open_camera(str(path))


def test_the_bench_measures_both_paths(small_clip: Path, tiny_avatar) -> None:
    result = bench_live(tiny_avatar, seconds=1.0, video=small_clip)
    link, camera, alone = result["rows"]
    assert link["sent"] == 90
    assert link["updates"] > 0
    assert link["latency_ms_median"] > 0
    assert set(camera) >= {"updates_per_s", "dropped"}
    assert alone["updates"] > 5
