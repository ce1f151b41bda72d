"""The tracker end to end: on a clip of known motion, on frames without a face, on the rendered head."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avatar.capture_data import Landmarks, Splits, Track
from avatar.checks import InputError
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.face_model import SculptedFace
from avatar.rig.lattice import SKIN_POINTS, deform, lattice_table
from avatar.rotations import rotvec_to_matrix
from avatar.types import Progress
from capture.track.config import TrackConfig
from capture.track.fit import fit_track
from capture.track.footage import Footage
from capture.track.projection import Pinhole, Pose, project

SIZE, FRAMES, FOCAL = 256, 70, 512.0
SPLITS = Splits((0, 56), (49, 56), (56, 70))
QUICK = TrackConfig(anchor_rounds=0, keyframes=20, residual_shapes=4)


def synthetic() -> tuple[Landmarks, Pose, torch.Tensor]:
    """Detections of a generic head that turns, talks and blinks; some frames show no face."""
    generator = torch.Generator().manual_seed(5)
    time = torch.arange(FRAMES) / 25.0
    rotvec = torch.stack(
        [0.2 * torch.sin(2 * time), 0.5 * torch.sin(1.3 * time), 0.05 * torch.cos(time)], 1
    )
    R = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ rotvec_to_matrix(rotvec)
    t = torch.stack([0.02 * torch.sin(time), 0.01 * torch.cos(time), 0.6 + 0.02 * time / 3], 1)
    pose = Pose(R, t)
    expression = torch.zeros(FRAMES, 52)
    expression[:, ARKIT_INDEX["jawOpen"]] = 0.5 * (torch.sin(5 * time).clamp_min(0))
    points = deform(lattice_table().neutral, generic_arkit_basis(), expression)
    pixels = project(points, pose, Pinhole(FOCAL, (SIZE / 2, SIZE / 2)))
    depth = (points @ R.transpose(1, 2))[..., 2:] * FOCAL / 0.6
    pixels = pixels + 0.2 * torch.randn(pixels.shape, generator=generator)
    valid = torch.ones(FRAMES, dtype=torch.bool)
    valid[[0, 40, 41, 69]] = False
    detected = torch.cat([pixels, depth], -1)
    detected[~valid] = 0
    return Landmarks(detected, valid), pose, expression


def grey_frame(index: int) -> np.ndarray:
    """A shirt below where the head would be; registration needs something to look at."""
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    cv2.ellipse(picture, (128, 280), (90, 75), 0, 0, 360, (90, 60, 40), -1)
    for k in range(9):
        cv2.circle(picture, (60 + 17 * k, 235 + 7 * (k % 3)), 4, (200, 180, 30 * (k % 5)), -1)
    return picture


def grey_mask(index: int) -> np.ndarray:
    return (grey_frame(index).min(2) < 250).astype(np.uint8) * 255


def track_of(landmarks: Landmarks, **more) -> Track:
    footage = Footage(landmarks, grey_frame, grey_mask, SIZE, SIZE)
    return fit_track([footage], fps=25.0, splits=SPLITS, config=QUICK, **more).track


@pytest.fixture(scope="module")
def reports() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def tracked(reports: list[Progress]) -> Track:
    return track_of(synthetic()[0], report=reports.append)


def turn_errors(T: torch.Tensor, R_true: torch.Tensor) -> torch.Tensor:
    """Degrees between rotations after one constant offset in the head's frame."""
    R = T[:, :3, :3].double()
    U, _, Vt = torch.linalg.svd((R_true.double().transpose(1, 2) @ R).sum(0))
    offset = U @ torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(U @ Vt))]).double()) @ Vt
    cosine = (((R_true.double() @ offset) * R).sum((1, 2)) - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))


