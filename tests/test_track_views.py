"""Several cameras: derivatives, a rig out of single poses, bundle adjustment, the tracker on three views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_track_fit import FRAMES, QUICK, SIZE, SPLITS, grey_frame, grey_mask, synthetic
from torch import Tensor

from avatar.capture_data import Landmarks
from avatar.checks import InputError
from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.lattice import deform, lattice_table
from avatar.rotations import rigid, rotvec_to_matrix
from capture.bench_cameras import camera_errors
from capture.track.fit import fit_track
from capture.track.footage import Calibration, Footage
from capture.track.joint import LOOSE, TIED, FocalPrior, _normal, bundle_adjust_views
from capture.track.projection import Observations, Pinhole, Pose, project, robust
from capture.track.rig_fit import lattice_prior
from capture.track.solver import CoefficientPrior, data_cost, frame_equations, solve_frames
from capture.track.views import Cameras, HeadPose, moved_cameras, one_rig

YAWS = (-40.0, 0.0, 25.0, 60.0)
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))


def ring(yaws_deg: tuple[float, ...] = YAWS, main: int = 1, distance: float = 0.8) -> Pose:
    """Cameras around a head, seen from one of them."""
    angle = torch.deg2rad(torch.tensor(yaws_deg, dtype=torch.float64))
    turn = torch.stack([0.1 * torch.sin(3 * angle), -angle, 0.05 * angle], 1)
    R = FLIP @ rotvec_to_matrix(turn)
    t = torch.tensor([0.0, 0.0, distance]).double() + 0.02 * torch.sin(5 * turn)
    R_main, t_main = R[main], t[main]
    R = R @ R_main.T
    return Pose(R, t - (R @ t_main[:, None])[..., 0])


def heads(frames: int, generator: torch.Generator, distance: float = 0.8) -> Pose:
    """Heads before the main camera."""
    turn = 0.4 * (2 * torch.rand(frames, 3, generator=generator, dtype=torch.float64) - 1)
    t = 0.02 * torch.randn(frames, 3, generator=generator, dtype=torch.float64)
    t[:, 2] += distance
    return Pose(FLIP @ rotvec_to_matrix(turn), t)


def everyone(frames: int, cameras: int) -> tuple[Tensor, Tensor]:
    """Frame and camera of all pictures, but for some that one camera lacks."""
    frame_of, camera_of = torch.cartesian_prod(torch.arange(frames), torch.arange(cameras)).unbind(
        1
    )
    seen = ~((camera_of == 2) & (frame_of % 3 == 0))
    return frame_of[seen], camera_of[seen]


def placed(frames: int, generator: torch.Generator) -> HeadPose:
    frame_of, camera_of = everyone(frames, len(YAWS))
    return HeadPose.composed(heads(frames, generator), ring(), frame_of, camera_of, False)


def pinholes(focal: float = 900.0) -> Pinhole:
    return Pinhole(
        torch.tensor([focal, focal * 1.1, focal, focal * 0.9], dtype=torch.float64),
        torch.tensor([[256.0, 250], [250, 256], [256, 256], [240, 262]], dtype=torch.float64),
    )


def turn_between(a: Tensor, b: Tensor) -> float:
    """The largest angle in degrees between rotations [F, 3, 3]."""
    cosine = ((a * b).sum((1, 2)) - 1) / 2
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).max())


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture(scope="module")
def lattice() -> Tensor:
    return lattice_table().neutral.double()


def test_the_normal_equations_hold_the_gradient_and_gauss_newton_matrix(
    generator: torch.Generator, lattice: Tensor
) -> None:
    """Against automatic differentiation of the cost in every unknown: points, cameras, focals, heads."""
    pose, camera = placed(4, generator), pinholes()
    points = lattice[::60].clone()
    seen_at = project(points, pose, camera)
    seen = Observations(
        seen_at + 3 * torch.randn(seen_at.shape, generator=generator, dtype=torch.float64),
        torch.rand(seen_at.shape[:2], generator=generator, dtype=torch.float64),
    )
    size, cameras = len(points), len(YAWS)

    def residuals(unknowns: Tensor) -> Tensor:
        by_camera = unknowns[3 * size : 3 * size + 7 * cameras].reshape(cameras, 7)
        moved = pose.of_heads(
            pose.head.moved(unknowns[3 * size + 7 * cameras :].reshape(-1, 6)),
            moved_cameras(pose.views, by_camera[:, :6]),
        )
        focal = torch.as_tensor(camera.focal) * by_camera[:, 6].exp()
        at = points + unknowns[: 3 * size].reshape(size, 3)
        return project(at, moved, replace(camera, focal=focal)) - seen.points

    zeros = torch.zeros(3 * size + 7 * cameras + 6 * pose.free, dtype=torch.float64)
    scale = 2.0
    error = residuals(zeros)
    W = seen.weight * robust(error.square().sum(-1) * seen.weight, scale)[1]
    J = torch.autograd.functional.jacobian(residuals, zeros).reshape(*error.shape, -1)
    whole = torch.einsum("pl,plku,plkv->uv", W, J, J)
    pull = torch.einsum("pl,plku,plk->u", W, J, error)
    normal = _normal(points, camera, seen, pose, scale)
    shared = 3 * size + 7 * cameras
    # Points are each for themselves in the matrix: their own blocks are all that there is.
    assert torch.allclose(normal.shared, whole[:shared, :shared], rtol=1e-8, atol=1e-6)
    assert torch.allclose(normal.gradient, pull[:shared], rtol=1e-8, atol=1e-6)
    for f in range(pose.free):
        own = slice(shared + 6 * f, shared + 6 * f + 6)
        assert torch.allclose(normal.heads[f], whole[own, own], rtol=1e-8, atol=1e-6)
        assert torch.allclose(normal.cross[f], whole[own, :shared], rtol=1e-8, atol=1e-6)
        assert torch.allclose(normal.head_gradient[f], pull[own], rtol=1e-8, atol=1e-6)

    def cost(unknowns: Tensor) -> Tensor:
        squared = residuals(unknowns).square().sum(-1) * seen.weight
        return robust(squared, scale)[0].sum()

    gradient = torch.autograd.functional.jacobian(cost, zeros)
    assert torch.allclose(gradient, pull, rtol=1e-7, atol=1e-6)


def test_a_frame_of_several_cameras_has_the_sum_of_their_equations(
    generator: torch.Generator, lattice: Tensor
) -> None:
    pose, camera = placed(3, generator), pinholes()
    basis = generic_arkit_basis().double()[:6]
    coefficients = torch.rand(3, 6, generator=generator, dtype=torch.float64)
    shape = deform(lattice, basis, coefficients)
    pixels = project(shape[pose.frame_of], pose, camera)
    seen = Observations(
        pixels + torch.randn(pixels.shape, generator=generator, dtype=torch.float64),
        torch.rand(pixels.shape[:2], generator=generator, dtype=torch.float64),
    )
    rig, dense = Cameras(camera, pose.views), pose.by_frame(seen)

    def cost(unknowns: Tensor) -> Tensor:
        steps = unknowns.reshape(3, 12)
        moved = pose.head.moved(steps[:, :6])
        return data_cost(lattice, basis, moved, coefficients + steps[:, 6:], rig, dense, 2.0).sum()

    zeros = torch.zeros(36, dtype=torch.float64)
    _, g = frame_equations(lattice, basis, pose.head, coefficients, rig, dense, 2.0)
    assert torch.allclose(g.reshape(-1), torch.autograd.functional.jacobian(cost, zeros), rtol=1e-6)


def test_all_cameras_find_one_expression_and_one_pose(
    generator: torch.Generator, lattice: Tensor
) -> None:
    pose, camera = placed(5, generator), pinholes()
    basis = generic_arkit_basis().double()
    truth = torch.zeros(5, 52, dtype=torch.float64)
    truth[:, ARKIT_INDEX["jawOpen"]] = torch.linspace(0.1, 0.9, 5).double()
    pixels = project(deform(lattice, basis, truth)[pose.frame_of], pose, camera)
    seen = Observations(pixels, torch.ones(pixels.shape[:2], dtype=torch.float64))
    start = pose.moved(0.02 * torch.randn(5, 6, generator=generator, dtype=torch.float64))
    zeros = torch.zeros(52, dtype=torch.float64)
    prior = CoefficientPrior(zeros, zeros + 1.3, zeros, zeros + 1e-4, zeros)
    found = solve_frames(
        lattice, basis, camera, seen, prior, start, torch.zeros(len(pixels), 52).double(),
        iterations=30, scale=2.0,
    )  # fmt: skip
    assert isinstance(found.pose, HeadPose)
    assert turn_between(found.pose.head.R, pose.head.R) < 0.01
    jaw = found.coefficients[:, ARKIT_INDEX["jawOpen"]]
    assert torch.allclose(jaw, truth[pose.frame_of, ARKIT_INDEX["jawOpen"]], atol=0.01)
    assert found.pose_information.shape == (5, 6, 6)
    for picture, frame in enumerate(pose.frame_of.tolist()):
        assert torch.equal(found.coefficients[picture], found.coefficients[pose.first()[frame]])


def test_a_rig_is_made_of_what_each_camera_found(generator: torch.Generator) -> None:
    """A tenth of the pictures is far off; the others err by degrees."""
    true = placed(120, generator)
    error = 0.03 * torch.randn(len(true.t), 6, generator=generator, dtype=torch.float64)
    error[::10] *= 20
    alone = Pose(true.R, true.t, true.camera_of).moved(error)
    found = one_rig(alone, torch.ones(len(true.t)).double(), true.frame_of, 1, len(YAWS))
    assert turn_between(found.views.R, true.views.R) < 1.0
    # Four cameras see a frame: what they find together errs less than each of them, the worst too.
    alone_off, off = ((pose.t - true.t).norm(dim=1) for pose in (alone, found))
    assert float(off.median()) < 0.7 * float(alone_off.median())
    assert float(alone_off.max()) > 0.5
    assert float(off.max()) < 0.15
    assert torch.allclose(found.views.R[1], torch.eye(3).double(), atol=1e-9)
    assert float(found.views.t[1].norm()) < 1e-9


def test_bundle_adjustment_finds_cameras_and_focal_lengths(
    generator: torch.Generator, lattice: Tensor
) -> None:
    """The cameras' focal lengths differ by a tenth, which is no one kind: each is found."""
    true, camera = placed(12, generator), pinholes()
    head = lattice + 0.002 * torch.randn(lattice.shape, generator=generator, dtype=torch.float64)
    pixels = project(head, true, camera)
    noise = 0.2 * torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    seen = Observations(pixels + noise, torch.full(pixels.shape[:2], 25.0).double())
    off = 0.03 * torch.randn(len(YAWS), 6, generator=generator, dtype=torch.float64)
    off[1] = 0
    start = true.of_heads(
        true.head.moved(0.03 * torch.randn(12, 6, generator=generator, dtype=torch.float64)),
        moved_cameras(true.views, off),
    )
    focal, pose, shape = torch.full((4,), 1000.0), start, lattice
    prior = lattice_prior(lattice, shape, 0.002, 0.002)
    for _ in range(4):
        found = bundle_adjust_views(
            shape, Pinhole(focal, camera.centre), seen, prior, pose, iterations=15, scale=2.0,
            focal_prior=FocalPrior(torch.full((4,), 1000.0), 0.35), free_cameras=True,
        )  # fmt: skip
        assert isinstance(found.pose, HeadPose)
        focal, pose, shape = torch.as_tensor(found.camera.focal), found.pose, found.lattice
    assert torch.allclose(focal, torch.as_tensor(camera.focal), rtol=0.01)
    assert turn_between(pose.views.R, true.views.R) < 0.15
    # Places are known up to the head's size, which is the lattice prior's.
    size = pose.views.t.norm() / true.views.t.norm()
    assert float((pose.views.t / size - true.views.t).norm(dim=1).max()) < 0.008
    assert torch.equal(pose.views.R[1], torch.eye(3).double())


