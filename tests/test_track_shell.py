"""The shell around the face, and the head as a rigid body: faces that talk must not turn the skull."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.arkit_basis import arkit_basis
from avatar.rig.face_model import DrawnFace
from avatar.rig.lattice import POINTS, REGIONS, SKIN_POINTS, deform, lattice_table
from avatar.rotations import matrix_to_rotvec, rotvec_to_matrix
from capture.track.config import TrackConfig
from capture.track.head import Frames, Rig
from capture.track.projection import Observations, Pinhole, Pose, project
from capture.track.rig_fit import Slide, lattice_prior
from capture.track.rigid import RigidFit
from capture.track.shell import head_prior, make_shell, shell_facing
from capture.track.solver import LatticePrior, bundle_adjust, marginal
from capture.track.states import smooth_poses
from capture.track.threads import one_thread_a_call

GENERIC = lattice_table().neutral
CAMERA = Pinhole(900.0, (256.0, 256.0))


@pytest.fixture(autouse=True)
def as_the_tracker_runs():
    """One thread a call: OpenMP's threads wait by spinning, for minutes beside another busy process."""
    with one_thread_a_call():
        yield


FACING_CAMERA = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


def turned(yaw: torch.Tensor, pitch: torch.Tensor) -> Pose:
    """Heads 70 cm before the camera, turned by angles in radians."""
    zero = torch.zeros_like(yaw)
    R = rotvec_to_matrix(torch.stack([zero, yaw, zero], 1)) @ rotvec_to_matrix(
        torch.stack([pitch, zero, zero], 1)
    )
    t = torch.stack([0.01 * yaw, 0.01 * pitch, zero + 0.7], 1)
    return Pose(FACING_CAMERA @ R, t)


def degrees_off(found: Pose, true: Pose) -> torch.Tensor:
    return torch.rad2deg(matrix_to_rotvec(found.R @ true.R.transpose(1, 2)).norm(dim=1))


def test_shell_wraps_the_head_around_the_face():
    shell = make_shell(GENERIC, GENERIC)
    p = shell.points
    assert 100 < len(p) < 300
    # Mirror images are each other's partners, and lie where they should.
    assert (shell.partner[shell.partner] == torch.arange(len(p))).all()
    assert torch.allclose(p[shell.partner] * p.new_tensor([-1, 1, 1]), p, atol=2e-3)
    assert float(p[:, 1].max()) > 0.11, "reaches over the hair line"
    assert float(p[:, 2].min()) < -0.03, "and behind the ears"
    head = torch.cat([GENERIC, p])
    a, b, c = head[shell.triangles].unbind(1)
    outwards = (torch.linalg.cross(b - a, c - a) * (a - p.new_tensor([0, 0.03, -0.005]))).sum(1)
    assert float((outwards > 0).float().mean()) > 0.99
    face = set(range(SKIN_POINTS)) - set(REGIONS["face_oval"])
    assert (shell.triangles >= POINTS).any(1).all()
    assert len(set(shell.triangles.reshape(-1).tolist()) & face) < 60, "the rim, not the face"


def test_shell_grows_with_the_person():
    large = make_shell(1.2 * GENERIC, GENERIC).points
    assert torch.allclose(large, 1.2 * make_shell(GENERIC, GENERIC).points, atol=1e-4)


def test_shell_faces_the_camera_on_the_side_that_is_turned_to_it():
    shell = make_shell(GENERIC, GENERIC)
    head = torch.cat([GENERIC, shell.points])
    pose = turned(torch.tensor([0.0, 0.6]), torch.zeros(2))
    facing = shell_facing(head, shell, pose)[:, POINTS:]
    left = shell.points[:, 0] > 0.05
    right = shell.points[:, 0] < -0.05
    assert float(facing[0, left].mean()) == pytest.approx(float(facing[0, right].mean()), abs=0.02)
    # A turn to the subject's left shows the right side.
    assert float(facing[1, right].mean()) > 0.3 + float(facing[1, left].mean())