def test_pose_and_jaw_of_a_known_clip_come_back(tracked: Track) -> None:
    landmarks, pose, expression = synthetic()
    ok = landmarks.valid
    T = tracked.T_cam_world[0] @ tracked.T_world_head
    errors = turn_errors(T[ok], pose.R[ok])
    # The focal length is held at its prior (the truth here) and the noise is 0.2 px: under a degree.
    assert float(errors.mean()) < 1.0
    jaw = ARKIT_INDEX["jawOpen"]
    r = np.corrcoef(tracked.expression[ok, jaw], expression[ok, jaw])[0, 1]
    assert r > 0.9
    held_out = torch.arange(FRAMES)[ok] >= SPLITS.test[0]
    assert float(errors[held_out].mean()) < 1.5


def test_track_keeps_the_contract(tracked: Track, tmp_path: Path) -> None:
    assert len(tracked) == FRAMES
    assert tracked.expression_names[:52] == ARKIT_NAMES
    assert (
        len(tracked.expression_names) == tracked.expression.shape[1] == tracked.basis.shape[0] == 56
    )
    assert tracked.rig == "lattice"
    assert torch.equal(tracked.T_cam_world[0, :3, :3], torch.diag(torch.tensor([1.0, -1.0, -1.0])))
    assert tracked.T_world_head[:, :3, 3].mean(0).abs().max() < 1e-3
    assert (tracked.expression[:, :52] >= 0).all()
    assert (tracked.landmarks_px[~tracked.valid] == 0).all()
    assert tracked.residual_px[tracked.valid].max() < 5
    tracked.save(tmp_path / "track.safetensors")
    again = Track.load(tmp_path / "track.safetensors")
    assert torch.equal(again.expression, tracked.expression)


def test_frames_without_a_face_are_flagged_finite_and_smooth(tracked: Track) -> None:
    landmarks, pose, _ = synthetic()
    assert torch.equal(tracked.valid, landmarks.valid)
    for name in ("expression", "gaze", "T_world_head", "T_world_torso", "residual_px"):
        assert torch.isfinite(getattr(tracked, name)).all(), name
    T = tracked.T_cam_world[0] @ tracked.T_world_head
    # Between two neighbours two frames apart the head cannot be far from where it was.
    assert float(turn_errors(T[38:44], pose.R[38:44]).max()) < 2.0
    assert torch.allclose(T[0], T[1], atol=1e-5)


def test_held_out_frames_do_not_touch_the_rig(tracked: Track) -> None:
    landmarks, _, _ = synthetic()
    points = landmarks.points.clone()
    points[SPLITS.test[0] : SPLITS.test[1]] *= 1.1
    other = track_of(Landmarks(points, landmarks.valid))
    assert torch.equal(other.lattice, tracked.lattice)
    assert torch.equal(other.basis, tracked.basis)
    assert torch.equal(other.K, tracked.K)
    train = slice(0, SPLITS.train[1] - 15)  # smoothing and the running median reach some frames
    assert torch.allclose(other.expression[train], tracked.expression[train], atol=1e-3)


def test_tracking_twice_gives_the_same_bits(tracked: Track) -> None:
    again = track_of(synthetic()[0])
    assert torch.equal(again.expression, tracked.expression)
    assert torch.equal(again.T_world_head, tracked.T_world_head)
    assert torch.equal(again.T_world_torso, tracked.T_world_torso)


def test_torso_meets_the_head_in_the_reference_frame(tracked: Track) -> None:
    gap = (tracked.T_world_torso - tracked.T_world_head).abs().amax((1, 2))
    front = tracked.T_world_head[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1)
    front[~tracked.valid] = -1
    front[SPLITS.train[1] :] = -1
    assert float(gap[front.argmax()]) < 2e-3
    # The shirt stands still: so does the torso, while the head turns by half a radian.
    assert float((tracked.T_world_torso - tracked.T_world_torso[5]).abs().max()) < 5e-3


def test_progress_is_reported_to_its_end(reports: list[Progress], tracked: Track) -> None:
    assert {r.stage for r in reports} == {"track"}
    assert reports[-1].done == reports[-1].total
    assert [r.done for r in reports] == sorted(r.done for r in reports)


