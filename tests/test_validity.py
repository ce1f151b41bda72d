"""Frames that cannot be trusted are named with their reason, and no others are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.capture_data import Capture, Landmarks, Splits, Track
from avatar.checks import InputError
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rig.lattice import POINTS, lattice_table
from capture.quality import eye_opening, look_at_face
from capture.tracking import check_enough, in_stored_pixels
from capture.validity import (
    BLUR_SHARE,
    BLURRED,
    NO_FACE,
    OFF_TRACK,
    OUT_OF_PICTURE,
    REASONS,
    SOMEBODY_ELSE,
    TURNED_AWAY,
    Validity,
    blurred,
    judge_frames,
    judge_several,
    outside_share,
)

SIZE, FOCAL, DEPTH = 512, 900.0, 0.7


def tracked(
    frames: int,
    *,
    yaw_deg: np.ndarray | None = None,
    offset_px: np.ndarray | None = None,
    residual_px: np.ndarray | None = None,
    found: np.ndarray | None = None,
) -> tuple[Landmarks, Track]:
    """A generic head before a camera, with exact landmarks; all arrays [frames]."""
    yaw = torch.deg2rad(torch.from_numpy(np.zeros(frames) if yaw_deg is None else yaw_deg)).float()
    shift = np.zeros(frames) if offset_px is None else offset_px
    T_world_head = torch.eye(4).repeat(frames, 1, 1)
    T_world_head[:, 0, 0] = T_world_head[:, 2, 2] = yaw.cos()
    T_world_head[:, 0, 2], T_world_head[:, 2, 0] = yaw.sin(), -yaw.sin()
    T_world_head[:, 0, 3] = torch.from_numpy(shift * DEPTH / FOCAL).float()
    T_cam_world = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    T_cam_world[2, 3] = DEPTH
    lattice = lattice_table().neutral
    T_cam_head = T_cam_world @ T_world_head
    camera = lattice @ T_cam_head[:, :3, :3].transpose(1, 2) + T_cam_head[:, None, :3, 3]
    points = FOCAL * camera[..., :2] / camera[..., 2:] + SIZE / 2
    depth = FOCAL * (camera[..., 2:] - DEPTH) / DEPTH
    valid = torch.from_numpy(np.ones(frames, bool) if found is None else found)
    residual = np.full(frames, 1.5) if residual_px is None else residual_px
    track = Track(
        K=torch.tensor([[[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]]]),
        T_cam_world=T_cam_world[None],
        lattice=lattice,
        basis=torch.zeros(len(ARKIT_NAMES), POINTS, 3),
        eyeballs=torch.zeros(2, 3),
        expression=torch.zeros(frames, len(ARKIT_NAMES)),
        gaze=torch.zeros(frames, 2, 2),
        T_world_head=T_world_head,
        T_world_torso=T_world_head,
        landmarks_px=points,
        residual_px=torch.from_numpy(residual).float(),
        valid=valid,
        expression_names=ARKIT_NAMES,
        rig="lattice",
        fps=25.0,
    )
    return Landmarks(torch.cat([points, depth], -1), valid), track


def judged(
    landmarks: Landmarks, track: Track, sharpness: np.ndarray | None = None, **more
) -> Validity:
    level = np.full(len(track), 0.2) if sharpness is None else sharpness
    result = judge_frames(landmarks, track, level, width=SIZE, height=SIZE, **more)
    named = sorted(frame for frames in result.reasons.values() for frame in frames)
    assert named == np.flatnonzero(~result.valid).tolist(), "every frame left out has one reason"
    assert set(result.reasons) <= set(REASONS)
    return result


def test_a_plain_clip_keeps_every_frame() -> None:
    sway = np.linspace(-50, 50, 60)
    result = judged(*tracked(60, yaw_deg=sway, offset_px=sway))
    assert result.valid.all()
    assert result.reasons == {}


def test_frames_without_a_face_and_with_another_one_are_told_apart() -> None:
    found = np.arange(60) % 6 > 0
    result = judged(*tracked(60, found=found), others=[6, 12])
    assert result.reasons == {NO_FACE: [0, *range(18, 60, 6)], SOMEBODY_ELSE: [6, 12]}


def test_a_face_that_leaves_the_picture_is_left_out_while_it_is_cut_off() -> None:
    offset = np.concatenate([np.zeros(40), np.linspace(0, 330, 20)])
    landmarks, track = tracked(60, offset_px=offset)
    outside = outside_share(landmarks.points.numpy(), SIZE, SIZE)
    assert outside[-1] > 0.7
    result = judged(landmarks, track)
    assert result.reasons == {OUT_OF_PICTURE: np.flatnonzero(outside > 0.1).tolist()}
    always = judged(*tracked(60, offset_px=np.full(60, 190.0)))
    assert always.valid.all(), "a framing that cuts off some of the face throughout is the clip's"


def test_a_face_turned_past_the_profile_is_left_out() -> None:
    yaw = np.concatenate([np.zeros(30), np.linspace(0, -100, 30)])
    result = judged(*tracked(60, yaw_deg=yaw))
    assert result.reasons == {TURNED_AWAY: np.flatnonzero(yaw < -80).tolist()}


def test_outliers_of_the_residual_are_left_out_and_a_poor_clip_is_kept() -> None:
    rng = np.random.default_rng(0)
    usual = 2.0 * np.exp(rng.normal(0, 0.3, 80))
    usual[[20, 50]] = 25.0
    result = judged(*tracked(80, residual_px=usual))
    assert result.reasons == {OFF_TRACK: [20, 50]}
    poor = 9.0 * np.exp(rng.normal(0, 0.2, 80)).clip(0.6, 1.5)
    assert judged(*tracked(80, residual_px=poor)).valid.all()


def test_blurred_frames_are_measured_by_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    level = np.where(np.arange(200) < 100, 0.3, 0.1)  # the camera loses its focus half-way
    sharpness = level * np.exp(rng.normal(0, 0.05, 200))
    sharpness[[30, 31, 32, 150]] *= 0.5
    assert judged(*tracked(200), sharpness).reasons == {BLURRED: [30, 31, 32, 150]}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), level=st.floats(0.01, 0.5), spread=st.floats(0, 0.12))
def test_a_uniformly_soft_clip_is_not_blurred(seed: int, level: float, spread: float) -> None:
    noise = np.random.default_rng(seed).normal(0, spread, 100)
    frames = np.ones(100, bool)
    found = blurred(level * np.exp(noise), np.full(100, 0.3), frames, 25.0)
    assert not found.any()


def test_at_most_a_share_is_left_out_for_blur_the_worst_first() -> None:
    rng = np.random.default_rng(0)
    sharpness = 0.3 * np.exp(rng.normal(0, 0.05, 200))
    hit = rng.permutation(200)[:60]
    sharpness[hit] *= np.linspace(0.2, 0.5, 60)
    found = blurred(sharpness, np.full(200, 0.3), np.ones(200, bool), 25.0)
    assert found.sum() == BLUR_SHARE * 200
    assert set(np.flatnonzero(found)) <= set(hit.tolist())
    assert found[hit[:30]].all(), "the most blurred"


def test_a_blink_is_no_blur() -> None:
    opening = np.full(100, 0.3)
    opening[40:44] = 0.03
    sharpness = np.where(opening < 0.1, 0.12, 0.2)  # 0.6: what closed lids were seen to leave
    assert not blurred(sharpness, opening, np.ones(100, bool), 25.0).any()
    sharpness[41] = 0.05
    found = blurred(sharpness, opening, np.ones(100, bool), 25.0)
    assert np.flatnonzero(found).tolist() == [41]


@pytest.mark.parametrize("name", ["wojtek.mp4", "phone_selfie.mp4"])
def test_motion_blur_put_on_real_frames_is_found(data, name: str) -> None:
    from capture.ingest import IngestConfig, probe, read_frames
    from capture.landmarks import FaceDetector

    smeared = [20, 21, 45]
    points, sharpness = [], []
    with FaceDetector() as detector:
        clip = probe(data(name), IngestConfig(max_frames=60))
        for frame, image in enumerate(read_frames(clip)):
            face = detector.detect(image)
            assert face is not None
            if frame in smeared:
                length = round(0.12 * np.ptp(face[:468, 0]))
                image = cv2.blur(image, (length, 1))  # 18 mm within one exposure
            look = look_at_face(image, face)
            assert look is not None
            points.append(face)
            sharpness.append(look.sharpness)
    opening = eye_opening(np.stack(points))
    found = blurred(np.array(sharpness), opening, np.ones(60, bool), clip.fps)
    assert np.flatnonzero(found).tolist() == smeared


def test_unknown_sharpness_and_no_face_at_all_are_survived() -> None:
    assert judged(*tracked(50), np.full(50, np.nan)).valid.all()
    result = judged(*tracked(50, found=np.zeros(50, bool)))
    assert result.reasons == {NO_FACE: list(range(50))}
    landmarks, track = tracked(50)
    none = judge_frames(landmarks, track, [None] * 50, width=SIZE, height=SIZE)
    assert none.valid.all()


def test_a_frame_of_several_cameras_needs_one_that_sees_the_face() -> None:
    residual = np.full(60, 1.5)
    residual[33] = 90.0
    sharpness = np.full(60, 0.2)
    sharpness[44] = 0.05
    yaw = np.where(np.arange(60) > 50, 85.0, 0.0)  # turned away from the main camera
    landmarks, track = tracked(60, residual_px=residual, yaw_deg=yaw)
    unseen = torch.arange(60) < 9  # by the main camera; the others see the face from 3 on
    landmarks = Landmarks(landmarks.points, landmarks.valid & ~unseen)
    track = replace(track, valid=torch.arange(60) >= 3)
    result = judge_several(landmarks, track, np.where(unseen, np.nan, sharpness))
    assert result.reasons == {NO_FACE: [0, 1, 2], OFF_TRACK: [33], BLURRED: [44]}
    assert np.flatnonzero(~result.valid).tolist() == [0, 1, 2, 33, 44]
    nowhere = replace(track, valid=torch.zeros(60, dtype=torch.bool))
    assert judge_several(landmarks, nowhere, sharpness).reasons == {NO_FACE: list(range(60))}


def test_too_few_usable_frames_are_refused_in_one_sentence() -> None:
    valid = np.zeros(100, bool)
    valid[:20] = True
    bad = Validity(valid, {NO_FACE: list(range(20, 60)), BLURRED: list(range(60, 100))})
    with pytest.raises(InputError, match="Only 20 of the clip's 80 training frames") as caught:
        check_enough(bad, Splits.default(100))
    assert "40 no face, 40 blurred" in str(caught.value)
    check_enough(Validity(np.ones(100, bool), {}), Splits.default(100))


def test_a_track_of_smaller_pictures_projects_into_the_stored_ones() -> None:
    _, track = tracked(5, yaw_deg=np.linspace(-30, 30, 5))
    half = replace(
        track,
        K=track.K * torch.tensor([0.5, 0.5, 1.0])[:, None],
        landmarks_px=track.landmarks_px / 2,
        residual_px=track.residual_px / 2,
    )
    full = in_stored_pixels(half, [0.5])
    for name in ("K", "landmarks_px", "residual_px", "T_world_head", "lattice"):
        assert torch.allclose(getattr(full, name), getattr(track, name)), name
    assert in_stored_pixels(track, [1.0]) is track


def test_a_finished_capture_tells_which_frames_it_leaves_out(small_capture: Capture) -> None:
    stages = json.loads((small_capture.path / "stages.json").read_text())["stages"]
    invalid = stages["track"]["values"]["invalid"]
    left_out = sorted(frame for frames in invalid.values() for frame in frames)
    valid = Track.load(small_capture.path / "track.safetensors").valid.numpy()
    assert left_out == np.flatnonzero(~valid).tolist()
    assert valid.mean() >= 0.95, "nothing is wrong with the sample"


@pytest.mark.parametrize("name", ["frames", "masks"])
def test_a_lost_picture_is_named(small_capture: Capture, tmp_path: Path, name: str) -> None:
    from capture.folder import Pictures

    pictures = Pictures(tmp_path, small_capture.width, small_capture.height)
    read = pictures.working if name == "frames" else pictures.working_mask
    with pytest.raises(InputError, match=rf"{name}/cam0/000001\.\w+ cannot be read"):
        read(1)