def test_focal_lengths_are_tied_where_they_are_of_a_kind() -> None:
    belief = FocalPrior(torch.full((3,), 1000.0), 0.35)
    unknown = torch.linalg.inv(belief.precision(torch.full((3,), 1000.0)))
    assert torch.allclose(unknown.diagonal(), torch.tensor(0.35**2 + LOOSE**2).double())
    found = torch.linalg.inv(belief.precision(torch.tensor([1000.0, 1030.0, 1250.0])))
    alone = found.diagonal() - 0.35**2
    assert torch.allclose(alone.sqrt(), torch.tensor([TIED, TIED, LOOSE]).double(), atol=1e-5)


def three_views(missing: frozenset[int] = frozenset()) -> tuple[list[Footage], Pose, Tensor]:
    """The clip of test_track_fit, filmed by two more cameras, one of them with twice the pixels."""
    landmarks, head, expression = synthetic()
    views = ring((0.0, -35.0, 30.0), 0, 0.6)
    generator = torch.Generator().manual_seed(11)
    points = deform(lattice_table().neutral, generic_arkit_basis(), expression)
    footage = [Footage(landmarks, grey_frame, grey_mask, SIZE, SIZE)]
    for k in (1, 2):
        R, t = views.R[k].float(), views.t[k].float()
        pose = Pose(R @ head.R, head.t @ R.T + t)
        unit = k
        pixels = project(points, pose, Pinhole(512.0 * unit, (128.0 * unit, 128.0 * unit)))
        pixels = pixels + 0.2 * unit * torch.randn(pixels.shape, generator=generator)
        depth = (points @ pose.R.transpose(1, 2))[..., 2:] * 512.0 * unit / 0.6
        valid = torch.ones(FRAMES, dtype=torch.bool)
        valid[list(missing)] = False
        own = Landmarks(torch.cat([pixels, depth], -1) * valid[:, None, None], valid)

        def frame(index: int, unit: int = unit) -> np.ndarray:
            assert index not in missing
            return np.repeat(np.repeat(grey_frame(index), unit, 0), unit, 1)

        def mask(index: int, unit: int = unit) -> np.ndarray:
            assert index not in missing
            return np.repeat(np.repeat(grey_mask(index), unit, 0), unit, 1)

        footage.append(Footage(own, frame, mask, SIZE * unit, SIZE * unit, missing))
    return footage, head, expression


