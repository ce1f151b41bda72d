"""How fast the CUDA kernels are on this machine, beside gsplat in the same run, and how far they agree.

Backends in the rows: ``cuda-warp`` and ``cuda-gaussian`` are our kernels with the two ways to sum gradients
(see ``cuda_raster``), ``gsplat`` is gsplat 1.5.3, called directly and drawing no depth, which ours always do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from avatar.checks import InputError
from avatar.raster.bench import standard_scene
from avatar.raster.cuda import cuda_state, driver, missing
from avatar.raster.cuda_raster import GAUSSIAN, WARP, pairs_left_out, rasterize_cuda
from avatar.raster.front import rasterize
from avatar.raster.fused import FusedAdam, l1_ssim_loss
from avatar.raster.gsplat_adapter import VERSION, gsplat_state
from avatar.raster.reference import EPS2D, NEAR_PLANE
from avatar.types import Camera, Gaussians, Progress, Reporter, ignore_progress

DEVICE = "cuda"
NAMES = ("means", "quats", "scales", "opacities", "colours")
WARM_UP = 10
"""Steps that are not counted: they load kernels, fill torch's memory pools and teach the pair budget."""
SSIM_WEIGHT = 0.2
SMALL = (2_000, 96)
"""Gaussians and pixels of the scene that is compared with the reference, whose memory is their product."""

Draw = Callable[[dict[str, Tensor]], Tensor]


