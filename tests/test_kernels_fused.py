"""The fused training kernels: each against plain torch, on every instruction set of the machine."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from avatar.raster.fused import (
    FusedAdam,
    LowRankAdam,
    blend_offsets,
    l1_ssim_loss,
    unpack_target,
)
from avatar.raster.fused_reference import (
    blend_offsets_reference,
    l1_ssim_loss_reference,
    low_rank_gradient,
    ssim_map_reference,
    unpack_target_reference,
)
from avatar.raster.library import SIMD, library, use_threads

LEVELS = [name for name, code in SIMD.items() if library().hs_has_simd(code)]
SIZES = [(1, 1), (1, 40), (40, 1), (7, 13), (64, 33), (33, 64), (50, 130), (21, 530)]


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """Run the test once for each instruction set that this machine has."""
    monkeypatch.setenv("HEADSPLAT_SIMD", request.param)
    return request.param


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(kind: str, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image and its target, [H, W, 3]."""
    g = torch.Generator().manual_seed(height * 1000 + width)
    noise = torch.rand(height, width, 3, generator=g)
    if kind == "noise":
        return noise, torch.rand(height, width, 3, generator=g)
    if kind == "white":
        return 1 - 0.05 * noise, torch.ones(height, width, 3)
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width).expand(height, width)
    smooth = torch.stack([0.5 + 0.4 * torch.sin(3 * x), y, x * y], -1)
    if kind == "patch":  # equal pictures but for a patch: the kernel leaves out what is far from it
        image = smooth.clone()
        image[height // 2 :, width // 3 : width // 2 + 1][:9] *= 0.8
        return image, smooth
    return 0.95 * smooth + 0.01 * noise, smooth


def loss_and_gradient(loss_of, image, target, weight):
    image = image.clone().requires_grad_(True)
    loss = loss_of(image, target, weight)
    loss.backward()
    return float(loss.detach()), image.grad


# -- Target pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(0, 4), (1, 1), (3, 5), (1, 17), (16, 16), (90, 101)], ids=str)
def test_unpacked_bytes_are_the_twins(level, size):
    g = torch.Generator().manual_seed(0)
    rgba = torch.randint(0, 256, (*size, 4), dtype=torch.uint8, generator=g)
    colour = torch.tensor([0.1, 0.7, 0.4])
    for bytes_, background in ((rgba, None), (rgba[::2, 1:], None), (rgba, colour)):
        for count in (1, 2):
            with use_threads(count):
                got = unpack_target(bytes_, background)
            twins = unpack_target_reference(bytes_, background)
            for number, expected in zip(got, twins, strict=True):
                assert number.is_contiguous()
                torch.testing.assert_close(number, expected, rtol=0, atol=0)


def test_where_nobody_stands_a_target_has_exactly_the_background(level):
    rgba = torch.tensor([255, 255, 255, 0], dtype=torch.uint8).expand(5, 7, 4)
    for seed in range(5):
        colour = torch.rand(3, generator=torch.Generator().manual_seed(seed))
        picture, _ = unpack_target(rgba, colour)
        assert torch.equal(picture, colour.expand(5, 7, 3))


def test_every_byte_is_divided_by_255(level):
    byte = torch.arange(256, dtype=torch.uint8)
    picture, mask = unpack_target(torch.stack([byte, byte.flip(0), byte, byte], -1)[None])
    expected = byte.float() / 255
    assert torch.equal(picture[0], torch.stack([expected, expected.flip(0), expected], -1))
    assert torch.equal(mask[0], expected)


# -- The picture loss ---------------------------------------------------------------------------------


# Bounds on the loss, and on the gradient's error as a part of its largest number. Rounding is 1e-7 of
# the local mean square, and SSIM divides by the local variance + 9e-4: in a nearly flat white picture
# that is 1e-4 of each pixel's share.
@pytest.mark.parametrize(
    ("kind", "loss_bound", "bound"),
    [
        ("noise", 1e-6, 2e-6),
        ("smooth", 1e-6, 1e-4),
        ("white", 3e-6, 3e-4),
        ("patch", 1e-6, 1e-4),
    ],
)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_loss_and_gradient_agree_with_the_twin_in_double(level, kind, loss_bound, bound, size):
    image, target = pictures(kind, *size)
    for weight in (0.0, 0.2, 1.0):
        loss, gradient = loss_and_gradient(l1_ssim_loss, image, target, weight)
        expected, expected_gradient = loss_and_gradient(
            l1_ssim_loss_reference, image.double(), target.double(), weight
        )
        assert abs(loss - expected) < loss_bound
        error = float((gradient - expected_gradient).abs().max())
        assert error < 2e-6
        assert error < bound * float(expected_gradient.abs().max())


def test_the_twin_has_the_gradient_of_finite_differences():
    image, target = (p.double() for p in pictures("noise", 6, 7))
    torch.autograd.gradcheck(
        lambda x: l1_ssim_loss_reference(x, target, 0.2), image.requires_grad_(True)
    )


def test_the_kernel_has_the_gradient_of_finite_differences(level):
    image, target = pictures("noise", 21, 19)
    _, gradient = loss_and_gradient(l1_ssim_loss, image, target, 0.5)
    direction = normal(21, 19, 3)
    step = 3e-3
    # |x - y| has a kink at y, which no difference may cross.
    direction[(image - target).abs() < 2 * step * direction.abs()] = 0
    above = float(l1_ssim_loss(image + step * direction, target, 0.5))
    below = float(l1_ssim_loss(image - step * direction, target, 0.5))
    slope = float((gradient * direction).sum())
    # Rounding of the two losses leaves 1e-7 / 6e-3, their third derivative about as much.
    assert math.isclose((above - below) / (2 * step), slope, abs_tol=1e-4)


def test_ssim_agrees_with_another_implementation():
    """Far from the border, scikit-image computes the same thing."""
    from skimage.metrics import structural_similarity

    image, target = (p.double() for p in pictures("noise", 40, 44))
    _, other = structural_similarity(
        image.numpy(),
        target.numpy(),
        channel_axis=2,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    ours = ssim_map_reference(image, target)
    torch.testing.assert_close(ours[5:-5, 5:-5], torch.from_numpy(other)[5:-5, 5:-5])


def test_equal_pictures_have_no_loss_and_no_gradient_at_all(level):
    """Adam would blow up rounding noise in the background to full steps."""
    _, target = pictures("smooth", 40, 50)
    target[:20] = 1
    assert loss_and_gradient(l1_ssim_loss, target, target, 0.2)[0] == 0
    assert torch.all(loss_and_gradient(l1_ssim_loss, target, target, 0.2)[1] == 0)
    changed = target.clone()
    changed[30:] += 0.1
    gradient = loss_and_gradient(l1_ssim_loss, changed, target, 0.2)[1]
    assert torch.all(gradient[:20] == 0)
    assert float(gradient[30:].abs().min()) > 0


def test_denormals_count_as_zero(level):
    _, target = pictures("smooth", 20, 20)
    tiny = torch.full_like(target, 1e-40)
    loss, gradient = loss_and_gradient(l1_ssim_loss, tiny, target, 0.2)
    expected, expected_gradient = loss_and_gradient(
        l1_ssim_loss, torch.zeros_like(tiny), target, 0.2
    )
    assert loss == expected
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0)
    # The caller's own arithmetic keeps its denormals.
    assert float(torch.tensor(1e-38) * 0.01) > 0


def test_a_nan_shows_in_the_loss(level):
    image, target = pictures("noise", 16, 16)
    image[3, 4, 1] = math.nan
    assert math.isnan(float(l1_ssim_loss(image, target, 0.2)))
    # Also where all else is equal, and the kernel has nothing to do.
    image = target.clone()
    image[3, 4, 1] = math.nan
    loss, gradient = loss_and_gradient(l1_ssim_loss, image, target, 0.2)
    assert math.isnan(loss)
    assert math.isnan(float(gradient[3, 4, 1]))


def test_views_are_as_good_as_copies():
    image, target = pictures("noise", 30, 30)
    expected = l1_ssim_loss(image[2:20, 3:18].contiguous(), target[2:20, 3:18].contiguous(), 0.2)
    assert torch.equal(l1_ssim_loss(image[2:20, 3:18], target[2:20, 3:18], 0.2), expected)
    planes = image.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(l1_ssim_loss(planes, target, 0.2), l1_ssim_loss(image, target, 0.2))


def test_the_incoming_gradient_scales_and_other_terms_add():
    image, target = pictures("noise", 12, 12)
    _, once = loss_and_gradient(l1_ssim_loss, image, target, 0.2)
    image.requires_grad_(True)
    (3 * l1_ssim_loss(image, target, 0.2) + image.sum()).backward()
    torch.testing.assert_close(image.grad, 3 * once + 1)


def test_a_second_derivative_is_refused():
    image, target = pictures("noise", 8, 8)
    image.requires_grad_(True)
    loss = l1_ssim_loss(image, target, 0.2)
    (gradient,) = torch.autograd.grad(loss, image, create_graph=True)
    with pytest.raises(RuntimeError, match="l1_ssim_backward"):
        gradient.square().sum().backward()


def test_descending_the_loss_finds_the_target(level):
    image, target = pictures("noise", 24, 24)
    image.requires_grad_(True)
    adam = FusedAdam([image], lr=0.02)
    for _ in range(150):
        adam.zero_grad()
        l1_ssim_loss(image, target, 0.5).backward()
        adam.step()
    assert float((image - target).abs().mean().detach()) < 0.02


# -- The blend ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 13), (20, 700, 13), (0, 5, 3), (4, 0, 3)])
def test_blend_and_its_gradients_agree_with_the_twin(level, shape):
    offsets, weights, v_blend = normal(*shape), normal(shape[0], seed=1), normal(*shape[1:], seed=2)
    results = []
    for blend_of, dtype in (
        (blend_offsets, torch.float32),
        (blend_offsets_reference, torch.float64),
    ):
        o = offsets.clone().to(dtype).requires_grad_(True)
        w = weights.clone().to(dtype).requires_grad_(True)
        blend = blend_of(o, w)
        blend.backward(v_blend.to(dtype))
        results.append([t.detach().double() for t in (blend, o.grad, w.grad)])
    # Sums of up to 20 and 9100 numbers of size 1, each with a rounding error of 6e-8.
    for (got, expected), bound in zip(zip(*results, strict=True), (2e-6, 1e-6, 1e-4), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=bound)


def test_offsets_that_need_no_gradient_get_none():
    offsets, weights = normal(4, 50, 13), normal(4).requires_grad_(True)
    blend_offsets(offsets, weights).sum().backward()
    assert offsets.grad is None
    torch.testing.assert_close(weights.grad, offsets.sum((1, 2)), rtol=1e-5, atol=1e-5)


# -- Adam ---------------------------------------------------------------------------------------------

SHAPES = {"means": (700, 3), "quats": (700, 4), "opacities": (700,), "one": (1,), "big": (6000, 3)}


def assert_same_steps(got: torch.Tensor, expected: torch.Tensor, start: torch.Tensor) -> None:
    """Compare how far two Adams in float32 have moved a tensor from ``start``."""
    # A step is lr times a ratio of two rounded numbers, added to a rounded number.
    torch.testing.assert_close(got - start, expected - start, rtol=2e-5, atol=2e-6)


def test_fused_adam_is_torch_adam(level):
    start = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES.items())}
    rates = {name: 10.0 ** -(1 + i) for i, name in enumerate(SHAPES)}
    both = []
    for make in (FusedAdam, lambda g: torch.optim.Adam(g, betas=(0.9, 0.999), eps=1e-15)):
        parameters = {n: torch.nn.Parameter(v.clone()) for n, v in start.items()}
        adam = make([{"params": [p], "lr": rates[n], "name": n} for n, p in parameters.items()])
        for step in range(20):
            for i, (name, p) in enumerate(parameters.items()):
                # Gradients of very different sizes, exact zeros, and a parameter that is left out at times.
                p.grad = normal(*p.shape, seed=100 * step + i) * 10.0 ** (-6 * i % 13 - step % 4)
                p.grad[::7] = 0
                if name == "quats" and step % 3 == 1:
                    p.grad = None
            adam.step()
        both.append((parameters, adam))
    (ours, our_adam), (theirs, their_adam) = both
    for name, p in ours.items():
        assert_same_steps(p.detach(), theirs[name].detach(), start[name])
        state, their_state = our_adam.state[p], their_adam.state[theirs[name]]
        assert state["step"] == int(their_state["step"])
        for moment in ("exp_avg", "exp_avg_sq"):
            scale = float(their_state[moment].abs().max())
            torch.testing.assert_close(
                state[moment], their_state[moment], rtol=1e-5, atol=1e-6 * scale
            )