def test_three_cameras_are_tracked_as_one() -> None:
    """Frames that the first camera lost are found by the others, and the cameras are where they were."""
    footage, head, expression = three_views(missing=frozenset(range(10, 14)))
    track = fit_track(footage, fps=25.0, splits=SPLITS, config=QUICK).track
    assert track.K.shape == (3, 3, 3)
    assert bool(track.valid.all())
    # Without texture the focal length is held at its prior, which is the truth here.
    assert torch.allclose(track.K[:, 0, 0], torch.tensor([512.0, 512.0, 1024.0]), rtol=1e-4)
    assert torch.allclose(track.K[2, :2, 2], torch.tensor([256.0, 256.0]))
    views = ring((0.0, -35.0, 30.0), 0, 0.6)
    errors = camera_errors(track, rigid(views.R, views.t), torch.tensor([512.0, 512.0, 1024.0]))
    assert errors["rotation_max_deg"] < 1.0
    assert errors["centre_max_percent"] < 1.5
    T = track.T_cam_world[0] @ track.T_world_head
    offset = T[:, :3, :3].transpose(1, 2) @ head.R
    middle = offset[20]
    assert turn_between(offset[track.valid], middle.expand(FRAMES, 3, 3)) < 2.0
    jaw = track.expression[:, ARKIT_INDEX["jawOpen"]]
    assert np.corrcoef(jaw, expression[:, ARKIT_INDEX["jawOpen"]])[0, 1] > 0.95
    lost = ~footage[0].landmarks.valid
    assert bool((track.landmarks_px[lost] > 0).all())


