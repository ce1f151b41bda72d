"""The GPU benchmark without a GPU: its own code, with emulated kernels and clocks that stand still."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from avatar.checks import InputError
from avatar.raster import bench_gpu as bench
from avatar.raster import cuda, front
from avatar.raster.cuda import Driver


class Still:
    """A stream, an event and a graph in one, in which nothing happens."""

    def __init__(self, *_, **__) -> None: ...

    def record(self, *_) -> None: ...

    def wait_stream(self, _) -> None: ...

    def replay(self) -> None: ...

    def elapsed_time(self, _) -> float:
        return 1.0


def test_every_row_and_comparison_is_there(gpu, monkeypatch):
    for name in ("Event", "Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Still)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "none")
    monkeypatch.setattr(front, "on_gpu", lambda tensor: tensor.dtype == torch.float32)
    for name, value in {
        "DEVICE": "cpu",
        "missing": tuple,
        "driver": lambda: Driver(13000, 1),
        "WARM_UP": 1,
        "SMALL": (20, 16),
    }.items():
        monkeypatch.setattr(bench, name, value)
    result = bench.bench_gpu((24,), (30,), repeats=2)
    rows = result["rows"]
    assert [row["backend"] for row in rows] == ["cuda-warp", "cuda-gaussian"]
    parts = ("forward", "backward", "loss", "adam", "step", "graph_step")
    for row in rows:
        assert (row["n"], row["size"], row["threads"]) == (30, 24, 0)
        for part in parts:
            assert row[f"{part}_ms"] == row[f"{part}_min_ms"] == row[f"{part}_max_ms"] == 1.0
    assert [(a["n"], a["against"]) for a in result["agreement"]] == [
        *[(20, "reference in double")] * 2,
        *[(30, "cpu in double")] * 2,
    ]
    for comparison in result["agreement"]:
        assert comparison["image_max"] < 5e-3
        assert all(error < 2e-3 for error in comparison["gradients"].values())


def test_without_a_gpu_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(bench, "missing", lambda: ("there is no NVIDIA driver",))
    monkeypatch.setattr(cuda, "missing", lambda: ("there is no NVIDIA driver",))
    with pytest.raises(InputError, match="cannot run here: there is no NVIDIA driver"):
        bench.bench_gpu((24,), (30,))
    with pytest.raises(ValueError, match=r"^ns must be"):
        bench.bench_gpu((24,), (0,))
