"""The rasterizer: every backend against the oracle, every gradient against finite differences."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avatar.checks import InputError
from avatar.raster import (
    available_backends,
    rasterize,
    rasterize_with_means2d,
    use_threads,
)
from avatar.raster import reference as oracle
from avatar.raster.library import SIMD, kernel_threads, library, one_torch_thread, simd_name
from avatar.raster.native import rasterize_native
from avatar.rotations import invert_rigid, matrix_to_quat, quat_multiply, rigid, rotvec_to_matrix
from avatar.types import Camera, Gaussians

ROOT = Path(__file__).resolve().parents[1]
LEVELS = [name for name, code in SIMD.items() if library().hs_has_simd(code)]


def a_camera(width: int = 24, height: int = 20, dtype: torch.dtype = torch.float64) -> Camera:
    f = 1.2 * width
    K = torch.tensor([[f, 0, width / 2 + 0.3], [0, f, height / 2 - 0.2], [0, 0, 1]], dtype=dtype)
    T = torch.eye(4, dtype=dtype)
    T[2, 3] = 0.5
    return Camera(K, T, width, height)


def scene(count: int, seed: int = 0, dtype: torch.dtype = torch.float64, spread: float = 0.12):
    """Random Gaussians before ``a_camera``: some large, some small, some opaque."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    gaussians = Gaussians(
        means=(uniform(count, 3) - 0.5) * 2 * spread,
        quats=torch.randn(count, 4, generator=g, dtype=torch.float64),
        scales=0.004 + 0.03 * uniform(count, 3),
        opacities=0.05 + 0.94 * uniform(count),
        colours=uniform(count, 3),
    )
    return gaussians.to(dtype)


def smooth_scene():
    """Four Gaussians so large and faint at the border that no pixel is near the 1/255 step."""
    gaussians = scene(4, seed=5, spread=0.05)
    return replace(
        gaussians,
        scales=0.25 + 0.1 * gaussians.scales,
        opacities=torch.tensor([0.7, 0.5, 0.8, 0.6], dtype=torch.float64),
    )


def leaves(gaussians: Gaussians) -> list[torch.Tensor]:
    names = ("means", "quats", "scales", "opacities", "colours")
    return [getattr(gaussians, n).clone().requires_grad_(True) for n in names]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_agree_with_finite_differences(backend):
    camera = a_camera(18, 13)
    parameters = leaves(smooth_scene())
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    T = camera.T_cam_world.clone().requires_grad_(True)

    def draw(means, quats, scales, opacities, colours, background, offset, T):
        out = rasterize_with_means2d(
            Gaussians(means, quats, scales, opacities, colours),
            Camera(camera.K, T, camera.width, camera.height),
            offset,
            background=background,
            backend=backend,
        )
        return out.rgb, out.alpha, out.depth

    torch.autograd.gradcheck(draw, (*parameters, background, offset, T), atol=1e-6, rtol=1e-4)


def both(gaussians: Gaussians, camera: Camera, backend: str, level: str = ""):
    """Picture and gradients of a random linear loss."""
    parameters = leaves(gaussians)
    background = torch.tensor([0.1, 0.6, 0.3], dtype=camera.K.dtype)
    out = rasterize(Gaussians(*parameters), camera, background=background, backend=backend)
    g = torch.Generator().manual_seed(7)
    weights = [
        torch.randn(t.shape, generator=g, dtype=torch.float64)
        for t in (out.rgb, out.alpha, out.depth)
    ]
    loss = sum(
        (w.to(t.dtype) * t).sum()
        for w, t in zip(weights, (out.rgb, out.alpha, out.depth), strict=True)
    )
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    return (out.rgb, out.alpha, out.depth), [p.grad for p in parameters]