def test_known_cameras_are_kept_in_metres() -> None:
    footage, _, _ = three_views()
    known = known_three(metric=True)
    T = known.T_cam_world
    track = fit_track(footage, fps=25.0, splits=SPLITS, config=QUICK, calibration=known).track
    errors = camera_errors(track, T, torch.tensor([512.0, 512.0, 1024.0]))
    assert errors["rotation_max_deg"] < 0.02  # arccos near 1, single precision
    assert errors["centre_max_percent_with_size"] < 0.01
    larger = replace(known, T_cam_world=rigid(T[:, :3, :3], 37.0 * T[:, :3, 3]), metric=False)
    track = fit_track(footage, fps=25.0, splits=SPLITS, config=QUICK, calibration=larger).track
    errors = camera_errors(track, T, torch.tensor([512.0, 512.0, 1024.0]))
    assert errors["centre_max_percent"] < 0.01
    assert errors["size"] == pytest.approx(1, abs=0.05)  # the irises say how large 37 units are


def test_a_camera_that_shares_no_frames_is_refused() -> None:
    footage, _, _ = three_views()
    alone = footage[2].landmarks
    never = torch.zeros_like(alone.valid)
    footage[2] = replace(footage[2], landmarks=Landmarks(alone.points, never))
    with pytest.raises(InputError, match=r"Camera 2 shows the face in only 0 training frames"):
        fit_track(footage, fps=25.0, splits=SPLITS, config=QUICK)


