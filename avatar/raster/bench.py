"""How fast the CPU kernels are on this machine, on one standard scene."""

from __future__ import annotations

import ctypes
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
from avatar.raster.library import (
    kernel_threads,
    library,
    one_torch_thread,
    raise_on,
    run_settings,
    simd_name,
    use_threads,
)
from avatar.raster.native import count_lanes
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
REFERENCE_ROWS = 4
"""Rows of the picture that the reference draws; the rest is reckoned from them, or it would take an hour."""
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


FORWARD_FLOPS, BACKWARD_FLOPS = 29, 56
"""Operations that blending one lane takes, and its gradient (two for a multiply-add; counted from the
formulas: exponent, exponential, weight and three colours; and on the way back the same exponent,
the gradients of colour and opacity and six moments)."""
REFERENCE_CASE = (30_000, 512)
"""Gaussians and pixels of the case that is also drawn by the plain torch reference."""
TIMES = ("forward_ms", "backward_ms", "loss_ms", "adam_ms", "step_ms")

AvatarStep = Callable[[Gaussians, Camera, Tensor], Callable[[], None]]
"""Makes a whole training step of an avatar whose Gaussians are those given, on that target picture."""


def bench_rasterizer(
    sizes: Sequence[int] = (256, 512, 1024),
    ns: Sequence[int] = (10_000, 30_000, 60_000, 100_000),
    threads: Sequence[int] | None = None,
    *,
    repeats: int = 15,
    avatar_step: AvatarStep | None = None,
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Measure a training step and its parts: draw, L1 + SSIM, all gradients, Adam.

    Args:
        sizes: widths and heights of the square pictures in pixels.
        ns: numbers of Gaussians.
        threads: numbers of threads; where None, one and as many as kernels use.
        repeats: timed steps of each row.
        avatar_step: also measures these steps, as ``avatar_step_ms``.
        report: hears of every row.

    Returns:
        {"machine": {...}, "rows": [{"backend", "n", "size", "threads", "forward_ms", "backward_ms",
        "loss_ms", "adam_ms", "step_ms", "lanes_per_pair", "forward_fma_share", "backward_fma_share"}]}.
        Times are medians of wall-clock time in milliseconds, "..._min_ms" and "..._max_ms" beside
        each: backward_ms is the rasterizer's alone, loss_ms the loss with its gradient, step_ms a
        whole step without a deformer, measured as one. lanes_per_pair is how many pixels are blended
        for each that a Gaussian really reaches. Shares are of the multiply-add rate that the same
        threads reached in this run (machine["fma_gflops"]), by the operations of blending alone.
        Where ``REFERENCE_CASE`` is among the cases, one row more has "backend": "reference" and
        "times_cpu", how many times longer it takes than our fastest row for that case; its times are
        reckoned from a few rows of the picture.

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
    rates = {count: _fma_rate(count) for count in threads}
    shares = (("forward", FORWARD_FLOPS), ("backward", BACKWARD_FLOPS))
    rows: list[dict[str, Any]] = []
    for done, (n, size, count) in enumerate(cases):
        report(Progress("bench", done, len(cases), f"{n} Gaussians, {size} x {size}"))
        with use_threads(count), one_torch_thread():
            times = _measure(n, size, repeats, avatar_step)
        lanes, reached = _count_lanes(n, size)
        row: dict[str, Any] = {"backend": "cpu", "n": n, "size": size, "threads": count}
        row |= {name: median(values) for name, values in times.items()}
        row["lanes_per_pair"] = lanes / max(1, reached)
        for part, flops in shares:  # completed below
            row[f"{part}_fma_share"] = flops * lanes / (1e-3 * row[f"{part}_ms"])
        for name, values in times.items():
            stem = name.removesuffix("_ms")
            row[f"{stem}_min_ms"], row[f"{stem}_max_ms"] = min(values), max(values)
        rows.append(row)
    # Again at the end: other load on the machine may have hidden a core from the first try.
    rates = {count: max(rate, _fma_rate(count)) for count, rate in rates.items()}
    for row in rows:
        for part, _ in shares:
            row[f"{part}_fma_share"] /= rates[row["threads"]]
    n, size = REFERENCE_CASE
    same = [row for row in rows if (row["n"], row["size"]) == REFERENCE_CASE]
    if same:
        report(Progress("bench", len(cases), len(cases), f"{n} Gaussians, the reference"))
        rows.append(_reference_row(n, size, min(r["forward_ms"] + r["backward_ms"] for r in same)))
    report(Progress("bench", len(cases), len(cases)))
    machine = {
        "cpu": _cpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "simd": simd_name(),
        "torch": torch.__version__,
        "fma_gflops": {str(count): rate / 1e9 for count, rate in rates.items()},
    }
    return {"machine": machine, "rows": rows}


def _measure(
    n: int, size: int, repeats: int, avatar_step: AvatarStep | None
) -> dict[str, list[float]]:
    """Return the times of one row; whole steps are timed as one, beside their parts."""
    gaussians, camera = standard_scene(n, size)
    parameters = {
        name: getattr(gaussians, name).clone().requires_grad_()
        for name in ("means", "quats", "scales", "opacities", "colours")
    }
    # A rate of zero keeps the scene, and so the work of every step, the same.
    adam = FusedAdam(parameters.values(), lr=0.0)
    random = torch.Generator().manual_seed(1)
    target = torch.rand(size, size, 3, generator=random)
    avatar = None if avatar_step is None else avatar_step(gaussians, camera, target)

    def draw() -> Tensor:
        return rasterize(Gaussians(**parameters), camera, background=torch.ones(3)).rgb

    times: dict[str, list[float]] = {}
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
        if avatar is not None:
            _timed(step, "avatar_step_ms", avatar)
        if repeat >= WARM_UP:
            for name, value in step.items():
                times.setdefault(name, []).append(value)
    return times


def _timed(times: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = work()
    times[name] = 1e3 * (time.perf_counter() - start)
    return result


def _count_lanes(n: int, size: int) -> tuple[int, int]:
    """Return the lanes that drawing blends and those of them that Gaussians reach."""
    gaussians, camera = standard_scene(n, size)
    return count_lanes(gaussians, camera)


def _fma_rate(threads: int) -> float:
    """Return the multiply-add rate of ``threads`` threads, operations a second: the best of a few tries."""
    rates = []
    with use_threads(threads):
        for _ in range(5):
            rate = ctypes.c_double()
            code = library().hs_fma_rate(ctypes.byref(run_settings()), ctypes.byref(rate))
            raise_on(code, "measuring multiply-adds")
            rates.append(rate.value)
    return max(rates)


def _reference_row(n: int, size: int, ours_ms: float) -> dict[str, Any]:
    """Draw some rows with the plain torch reference, which tries every Gaussian at every pixel."""
    gaussians, camera = standard_scene(n, size)
    parameters = {
        name: getattr(gaussians, name).clone().requires_grad_()
        for name in ("means", "quats", "scales", "opacities", "colours")
    }
    forward = backward = 0.0
    for row in range(REFERENCE_ROWS):
        strip = camera.cropped(0, (2 * row + 1) * size // (2 * REFERENCE_ROWS), size, 1)
        times: dict[str, float] = {}
        image = _timed(
            times,
            "forward",
            lambda: rasterize(Gaussians(**parameters), strip, backend="reference").rgb,  # noqa: B023
        )
        _timed(times, "backward", lambda: image.sum().backward())  # noqa: B023
        forward += times["forward"] * size / REFERENCE_ROWS
        backward += times["backward"] * size / REFERENCE_ROWS
    return {
        "backend": "reference",
        "n": n,
        "size": size,
        "threads": torch.get_num_threads(),
        "forward_ms": forward,
        "backward_ms": backward,
        "times_cpu": (forward + backward) / ours_ms,
    }


def plot_rows(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Write a picture of the rows: forward and backward time over the number of Gaussians, by size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["backend"] != "reference"]
    sizes = sorted({row["size"] for row in rows})
    figure = Figure(figsize=(4.2 * len(sizes), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        kinds = sorted({(row["backend"], row["threads"]) for row in rows})
        for backend, count in kinds:
            own = [
                r for r in rows if (r["backend"], r["threads"], r["size"]) == (backend, count, size)
            ]
            label = f"{backend}, {count} threads" if count else backend
            x = [r["n"] / 1000 for r in own]
            (line,) = axes.plot(x, [r["forward_ms"] for r in own], "o-", label=f"{label}: forward")
            total = [r["forward_ms"] + r["backward_ms"] for r in own]
            axes.plot(x, total, "s--", color=line.get_color(), label=f"{label}: and backward")
        axes.set_title(f"{size} x {size}")
        axes.set_xlabel("thousand Gaussians")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes = figure.axes[0]
    axes.set_ylabel("ms")
    axes.legend(fontsize=7)
    figure.savefig(file)


def _cpu_name() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
