"""The CUDA rasterizer: its very sources, run by the emulator of tests/emulator; and on a GPU where one is."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
import sys
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from emulator import (
    address_sanitizer,
    build_emulated,
    sanitizer_environment,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avatar.raster import rasterize_with_means2d
from avatar.raster.cuda import cuda_library
from avatar.raster.front import Backend
from avatar.raster.native import RECORD, _Gradients, _Picture, _rasterize, _Scene
from avatar.types import Camera, Gaussians

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "cuda_ext" / "cuda").glob("raster*.cu"))
BACKWARD = {"warp": 0, "gaussian": 1}
GUARD = 256
"""Bytes before and after each array that must come back as they were."""
SANITIZED = "HEADSPLAT_EMULATOR_SANITIZED"
"""Set in the process that runs with libasan."""


DEVICES = ["emulated", *(["gpu"] if torch.cuda.is_available() else [])]
_device: ContextVar[str] = ContextVar("device", default="emulated")


@pytest.fixture(params=DEVICES, autouse=True, scope="module")
def _each_device(request):
    """Run every test on the emulator, and on the GPU where there is one."""
    token = _device.set(request.param)
    yield
    _device.reset(token)


def kernels() -> ctypes.CDLL:
    return _kernels(_device.get())


@cache
def _kernels(device: str) -> ctypes.CDLL:
    emulated = device == "emulated"
    library = (
        build_emulated(SOURCES, sanitize=SANITIZED in os.environ) if emulated else cuda_library()
    )
    library.hs_cuda_state_bytes.restype = ctypes.c_int64
    library.hs_cuda_scratch_bytes.restype = ctypes.c_int64
    library.hs_cuda_message.restype = ctypes.c_char_p
    return library


class Memory:
    """Arrays with guards around them, filled with NaN so that reading what nobody wrote shows."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self.device = "cpu" if _device.get() == "emulated" else "cuda"

    def bytes(self, count: int) -> Tensor:
        size = count + 2 * GUARD + 15
        block = torch.full((size,), 0xFF, dtype=torch.uint8, device=self.device)
        self.blocks.append(block)
        start = GUARD + -(block.data_ptr() + GUARD) % 16
        block[:start], block[start + count :] = 0xA5, 0xA5
        return block[start : start + count]

    def floats(self, *shape: int) -> Tensor:
        return self.bytes(4 * math.prod(shape)).view(torch.float32).view(shape)

    def copy(self, tensor: Tensor) -> Tensor:
        to = self.floats(*tensor.shape)
        return to.copy_(tensor.detach())

    def guards_are_whole(self) -> bool:
        for block in self.blocks:
            start = GUARD + -(block.data_ptr() + GUARD) % 16
            if not bool((block[:start] == 0xA5).all() and (block[-GUARD:] == 0xA5).all()):
                return False
        return True


@dataclass
class Drawn:
    """What came out: pictures, counts, and gradients by name where a loss was given."""

    image: Tensor
    alpha: Tensor
    depth: Tensor
    counts: list[int]
    boxes: Tensor
    records: Tensor
    gradients: dict[str, Tensor]

    def tensors(self) -> list[Tensor]:
        return [self.image, self.alpha, self.depth, *self.gradients.values()]


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


def check(code: int) -> None:
    assert code == 0, kernels().hs_cuda_message(code).decode()


