"""Finding the kernel libraries, loading the one for the CPU, and how that is asked to run."""

from __future__ import annotations

import ctypes
import os
import platform
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch

import cuda_ext
from avatar.checks import InputError

SIMD = {"plain": 1, "avx2": 2, "avx512": 3}
"""Names of the instruction sets, as HEADSPLAT_SIMD takes them, to the C interface's HsSimd."""

_THREADS: ContextVar[int | None] = ContextVar("headsplat_threads", default=None)

ERRORS = {
    -1: "out of memory; draw fewer Gaussians or a smaller picture",
    -2: "this machine lacks the instruction set that was asked for; unset HEADSPLAT_SIMD",
    -3: "too many pairs of Gaussian and tile (over 2^32); are scales or the picture far too large?",
    -4: "a corner is no vertex of the lattice; corners must be in [0, V)",
}


class HsRun(ctypes.Structure):
    """How to run a kernel: see headsplat.h."""

    _fields_ = (
        ("precision", ctypes.c_int32),
        ("simd", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


def library_path(
    name: str = "headsplat_cpu",
    remedy: str = "Install a C++ compiler (apt-get install g++) and run: pip install .",
) -> Path:
    """Where the library ``name`` lies; raises InputError with the remedy where it does not.

    An editable install leaves the package in the source tree and the library in site-packages.
    """
    suffix = {"Darwin": ".dylib", "Windows": ".dll"}.get(platform.system(), ".so")
    file = ("" if platform.system() == "Windows" else "lib") + name + suffix
    folders = [*cuda_ext.__path__, str(Path(sysconfig.get_path("platlib")) / "cuda_ext")]
    folders = list(dict.fromkeys(folders))
    for folder in folders:
        path = Path(folder) / file
        if path.is_file():
            return path
    raise InputError(f"the kernel library {file} is missing from {' and '.join(folders)}. {remedy}")


@cache
def library() -> ctypes.CDLL:
    """Load the library once.

    Raises:
        InputError: missing, or built for another machine.
    """
    path = library_path()
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be loaded ({error}). Run: pip install .") from error
    loaded.hs_state_bytes.restype = ctypes.c_int64
    return loaded


def simd_name() -> str:
    """The instruction set that kernels run on: HEADSPLAT_SIMD where it is set, else the best there is.

    Raises:
        InputError: HEADSPLAT_SIMD names none, or one that this machine lacks.
    """
    wanted = os.environ.get("HEADSPLAT_SIMD", "")
    if not wanted:
        best = int(library().hs_best_simd())
        return next(name for name, code in SIMD.items() if code == best)
    if wanted not in SIMD:
        raise InputError(f"HEADSPLAT_SIMD must be one of {', '.join(SIMD)}; got '{wanted}'.")
    if not library().hs_has_simd(SIMD[wanted]):
        raise InputError(f"HEADSPLAT_SIMD={wanted}, but this machine or build lacks {wanted}.")
    return wanted


def kernel_threads() -> int:
    """Threads that kernels use: those of ``use_threads``, else HEADSPLAT_THREADS, else one a core.

    Not torch's number: see ``one_torch_thread``.

    Raises:
        InputError: HEADSPLAT_THREADS is no positive number.
    """
    chosen = _THREADS.get()
    if chosen is not None:
        return chosen
    wanted = os.environ.get("HEADSPLAT_THREADS", "")
    if wanted:
        if not wanted.isdigit() or int(wanted) < 1:
            raise InputError(f"HEADSPLAT_THREADS must be a number of at least 1; got '{wanted}'.")
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Let the kernels use ``count`` threads inside the block; results do not depend on it."""
    token = _THREADS.set(count)
    try:
        yield
    finally:
        _THREADS.reset(token)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch's own operations to one thread inside the block; the kernels keep all cores.

    A training step is a hundred small torch operations between a few large kernels. OpenMP's threads
    meet by spinning at each of them: with one other busy process on two cores that made a step of
    30 ms take 270 ms, while one thread loses next to nothing on operations of this size.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_settings(dtype: torch.dtype = torch.float32) -> HsRun:
    """Return how to run: precision by ``dtype``, threads by ``kernel_threads``."""
    precision = 1 if dtype == torch.float64 else 0
    return HsRun(precision, SIMD[simd_name()], kernel_threads())


def raise_on(code: int, what: str) -> None:
    """Raise RuntimeError where a kernel failed."""
    if code != 0:
        raise RuntimeError(f"{what}: {ERRORS.get(code, f'error {code}')}")
