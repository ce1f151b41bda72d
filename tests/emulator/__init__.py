"""Runs CUDA sources on the CPU: a header that teaches g++ the language, and this builder.

    library = build_emulated([ROOT / "cuda_ext/cuda/raster.cu"])   # a ctypes.CDLL of the C interface
    library.hs_emulator_seed(ctypes.c_uint64(3))                   # another order of threads and blocks
    code = library.hs_cuda_...(...)                                # "device" pointers are CPU pointers
    emulator_message(library)                                      # why a launch failed, in words

Each CUDA thread is a fiber that runs alone until it waits; who goes next, and the order of blocks, is
drawn from the seed. So a result that differs between seeds means a missing barrier; threads of a block
at different barriers, lanes at different collectives and deadlocks fail the launch. Sources launch
through ``launch`` of launch.cuh. What this cannot show: anything about speed, races between blocks that
run at once, the weak order of memory (a shuffle or a vote orders it here; on a GPU only ``__syncwarp``
and ``__syncthreads`` do), and misuse of memory spaces.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMPILER = os.environ.get("CXX", "g++")
INCLUDE = (ROOT / "cuda_ext" / "include", ROOT / "cuda_ext" / "cuda")


def build_emulated(
    sources: Sequence[Path], *, include: Sequence[Path] = INCLUDE, sanitize: bool = False
) -> ctypes.CDLL:
    """Compile CUDA sources with g++ and load them.

    Args:
        sources: .cu files.
        include: folders of headers.
        sanitize: for a process that runs with libasan preloaded: find memory out of bounds.

    Raises:
        RuntimeError: the compiler's messages.
    """
    return ctypes.CDLL(str(emulated_path(sources, include=include, sanitize=sanitize)))


def emulated_path(
    sources: Sequence[Path], *, include: Sequence[Path] = INCLUDE, sanitize: bool = False
) -> Path:
    """Compile as ``build_emulated`` does, and return where the library lies, without loading it.

    The library is kept in the temporary folder under a hash of all that goes into it.
    """
    headers = [HERE / "emulator.h", HERE / "emulator.cpp"]
    for folder in include:
        headers += sorted([*folder.glob("*.h"), *folder.glob("*.cuh")])
    command = [
        COMPILER,
        *("-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-gnu-unique"),
        # Only the multiply-adds that are written out: the result must not depend on inlining.
        *("-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
        *(["-march=native"] if platform.machine() in ("x86_64", "AMD64") else []),
        *(["-fsanitize=address"] if sanitize else []),
        "-DHEADSPLAT_EMULATED",
        *(f"-I{folder}" for folder in (HERE, *include)),
        *("-include", "emulator.h", "-x", "c++"),
        *(str(source) for source in (HERE / "emulator.cpp", *sources)),
    ]
    digest = hashlib.sha256("\0".join(command).encode())
    for path in (*sources, *headers):
        digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"headsplat_emulated_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{digest.hexdigest()[:24]}.so"
    if not library.is_file():
        # Under another name first: two processes may build the same library at once.
        partial = library.with_suffix(f".{os.getpid()}")
        done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"g++ does not take these CUDA sources:\n{done.stderr}")
        partial.rename(library)
    return library


def emulator_message(library: ctypes.CDLL) -> str:
    """Return why the latest launch that failed did so; empty where none has."""
    library.hs_emulator_message.restype = ctypes.c_char_p
    return library.hs_emulator_message().decode()


def address_sanitizer() -> Path | None:
    """Return libasan of the compiler; None where it has none."""
    if shutil.which(COMPILER) is None:
        return None
    command = [COMPILER, "-print-file-name=libasan.so"]
    found = Path(subprocess.run(command, capture_output=True, text=True).stdout.strip())
    return found if found.is_absolute() else None


def sanitizer_environment() -> dict[str, str]:
    """Return the environment of a Python that is to load a library built with ``sanitize``."""
    # Python itself never gives all of its memory back.
    return {**os.environ, "LD_PRELOAD": str(address_sanitizer()), "ASAN_OPTIONS": "detect_leaks=0"}