def test_priors_are_proper_and_marginals_are_those_of_the_gaussian():
    shell = make_shell(GENERIC, GENERIC)
    prior = head_prior(lattice_prior(GENERIC, GENERIC, 0.0015, 0.002), shell)
    assert torch.linalg.eigvalsh(prior.precision).min() > 0
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(3, 7, 7, dtype=torch.float64, generator=generator)
    precision = A @ A.transpose(1, 2) + torch.eye(7)
    mean = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    some = marginal(LatticePrior(mean, precision), torch.tensor([1, 4, 6]))
    covariance = torch.linalg.inv(precision)[:, [1, 4, 6]][:, :, [1, 4, 6]]
    assert torch.allclose(torch.linalg.inv(some.precision), covariance)
    assert torch.equal(some.mean, mean[[1, 4, 6]])


def grimacing(count: int = 24) -> tuple[RigidFit, Rig, Pose, Observations, torch.Tensor]:
    """Frames of a head that turns, and opens its mouth and frowns as it likes."""
    generator = torch.Generator().manual_seed(3)
    shell = make_shell(GENERIC, GENERIC)
    rig = Rig(CAMERA, GENERIC, arkit_basis(GENERIC), shell.points)
    pose = turned(torch.linspace(-0.5, 0.5, count), 0.2 * torch.sin(torch.arange(count) * 1.1))
    coefficients = torch.zeros(count, 52)
    for name, speed in (
        ("jawOpen", 0.9),
        ("browDownLeft", 0.5),
        ("browDownRight", 0.5),
        ("mouthSmileLeft", 0.7),
    ):
        coefficients[:, ARKIT_INDEX[name]] = torch.sin(torch.arange(count) * speed).clamp_min(0)
    posed = deform(rig.lattice, rig.basis, coefficients)
    seen = torch.cat(
        [project(posed, pose, CAMERA), project(shell.points, pose, CAMERA)], 1
    )  # fmt: skip
    seen = seen + 0.2 * torch.randn(seen.shape, generator=generator)
    trust = shell_facing(rig.head, shell, pose).clamp(0, 1)
    fit = RigidFit(TrackConfig(), DrawnFace(), 0.6, torch.tensor([1000.0]).double(), 1)
    return fit, rig, pose, Observations(seen, trust), trust


def test_a_talking_frowning_face_does_not_turn_the_skull():
    fit, rig, true, seen, trust = grimacing()
    start = Pose(rotvec_to_matrix(torch.tensor([[0.02, 0.03, 0.0]])) @ true.R, true.t)
    spread = (project(rig.head, true, CAMERA) - seen.points).norm(dim=-1).median(0).values / 1.18
    with_shell, information = fit.poses(
        rig, start, Observations(seen.points, fit.weight(trust, spread))
    )
    face_alone, _ = fit.poses(
        rig, start, Observations(seen.points[:, :POINTS], trust[:, :POINTS] / 0.6**2)
    )
    assert torch.linalg.eigvalsh(information).min() > 0
    good, bad = degrees_off(with_shell, true), degrees_off(face_alone, true)
    assert float(good.mean()) < 0.15
    assert float(good.mean()) < 0.4 * float(bad.mean())


def test_rigid_fit_finds_focal_length_and_hair_from_where_they_are_not():
    fit, rig, true, seen, trust = grimacing(40)
    shell = make_shell(GENERIC, GENERIC)
    # The person's hair stands off the ellipsoid by a centimetre: found, not assumed.
    thick = rig.shell * (1 + 0.01 / rig.shell.norm(dim=1, keepdim=True))
    points = seen.points.clone()
    points[:, POINTS:] += project(thick, true, CAMERA) - project(rig.shell, true, CAMERA)
    pose = Pose(true.R, true.t * true.t.new_tensor([1, 1, 1000 / 900]))
    guess = Rig(Pinhole(1000.0, CAMERA.centre), GENERIC, rig.basis, rig.shell)
    spread = None
    for free in (False, True, True, True):
        guess, pose, spread, sigma = fit.adjust(
            guess, shell, pose, points, trust, spread, free_focal=free, trust_shell=not free
        )
    assert guess.camera.focal == pytest.approx(900.0, rel=0.03)
    assert 0 < sigma < 0.5 * fit.config.focal_spread
    assert float(degrees_off(pose, true).mean()) < 0.3
    often_seen = (trust[:, POINTS:] > 0.5).float().mean(0) > 0.3
    size = (guess.lattice[33] - guess.lattice[263]).norm() / (GENERIC[33] - GENERIC[263]).norm()
    away = (guess.shell / size - thick).norm(dim=1)[often_seen]
    assert float(away.median()) < 0.004


