"""What the doctor says of CUDA: everything that is missing, and how to get it."""

from __future__ import annotations

import pytest

from avatar import doctor
from avatar.raster import front


def findings(monkeypatch, **states: str) -> dict[str, doctor.Finding]:
    monkeypatch.setattr(front, "cuda_state", lambda: states["cuda"])
    return {f.name: f for f in doctor.examine(lambda: "models")}


def test_missing_cuda_is_said_and_fails_nothing(monkeypatch):
    state = "there is no NVIDIA driver; the kernel library libheadsplat_cuda.so is missing"
    found = findings(monkeypatch, cuda=state)
    line = found["kernels: cuda"]
    assert (line.ok, line.needed) == (False, False)
    assert line.detail == f"{state}. Everything runs on the CPU without it."
    assert doctor.as_json(list(found.values()))["ok"]


def test_working_cuda_is_named(monkeypatch):
    line = findings(monkeypatch, cuda="ok (NVIDIA H200)")["kernels: cuda"]
    assert line.ok
    assert line.detail == "ok (NVIDIA H200)"


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_what_the_main_job_needs_is_marked(monkeypatch, name):
    assert findings(monkeypatch, cuda="no")[f"kernels: {name}"].needed