def test_fused_adam_resumes_from_its_state_dict():
    def run(steps: int, adam: FusedAdam, p: torch.nn.Parameter, first: int) -> None:
        for step in range(first, first + steps):
            p.grad = normal(*p.shape, seed=step)
            adam.step()

    p = torch.nn.Parameter(normal(40, 3))
    adam = FusedAdam([{"params": [p], "lr": 0.01, "name": "means"}])
    run(3, adam, p, 0)
    q = torch.nn.Parameter(p.detach().clone())
    other = FusedAdam([{"params": [q], "lr": 0.5}])
    other.load_state_dict(copy.deepcopy(adam.state_dict()))
    run(3, adam, p, 3)
    run(3, other, q, 3)
    assert torch.equal(p, q)


def test_moments_may_be_indexed_when_gaussians_are_added_and_dropped():
    source = torch.tensor([0, 2, 2, 5])
    p = torch.nn.Parameter(normal(6, 3))
    adam = FusedAdam([{"params": [p], "lr": 0.01}])
    p.grad = normal(6, 3, seed=1)
    adam.step()
    q = torch.nn.Parameter(p.detach()[source])
    state = adam.state.pop(p)
    adam.state[q] = {k: v[source] if isinstance(v, torch.Tensor) else v for k, v in state.items()}
    adam.param_groups[0]["params"] = [q]
    for parameter, a in ((p, FusedAdam([{"params": [p], "lr": 0.01}])), (q, adam)):
        parameter.grad = normal(6, 3, seed=2)[: len(parameter)]
        if parameter is q:
            parameter.grad = normal(6, 3, seed=2)[source]
        else:
            a.state[p] = state
        a.step()
    assert torch.equal(q.detach(), p.detach()[source])


