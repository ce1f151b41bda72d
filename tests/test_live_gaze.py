"""Where a webcam's eyes look: read from the irises, for both eyes, held while they are shut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.gaze import look_weights
from avatar.rig.lattice import lattice_table
from avatar.rotations import head_rotation
from capture.live_fit import LiveFit
from capture.live_gaze import FARTHEST, PITCH_GAIN, iris_gaze, joined_gaze
from capture.track.projection import Pinhole, Pose, project
from capture.track.threads import one_thread_a_call

SIZE, FPS = (640, 480), 30
CAMERA = Pinhole(1.5 * SIZE[0], (SIZE[0] / 2, SIZE[1] / 2))


@pytest.fixture(autouse=True)
def one_thread():
    with one_thread_a_call():
        yield


def shape(gaze: tuple[float, float], shut: float = 0.0) -> torch.Tensor:
    """Coefficients [52] of eyes that look somewhere."""
    weights = look_weights(torch.tensor([gaze, gaze]))
    for side in ("Left", "Right"):
        weights[ARKIT_INDEX[f"eyeBlink{side}"]] = shut
    return weights


def posed(angles: tuple[float, float, float]) -> Pose:
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    return Pose((flip @ head_rotation(torch.tensor(angles)))[None], torch.tensor([[0.01, 0, 0.6]]))


def seen(weights: torch.Tensor, pose: Pose) -> torch.Tensor:
    """What a perfect detector finds [1, 478, 2]."""
    table, basis = lattice_table(), generic_arkit_basis()
    return project(table.neutral + torch.einsum("e,evc->vc", weights, basis), pose, CAMERA)


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.35, 0.1, 0.1), (-0.35, -0.2, 0.0)])
@pytest.mark.parametrize("gaze", [(0.0, 0.0), (0.3, 0.0), (-0.3, 0.1), (0.0, -0.25), (0.15, 0.2)])
def test_irises_that_are_seen_well_tell_the_gaze(angles, gaze) -> None:
    pose = posed(angles)
    found = iris_gaze(
        seen(shape(gaze), pose), lattice_table().neutral, generic_arkit_basis(),
        shape(gaze)[None], pose, CAMERA,
    )  # fmt: skip
    # Of first order, and damped: the more the further an eye is seen from its side.
    np.testing.assert_allclose(found[0], [gaze, gaze], atol=0.07)


def test_irises_that_are_nowhere_leave_the_gaze_finite_and_in_range() -> None:
    generator = np.random.default_rng(0)
    table, basis = lattice_table(), generic_arkit_basis()
    for _ in range(300):
        pixels = torch.from_numpy(generator.normal(300, 400, (1, 478, 2))).float()
        pose = posed(tuple(generator.uniform(-3, 3, 3).tolist()))
        found = iris_gaze(pixels, table.neutral, basis, torch.zeros(1, 52), pose, CAMERA)
        assert bool(torch.isfinite(found).all())
        assert bool((found.abs() <= torch.tensor(FARTHEST) + 1e-6).all())


def test_both_readings_of_both_eyes_count_alike() -> None:
    irises, coefficients = torch.tensor([[0.4, 0.1], [0.2, 0.1]]), torch.tensor([[0.1, 0.0]] * 2)
    np.testing.assert_allclose(
        joined_gaze(irises, coefficients), [[0.2, 0.05 * PITCH_GAIN]] * 2, atol=1e-6
    )


def test_a_camera_follows_the_gaze_and_holds_it_while_the_eyes_are_shut() -> None:
    fit, generator = LiveFit(*SIZE), np.random.default_rng(0)

    def points(gaze: tuple[float, float], shut: float = 0.0) -> np.ndarray:
        pixels = seen(shape(gaze, shut), posed((0.0, 0.0, 0.0)))[0].numpy()
        depth = np.zeros((478, 1))
        return np.concatenate([pixels + 0.2 * generator.normal(size=pixels.shape), depth], 1)

    for k in range(40):
        fit.add(points((0.0, 0.0)), k / FPS)
    assert fit.settled
    ways = {}
    for n, gaze in enumerate([(0.3, 0.0), (-0.3, 0.0), (0.0, 0.2), (0.0, -0.2)]):
        for k in range(15):
            found = fit.add(points(gaze), 2 + n + k / FPS)
        ways[gaze] = found.gaze
        np.testing.assert_array_equal(found.gaze[0], found.gaze[1])
    assert ways[0.3, 0.0][0, 0] == pytest.approx(0.3, abs=0.1)
    assert ways[-0.3, 0.0][0, 0] == pytest.approx(-0.3, abs=0.1)
    assert ways[0.0, 0.2][0, 1] > 0.12
    assert ways[0.0, -0.2][0, 1] < -0.12
    held = found.gaze
    for k in range(5):
        found = fit.add(points((0.3, 0.2), shut=1.0), 6 + k / FPS)
    assert found.weights[ARKIT_NAMES.index("eyeBlinkLeft")] > 0.5
    np.testing.assert_array_equal(found.gaze, held)