def test_a_calibration_of_other_cameras_is_refused() -> None:
    footage, _, _ = three_views()
    K = torch.eye(3).double().repeat(2, 1, 1)
    T = torch.eye(4).double().repeat(2, 1, 1)
    known = Calibration(("a", "b"), ((SIZE, SIZE),) * 2, K, T, metric=True)
    with pytest.raises(InputError, match="2 cameras, but there are clips of 3"):
        fit_track(footage, fps=25.0, splits=SPLITS, config=QUICK, calibration=known)
    K = K[[0, 0, 0]].clone()
    K[0, 1, 1] = 1.2
    known = Calibration(("a", "b", "c"), ((SIZE, SIZE),) * 3, K, T[[0, 0, 0]], metric=True)
    with pytest.raises(InputError, match="not square"):
        fit_track(footage, fps=25.0, splits=SPLITS, config=QUICK, calibration=known)


def known_three(metric: bool) -> Calibration:
    """The cameras of ``three_views``."""
    views = ring((0.0, -35.0, 30.0), 0, 0.6)
    K = torch.tensor([[512.0, 0, 128], [0, 512, 128], [0, 0, 1]]).double().repeat(3, 1, 1)
    K[2, :2] *= 2
    sizes = ((SIZE, SIZE), (SIZE, SIZE), (2 * SIZE, 2 * SIZE))
    return Calibration(("a", "b", "c"), sizes, K, rigid(views.R, views.t), metric)


def blinded(footage: list[Footage], *cameras: int) -> list[Footage]:
    """The same footage, some cameras of which never see the face."""
    out = list(footage)
    for k in cameras:
        points = torch.zeros_like(footage[k].landmarks.points)
        out[k] = replace(footage[k], landmarks=Landmarks(points, torch.zeros(FRAMES).bool()))
    return out


