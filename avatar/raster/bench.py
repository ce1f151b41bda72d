"""How fast the CPU kernels are on this machine, on one standard scene."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from avatar.raster.front import rasterize
from avatar.raster.fused import FusedAdam, l1_ssim_loss
from avatar.raster.library import kernel_threads, one_torch_thread, simd_name, use_threads
from avatar.types import Camera, Gaussians, Progress, Reporter, ignore_progress, look_at

HEAD_SEMI_AXES = (0.075, 0.1, 0.085)
"""Of the ellipsoid on whose surface the Gaussians lie, metres."""
DISTANCE = 0.6
"""From the camera to the head's centre, metres."""
HEAD_SHARE = 0.64
"""Of the picture's height."""
MEAN_SCALE = 6.8e-4
"""Metres; with the ratios below it makes projected standard deviations of 2.3 px on average (1.6 px
along the minor axis, 3.0 px along the major one) at 512 pixels. It does not depend on N."""
SCALE_RATIOS = (3.0, 3.0**0.5, 1.0)
SCALE_SPREAD = 0.3
"""Standard deviation of the logarithm of a Gaussian's size."""
OPACITY_POWER = 0.45
"""Of a uniform variable: mean opacity 0.69, 78 % above one half, as in a trained head."""
WARM_UP = 2
"""Steps that are not counted: they start threads and touch memory for the first time."""


def standard_scene(n: int, size: int) -> tuple[Gaussians, Camera]:
    """Return ``n`` Gaussians on a head-sized ellipsoid and a camera ``size`` pixels wide and high."""
    random = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(n, 3, generator=random), dim=1)
    spread = torch.exp(SCALE_SPREAD * torch.randn(n, 1, generator=random))
    gaussians = Gaussians(
        means=directions * torch.tensor(HEAD_SEMI_AXES),
        quats=torch.randn(n, 4, generator=random),
        scales=MEAN_SCALE * spread * torch.tensor(SCALE_RATIOS),
        opacities=torch.rand(n, generator=random) ** OPACITY_POWER,
        colours=torch.rand(n, 3, generator=random),
    )
    focal = HEAD_SHARE * size / (2 * HEAD_SEMI_AXES[1]) * DISTANCE
    K = torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    eye = torch.tensor([0.0, 0.0, DISTANCE])
    return gaussians, Camera(K, look_at(eye, torch.zeros(3)), size, size)


def bench_rasterizer(
    sizes: Sequence[int] = (256, 512, 1024),
    ns: Sequence[int] = (10_000, 30_000, 100_000),
    threads: Sequence[int] | None = None,
    *,
    repeats: int = 15,
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Measure a training step without a network: draw, L1 + SSIM, all gradients, Adam.

    Args:
        sizes: widths and heights of the square pictures in pixels.
        ns: numbers of Gaussians.
        threads: numbers of threads; where None, one and as many as torch uses.
        repeats: timed steps of each row.
        report: hears of every row.

    Returns:
        {"machine": {...}, "rows": [{"backend", "n", "size", "threads", "forward_ms", "backward_ms",
        "loss_ms", "adam_ms", "step_ms"}]}. Times are medians of wall-clock time in milliseconds:
        backward_ms is the rasterizer's alone, loss_ms the loss with its gradient, step_ms a whole
        step measured as one.

    Raises:
        ValueError: an empty list, or a number below 1.
        InputError: the CPU library is missing.
    """
    threads = sorted({1, kernel_threads()}) if threads is None else threads
    for name, values in {
        "sizes": sizes,
        "ns": ns,
        "threads": threads,
        "repeats": [repeats],
    }.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name} must be numbers of at least 1; got {list(values)}.")
    cases = [(n, size, count) for n in ns for size in sizes for count in threads]
    rows: list[dict[str, Any]] = []
    for done, (n, size, count) in enumerate(cases):
        report(Progress("bench", done, len(cases), f"{n} Gaussians, {size} x {size}"))
        with use_threads(count), one_torch_thread():
            times = _measure(n, size, repeats)
        rows.append({"backend": "cpu", "n": n, "size": size, "threads": count, **times})
    report(Progress("bench", len(cases), len(cases)))
    machine = {
        "cpu": _cpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "simd": simd_name(),
        "torch": torch.__version__,
    }
    return {"machine": machine, "rows": rows}


def _measure(n: int, size: int, repeats: int) -> dict[str, float]:
    """Return the medians of one row; whole steps are timed as one, beside their parts."""
    gaussians, camera = standard_scene(n, size)
    background = torch.ones(3)
    parameters = {
        name: getattr(gaussians, name).clone().requires_grad_()
        for name in ("means", "quats", "scales", "opacities", "colours")
    }
    # A rate of zero keeps the scene, and so the work of every step, the same.
    adam = FusedAdam(parameters.values(), lr=0.0)
    random = torch.Generator().manual_seed(1)
    target = torch.rand(size, size, 3, generator=random)

    def draw() -> Tensor:
        return rasterize(Gaussians(**parameters), camera, background=background).rgb

    times: dict[str, list[float]] = {
        name: [] for name in ("forward_ms", "backward_ms", "loss_ms", "adam_ms", "step_ms")
    }
    for repeat in range(WARM_UP + repeats):
        step: dict[str, float] = {}
        image = _timed(step, "forward_ms", draw)
        leaf = image.detach().requires_grad_()
        _timed(step, "loss_ms", lambda: l1_ssim_loss(leaf, target, 0.2).backward())  # noqa: B023
        _timed(step, "backward_ms", lambda: image.backward(leaf.grad))  # noqa: B023
        _timed(step, "adam_ms", adam.step)
        adam.zero_grad(set_to_none=True)

        def whole() -> None:
            l1_ssim_loss(draw(), target, 0.2).backward()
            adam.step()
            adam.zero_grad(set_to_none=True)

        _timed(step, "step_ms", whole)
        if repeat >= WARM_UP:
            for name, value in step.items():
                times[name].append(value)
    return {name: median(values) for name, values in times.items()}


def _timed(times: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = work()
    times[name] = 1e3 * (time.perf_counter() - start)
    return result


def _cpu_name() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