def bench_gpu(
    sizes: Sequence[int] = (512, 1024),
    ns: Sequence[int] = (30_000, 100_000),
    repeats: int = 50,
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Measure drawing, gradients, loss, Adam and whole training steps on the GPU.

    Args:
        sizes: widths and heights of the square pictures in pixels.
        ns: numbers of Gaussians.
        repeats: timed steps of each row.
        report: hears of every case.

    Returns:
        {"machine": {...}, "rows": [...], "agreement": [...]}. Rows are {"backend", "n", "size", "threads": 0,
        "forward_ms", "backward_ms", ...}; for our kernels also "loss_ms", "adam_ms", "step_ms" (eager) and
        "graph_step_ms" (the same step replayed from a CUDA graph). Times are medians between
        CUDA events; "..._min_ms" and "..._max_ms" stand beside each. Agreement is
        {"backend", "against", "n", "size", "image_max", "image_mean", "gradients": {name: relative norm}}:
        with the CPU in double for every case, and with the reference for one small scene.

    Raises:
        ValueError: an empty list, or a number below 1.
        InputError: CUDA kernels cannot run here; with the reason.
    """
    for name, values in {"sizes": sizes, "ns": ns, "repeats": [repeats]}.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name} must be numbers of at least 1; got {list(values)}.")
    if missing():
        raise InputError(f"The GPU benchmark cannot run here: {cuda_state()}.")
    with_gsplat = gsplat_state().startswith("ok")
    rows: list[dict[str, Any]] = []
    agreement = _agreement(*SMALL, "reference", with_gsplat)
    cases = [(n, size) for n in ns for size in sizes]
    for done, (n, size) in enumerate(cases):
        report(Progress("bench", done, len(cases), f"{n} Gaussians, {size} x {size}, GPU"))
        gaussians, camera = standard_scene(n, size)
        gaussians, camera = gaussians.to(DEVICE), camera.to(DEVICE)
        for backend, variant in (("cuda-warp", WARP), ("cuda-gaussian", GAUSSIAN)):
            draw = partial(_draw_ours, camera, variant)
            times = _measure_ours(draw, gaussians, camera, repeats)
            rows.append(_row(backend, n, size, times))
        if with_gsplat:
            times = _measure_drawing(partial(_draw_gsplat, camera), gaussians, camera, repeats)
            rows.append(_row("gsplat", n, size, times))
        agreement += _agreement(n, size, "cpu", with_gsplat)
    report(Progress("bench", len(cases), len(cases)))
    here = driver()
    machine = {
        "gpu": torch.cuda.get_device_name(0),
        "driver_cuda": here.version if here else 0,
        "torch": torch.__version__,
        "gsplat": VERSION if with_gsplat else gsplat_state(),
    }
    return {"machine": machine, "rows": rows, "agreement": agreement}


def _row(backend: str, n: int, size: int, times: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"backend": backend, "n": n, "size": size, "threads": 0}
    for name, values in times.items():
        row[f"{name}_ms"] = median(values)
        row[f"{name}_min_ms"], row[f"{name}_max_ms"] = min(values), max(values)
    return row


# -- What is measured ---------------------------------------------------------------------------------


def _draw_ours(camera: Camera, variant: int, parameters: dict[str, Tensor]) -> Tensor:
    means = parameters["means"]
    return rasterize_cuda(
        **parameters,
        background=means.new_ones(3),
        means2d_offset=means.new_zeros(len(means), 2),
        K=camera.K,
        T_cam_world=camera.T_cam_world,
        width=camera.width,
        height=camera.height,
        training_variant=variant,
    )[0]


def _draw_gsplat(camera: Camera, parameters: dict[str, Tensor]) -> Tensor:
    pictures, _, _ = importlib.import_module("gsplat").rasterization(
        means=parameters["means"],
        quats=parameters["quats"],
        scales=parameters["scales"],
        opacities=parameters["opacities"],
        colors=parameters["colours"],
        viewmats=camera.T_cam_world[None],
        Ks=camera.K[None],
        width=camera.width,
        height=camera.height,
        near_plane=NEAR_PLANE,
        eps2d=EPS2D,
        packed=False,
        backgrounds=parameters["means"].new_ones(1, 3),
    )
    return pictures[0]


class _Stopwatch:
    """Times between CUDA events, read once all work is done."""

    def __init__(self) -> None:
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        result = work()
        end.record()
        self._events.setdefault(name, []).append((begin, end))
        return result

    def milliseconds(self) -> dict[str, list[float]]:
        torch.cuda.synchronize()
        return {
            name: [begin.elapsed_time(end) for begin, end in events[WARM_UP:]]
            for name, events in self._events.items()
        }


def _parameters(gaussians: Gaussians) -> dict[str, Tensor]:
    return {name: getattr(gaussians, name).clone().requires_grad_() for name in NAMES}


def _target(camera: Camera) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.rand(camera.height, camera.width, 3, generator=random).to(DEVICE)


def _measure_drawing(
    draw: Draw, gaussians: Gaussians, camera: Camera, repeats: int
) -> dict[str, list[float]]:
    """Time drawing and its gradient; what pulls at the picture is the same for every backend."""
    parameters = _parameters(gaussians)
    pull = _target(camera) - 0.5
    watch = _Stopwatch()
    for _ in range(WARM_UP + repeats):
        image = watch.time("forward", lambda: draw(parameters))
        watch.time("backward", lambda: image.backward(pull))  # noqa: B023
        for p in parameters.values():
            p.grad = None
    return watch.milliseconds()


def _measure_ours(
    draw: Draw, gaussians: Gaussians, camera: Camera, repeats: int
) -> dict[str, list[float]]:
    """Time drawing, its gradient, loss, Adam, and whole steps, eager and from a graph."""
    times = _measure_drawing(draw, gaussians, camera, repeats)
    parameters, target = _parameters(gaussians), _target(camera)
    # A rate of zero keeps the scene, and so the work of every step, the same.
    adam = FusedAdam(parameters.values(), lr=0.0)
    watch = _Stopwatch()
    for _ in range(WARM_UP + repeats):
        leaf = draw(parameters).detach().requires_grad_()
        watch.time("loss", lambda: l1_ssim_loss(leaf, target, SSIM_WEIGHT).backward())  # noqa: B023
        for p in parameters.values():
            p.grad = torch.ones_like(p)
        watch.time("adam", adam.step)

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        l1_ssim_loss(draw(parameters), target, SSIM_WEIGHT).backward()
        adam.step()

    # Steps before a capture must run on another stream than the default one (torch's documentation of
    # CUDAGraph); eager steps are timed there too.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP + repeats):
            watch.time("step", step)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    adam.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(WARM_UP + repeats):
        watch.time("graph_step", graph.replay)
    return times | watch.milliseconds()


# -- How far they agree -------------------------------------------------------------------------------


def _agreement(n: int, size: int, against: str, with_gsplat: bool) -> list[dict[str, Any]]:
    """Compare pictures and gradients with a CPU backend in double."""
    gaussians, camera = standard_scene(n, size)
    exact_image, exact = _picture_and_gradients(
        gaussians.to(torch.float64), camera.to(torch.float64), against
    )
    found = []
    gaussians, camera = gaussians.to(DEVICE), camera.to(DEVICE)
    backends: list[tuple[str, str, int]] = [
        ("cuda-warp", "cuda", WARP),
        ("cuda-gaussian", "cuda", GAUSSIAN),
    ]
    if with_gsplat:
        backends.append(("gsplat", "gsplat", WARP))
    for name, backend, variant in backends:
        image, gradients = _picture_and_gradients(gaussians, camera, backend, variant)
        error = (image - exact_image).abs()
        found.append(
            {
                "backend": name,
                "against": f"{against} in double",
                "n": n,
                "size": size,
                "image_max": float(error.max()),
                "image_mean": float(error.mean()),
                "gradients": {
                    key: float(torch.linalg.norm(gradients[key] - g) / torch.linalg.norm(g))
                    for key, g in exact.items()
                },
            }
        )
    return found


def _picture_and_gradients(
    gaussians: Gaussians, camera: Camera, backend: str, variant: int = WARP
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the picture and the gradients of a loss that is linear in it, on the CPU in double."""
    parameters = _parameters(gaussians)
    background = camera.K.new_ones(3)
    if backend == "cuda":
        # Without gradients first, which makes room for all pairs.
        whole = rasterize(gaussians, camera, background=background, backend="cuda")
        assert pairs_left_out(whole.stats) == 0
        image = _draw_ours(camera, variant, parameters)
    else:
        image = rasterize(
            Gaussians(**parameters),
            camera,
            background=background,
            backend=backend,  # type: ignore[arg-type]
        ).rgb
    weights = torch.cos(0.7 * torch.arange(image.numel(), dtype=torch.float64))
    (weights.to(image).reshape(image.shape) * image).sum().backward()
    gradients: dict[str, Tensor] = {}
    for name, p in parameters.items():
        assert p.grad is not None
        gradients[name] = p.grad.double().cpu()
    return image.detach().double().cpu(), gradients
