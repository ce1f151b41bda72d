"""The tracker's solvers: derivatives, recovery of what was put in, bounds, determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.lattice import deform, lattice_table
from avatar.rotations import rotvec_to_matrix
from capture.track.projection import (
    Observations,
    Pinhole,
    Pose,
    project,
    projection_jacobian,
    robust,
)
from capture.track.rig_fit import (
    initial_pose,
    lattice_prior,
    normalise,
    personal_basis,
    procrustes,
    residual_shapes,
    spread_frames,
)
from capture.track.solver import (
    CoefficientPrior,
    bundle_adjust,
    data_cost,
    frame_equations,
    solve_frames,
)

CAMERA = Pinhole(900.0, (256.0, 250.0))
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))


def random_pose(frames: int, generator: torch.Generator, turn: float = 0.4) -> Pose:
    """Heads about 70 cm before the camera, turned up to about ``turn`` rad each way."""
    rotvec = turn * (2 * torch.rand(frames, 3, generator=generator, dtype=torch.float64) - 1)
    rotvec[:, 2] *= 0.3
    t = torch.randn(frames, 3, generator=generator, dtype=torch.float64) * 0.02
    return Pose(rotvec_to_matrix(rotvec) @ FLIP, t + torch.tensor([0.0, 0.0, 0.7]).double())


def open_prior(count: int, lower: float = -10.0, upper: float = 10.0) -> CoefficientPrior:
    zeros = torch.zeros(count, dtype=torch.float64)
    return CoefficientPrior(zeros + lower, zeros + upper, zeros, zeros + 1e-6, zeros)


def turn_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angles in degrees between rotations [F, 3, 3]."""
    cosine = ((a * b).sum((1, 2)) - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="module")
def lattice() -> torch.Tensor:
    return lattice_table().neutral.double()


@pytest.fixture(scope="module")
def basis() -> torch.Tensor:
    return generic_arkit_basis().double()