def test_double_agrees_with_the_oracle_to_ten_digits():
    camera, gaussians = a_camera(70, 41), scene(200)
    pictures, gradients = both(gaussians, camera, "cpu")
    expected, expected_gradients = both(gaussians, camera, "reference")
    for a, b in zip(pictures, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    for a, b in zip(gradients, expected_gradients, strict=True):
        assert a is not None
        assert b is not None
        torch.testing.assert_close(a, b, atol=1e-10 * float(b.abs().max()), rtol=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_float_agrees_with_the_oracle(level, monkeypatch):
    monkeypatch.setenv("HEADSPLAT_SIMD", level)
    assert simd_name() == level
    camera, gaussians = a_camera(70, 41), scene(300, seed=1)
    pictures, gradients = both(gaussians.to(torch.float32), camera.to(torch.float32), "cpu")
    expected, expected_gradients = both(gaussians, camera, "reference")
    for a, b in zip(pictures[:2], expected[:2], strict=True):
        # A pair whose alpha is within rounding of 1/255 may flip: that moves a pixel by 1/255 at
        # most and happens in few.
        error = (a.double() - b).abs()
        assert error.max() < 5e-3
        assert (error > 2e-5).double().mean() < 2e-3
    for a, b in zip(gradients, expected_gradients, strict=True):
        assert a is not None
        assert b is not None
        distance = torch.linalg.norm(a.double() - b) / torch.linalg.norm(b)
        assert distance < 2e-3
        cosine = (a.double() * b).sum() / (torch.linalg.norm(a.double()) * torch.linalg.norm(b))
        assert cosine > 0.99999


@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_any_number_of_channels(channels):
    camera, gaussians = a_camera(33, 21), scene(60, seed=2)
    colours = torch.rand(
        60, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    many = replace(gaussians, colours=colours)
    for backend in ("cpu", "reference"):
        assert rasterize(many, camera, backend=backend).rgb.shape == (21, 33, channels)
    parameters = [leaves(many), leaves(many)]
    for p, backend in zip(parameters, ("cpu", "reference"), strict=True):
        rasterize(Gaussians(*p), camera, backend=backend).rgb.square().sum().backward()
    for a, b in zip(*parameters, strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-8)


def test_the_same_bits_for_any_number_of_threads():
    camera = a_camera(129, 100, torch.float32)
    gaussians = scene(2000, seed=3, dtype=torch.float32)
    results = []
    for threads in (1, 2, 5):
        with use_threads(threads):
            results.append(both(gaussians, camera, "cpu"))
    for pictures, gradients in results[1:]:
        for a, b in zip(pictures, results[0][0], strict=True):
            assert torch.equal(a, b)
        for a, b in zip(gradients, results[0][1], strict=True):
            assert a is not None
            assert b is not None
            assert torch.equal(a, b)


@pytest.mark.parametrize("count", [0, 1, 65])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 15), (3, 50)])
def test_any_count_and_size(count, size):
    camera = a_camera(*size)
    gaussians = scene(count, seed=4)
    pictures, _ = both(gaussians, camera, "cpu")
    expected, _ = both(gaussians, camera, "reference")
    for a, b in zip(pictures, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_a_hundred_thousand_gaussians(monkeypatch):
    camera = a_camera(130, 70, torch.float32)
    gaussians = scene(100_000, seed=9, dtype=torch.float32)
    results = []
    for level in LEVELS:
        monkeypatch.setenv("HEADSPLAT_SIMD", level)
        results.append(both(gaussians, camera, "cpu"))
    (pictures, gradients), *others = results
    assert all(torch.isfinite(p).all() for p in pictures)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)
    assert pictures[1].min() >= 0
    assert pictures[1].max() <= 1
    for other_pictures, _ in others:
        for a, b in zip(pictures[:2], other_pictures[:2], strict=True):
            assert ((a - b).abs() > 1e-4).double().mean() < 5e-3


def test_a_pixel_that_stopped_stays_stopped_on_the_way_back():
    # Each of two pixels of one block is stopped by Gaussians that colour nothing else of the block; what
    # lies behind must get its gradient from neither.
    camera = replace(a_camera(4, 1), T_cam_world=torch.eye(4, dtype=torch.float64))
    z = torch.tensor([1.0, 1.1, 1.2, 1.3, 1.4], dtype=torch.float64)
    centres = torch.tensor(
        [[1.5, 0.5], [1.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1.5, 0.5]], dtype=torch.float64
    )
    xy = (centres - camera.K[:2, 2]) / camera.K[[0, 1], [0, 1]] * z[:, None]
    scales = torch.tensor([1e-5, 1e-5, 1e-5, 1e-5, 0.5], dtype=torch.float64)
    gaussians = Gaussians(
        means=torch.cat([xy, z[:, None]], 1),
        quats=torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(5, 1),
        scales=scales[:, None].repeat(1, 3),
        opacities=torch.tensor([0.9985, 0.9985, 0.9, 0.9985, 0.5], dtype=torch.float64),
        colours=torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
    )
    _, gradients = both(gaussians, camera, "cpu")
    _, expected = both(gaussians, camera, "reference")
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


@pytest.mark.filterwarnings("ignore")  # torch's own, of its compiler
def test_drawing_goes_into_compiled_programs():
    camera, gaussians = a_camera(20, 20, torch.float32), scene(50, dtype=torch.float32)

    def loss(means: torch.Tensor) -> torch.Tensor:
        moved = replace(gaussians, means=2 * means)
        return rasterize(moved, camera).rgb.square().mean()

    means = [(0.5 * gaussians.means).requires_grad_() for _ in range(2)]
    plain, compiled = loss(means[0]), torch.compile(loss, backend="aot_eager")(means[1])
    plain.backward()
    compiled.backward()
    assert plain.item() == compiled.item()
    assert torch.equal(means[0].grad, means[1].grad)