def draw(
    gaussians: Gaussians,
    camera: Camera,
    *,
    background: Tensor | None = None,
    offset: Tensor | None = None,
    weights: tuple[Tensor | None, ...] | None = None,
    backward: str = "warp",
    capacity: int = 20_000,
    seed: int = 0,
) -> Drawn:
    """Draw in the emulator, and go back from the gradients ``weights`` of image, alpha and depth."""
    library, ref, memory = kernels(), ctypes.byref, Memory()
    stream = None
    if _device.get() == "emulated":
        library.hs_emulator_seed(ctypes.c_uint64(seed))
    else:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    names = ("means", "quats", "scales", "opacities", "colours")
    arrays = [memory.copy(getattr(gaussians, name)) for name in names]
    count, channels = arrays[4].shape
    width, height = camera.width, camera.height
    behind = None if background is None else memory.copy(background)
    moved = None if offset is None else memory.copy(offset)
    K, T = memory.copy(camera.K), memory.copy(camera.T_cam_world)
    stride = channels if background is not None and background.ndim == 3 else 0
    scene = _Scene(
        *(count, channels, width, height),
        *(pointer(a) for a in arrays),
        *(pointer(behind), stride, pointer(moved), pointer(K), pointer(T)),
    )
    way, room = ctypes.c_int32(BACKWARD[backward]), ctypes.c_int64(capacity)
    state = memory.bytes(int(library.hs_cuda_state_bytes(ref(scene), room, way)))
    scratch = memory.bytes(int(library.hs_cuda_scratch_bytes(ref(scene), room)))
    records, boxes = memory.floats(count, RECORD), memory.bytes(8 * count)
    counts = memory.bytes(32).view(torch.int64)
    image = memory.floats(height, width, channels)
    alpha, depth = memory.floats(height, width), memory.floats(height, width)
    picture = _Picture(pointer(image), pointer(alpha), pointer(depth))
    at = ctypes.c_void_p
    check(
        library.hs_cuda_rasterize(
            *(ref(scene), room, way, at(pointer(records)), at(pointer(boxes)), at(pointer(state))),
            *(at(pointer(scratch)), ref(picture), at(pointer(counts)), stream),
        )
    )
    gradients: dict[str, Tensor] = {}
    if weights is not None:
        scratch.fill_(0xFF)  # nothing may be handed over in it
        incoming = [None if w is None else memory.copy(w) for w in weights]
        gradients = {name: memory.floats(*a.shape) for name, a in zip(names, arrays, strict=True)}
        gradients["means2d"] = memory.floats(count, 2)
        gradients["background"] = memory.floats(height, width, channels)
        gradients["T_cam_world"] = memory.floats(4, 4)
        wanted = _Gradients(
            *(pointer(v) for v in incoming), *(pointer(v) for v in gradients.values())
        )
        check(
            library.hs_cuda_rasterize_backward(
                *(ref(scene), room, way, at(pointer(records)), at(pointer(state))),
                *(at(pointer(scratch)), ref(picture), ref(wanted), stream),
            )
        )
    assert memory.guards_are_whole()
    return Drawn(
        image.cpu(),
        alpha.cpu(),
        depth.cpu(),
        counts.tolist(),
        boxes.view(torch.int16).view(-1, 4).cpu(),
        records.cpu(),
        {name: v.cpu() for name, v in gradients.items()},
    )


def expected(
    gaussians: Gaussians,
    camera: Camera,
    *,
    background: Tensor | None = None,
    offset: Tensor | None = None,
    weights: tuple[Tensor | None, ...] | None = None,
    backend: Backend = "cpu",
) -> Drawn:
    """Draw the same numbers in double on the CPU."""
    double = torch.float64
    names = ("means", "quats", "scales", "opacities", "colours")
    leaves = {n: getattr(gaussians, n).to(double).requires_grad_(True) for n in names}
    channels = gaussians.colours.shape[1]
    size = (camera.height, camera.width)
    plain = torch.zeros(channels) if background is None else background
    leaves["means2d"] = (
        torch.zeros(len(gaussians.means), 2, dtype=double) if offset is None else offset.to(double)
    ).requires_grad_(True)
    leaves["background"] = (
        plain.to(double).expand(*size, channels).contiguous().requires_grad_(True)
    )
    leaves["T_cam_world"] = camera.T_cam_world.to(double).requires_grad_(True)
    out = rasterize_with_means2d(
        Gaussians(*(leaves[n] for n in names)),
        Camera(camera.K.to(double), leaves["T_cam_world"], camera.width, camera.height),
        leaves["means2d"],
        background=leaves["background"],
        backend=backend,
    )
    gradients: dict[str, Tensor] = {}
    if weights is not None:
        loss = torch.zeros((), dtype=double)
        for w, t in zip(weights, (out.rgb, out.alpha, out.depth), strict=True):
            if w is not None:
                loss = loss + (w.to(double) * t).sum()
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        gradients = {
            n: torch.zeros_like(leaf) if v is None else v
            for (n, leaf), v in zip(leaves.items(), found, strict=True)
        }
    none = torch.empty(0)
    image, alpha, depth = (t.detach() for t in (out.rgb, out.alpha, out.depth))
    return Drawn(image, alpha, depth, [], none, none, gradients)