def test_projection_jacobian_is_the_derivative(generator: torch.Generator) -> None:
    pose = random_pose(2, generator)
    points = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64) * 0.05
    pixels, by_pose, by_point = projection_jacobian(points, pose, CAMERA)
    assert torch.allclose(pixels, project(points, pose, CAMERA))
    h = 1e-6
    for k in range(6):
        step = torch.zeros(2, 6, dtype=torch.float64)
        step[:, k] = h
        ahead = project(points, pose.moved(step), CAMERA)
        behind = project(points, pose.moved(-step), CAMERA)
        # Central differences of a function of size 1e3 with h = 1e-6: errors about 1e-6 relative.
        assert torch.allclose(by_pose[..., k], (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-3)
    for k in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[k] = h
        slope = (project(points + step, pose, CAMERA) - project(points - step, pose, CAMERA)) / (
            2 * h
        )
        assert torch.allclose(by_point[..., k], slope, rtol=1e-5, atol=1e-3)


def test_robust_weight_is_the_slope_of_the_cost() -> None:
    squared = torch.linspace(0, 40, 9, dtype=torch.float64, requires_grad=True)
    cost, weight = robust(squared, 2.0)
    (slope,) = torch.autograd.grad(cost.sum(), squared)
    assert torch.allclose(2 * slope, weight.detach())


def test_frame_gradient_is_the_derivative_of_the_cost(
    lattice: torch.Tensor, basis: torch.Tensor, generator: torch.Generator
) -> None:
    pose = random_pose(2, generator)
    coefficients = torch.rand(2, 52, generator=generator, dtype=torch.float64)
    noise = 3 * torch.randn(2, 478, 2, generator=generator, dtype=torch.float64)
    seen = Observations(
        project(lattice, pose, CAMERA) + noise,
        torch.rand(2, 478, generator=generator, dtype=torch.float64),
    )
    _, gradient = frame_equations(lattice, basis, pose, coefficients, CAMERA, seen, 2.0)
    h = 1e-6

    def cost(step: torch.Tensor) -> torch.Tensor:
        moved = pose.moved(step[:, :6])
        return data_cost(lattice, basis, moved, coefficients + step[:, 6:], CAMERA, seen, 2.0)

    for k in (0, 1, 2, 3, 4, 5, 6, 6 + ARKIT_INDEX["jawOpen"], 6 + ARKIT_INDEX["mouthPucker"]):
        step = torch.zeros(2, 58, dtype=torch.float64)
        step[:, k] = h
        slope = (cost(step) - cost(-step)) / (2 * h)
        assert torch.allclose(gradient[:, k], slope, rtol=1e-4, atol=1e-3), k


def test_exact_points_give_back_pose_and_coefficients(
    lattice: torch.Tensor, basis: torch.Tensor, generator: torch.Generator
) -> None:
    some = basis[
        [ARKIT_INDEX[n] for n in ("jawOpen", "mouthSmileLeft", "eyeBlinkRight", "browInnerUp")]
    ]
    pose = random_pose(6, generator)
    truth = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    points = project(deform(lattice, some, truth), pose, CAMERA)
    seen = Observations(points, torch.ones(6, 478, dtype=torch.float64))
    start = pose.moved(0.05 * torch.randn(6, 6, generator=generator, dtype=torch.float64))
    found = solve_frames(
        lattice, some, CAMERA, seen, open_prior(4), start, torch.zeros(6, 4).double(),
        iterations=30, scale=2.0,
    )  # fmt: skip
    assert float(turn_between(found.pose.R, pose.R).max()) < 1e-4
    assert torch.allclose(found.pose.t, pose.t, atol=1e-6)
    assert torch.allclose(found.coefficients, truth, atol=1e-4)


def test_noise_and_outliers_are_borne(
    lattice: torch.Tensor, basis: torch.Tensor, generator: torch.Generator
) -> None:
    pose = random_pose(8, generator)
    truth = torch.zeros(8, 52, dtype=torch.float64)
    truth[:, ARKIT_INDEX["jawOpen"]] = torch.linspace(0, 0.8, 8)
    points = project(deform(lattice, basis, truth), pose, CAMERA)
    points = points + 0.7 * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    points[:, 100:120] += 40  # 4 % of the points are somewhere else altogether
    seen = Observations(points, torch.ones(8, 478, dtype=torch.float64) / 0.7**2)
    zeros = torch.zeros(52, dtype=torch.float64)
    prior = CoefficientPrior(zeros, zeros + 1.3, zeros + 15, zeros + 15, zeros)
    start = pose.moved(0.03 * torch.randn(8, 6, generator=generator, dtype=torch.float64))
    found = solve_frames(
        lattice,
        basis,
        CAMERA,
        seen,
        prior,
        start,
        torch.zeros_like(truth),
        iterations=20,
        scale=2.0,
    )
    # 478 points of 0.7 px at 1.2 px/mm fix a turn to about 0.1 degrees; the shapes cost some of it.
    assert float(turn_between(found.pose.R, pose.R).mean()) < 0.5
    jaw = found.coefficients[:, ARKIT_INDEX["jawOpen"]]
    assert float(np.corrcoef(jaw, truth[:, ARKIT_INDEX["jawOpen"]])[0, 1]) > 0.98


def test_coefficients_stay_in_their_bounds_and_idle_ones_at_zero(
    lattice: torch.Tensor, basis: torch.Tensor, generator: torch.Generator
) -> None:
    pose = random_pose(3, generator)
    truth = torch.zeros(3, 52, dtype=torch.float64)
    truth[:, ARKIT_INDEX["mouthSmileLeft"]] = 2.0
    seen = Observations(
        project(deform(lattice, basis, truth), pose, CAMERA),
        torch.ones(3, 478, dtype=torch.float64),
    )
    zeros = torch.zeros(52, dtype=torch.float64)
    prior = CoefficientPrior(zeros, zeros + 1.0, zeros + 15, zeros + 15, zeros)
    found = solve_frames(
        lattice, basis, CAMERA, seen, prior, pose, torch.zeros_like(truth), iterations=20, scale=2.0
    )
    assert float(found.coefficients.min()) >= 0.0
    assert float(found.coefficients.max()) <= 1.0
    assert float(found.coefficients[:, ARKIT_INDEX["mouthSmileLeft"]].min()) == 1.0
    assert float(found.coefficients[:, ARKIT_INDEX["browDownLeft"]].max()) < 0.02


def test_bundle_adjustment_recovers_face_poses_and_focal_length(
    lattice: torch.Tensor, generator: torch.Generator
) -> None:
    frames = 24
    pose = random_pose(frames, generator, turn=0.6)
    person = lattice * torch.tensor([1.04, 0.97, 1.08]).double()
    points = project(person, pose, CAMERA)
    points = points + 0.2 * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    seen = Observations(points, torch.ones(frames, 478, dtype=torch.float64) / 0.2**2)
    start = pose.moved(0.03 * torch.randn(frames, 6, generator=generator, dtype=torch.float64))
    solved = bundle_adjust(
        lattice, lattice.new_zeros(frames, 478, 3), Pinhole(1100.0, CAMERA.centre), seen,
        lattice_prior(lattice, lattice, 0.0015, 0.002), start, iterations=60, scale=2.0,
        free_focal=True,
    )  # fmt: skip
    assert solved.camera.focal == pytest.approx(CAMERA.focal, rel=0.02)
    _, scale, _ = procrustes(solved.lattice, person[None])
    R, _, shift = procrustes(solved.lattice, person[None])
    moved = scale * (solved.lattice @ R[0].T) + shift
    # Noise of 0.2 px over 24 views leaves less than a tenth of a millimetre; the prior pulls a little.
    assert float((moved - person).norm(dim=-1)[:468].mean()) < 4e-4
    error = turn_between(solved.pose.R @ R[0].T, pose.R)
    assert float(error.mean()) < 0.15


def test_bundle_adjustment_can_hold_poses_and_focal_length(
    lattice: torch.Tensor, generator: torch.Generator
) -> None:
    pose = random_pose(6, generator)
    person = lattice * 1.05
    seen = Observations(project(person, pose, CAMERA), torch.ones(6, 478, dtype=torch.float64) * 25)
    solved = bundle_adjust(
        lattice, lattice.new_zeros(6, 478, 3), CAMERA, seen,
        lattice_prior(lattice, lattice, 0.0015, 0.002), pose, iterations=30, scale=2.0,
        free_pose=False,
    )  # fmt: skip
    assert torch.equal(solved.pose.R, pose.R)
    assert solved.camera.focal == CAMERA.focal
    assert float((solved.lattice - person).norm(dim=-1)[:468].mean()) < 5e-4


def test_normalising_changes_the_gauge_and_nothing_in_the_picture(
    lattice: torch.Tensor, generator: torch.Generator
) -> None:
    pose = random_pose(4, generator)
    turned = 0.8 * lattice @ rotvec_to_matrix(torch.tensor([[0.1, 0.2, 0.0]]).double())[0].T + 0.01
    new, new_pose = normalise(turned, pose, lattice)
    assert torch.allclose(project(new, new_pose, CAMERA), project(turned, pose, CAMERA), atol=1e-8)
    assert torch.allclose(new, lattice, atol=1e-4)


def test_initial_pose_is_near(lattice: torch.Tensor, generator: torch.Generator) -> None:
    pose = random_pose(5, generator)
    camera_points = lattice @ pose.R.transpose(1, 2) + pose.t[:, None]
    pixels = project(lattice, pose, CAMERA)
    depth = (camera_points[..., 2:] - pose.t[:, None, 2:]) * CAMERA.focal / 0.7
    start = initial_pose(lattice, torch.cat([pixels, depth], -1), CAMERA)
    # It ignores perspective: a few degrees and centimetres are what the solver must start from.
    assert float(turn_between(start.R, pose.R).max()) < 8
    assert float((start.t - pose.t).norm(dim=-1).max()) < 0.08


def test_personal_shapes_come_out_of_the_clip(
    lattice: torch.Tensor, basis: torch.Tensor, generator: torch.Generator
) -> None:
    drawn = basis[[ARKIT_INDEX["mouthSmileLeft"], ARKIT_INDEX["jawOpen"]]]
    person = drawn * torch.tensor([1.3, 0.8]).double()[:, None, None]
    pose = random_pose(60, generator)
    coefficients = torch.rand(60, 2, generator=generator, dtype=torch.float64)
    seen = Observations(
        project(deform(lattice, person, coefficients), pose, CAMERA),
        torch.ones(60, 478, dtype=torch.float64),
    )
    bent = personal_basis(lattice, drawn, CAMERA, seen, pose, coefficients, 0.01, 3.0)
    before, after = (drawn - person).norm(dim=-1).max(), (bent - person).norm(dim=-1).max()
    assert float(after) < 0.1 * float(before)
    held = personal_basis(lattice, drawn, CAMERA, seen, pose, coefficients, 1e-7, 3.0)
    assert torch.allclose(held, drawn, atol=1e-5)


def test_residual_shapes_find_a_motion_that_has_no_name(
    lattice: torch.Tensor, basis: torch.Tensor, generator: torch.Generator
) -> None:
    known = basis[[ARKIT_INDEX["jawOpen"]]]
    unnamed = basis[ARKIT_INDEX["mouthSmileLeft"]]
    pose = random_pose(50, generator, turn=0.2)
    a = torch.randn(50, 1, generator=generator, dtype=torch.float64)
    seen = Observations(
        project(deform(lattice, unnamed[None], 0.2 * a), pose, CAMERA),
        torch.ones(50, 478, dtype=torch.float64),
    )
    shapes, sigma = residual_shapes(lattice, known, CAMERA, seen, pose, torch.zeros_like(a), 3)
    flat = shapes[0].flatten() / shapes[0].norm()
    # Depth is not seen: compare the directions in the picture plane, x and y.
    match = torch.nn.functional.cosine_similarity(
        shapes[0][:, :2].flatten(), unnamed[:, :2].flatten(), dim=0
    )
    assert abs(float(match)) > 0.95
    assert float(sigma[1]) < 0.3 * float(sigma[0])
    assert float(flat.norm()) == pytest.approx(1.0)


def test_spread_frames_keeps_order_and_takes_the_extremes(generator: torch.Generator) -> None:
    yaw = torch.zeros(200, 3)
    yaw[77, 1] = 0.9
    pose = Pose(rotvec_to_matrix(yaw), torch.zeros(200, 3))
    chosen = spread_frames(pose, torch.arange(10, 190), 20)
    assert 77 in chosen.tolist()
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(spread_frames(pose, torch.arange(5), 20)) == 5


def test_solving_twice_gives_the_same_bits(
    lattice: torch.Tensor, basis: torch.Tensor, generator: torch.Generator
) -> None:
    pose = random_pose(70, generator)  # more than one chunk
    noise = torch.randn(70, 478, 2, generator=generator, dtype=torch.float64)
    seen = Observations(project(lattice, pose, CAMERA) + noise, torch.ones(70, 478).double())
    zeros = torch.zeros(52, dtype=torch.float64)
    prior = CoefficientPrior(zeros, zeros + 1.3, zeros + 15, zeros + 15, zeros)
    found = [
        solve_frames(
            lattice,
            basis,
            CAMERA,
            seen,
            prior,
            pose,
            torch.zeros(70, 52).double(),
            iterations=4,
            scale=2.0,
        )
        for _ in range(2)
    ]
    assert torch.equal(found[0].coefficients, found[1].coefficients)
    assert torch.equal(found[0].pose.R, found[1].pose.R)