def test_an_empty_scene_is_the_background():
    camera = a_camera(8, 8, torch.float32)
    background = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    out = rasterize(scene(0, dtype=torch.float32), camera, background=background)
    assert torch.equal(out.rgb, background)
    assert out.alpha.max() == 0
    assert out.depth.max() == 0


def test_opaque_splat_hides_what_is_behind():
    camera = a_camera(32, 32, torch.float32)
    one = torch.tensor
    gaussians = Gaussians(
        means=one([[0.0, 0, 0.1], [0.0, 0, 0]]),
        quats=one([[1.0, 0, 0, 0]] * 2),
        scales=torch.full((2, 3), 0.2),
        opacities=one([1.0, 1.0]),
        colours=one([[1.0, 0, 0], [0, 1.0, 0]]),
    )
    middle = rasterize(gaussians, camera).rgb[16, 16]
    assert middle[1] > 0.99  # the nearer one, although it comes second
    assert middle[0] < 0.01


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colours"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_poisoned_gaussian_leaves_the_others_alone(name, poison):
    camera = a_camera(40, 30, torch.float32)
    gaussians = scene(50, seed=6, dtype=torch.float32)
    poisoned = getattr(gaussians, name).clone()
    poisoned[13].fill_(poison)
    without = torch.arange(50) != 13
    clean = Gaussians(*(getattr(gaussians, n)[without] for n in vars(gaussians)))
    parameters = leaves(replace(gaussians, **{name: poisoned}))
    out = rasterize(Gaussians(*parameters), camera)
    expected = rasterize(clean, camera)
    torch.testing.assert_close(out.rgb, expected.rgb, atol=1e-6, rtol=0)
    out.rgb.sum().backward()
    for p in parameters:
        assert p.grad is not None
        assert torch.isfinite(p.grad[without]).all()
        assert torch.isfinite(p.grad).all()


def test_odd_gaussians_do_no_harm():
    """Behind, on and very near the camera; no size; no and full opacity; huge; denormal."""
    camera = a_camera(40, 30, torch.float32)
    gaussians = scene(12, seed=8, dtype=torch.float32)
    means, scales, opacities = (
        gaussians.means.clone(),
        gaussians.scales.clone(),
        gaussians.opacities.clone(),
    )
    means[0, 2], means[1, 2], means[2, 2] = -0.8, -0.5, -0.4999
    scales[3], scales[4], scales[5] = 0.0, 1e6, 1e-39
    opacities[6], opacities[7] = 0.0, 1.0
    means[8] = 1e30
    parameters = leaves(replace(gaussians, means=means, scales=scales, opacities=opacities))
    out = rasterize(Gaussians(*parameters), camera)
    assert torch.isfinite(out.rgb).all()
    out.rgb.square().sum().backward()
    for p in parameters:
        assert p.grad is not None
        assert torch.isfinite(p.grad).all()


def test_moving_scene_and_camera_together_changes_nothing():
    camera, gaussians = a_camera(40, 30), scene(80, seed=9)
    R = rotvec_to_matrix(torch.tensor([0.4, -1.0, 0.3], dtype=torch.float64))
    T = rigid(R, torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64))
    moved = replace(
        gaussians,
        means=gaussians.means @ R.T + T[:3, 3],
        quats=quat_multiply(matrix_to_quat(R).expand(80, 4), gaussians.quats),
    )
    view = replace(camera, T_cam_world=camera.T_cam_world @ invert_rigid(T))
    torch.testing.assert_close(
        rasterize(moved, view).rgb, rasterize(gaussians, camera).rgb, atol=1e-9, rtol=0
    )


def test_spherical_harmonics_are_orthonormal_and_degree_zero_is_plain():
    g = torch.Generator().manual_seed(0)
    d = torch.nn.functional.normalize(
        torch.randn(400_000, 3, generator=g, dtype=torch.float64), dim=1
    )
    columns = []
    for s in range(16):
        c = torch.zeros(len(d), 16, 3, dtype=torch.float64)
        c[:, s] = 0.01  # small, so that the clamp at zero does not act
        columns.append((oracle.spherical_harmonics(d, c, 3)[:, 0] - 0.5) / 0.01)
    Y = torch.stack(columns, 1)
    gram = Y.T @ Y * (4 * math.pi / len(d))
    # Monte-Carlo: 400k directions give about 0.005.
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=0.02, rtol=0)
    camera, gaussians = a_camera(20, 20), scene(10)
    sh = ((gaussians.colours - 0.5) / (0.5 / math.sqrt(math.pi)))[:, None]
    torch.testing.assert_close(
        rasterize(replace(gaussians, colours=sh), camera).rgb, rasterize(gaussians, camera).rgb
    )