@pytest.mark.parametrize(
    ("metric", "blind"), [(True, (0,)), (True, (2,)), (False, (1,)), (True, (0, 1))]
)
def test_known_cameras_need_not_see_the_face(metric: bool, blind: tuple[int, ...]) -> None:
    footage, head, _ = three_views()
    known = known_three(metric)
    track = fit_track(
        blinded(footage, *blind), fps=25.0, splits=SPLITS, config=QUICK, calibration=known
    ).track
    assert track.main not in blind
    assert bool(torch.isfinite(track.T_cam_world).all())
    assert bool(track.valid.all())
    errors = camera_errors(track, known.T_cam_world, torch.tensor([512.0, 512.0, 1024.0]))
    assert errors["rotation_max_deg"] < 0.02
    assert errors["centre_max_percent_with_size" if metric else "centre_max_percent"] < 0.01
    # The head is where it was, seen by the camera that sees it best.
    views = ring((0.0, -35.0, 30.0), 0, 0.6)
    there = head.t.double() @ views.R[track.main].T + views.t[track.main]
    found = (track.T_cam_world[track.main] @ track.T_world_head)[:, :3, 3]
    assert float((found - there).norm(dim=1).median()) < 0.05 * float(there.norm(dim=1).median())


def test_one_camera_does_not_tell_the_unit_of_a_calibration() -> None:
    footage, _, _ = three_views()
    with pytest.raises(InputError, match=r"Only camera 2 sees the face.*--calibration-unit"):
        fit_track(
            blinded(footage, 0, 1), fps=25.0, splits=SPLITS, config=QUICK,
            calibration=known_three(False),
        )  # fmt: skip


def test_a_camera_is_placed_by_the_few_frames_it_shares() -> None:
    """Camera 1 sees the face in twelve frames, which the main one has not: the third has them with both."""
    footage, _, _ = three_views()
    shown = ((*range(20), *range(32, FRAMES)), range(20, 32), range(14, 45))
    for k, frames in enumerate(shown):
        own = footage[k].landmarks
        seen = torch.zeros(FRAMES, dtype=torch.bool)
        seen[list(frames)] = True
        footage[k] = replace(
            footage[k], landmarks=Landmarks(own.points * seen[:, None, None], seen & own.valid)
        )
    track = fit_track(footage, fps=25.0, splits=SPLITS, config=QUICK).track
    assert track.main == 0
    errors = camera_errors(
        track, known_three(False).T_cam_world, torch.tensor([512.0, 512.0, 1024.0])
    )
    assert errors["rotation_max_deg"] < 2.0
    assert errors["centre_max_percent"] < 3.0


@pytest.fixture
def truth(data) -> Path:
    return data("oracle_multi/truth.npz")


def test_the_truth_has_no_error_against_itself(truth: Path) -> None:
    """camera_errors on the truth in another world, turned, moved and of another size."""
    from capture.bench_cameras import true_cameras

    T, focal = true_cameras(truth, range(8))
    turn = rotvec_to_matrix(torch.tensor([0.3, -1.0, 0.4]).double())
    other = T.clone()
    other[:, :3, :3] = T[:, :3, :3] @ turn
    other[:, :3, 3] = 1.1 * (T[:, :3, 3] + T[:, :3, :3] @ torch.tensor([0.1, 0.2, 0.3]).double())
    footage, _, _ = three_views()
    track = fit_track(footage, fps=25.0, splits=SPLITS, config=QUICK).track
    track = replace(
        track,
        T_cam_world=other,
        K=torch.eye(3).repeat(8, 1, 1) * focal[0],
    )
    errors = camera_errors(track, T, focal)
    assert errors["rotation_max_deg"] < 0.03  # the truth's single precision, under an arccos near 1
    assert errors["centre_max_percent"] < 1e-4
    assert errors["size"] == pytest.approx(1.1)
    with pytest.raises(InputError, match="cameras 0 to 7, not 8"):
        true_cameras(truth, [1, 8])