def test_a_head_that_hardly_turns_cannot_tell_its_focal_length():
    generator = torch.Generator().manual_seed(5)
    sigmas = []
    for reach in (0.5, 0.01):
        pose = turned(torch.linspace(-reach, reach, 30), torch.zeros(30))
        seen = project(GENERIC.expand(30, -1, -1), pose, CAMERA)
        seen = seen + 0.3 * torch.randn(seen.shape, generator=generator)
        solved = bundle_adjust(
            GENERIC, torch.zeros(30, POINTS, 3), Pinhole(1000.0, CAMERA.centre),
            Observations(seen, torch.full((30, POINTS), 1 / 0.09)),
            lattice_prior(GENERIC, GENERIC, 0.0015, 0.002), pose, iterations=10, scale=2.0,
            free_focal=True, focal_prior=(1000.0, 0.1),
        )  # fmt: skip
        sigmas.append(solved.focal_sigma)
    assert sigmas[0] < 0.25 * sigmas[1]
    assert sigmas[1] <= 0.1


def test_smoothing_calms_a_still_head_and_leaves_a_shake():
    frames, fps = 120, 25.0
    generator = torch.Generator().manual_seed(1)
    yaw = torch.zeros(frames)
    yaw[60:66] = torch.tensor([0.05, 0.16, 0.24, 0.24, 0.16, 0.05])  # 70 rad/s^2
    true = turned(yaw, torch.zeros(frames))
    noise = 0.004 * torch.randn(frames, 3, generator=generator)
    noisy = Pose(rotvec_to_matrix(noise) @ true.R, true.t)
    information = torch.eye(6).expand(frames, 6, 6) / 0.004**2 / 0.05
    calm = smooth_poses(noisy, information, fps)
    still = degrees_off(calm, true)[:50]
    assert float(still.mean()) < 0.75 * float(degrees_off(noisy, true)[:50].mean())
    assert float(degrees_off(calm, true)[58:68].max()) < 1.0, "a shake of 14 degrees stays"


def test_slide_over_the_skin_is_learnt_and_predicted_for_other_frames():
    pose = turned(torch.linspace(-0.6, 0.6, 60), 0.3 * torch.cos(torch.arange(60.0)))
    generator = torch.Generator().manual_seed(2)
    slope = torch.randn(1, POINTS, 2, generator=generator)
    slid = 10 * pose.R[:, 0, 2][:, None, None] * slope
    learnt = Slide.learnt(slid[::2], pose[torch.arange(0, 60, 2)])
    predicted = learnt.of(pose[torch.arange(1, 60, 2)])[:, :SKIN_POINTS]
    error = (predicted - slid[1::2, :SKIN_POINTS]).abs().mean()
    assert float(error) < 0.1 * float(slid.abs().mean())


def test_frames_view_joins_lattice_and_shell():
    shell = make_shell(GENERIC, GENERIC)
    rig = Rig(CAMERA, GENERIC, arkit_basis(GENERIC), shell.points)
    frames = Frames(turned(torch.tensor([0.2]), torch.tensor([0.1])), torch.zeros(1, 52))
    view = frames.view(rig, shell)
    assert view.points.shape == (1, POINTS + len(shell.points), 2)
    assert np.allclose(view.points[:, :POINTS], frames.points(rig))
    assert view.face.shape == (1, POINTS)
    assert view.head.shape == view.points.shape[:2]
