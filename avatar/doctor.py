"""What works on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from avatar.raster import available_backends


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    ok: bool
    """Whether it works; a missing optional part is not ok but does not fail the check."""
    needed: bool
    """Whether the main job needs it."""
    detail: str
    """What was found, and what to do where it is not ok."""


def _package(module: str, needed: bool, remedy: str) -> Finding:
    try:
        loaded = importlib.import_module(module)
    except (ImportError, OSError) as error:
        return Finding(module, False, needed, f"{error}. {remedy}")
    distribution = {"cv2": "opencv-contrib-python"}.get(module, module)
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = str(getattr(loaded, "__version__", "found"))
    return Finding(module, True, needed, version)


def _python() -> Finding:
    ok = sys.version_info >= (3, 10)
    detail = platform.python_version() + ("" if ok else ". Install Python 3.10 or newer.")
    return Finding("python", ok, True, detail)


def _codecs() -> Finding:
    import av

    wanted = {"h264", "hevc", "vp9", "av1", "aac"}
    missing = sorted(wanted - set(av.codecs_available))
    writes = "libx264" in av.codecs_available
    if missing or not writes:
        lacking = missing + ([] if writes else ["libx264 (for writing)"])
        return Finding(
            "codecs",
            writes,
            True,
            f"PyAV lacks {', '.join(lacking)}. Run: pip install --upgrade av",
        )
    return Finding("codecs", True, True, f"PyAV {av.__version__}: h264, hevc, vp9, av1, aac")


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("torch CUDA", True, False, torch.cuda.get_device_name(0))
    if torch.version.cuda is None:
        why = "this torch is a CPU build"
    else:
        why = f"torch is built for CUDA {torch.version.cuda} but finds no NVIDIA driver or GPU"
    return Finding("torch CUDA", False, False, f"{why}; see kernels: cuda.")


def examine(models: Callable[[], str]) -> list[Finding]:
    """Look at everything the product stands on.

    Args:
        models: opens the face and matting models and says what they are; raises OSError,
            RuntimeError or ImportError where they cannot be opened.
    """
    remedy = "Run: pip install headsplat"
    findings = [_python(), _package("torch", True, remedy)]
    for name, state in available_backends().items():
        ok, needed = state.startswith("ok"), name in ("reference", "cpu")
        detail = state if ok or needed else f"{state}. Everything runs on the CPU without it."
        findings.append(Finding(f"kernels: {name}", ok, needed, detail))
    findings += [_cuda(), _codecs()]
    try:
        findings.append(Finding("face models", True, True, models()))
    except (OSError, RuntimeError, ImportError) as error:
        findings.append(
            Finding("face models", False, True, f"{error}. Run: pip install mediapipe==0.10.21")
        )
    findings += [_package(name, True, remedy) for name in ("cv2", "viser", "safetensors")]
    speech = "Run: pip install 'headsplat[speech]' to give the sample a voice (GPL-3)."
    findings.append(_package("espeakng_loader", False, speech))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(".").free / 2**30
    findings.append(
        Finding("memory", memory >= 6, True, f"{memory:.0f} GiB; the main job needs up to 6 GiB")
    )
    findings.append(
        Finding(
            "disk",
            free >= 2,
            True,
            f"{free:.0f} GiB free here; a minute of video needs about 1 GiB",
        )
    )
    return findings


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings for ``--json``."""
    works = all(f.ok for f in findings if f.needed)
    return {"ok": works, "findings": [asdict(f) for f in findings]}