def a_camera(width: int = 24, height: int = 20) -> Camera:
    f = 1.2 * width
    K = torch.tensor([[f, 0, width / 2 + 0.3], [0, f, height / 2 - 0.2], [0, 0, 1]])
    T = torch.eye(4)
    T[:3, :3] = torch.tensor([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    T[2, 3] = 0.5
    return Camera(K, T, width, height)


def scene(count: int, seed: int = 0, channels: int = 3, size: float = 0.03) -> Gaussians:
    """Random Gaussians before ``a_camera``: some large, some small, some opaque."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g)

    return Gaussians(
        means=(uniform(count, 3) - 0.5) * 0.3,
        quats=torch.randn(count, 4, generator=g),
        scales=0.004 + size * uniform(count, 3),
        opacities=0.05 + 0.949 * uniform(count),
        colours=uniform(count, channels),
    )


def random_weights(camera: Camera, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    size = (camera.height, camera.width)
    return (
        torch.randn(*size, channels, generator=g),
        torch.randn(*size, generator=g),
        torch.randn(*size, generator=g),
    )


def assert_alike(found: Drawn, double: Drawn) -> None:
    """Compare float kernels with double ones.

    A pair whose alpha is within rounding of 1/255 may flip: that moves a pixel by 1/255 of a colour
    and happens in few; elsewhere float's sums of some tens of terms, and ex2.approx's 2^-22, stay under
    2e-5. A gradient's error is the rounding of exponents (their terms reach some hundreds) times the
    same flips, so it is bounded as a whole.
    """
    for a, b in ((found.image, double.image), (found.alpha, double.alpha)):
        error = (a.double() - b).abs()
        assert error.max() < 5e-3
        assert (error > 2e-5).double().mean() < 2e-3
    depth_error = (found.depth.double() - double.depth).abs()
    assert (depth_error > 1e-4).double().mean() < 2e-3
    for name, b in double.gradients.items():
        a = found.gradients[name].double()
        assert torch.isfinite(a).all(), name
        largest = torch.linalg.norm(b)
        assert torch.linalg.norm(a - b) <= 2e-3 * largest + 1e-6, name


@pytest.mark.parametrize("backward", BACKWARD)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_pictures_and_all_gradients_agree_with_double(backend, backward):
    camera, gaussians = a_camera(70, 41), scene(300, seed=1)
    options = {
        "background": torch.tensor([0.1, 0.6, 0.3]),
        "offset": torch.randn(300, 2, generator=torch.Generator().manual_seed(3)),
        "weights": random_weights(camera),
    }
    found = draw(gaussians, camera, backward=backward, **options)
    assert_alike(found, expected(gaussians, camera, backend=backend, **options))
    for name, v in found.gradients.items():
        assert v.abs().max() > 0, name


@pytest.mark.parametrize("backward", BACKWARD)
@pytest.mark.parametrize("count", [0, 1, 65, 3000])
def test_any_count(count, backward):
    camera, gaussians = a_camera(50, 37), scene(count, seed=4, size=0.006)
    weights = random_weights(camera)
    found = draw(gaussians, camera, weights=weights, backward=backward)
    assert_alike(found, expected(gaussians, camera, weights=weights))


@pytest.mark.parametrize("backward", BACKWARD)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 15), (3, 50), (49, 8)])
def test_any_size(size, backward):
    camera, gaussians = a_camera(*size), scene(80, seed=5)
    weights = random_weights(camera)
    found = draw(gaussians, camera, weights=weights, backward=backward)
    assert_alike(found, expected(gaussians, camera, weights=weights))


@pytest.mark.parametrize("backward", BACKWARD)
def test_large_gaussians_among_small_ones(backward):
    """Boxes of more tiles than one thread tests by itself, and some of 32 and more."""
    camera, gaussians = a_camera(150, 100), scene(70, seed=11, size=0.002)
    scales = gaussians.scales.clone()
    scales[::7] = 0.03
    scales[3::20] = torch.tensor([0.3, 0.01, 0.1])
    some_large = replace(gaussians, scales=scales)
    weights = random_weights(camera)
    found = draw(some_large, camera, weights=weights, backward=backward)
    areas = (found.boxes[:, 1] - found.boxes[:, 0]) * (found.boxes[:, 3] - found.boxes[:, 2])
    assert areas.max() > 64
    assert ((areas > 0) & (areas < 9)).sum() > 40
    assert_alike(found, expected(some_large, camera, weights=weights))
    half = found.counts[1] // 2
    cut = draw(some_large, camera, weights=weights, backward=backward, capacity=half)
    assert cut.counts[1:3] == [found.counts[1], half]
    for tensor in cut.tensors():
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("backward", BACKWARD)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8])
def test_any_number_of_channels_and_kind_of_background(channels, backward):
    camera, gaussians = a_camera(33, 21), scene(120, seed=2, channels=channels)
    weights = random_weights(camera, channels)
    g = torch.Generator().manual_seed(1)
    plain, own = torch.rand(channels, generator=g), torch.rand(21, 33, channels, generator=g)
    for background in (None, plain, own):
        options = {"background": background, "weights": weights}
        found = draw(gaussians, camera, backward=backward, **options)
        assert_alike(found, expected(gaussians, camera, backend="reference", **options))


@pytest.mark.parametrize("backward", BACKWARD)
@pytest.mark.parametrize(
    "given", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_gradients_of_one_output_alone(given, backward):
    camera, gaussians = a_camera(), scene(60, seed=6)
    weights = tuple(
        w if there else None for w, there in zip(random_weights(camera), given, strict=True)
    )
    found = draw(gaussians, camera, weights=weights, backward=backward)
    assert_alike(found, expected(gaussians, camera, weights=weights))


@pytest.mark.parametrize("backward", BACKWARD)
def test_the_same_bits_in_any_order_of_threads(backward):
    camera, gaussians = a_camera(50, 40), scene(400, seed=3, channels=4)
    options = {"weights": random_weights(camera, 4), "backward": backward}
    first = draw(gaussians, camera, seed=0, **options)
    for seed in (1, 2, 3):
        again = draw(gaussians, camera, seed=seed, **options)
        for a, b in zip(first.tensors(), again.tensors(), strict=True):
            assert torch.equal(a, b)
        assert first.counts == again.counts


def test_both_ways_back_agree_to_rounding():
    camera, gaussians = a_camera(50, 40), scene(600, seed=8)
    weights = random_weights(camera)
    by_warp, by_gaussian = (
        draw(gaussians, camera, weights=weights, backward=way).gradients for way in BACKWARD
    )
    for name, a in by_warp.items():
        distance = torch.linalg.norm(a - by_gaussian[name]) / torch.linalg.norm(a)
        assert distance < 2e-5, name


def test_projection_gives_what_the_cpu_gives():
    camera, gaussians = a_camera(70, 41), scene(200, seed=9)
    found = draw(gaussians, camera)
    arrays = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities)
    rest = (gaussians.colours, torch.zeros(3), torch.zeros(200, 2), camera.K, camera.T_cam_world)
    *_, records, boxes, _, counts = _rasterize(*arrays, *rest, 70, 41)
    # A GPU rounds multiply-adds once where the CPU does twice: a box may move by a tile in rare cases.
    assert (found.boxes != boxes).double().mean() < 0.01
    seen = (boxes[:, 1] > boxes[:, 0]) & (found.boxes[:, 1] > found.boxes[:, 0])
    torch.testing.assert_close(found.records[seen, :14], records[seen, :14], rtol=1e-4, atol=1e-4)
    assert abs(found.counts[0] - int(counts[0])) <= 1
    # A tile counts where its rectangle is reached, on the CPU where one of its 16 blocks is.
    assert 0.7 * int(counts[2]) <= found.counts[1] <= int(counts[2])
    assert found.counts[2:] == [found.counts[1], 0]


@pytest.mark.parametrize("backward", BACKWARD)
def test_where_room_is_short_the_farthest_are_left_out(backward):
    camera, gaussians = a_camera(48, 40), scene(200, seed=10)
    weights = random_weights(camera)
    whole = draw(gaussians, camera)
    needed = whole.counts[1]
    depths = (gaussians.means @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3])[:, 2]
    order = torch.argsort(depths, stable=True)
    near = order[:100]
    some = Gaussians(*(getattr(gaussians, n)[near] for n in vars(gaussians)))
    room = draw(some, camera).counts[1]
    found = draw(gaussians, camera, capacity=room, weights=weights, backward=backward)
    assert found.counts == [whole.counts[0], needed, room, 0]
    assert_alike(
        found, expected(gaussians_without(gaussians, order[100:]), camera, weights=weights)
    )
    for capacity in (0, 1, 31, needed - 1, needed):
        cut = draw(gaussians, camera, capacity=capacity, weights=weights, backward=backward)
        assert cut.counts[1:3] == [needed, min(needed, capacity)]
        for tensor in cut.tensors():
            assert torch.isfinite(tensor).all()
    assert torch.equal(cut.image, whole.image)


def gaussians_without(gaussians: Gaussians, out: Tensor) -> Gaussians:
    """The same number of Gaussians, some of them with an opacity of nothing."""
    opacities = gaussians.opacities.clone()
    opacities[out] = 0
    return replace(gaussians, opacities=opacities)


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colours"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_poisoned_gaussian_leaves_the_others_alone(name, poison):
    camera, gaussians = a_camera(40, 30), scene(50, seed=6)
    poisoned = getattr(gaussians, name).clone()
    poisoned[13].fill_(poison)
    weights = random_weights(camera)
    found = draw(replace(gaussians, **{name: poisoned}), camera, weights=weights)
    clean = draw(gaussians_without(gaussians, torch.tensor([13])), camera, weights=weights)
    for a, b in zip(found.tensors(), clean.tensors(), strict=True):
        torch.testing.assert_close(a, b)
    for gradient in list(found.gradients.values())[:6]:
        assert gradient[13].abs().max() == 0


@pytest.mark.parametrize("backward", BACKWARD)
def test_odd_gaussians_do_no_harm(backward):
    """Behind, on and very near the camera; no size; huge; denormal; no and full opacity; far away."""
    camera, gaussians = a_camera(40, 30), scene(14, seed=8)
    means, scales, opacities = (
        getattr(gaussians, n).clone() for n in ("means", "scales", "opacities")
    )
    means[0, 2], means[1, 2], means[2, 2] = -0.8, -0.5, -0.4999
    scales[3], scales[4], scales[5] = 0.0, 1e6, 1e-39
    opacities[6], opacities[7], opacities[9] = 0.0, 1.0, 1e-39
    means[8] = 1e30
    scales[10] = torch.tensor([1.0, 1e-6, 1e-6])
    odd = replace(gaussians, means=means, scales=scales, opacities=opacities)
    weights = random_weights(camera)
    found = draw(odd, camera, weights=weights, backward=backward)
    for tensor in found.tensors():
        assert torch.isfinite(tensor).all()
    tame = gaussians_without(odd, torch.tensor([0, 1, 2, 4, 8]))
    assert_alike(
        draw(tame, camera, weights=weights, backward=backward),
        expected(tame, camera, weights=weights),
    )


@pytest.mark.parametrize("backward", BACKWARD)
def test_a_pixel_that_stopped_stays_stopped_on_the_way_back(backward):
    """Four pixels in a row; the fourth Gaussian ends the first pixel and colours none.

    The second pixel is full by then and the others are out of its reach, but not of the last one's.
    """
    camera = replace(a_camera(4, 1), T_cam_world=torch.eye(4))
    z = torch.tensor([1.0, 1.1, 1.2, 1.3, 1.4])
    centres = torch.tensor([[1.5, 0.5], [1.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1.5, 0.5]])
    xy = (centres - camera.K[:2, 2]) / camera.K[[0, 1], [0, 1]] * z[:, None]
    gaussians = Gaussians(
        means=torch.cat([xy, z[:, None]], 1),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(5, 1),
        scales=torch.tensor([1e-5, 1e-5, 1e-5, 1e-5, 0.5])[:, None].repeat(1, 3),
        opacities=torch.tensor([0.9985, 0.9985, 0.9, 0.9985, 0.5]),
        colours=torch.rand(5, 3, generator=torch.Generator().manual_seed(2)),
    )
    weights = random_weights(camera)
    found = draw(gaussians, camera, weights=weights, backward=backward)
    assert_alike(found, expected(gaussians, camera, weights=weights, backend="reference"))


def test_what_is_too_large_is_refused_in_words():
    library = kernels()
    scene_of = _Scene(1, 3, 16 * 256, 16 * 256)
    room = ctypes.c_int64(1 << 31)
    assert library.hs_cuda_scratch_bytes(ctypes.byref(scene_of), ctypes.c_int64(1)) == -2
    assert "draw a smaller picture" in library.hs_cuda_message(-2).decode()
    small = _Scene(1, 3, 16, 16)
    assert library.hs_cuda_state_bytes(ctypes.byref(small), room, 0) == -3
    assert "2^31 pairs" in library.hs_cuda_message(-3).decode()


@pytest.mark.skipif(address_sanitizer() is None, reason="g++ has no libasan here")
def test_no_memory_out_of_bounds_in_shared_and_local_arrays():
    """The guards watch device memory; libasan the rest, in a process of its own."""
    names = "any_count and 65 or any_size and 17 or channels and 5"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider"),
            *(__file__, "-k", names),
        ],
        env={**sanitizer_environment(), SANITIZED: "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR: AddressSanitizer" not in done.stderr


special = st.sampled_from(
    [0.0, -0.0, 1e-45, 1e-39, 1e-20, 1.0, -1.0, 1e10, 1e38, math.inf, math.nan]
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 13), special), min_size=1, max_size=12),
    st.sampled_from(list(BACKWARD)),
)
def test_any_numbers_leave_pictures_and_gradients_finite(changes, backward):
    camera, gaussians = a_camera(20, 18), scene(40, seed=12)
    fields = [getattr(gaussians, n).clone() for n in ("means", "quats", "scales", "opacities")]
    fields.append(gaussians.colours.clone())
    flat = [f.view(40, -1) for f in fields]
    columns = [(f, k) for f in flat for k in range(f.shape[1])]
    for row, column, value in changes:
        field, k = columns[column]
        field[row, k] = value
    # An opacity beyond 1 is no opacity; colours of 1e38 overflow in the sum of squares that is a loss.
    fields[3].clamp_(max=1)
    fields[4].clamp_(-1e6, 1e6)
    found = draw(Gaussians(*fields), camera, weights=random_weights(camera), backward=backward)
    touched = {row for row, _, _ in changes}
    others = torch.tensor([i not in touched for i in range(40)])
    for tensor in (found.image, found.alpha, found.depth):
        assert torch.isfinite(tensor).all()
    for name in ("means", "quats", "scales", "opacities", "colours", "means2d"):
        assert torch.isfinite(found.gradients[name][others]).all(), name


NVCC = shutil.which("nvcc")


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not on the PATH")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nvcc_takes_the_sources_without_a_warning(source, tmp_path):
    command = [
        *(str(NVCC), "-std=c++17", "-O1", "-arch=sm_90", "-ftz=true", "-Werror", "all-warnings"),
        *("-Xcompiler", "-Wall,-Wextra,-fPIC", "-c", str(source), "-o", str(tmp_path / "out.o")),
        *(f"-I{ROOT / 'cuda_ext' / folder}" for folder in ("include", "cuda")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout + done.stderr