def test_the_means2d_offset_moves_the_picture():
    camera = a_camera(40, 40, torch.float32)
    gaussians = scene(30, seed=3, dtype=torch.float32, spread=0.04)
    offset = torch.tensor([[3.0, 2.0]]).repeat(30, 1)
    moved = rasterize_with_means2d(gaussians, camera, offset).rgb
    expected = rasterize(gaussians, camera).rgb
    torch.testing.assert_close(moved[10:30, 10:30], expected[8:28, 7:27], atol=1e-4, rtol=0)


def test_the_custom_op_is_registered_as_torch_wants_it():
    camera, gaussians = a_camera(20, 12), smooth_scene()
    arguments = (
        *leaves(gaussians),
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(4, 2, dtype=torch.float64),
        camera.K,
        camera.T_cam_world,
        20,
        12,
    )
    torch.library.opcheck(
        torch.ops.headsplat.rasterize.default,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    assert rasterize_native(*arguments)[0].shape == (12, 20, 3)


def test_constants_of_kernels_and_oracle_are_the_same():
    text = (ROOT / "cuda_ext" / "include" / "constants.h").read_text()
    for name, value in (
        ("kEps2d", oracle.EPS2D),
        ("kMaxAlpha", oracle.MAX_ALPHA),
        ("kStopTransmittance", oracle.STOP_TRANSMITTANCE),
        ("kNearPlane", oracle.NEAR_PLANE),
        ("kTangentMargin", oracle.TANGENT_MARGIN),
    ):
        found = re.search(rf"{name} = ([^;]+);", text)
        assert found is not None
        assert float(found[1]) == value
    assert "kAlphaThreshold = 1.0 / 255.0" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(4, 2)}, r"means must have shape \[N, 3\]"),
        ({"quats": torch.zeros(5, 4)}, r"quats must have shape \[N, 4\] where N = 4; got \[5, 4\]"),
        ({"opacities": torch.zeros(4, 1)}, "opacities must have shape"),
        (
            {"scales": torch.zeros(4, 3, dtype=torch.float64)},
            "scales must be float32 or float64 as",
        ),
        ({"colours": torch.zeros(4, 5, 3), "sh": 2}, "sh_degree must be 0 to 3"),
        ({"background": torch.zeros(4)}, r"background must be \[3\] or \[20, 24, 3\]; got \[4\]"),
        ({"backend": "opengl"}, "backend must be one of"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    gaussians = scene(4, dtype=torch.float32)
    options = {
        "background": change.pop("background", None),
        "sh_degree": change.pop("sh", 0),
        "backend": change.pop("backend", "auto"),
    }
    with pytest.raises(ValueError, match=message):
        rasterize(replace(gaussians, **change), a_camera(dtype=torch.float32), **options)


def test_a_camera_with_nan_is_refused():
    camera = a_camera(dtype=torch.float32)
    K = camera.K.clone()
    K[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"camera\.K holds NaN"):
        rasterize(scene(4, dtype=torch.float32), replace(camera, K=K))
    with pytest.raises(ValueError, match="at least 1 pixel"):
        Camera(camera.K, camera.T_cam_world, 0, 10)


@pytest.mark.parametrize("backend", ["cuda", "gsplat"])
def test_a_backend_that_cannot_run_says_why_and_never_becomes_another(backend):
    assert not available_backends()[backend].startswith("ok")
    with pytest.raises(InputError, match=f"'{backend}' cannot run here"):
        rasterize(scene(4, dtype=torch.float32), a_camera(dtype=torch.float32), backend=backend)


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("HEADSPLAT_SIMD", "mmx")
    with pytest.raises(InputError, match="HEADSPLAT_SIMD must be one of"):
        simd_name()


def test_the_number_of_threads_is_asked_for_and_checked(monkeypatch):
    monkeypatch.setenv("HEADSPLAT_THREADS", "3")
    assert kernel_threads() == 3
    with use_threads(2):
        assert kernel_threads() == 2
    monkeypatch.setenv("HEADSPLAT_THREADS", "many")
    with pytest.raises(InputError, match="HEADSPLAT_THREADS must be a number"):
        kernel_threads()


def test_torch_gets_its_threads_back():
    before = torch.get_num_threads()
    with one_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_fitting_a_picture_converges():
    """An optimisation that must work: sixty steps bring the loss down by far."""
    camera = a_camera(48, 48, torch.float32)
    target = rasterize(scene(40, seed=10, dtype=torch.float32), camera).rgb
    start = scene(40, seed=11, dtype=torch.float32)
    parameters = leaves(start)
    adam = torch.optim.Adam(parameters, lr=0.01)
    losses = []
    for _ in range(60):
        adam.zero_grad()
        loss = (rasterize(Gaussians(*parameters), camera).rgb - target).square().mean()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 10
