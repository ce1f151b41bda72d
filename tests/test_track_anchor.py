"""Anchoring to the skin's texture, the torso's registration, and the way from frames to states."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.lattice import REGIONS, lattice_table
from avatar.rotations import rotvec_to_matrix
from capture.track.anchor import anchor, cut_patch, mean_texture, texture_map, unrolled
from capture.track.projection import Pinhole, Pose, project
from capture.track.rig_fit import facing
from capture.track.states import blinks, fill, fill_poses, gaze_of, smooth_poses, world_frame
from capture.track.threads import in_parallel, one_thread_a_call
from capture.track.torso import (
    TorsoConfig,
    TorsoMotion,
    calmed,
    fill_gaps,
    register_torso,
    torso_poses,
)

CAMERA = Pinhole(500.0, (128.0, 128.0))
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


def heads(yaws: list[float]) -> Pose:
    rotvec = torch.zeros(len(yaws), 3)
    rotvec[:, 1] = torch.tensor(yaws)
    R = FLIP @ rotvec_to_matrix(rotvec)
    t = torch.tensor([0.0, 0.0, 0.45]).repeat(len(yaws), 1)
    return Pose(R, t)


def noise(size: int, seed: int, sigma: float) -> np.ndarray:
    grain = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), sigma)
    return (128 + 45 * grain / grain.std()).clip(0, 255).astype(np.float32)


def paint(points: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """Draw a freckled head [256, 256, 3] uint8: each triangle warped from one skin picture."""
    table = lattice_table()
    neutral = table.neutral.numpy()
    angle = np.arctan2(neutral[:, 0], neutral[:, 2] + 0.02)
    place = np.stack([angle * 70, -neutral[:, 1] * 1000], 1) * 2.2 + 256
    skin = noise(512, 1, 3.0)
    picture = np.full((256, 256), 200, np.float32)
    triangles = table.triangles.numpy()
    depth_first = np.argsort(cosine[triangles].mean(1))
    for a, b, c in triangles[depth_first]:
        corner = points[[a, b, c]].astype(np.float32)
        if np.cross(corner[1] - corner[0], corner[2] - corner[0]) >= 0:
            continue  # seen from behind: outward triangles run clockwise in the picture, y down
        x, y = np.floor(corner.min(0)).astype(int)
        w, h = np.ceil(corner.max(0)).astype(int) - (x, y) + 1
        if x < 0 or y < 0 or x + w > 256 or y + h > 256:
            continue
        # cv2 puts pixel centres at whole numbers, we at halves.
        local = (corner - (x, y) - 0.5).astype(np.float32)
        M = cv2.getAffineTransform(place[[a, b, c]].astype(np.float32), local)
        patch = cv2.warpAffine(skin, M, (int(w), int(h)), flags=cv2.INTER_LINEAR)
        cover = np.zeros((h, w), np.uint8)
        cv2.fillConvexPoly(cover, np.round(local).astype(np.int32), 1)
        picture[y : y + h, x : x + w][cover > 0] = patch[cover > 0]
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


@pytest.fixture(scope="module")
def clip():
    """Seven painted views of a turning head: pictures, true points, cosines."""
    lattice = lattice_table().neutral
    pose = heads([-0.35, -0.2, -0.1, 0.0, 0.1, 0.2, 0.35])
    points = project(lattice, pose, CAMERA).numpy()
    cosine = facing(lattice, torch.zeros(1, 478, 3), torch.zeros(7, 1), pose).numpy()
    pictures = [paint(p, c) for p, c in zip(points, cosine, strict=True)]
    return pictures, points, cosine


def anchored(clip, guess: np.ndarray, workers: int):
    pictures, points, cosine = clip
    table = lattice_table()
    rest = table.neutral.double().numpy()
    layout = texture_map(unrolled(rest), rest[:, 2], table.triangles.numpy(), 192)
    patches = [cut_patch(p, q, 192) for p, q in zip(pictures, points, strict=True)]
    reference = mean_texture(layout, patches, points, cosine, np.array([2, 3, 4]), workers)
    return anchor(layout, reference, patches, guess, cosine, workers, lambda done: None)


def test_anchoring_undoes_a_slide_over_the_skin(clip) -> None:
    _, points, cosine = clip
    # What a detector does: points slide with yaw, smoothly over the face.
    slide = np.zeros_like(points)
    for f, yaw in enumerate((-3, -2, -1, 0, 1, 2, 3)):
        slide[f, :, 0] = yaw * np.cos(points[f, :, 1] / 40)
        slide[f, :, 1] = 0.5 * yaw
    found = anchored(clip, points + slide, 2)
    seen = (found.confidence > 0.3) & (cosine > 0.4)
    assert seen[:, :468].mean() > 0.4
    before = np.linalg.norm(slide, axis=-1)[seen]
    after = np.linalg.norm(found.points - points, axis=-1)[seen]
    assert before.mean() > 1.2
    # Half a pixel is what flow on a 192-pixel texture leaves on this painted skin.
    assert np.median(after) < 0.35
    assert after.mean() < 0.4 * before.mean()


def test_anchoring_does_not_depend_on_the_number_of_threads(clip) -> None:
    _, points, _ = clip
    with one_thread_a_call():
        one, two = (anchored(clip, points + 1.0, workers) for workers in (1, 3))
    assert np.array_equal(one.points, two.points)
    assert np.array_equal(one.confidence, two.confidence)


def test_unseen_skin_and_irises_are_not_trusted(clip) -> None:
    _, points, cosine = clip
    found = anchored(clip, points, 1)
    assert found.confidence[:, 468:].max() == 0
    assert found.confidence[cosine < -0.3].max() < 0.05
    assert np.array_equal(found.points[:, 468:], points[:, 468:])
    assert np.isfinite(found.points).all()


def test_patch_outside_the_frame_is_clipped() -> None:
    picture = np.full((60, 80, 3), 7, np.uint8)
    patch = cut_patch(picture, np.array([[-30.0, -20.0], [200.0, 300.0]]), 64)
    assert patch.grey.size > 0
    assert patch.corner == (0.0, 0.0)
    tiny = cut_patch(picture, np.array([[79.0, 59.0], [79.5, 59.5]]), 64)
    assert min(tiny.grey.shape) >= 8


def shoulders(shift: tuple[float, float], degrees: float, scale: float) -> np.ndarray:
    """A grey shirt on white [240, 240] moved about (120, 180)."""
    canvas = np.full((240, 240), 1.0, np.float32)
    shirt = noise(240, 5, 4.0) / 255
    cover = np.zeros((240, 240), np.float32)
    cv2.ellipse(cover, (120, 260), (95, 110), 0, 0, 360, 1.0, -1)
    cover = cv2.GaussianBlur(cover, (0, 0), 1.0)
    canvas = canvas * (1 - cover) + shirt * cover
    M = cv2.getRotationMatrix2D((120 - 0.5, 180 - 0.5), -degrees, scale)
    M[:, 2] += shift
    return cv2.warpAffine(canvas, M, (240, 240), flags=cv2.INTER_LINEAR, borderValue=1.0)


def face_outline(frame: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 20)
    return np.stack([120 + 40 * np.cos(angle), 70 + 55 * np.sin(angle)], 1)


def test_torso_registration_recovers_shift_turn_and_scale() -> None:
    moves = [((0, 0), 0.0, 1.0), ((3, -2), 1.0, 1.01), ((6, -4), 2.5, 1.03), ((-5, 3), -2.0, 0.97)]
    motion = register_torso(lambda f: shoulders(*moves[f]), face_outline, 4, 0)
    assert motion is not None
    assert motion.correlation.min() > 0.95
    for f, (shift, degrees, scale) in enumerate(moves):
        pivot = np.array([120.0, 180.0])
        angle = np.radians(degrees)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        expected = turn @ (motion.centre - pivot) + pivot + shift - motion.centre
        assert motion.shift[f] == pytest.approx(expected, abs=0.15)
        assert np.degrees(motion.angle[f]) == pytest.approx(degrees, abs=0.15)
        assert motion.scale[f] == pytest.approx(scale, abs=0.003)


def test_torso_that_vanishes_is_interpolated() -> None:
    def picture(f: int) -> np.ndarray:
        if f == 2:
            return noise(240, 77, 2.0) / 255
        return shoulders((2.0 * f, 0.0), 0.0, 1.0)

    motion = register_torso(picture, face_outline, 5, 0)
    assert motion is not None
    assert motion.correlation[2] < TorsoConfig().good_correlation
    filled = fill_gaps(motion, TorsoConfig().good_correlation)
    assert filled is not None
    assert filled.shift[2] == pytest.approx([4.0, 0.0], abs=0.3)


def test_calming_removes_a_jump_and_keeps_a_sway() -> None:
    time = np.arange(60)
    shift = np.stack([5 * np.sin(time / 15), 0.05 * time], 1)
    jumped = shift.copy()
    jumped[30] += 6.0
    motion = TorsoMotion(np.zeros(2), jumped, np.zeros(60), np.ones(60), np.ones(60))
    calm = calmed(motion, 10)
    assert np.array_equal(calm.shift[10], [0, 0])
    # The sway bends by 5 / 15^2 px a frame^2: five frames of median and blur cost a tenth of a pixel.
    assert calm.shift == pytest.approx(shift - shift[10], abs=0.2)


def test_picture_without_a_torso_gives_none() -> None:
    assert register_torso(lambda f: np.ones((240, 240), np.float32), face_outline, 3, 0) is None


def test_torso_pose_projects_where_the_picture_went() -> None:
    motion = register_torso(
        lambda f: shoulders((4.0 * f, -2.0 * f), 1.5 * f, 1 + 0.01 * f), face_outline, 3, 0
    )
    assert motion is not None
    K = np.array([[480.0, 0, 120], [0, 480, 120], [0, 0, 1]])
    head = np.eye(4)
    head[:3, :3] = np.diag([1, -1, -1]) @ cv2.Rodrigues(np.array([0.1, 0.2, 0.0]))[0]
    head[:3, 3] = [0.01, -0.05, 0.7]
    poses = torso_poses(motion, head, K)
    assert poses[0] == pytest.approx(head, abs=1e-3)
    # A point in the plane of the registration moves as the picture does.
    anchor_ = np.linalg.inv(K) @ [*motion.centre, 1.0] * 0.7
    local = np.linalg.inv(head) @ [*anchor_, 1.0]
    for f in range(3):
        p = K @ (poses[f] @ local)[:3]
        assert p[:2] / p[2] == pytest.approx(motion.centre + motion.shift[f], abs=1e-6)
        assert (poses[f] @ local)[2] == pytest.approx(0.7 / motion.scale[f])


def test_blinks_are_found_and_slow_lids_are_not() -> None:
    frames, fps = 200, 25.0
    points = torch.zeros(frames, 478, 2)
    gap = 10.0 - 2.0 * torch.sin(torch.arange(frames) / 40)  # slow: gaze and brows
    gap[100:104] = torch.tensor([6.0, 2.5, 2.5, 6.0])
    for side, (outer, inner) in (("left", (263, 362)), ("right", (33, 133))):
        points[:, outer, 0], points[:, inner, 0] = 0.0, 30.0
        for name, sign in (("upper", -0.5), ("lower", 0.5)):
            for point in REGIONS[f"lid_{side}_{name}"]:
                points[:, point, 1] = sign * gap
    found = blinks(points, fps)
    assert found.shape == (frames, 2)
    assert float(found[101:103].min()) > 0.8
    assert float(found[:95].max()) < 0.1
    assert float(found[110:].max()) < 0.1


def test_gaze_signs_are_the_subjects_left_and_up() -> None:
    expression = torch.zeros(3, 60)
    expression[0, ARKIT_INDEX["eyeLookOutLeft"]] = expression[0, ARKIT_INDEX["eyeLookInRight"]] = 1
    expression[1, ARKIT_INDEX["eyeLookUpLeft"]] = 1
    expression[2, ARKIT_INDEX["eyeLookOutRight"]] = 0.5
    degrees = torch.rad2deg(gaze_of(expression))
    assert degrees[0] == pytest.approx(torch.tensor([[30.0, 0], [30, 0]]), abs=1e-4)
    assert degrees[1] == pytest.approx(torch.tensor([[0.0, 25], [0, 0]]), abs=1e-4)
    assert degrees[2] == pytest.approx(torch.tensor([[0.0, 0], [-15, 0]]), abs=1e-4)


def test_smoothing_removes_shake_and_keeps_a_nod() -> None:
    frames, fps = 100, 30.0
    time = torch.arange(frames) / fps
    yaw = 0.5 * torch.sin(2 * torch.pi * 1.0 * time)  # a shake of the head once a second
    rotvec = torch.zeros(frames, 3)
    rotvec[:, 1] = yaw
    generator = torch.Generator().manual_seed(0)
    true = Pose(FLIP @ rotvec_to_matrix(rotvec), torch.tensor([0.0, 0.0, 0.8]).repeat(frames, 1))
    shaken = true.moved(0.01 * torch.randn(frames, 6, generator=generator))
    # Twenty times the information that the noise deserves: what the smoother discounts.
    information = 20 * torch.eye(6).repeat(frames, 1, 1) / 0.01**2
    smooth = smooth_poses(shaken, information, fps)

    def error(pose: Pose) -> float:
        D = pose.R @ true.R.transpose(1, 2) - torch.eye(3)
        return float(D.norm(dim=(1, 2)).mean())

    assert error(smooth) < 0.75 * error(shaken)
    sure = smooth_poses(shaken, 1e6 * information, fps)
    assert torch.allclose(sure.R, shaken.R, atol=1e-4)


def test_frames_without_a_face_lie_between_their_neighbours() -> None:
    index = torch.tensor([2, 3, 7])
    values = torch.tensor([[1.0], [2.0], [6.0]])
    assert fill(values, index, 10)[:, 0].tolist() == [1, 1, 1, 2, 3, 4, 5, 6, 6, 6]
    rotvec = torch.zeros(3, 3)
    rotvec[:, 1] = torch.tensor([0.0, 0.2, 0.6])
    pose = fill_poses(Pose(rotvec_to_matrix(rotvec), torch.zeros(3, 3)), index, 10)
    middle = rotvec_to_matrix(torch.tensor([[0.0, 0.4, 0.0]]))[0]
    assert torch.allclose(pose.R[5], middle, atol=1e-3)
    assert torch.allclose(pose.R @ pose.R.transpose(1, 2), torch.eye(3).expand(10, 3, 3), atol=1e-5)


def test_world_is_upright_and_centred_on_the_head() -> None:
    pose = heads([0.1, -0.1])
    T_cam_world, T_world_head = world_frame(pose)
    assert torch.equal(T_cam_world[:3, :3], FLIP)
    assert torch.allclose(T_world_head[:, :3, 3].mean(0), torch.zeros(3), atol=1e-6)
    assert torch.allclose((T_cam_world @ T_world_head)[:, :3, :3], pose.R, atol=1e-6)


def test_thread_counts_are_given_back_also_after_an_error() -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    with pytest.raises(KeyError), one_thread_a_call():
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (1, 1)
        raise KeyError
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before


def test_parallel_work_keeps_its_order() -> None:
    assert list(in_parallel(lambda k: k * k, range(20), 4)) == [k * k for k in range(20)]