def test_a_clip_without_faces_is_refused_with_advice() -> None:
    landmarks, _, _ = synthetic()
    valid = torch.zeros_like(landmarks.valid)
    valid[:10] = True
    with pytest.raises(InputError, match=r"Only 10 of the clip's 56 training frames show a face"):
        track_of(Landmarks(landmarks.points, valid))


@pytest.mark.slow
def test_rendered_head_is_tracked_to_under_a_degree(data) -> None:
    """The rendered head with known truth, every third frame, on its own texture."""
    import mediapipe

    clip, matte = (
        cv2.VideoCapture(str(data(f"oracle_mono/{n}.mp4"))) for n in ("cam0", "cam0_mask")
    )
    truth = np.load(data("oracle_mono/truth.npz"))
    mesh = mediapipe.solutions.face_mesh.FaceMesh(max_num_faces=1, refine_landmarks=True)
    frames, masks, points = [], [], []
    for index in range(len(truth["weights"])):
        (_, picture), (_, cover) = clip.read(), matte.read()
        found = mesh.process(np.ascontiguousarray(picture[..., ::-1])).multi_face_landmarks
        if index % 3 == 0:
            frames.append(np.ascontiguousarray(picture[..., ::-1]))
            masks.append(cover[..., 0])
            points.append([(512 * p.x, 512 * p.y, 512 * p.z) for p in found[0].landmark])
    landmarks = Landmarks(torch.tensor(points), torch.ones(len(frames), dtype=torch.bool))
    track = fit_track(
        [Footage(landmarks, frames.__getitem__, masks.__getitem__, 512, 512)],
        fps=float(truth["fps"]) / 3,
        splits=Splits.default(len(frames)),
    ).track
    R_true = torch.from_numpy(truth["world_to_camera_R"][0] @ truth["head_rotation"][::3])
    errors = turn_errors(track.T_cam_world[0] @ track.T_world_head, R_true)
    # On all 900 frames 0.4 degrees mean, 0.9 at the 95th percentile; raw landmarks give 2.5 and 5.2.
    assert float(errors.mean()) < 0.65
    assert float(errors.quantile(0.95)) < 1.6
    assert float(track.K[0, 0, 0]) == pytest.approx(float(truth["K"][0, 0]), rel=0.05)
    weights = dict(zip(truth["names"].tolist(), truth["weights"][::3].T, strict=True))
    for name, ict in (("jawOpen", "jawOpen"), ("eyeBlinkLeft", "eyeBlink_L")):
        curve = track.expression[:, ARKIT_INDEX[name]].numpy()
        assert np.corrcoef(curve, weights[ict])[0, 1] > 0.85, name


def test_another_face_model_gives_its_names_and_its_rig(tracked: Track, tmp_path: Path) -> None:
    neutral = lattice_table().neutral
    basis = generic_arkit_basis().clone()
    basis[:, SKIN_POINTS:] = 0
    own = torch.zeros(1, 478, 3)
    own[0, 152, 1] = 0.001
    model = SculptedFace(
        "ict", neutral, (*ARKIT_NAMES, "chin"), torch.cat([basis, own]), torch.zeros(0, 478, 3)
    )
    track = track_of(synthetic()[0], model=model)
    assert track.rig == "ict"
    assert track.expression_names == (*ARKIT_NAMES, "chin", *(f"personal{k:02d}" for k in range(4)))
    assert track.basis.shape[0] == track.expression.shape[1] == 57
    jaw = ARKIT_INDEX["jawOpen"]
    r = np.corrcoef(track.expression[:, jaw], tracked.expression[:, jaw])[0, 1]
    assert r > 0.99, "the same shapes find the same jaw"
    track.save(tmp_path / "track.safetensors")
    assert Track.load(tmp_path / "track.safetensors").rig == "ict"
