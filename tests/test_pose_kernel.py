"""The posing kernel against its torch twin and against finite differences."""

from __future__ import annotations

import pytest
import torch

from avatar.raster.fused_reference import pose_reference
from avatar.raster.library import library, use_threads
from avatar.raster.posing import pose_native
from avatar.rotations import rigid, rotvec_to_matrix

LEARNED = (
    *("means", "quats", "log_scales", "logit_opacities", "colours", "torso_logits", "offsets"),
)
LEVELS = [
    n for n, code in (("plain", 1), ("avx2", 2), ("avx512", 3)) if library().hs_has_simd(code)
]


def some_inputs(count: int, dtype: torch.dtype = torch.float64, seed: int = 0, turn: float = 1.0):
    """Gaussians of a face, both eyes, a torso and what is between; head and torso turned anyhow."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    vertices = 20
    values = {
        "means": 0.1 * normal(count, 3),
        "quats": normal(count, 4),
        "log_scales": -5 + normal(count, 3),
        "logit_opacities": 3 * normal(count),
        "colours": normal(count, 3),
        "torso_logits": 3 * normal(count),
        "offsets": normal(count, 13),
        "units": 0.02 + 0.1 * torch.rand(13, generator=g, dtype=torch.float64),
        "corner_weights": normal(count, 3),
        "displacement": 0.01 * normal(vertices, 3),
        "T_world_head": rigid(rotvec_to_matrix(turn * normal(3)), normal(3)),
        "T_world_torso": rigid(rotvec_to_matrix(3 * turn * normal(3)), normal(3)),
        "eye_turns": 0.3 * turn * normal(2, 2),
        "eye_centres": 0.03 * normal(2, 3),
    }
    values = {name: value.to(dtype) for name, value in values.items()}
    values["corners"] = torch.randint(0, vertices, (count, 3), generator=g, dtype=torch.int32)
    values["eye"] = torch.randint(-1, 2, (count,), generator=g).to(torch.int8)
    return values


def posed_and_gradients(pose, inputs):
    leaves = {n: inputs[n].clone().requires_grad_() for n in LEARNED}
    out = pose(**{**inputs, **leaves})
    g = torch.Generator().manual_seed(3)
    weights = [torch.randn(o.shape, generator=g, dtype=torch.float64).to(o.dtype) for o in out]
    torch.stack([(o * w).sum() for o, w in zip(out, weights, strict=True)]).sum().backward()
    return [o.detach() for o in out], [leaves[n].grad for n in LEARNED]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 700])
def test_double_agrees_with_the_twin(count):
    inputs = some_inputs(count)
    for got, expected in zip(
        posed_and_gradients(pose_native, inputs),
        posed_and_gradients(pose_reference, inputs),
        strict=True,
    ):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_float_agrees_with_the_twin_in_double(level, monkeypatch):
    monkeypatch.setenv("HEADSPLAT_SIMD", level)
    for seed in range(3):
        single = posed_and_gradients(pose_native, some_inputs(333, torch.float32, seed))
        double = posed_and_gradients(pose_reference, some_inputs(333, torch.float64, seed))
        for got, expected in zip(single, double, strict=True):
            for a, b in zip(got, expected, strict=True):
                scale = float(b.abs().max())
                torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6 * scale)


def test_gradients_agree_with_finite_differences():
    inputs = some_inputs(5, seed=4)
    fixed = {name: value for name, value in inputs.items() if name not in LEARNED}

    def pose(*leaves):
        return pose_native(**dict(zip(LEARNED, leaves, strict=True)), **fixed)

    leaves = tuple(inputs[n].requires_grad_() for n in LEARNED)
    torch.autograd.gradcheck(pose, leaves, atol=1e-7, rtol=1e-5)


def test_eyes_at_rest_and_the_shorter_way_round():
    # No turn at all is where the axis of a rotation vector is undefined; half a turn and more of the
    # torso is where its quaternion changes sign.
    for turn in (0.0, 1e-9, 1.2):
        inputs = some_inputs(40, seed=5, turn=turn)
        for a, b in zip(pose_native(**inputs), pose_reference(**inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_same_bits_for_any_number_of_threads():
    inputs = some_inputs(3000, torch.float32)
    results = []
    for threads in (1, 2, 5):
        with use_threads(threads):
            results.append(posed_and_gradients(pose_native, inputs))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_number_that_is_none_stays_in_its_own_gaussian():
    inputs = some_inputs(40, torch.float32)
    clean = pose_native(**inputs)
    for name in ("log_scales", "logit_opacities", "means", "torso_logits"):
        poisoned = dict(inputs)
        poisoned[name] = inputs[name].clone()
        poisoned[name][7] = float("nan")
        out = pose_native(**poisoned)
        assert any(torch.isnan(o[7]).any() for o in out)
        others = torch.arange(40) != 7
        for a, b in zip(out, clean, strict=True):
            assert torch.equal(a[others], b[others])


def test_a_corner_that_is_no_vertex_is_refused():
    for wrong in (-1, 20):
        inputs = some_inputs(30)
        inputs["corners"][17, 1] = wrong
        with pytest.raises(RuntimeError, match="no vertex"):
            pose_native(**inputs)


def test_the_op_keeps_the_rules_of_torch():
    inputs = some_inputs(9, torch.float32)
    for name in LEARNED:
        inputs[name].requires_grad_()
    names = (
        *(*LEARNED, "units", "corners", "corner_weights", "eye", "displacement"),
        *("T_world_head", "T_world_torso", "eye_turns", "eye_centres"),
    )
    torch.library.opcheck(torch.ops.headsplat.pose.default, tuple(inputs[n] for n in names))