def test_a_step_tells_autograd_that_the_parameter_changed():
    p = torch.nn.Parameter(normal(5))
    p.grad = torch.ones(5)
    kept = p.square().sum()
    FusedAdam([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_fused_adam_calls_the_closure():
    p = torch.nn.Parameter(normal(5))

    def closure():
        loss = p.square().sum()
        loss.backward()
        return loss

    before = p.detach().clone()
    assert float(FusedAdam([p]).step(closure).detach()) == float(before.square().sum())
    assert not torch.equal(p, before)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 13), (3, 1500, 13)])
def test_low_rank_adam_is_torch_adam_on_the_whole_gradient(level, shape, frames):
    start = normal(*shape)
    parameter, theirs = start.clone(), torch.nn.Parameter(start.clone())
    ours = LowRankAdam(parameter, lr=0.02)
    adam = torch.optim.Adam([theirs], lr=0.02, betas=(0.9, 0.999), eps=1e-15)
    for step in range(20):
        weights = normal(frames, shape[0], seed=2 * step)
        weights[:, ::4] = 0
        v_blend = normal(frames, *shape[1:], seed=2 * step + 1) * 10.0 ** (-(step % 5))
        v_blend[:, ::3] = 0
        ours.lr = adam.param_groups[0]["lr"] = 0.02 * 0.9**step
        expected = torch.einsum("knc,rnc->rk", parameter.double(), v_blend.double())
        v_weights = ours.step(weights, v_blend)
        scale = float(expected.abs().max()) + 1e-30
        torch.testing.assert_close(v_weights.double(), expected, rtol=1e-4, atol=1e-5 * scale)
        theirs.grad = low_rank_gradient(weights, v_blend)
        adam.step()
    assert_same_steps(parameter, theirs.detach(), start)
    state, their_state = ours.state_dict(), adam.state[theirs]
    assert int(state["steps"]) == 20
    for moment in ("exp_avg", "exp_avg_sq"):
        scale = float(their_state[moment].abs().max())
        torch.testing.assert_close(state[moment], their_state[moment], rtol=1e-5, atol=1e-6 * scale)


def test_low_rank_adam_resumes_from_its_state_dict():
    parameter = normal(3, 20, 13)
    adam = LowRankAdam(parameter, lr=0.01)
    adam.step(normal(1, 3, seed=1), normal(1, 20, 13, seed=2))
    twin = parameter.clone()
    other = LowRankAdam(twin, lr=0.01)
    other.load_state_dict(adam.state_dict())
    for a in (adam, other):
        a.step(normal(2, 3, seed=3), normal(2, 20, 13, seed=4))
    assert torch.equal(parameter, twin)
    assert torch.equal(adam.state_dict()["exp_avg"], other.state_dict()["exp_avg"])


# -- All of them --------------------------------------------------------------------------------------


def test_the_number_of_threads_changes_nothing(level):
    image, target = pictures("noise", 77, 300)
    offsets, weights = normal(6, 2500, 13), normal(6, seed=1)
    v_blend = normal(2500, 13, seed=2)
    results = []
    for count in (1, 2, 3, 7):
        with use_threads(count):
            loss, gradient = loss_and_gradient(l1_ssim_loss, image, target, 0.2)
            w = weights.clone().requires_grad_(True)
            blend = blend_offsets(offsets, w)
            blend.backward(v_blend)
            moved, low_rank = torch.nn.Parameter(offsets.clone()), offsets.clone()
            moved.grad = low_rank_gradient(weights[None], v_blend[None])
            FusedAdam([moved], lr=0.01).step()
            v_weights = LowRankAdam(low_rank, lr=0.01).step(weights[None], v_blend[None])
        found = (gradient, blend, w.grad, moved, low_rank, v_weights)
        results.append((torch.tensor(loss), *(t.detach().clone() for t in found)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_ops_keep_the_rules_of_torch():
    image, target = pictures("noise", 9, 8)
    image.requires_grad_(True)
    torch.library.opcheck(torch.ops.headsplat.l1_ssim.default, (image, target, 0.2, True))
    torch.library.opcheck(torch.ops.headsplat.l1_ssim.default, (image.detach(), target, 0.2, False))
    gradient = normal(9, 8, 3)
    torch.library.opcheck(
        torch.ops.headsplat.l1_ssim_backward.default, (torch.tensor(2.0), gradient, target)
    )
    offsets, weights = normal(3, 5, 13).requires_grad_(True), normal(3).requires_grad_(True)
    torch.library.opcheck(torch.ops.headsplat.blend_offsets.default, (offsets, weights))
    torch.library.opcheck(
        torch.ops.headsplat.blend_offsets_backward.default, (offsets.detach(), normal(5, 13))
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: unpack_target(torch.zeros(4, 4, 3, dtype=torch.uint8)),
            r"rgba must have shape \[H, W, 4\]; got \[4, 4, 3\]",
        ),
        (
            lambda: unpack_target(torch.zeros(4, 4, 4)),
            r"rgba must be uint8; got torch\.float32",
        ),
        (
            lambda: unpack_target(torch.zeros(4, 4, 4, dtype=torch.uint8, device="meta")),
            "rgba must be a dense CPU or CUDA tensor",
        ),
        (
            lambda: unpack_target(torch.zeros(4, 4, 4, dtype=torch.uint8), torch.zeros(4)),
            r"background must have shape \[3\]; got \[4\]",
        ),
        (
            lambda: l1_ssim_loss(torch.zeros(4, 4), torch.zeros(4, 4, 3), 0.2),
            r"image must have shape \[H, W, 3\]; got \[4, 4\]",
        ),
        (
            lambda: l1_ssim_loss(torch.zeros(4, 4, 3), torch.zeros(4, 5, 3), 0.2),
            r"target must have shape \[H, W, 3\] where H = 4, W = 4; got \[4, 5, 3\]",
        ),
        (
            lambda: l1_ssim_loss(torch.zeros(4, 4, 3).double(), torch.zeros(4, 4, 3), 0.2),
            r"image must be float32; got torch\.float64",
        ),
        (
            lambda: l1_ssim_loss(torch.zeros(4, 4, 3), torch.zeros(4, 4, 3, device="meta"), 0.2),
            "target must be a dense CPU tensor",
        ),
        (
            lambda: l1_ssim_loss(
                torch.zeros(4, 4, 3), torch.zeros(4, 4, 3, requires_grad=True), 0.2
            ),
            "target must not require a gradient",
        ),
        (
            lambda: l1_ssim_loss(torch.zeros(4, 4, 3), torch.zeros(4, 4, 3), 1.5),
            r"ssim_weight must be in \[0, 1\]; got 1\.5",
        ),
        (
            lambda: l1_ssim_loss(torch.zeros(0, 4, 3), torch.zeros(0, 4, 3), 0.2),
            r"image must have at least 1 pixel; got \[0, 4, 3\]",
        ),
        (
            lambda: blend_offsets(torch.zeros(2, 5, 3), torch.zeros(3)),
            r"weights must have shape \[K\] where K = 2, N = 5, C = 3; got \[3\]",
        ),
        (
            lambda: blend_offsets(torch.zeros(5, 2, 3).transpose(0, 1), torch.zeros(2)),
            "offsets must be contiguous",
        ),
        (
            lambda: FusedAdam([torch.zeros(4, 3).t()]),
            "parameter must be contiguous",
        ),
        (
            lambda: FusedAdam([{"params": [torch.zeros(4).double()], "name": "means"}]),
            r"means must be float32; got torch\.float64",
        ),
        (lambda: FusedAdam([torch.zeros(4)], lr=-1.0), "lr must be at least 0; got -1.0"),
        (
            lambda: LowRankAdam(torch.zeros(4, 3), lr=0.1),
            r"parameter must have shape \[K, N, C\]; got \[4, 3\]",
        ),
        (
            lambda: LowRankAdam(torch.zeros(2, 4, 3), lr=0.1).step(
                torch.zeros(1, 2), torch.zeros(1, 5, 3)
            ),
            r"blend_gradient must have shape \[R, N, C\] where .*N = 4, C = 3; got \[1, 5, 3\]",
        ),
        (
            lambda: LowRankAdam(torch.zeros(2, 4, 3), lr=0.1).step(
                torch.zeros(0, 2), torch.zeros(0, 4, 3)
            ),
            "weights must hold at least 1 frame",
        ),
        (
            lambda: LowRankAdam(torch.zeros(2, 4, 3), lr=0.1).load_state_dict(
                LowRankAdam(torch.zeros(2, 5, 3), lr=0.1).state_dict()
            ),
            r"state's exp_avg must have shape \[2, 4, 3\] as the parameter has; got \[2, 5, 3\]",
        ),
        (
            lambda: LowRankAdam(torch.zeros(2, 4, 3), lr=0.1).load_state_dict({"steps": 3}),
            "state must hold exp_avg, exp_avg_sq and steps",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_moment_that_does_not_fit_its_parameter_is_refused():
    p = torch.nn.Parameter(normal(6, 3))
    adam = FusedAdam([{"params": [p], "lr": 0.01, "name": "means"}])
    p.grad = normal(6, 3)
    adam.step()
    adam.state[p]["exp_avg"] = torch.zeros(5, 3)
    with pytest.raises(ValueError, match=r"means's exp_avg must have shape \[6, 3\]"):
        adam.step()
