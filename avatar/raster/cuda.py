"""The CUDA kernel library: loading it, saying why it cannot run here, and calling it.

The library stands on the NVIDIA driver alone (CUDA's runtime lies inside), whatever CUDA torch was built with.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from avatar.checks import InputError
from avatar.raster.library import library_path

GET_LIBRARY = (
    "Install a wheel made by `make wheel` on a machine with nvcc; or install the CUDA toolkit (12.8 or "
    "newer, it brings nvcc) and run: pip install . -C cmake.define.HEADSPLAT_CUDA=ON"
)
GET_DRIVER = "install the newest driver from https://www.nvidia.com/drivers and restart"
GET_TORCH = "Install a CUDA build of it: https://pytorch.org/get-started/locally"


@cache
def cuda_library() -> ctypes.CDLL:
    """Load the library once; it does not touch the GPU until a kernel is called.

    Raises:
        InputError: missing, or built for another machine.
    """
    path = library_path("headsplat_cuda", f"This install has no CUDA kernels. {GET_LIBRARY}")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be loaded ({error}). {GET_LIBRARY}") from error
    return loaded


# -- Whether it can run here --------------------------------------------------------------------------


@dataclass(frozen=True)
class Driver:
    """What NVIDIA's driver says of itself."""

    version: int
    """The newest CUDA that it runs: 13000 for 13.0."""
    devices: int
    """GPUs that it sees."""


@cache
def driver() -> Driver | None:
    """Ask NVIDIA's driver directly, since torch's CPU build cannot; None where there is none."""
    name = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        loaded = ctypes.CDLL(name)
    except OSError:
        return None
    version, devices = ctypes.c_int(0), ctypes.c_int(0)
    if loaded.cuInit(0) != 0 or loaded.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return Driver(0, 0)
    if loaded.cuDeviceGetCount(ctypes.byref(devices)) != 0:
        return Driver(version.value, 0)
    return Driver(version.value, devices.value)


@cache
def missing() -> tuple[str, ...]:
    """What CUDA kernels lack on this machine, each with its remedy; nothing where they run."""
    found: list[str] = []
    here = driver()
    if here is None:
        found.append(f"there is no NVIDIA driver. With an NVIDIA GPU: {GET_DRIVER}")
    elif here.devices == 0:
        found.append("NVIDIA's driver sees no GPU. Run nvidia-smi to see why")
    if torch.version.cuda is None:
        found.append(f"this torch ({torch.__version__}) is a CPU build. {GET_TORCH}")
    elif not found and not torch.cuda.is_available():
        found.append(
            f"torch is built for CUDA {torch.version.cuda}, and NVIDIA's driver runs "
            f"{_dotted(here.version) if here else 'none'} at most. {GET_DRIVER}; or take an older build of "
            "torch from https://pytorch.org/get-started/previous-versions"
        )
    try:
        cuda_library()
    except InputError as error:
        found.append(str(error))
    if not found:
        found += _try_a_kernel()
    return tuple(found)


def _try_a_kernel() -> list[str]:
    """Run the smallest kernel: only that tells whether driver, GPU and library fit each other."""
    values = torch.ones(3, device="cuda")
    sizes = (ctypes.c_int64(1), ctypes.c_int64(1))
    try:
        kernels = Kernels(cuda_library(), torch.cuda.current_stream().cuda_stream)
        kernels.call("hs_cuda_blend", *sizes, *(pointer(v) for v in values.split(1)))
        torch.cuda.synchronize()
    except RuntimeError as error:
        name, (major, minor) = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
        here = driver()
        runs = f"; its driver runs CUDA {_dotted(here.version)} at most" if here else ""
        return [
            f"{error}. The GPU is {name} of compute capability {major}.{minor}{runs}. Where the driver is "
            f"older than the kernels: {GET_DRIVER}. Where the GPU is: build the kernels here with nvcc "
            "(pip install .)"
        ]
    return []


def cuda_state() -> str:
    """Return "ok (the GPU's name)", or all that is missing and how to get it."""
    lacking = missing()
    return f"ok ({torch.cuda.get_device_name(0)})" if not lacking else "; ".join(lacking)


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


# -- Calling it ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernels:
    """A library of kernels and the stream that they go to."""

    library: ctypes.CDLL
    stream: int = 0
    """A cudaStream_t."""

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function whose last argument is the stream.

        Raises:
            RuntimeError: it failed; with CUDA's reason.
        """
        code = getattr(self.library, name)(*arguments, ctypes.c_void_p(self.stream))
        if code != 0:
            raise RuntimeError(f"{name} failed: {self._reason(code)}")

    def scratch(self, like: Tensor, name: str, *arguments: Any) -> Tensor:
        """Return as many bytes as the function ``name`` asks for, on the device of ``like``.

        Raises:
            RuntimeError: it refused; with the reason.
        """
        function = getattr(self.library, name)
        function.restype = ctypes.c_int64
        size = int(function(*arguments))
        if size < 0:
            raise RuntimeError(f"{name} failed: {self._reason(size)}")
        return like.new_empty(size, dtype=torch.uint8)

    def _reason(self, code: int) -> str:
        self.library.hs_cuda_message.restype = ctypes.c_char_p
        return self.library.hs_cuda_message(ctypes.c_int32(code)).decode()


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Return where the tensor's numbers lie; the caller keeps it alive."""
    return ctypes.c_void_p(tensor.data_ptr())


def on_gpu(tensor: Tensor) -> bool:
    """Whether the CUDA kernels are the ones for this tensor."""
    return tensor.is_cuda


def kernels_for(tensor: Tensor) -> Kernels:
    """Return the library with the current stream of the tensor's device.

    Raises:
        InputError: the kernels cannot run here; with the reason.
    """
    if missing():
        raise InputError(f"CUDA kernels cannot run here: {cuda_state()}.")
    return Kernels(cuda_library(), torch.cuda.current_stream(tensor.device).cuda_stream)


@contextmanager
def on_device(tensor: Tensor) -> Iterator[None]:
    """Make the tensor's GPU the current one of torch and of the kernels inside the block."""
    if not tensor.is_cuda:
        yield
        return
    with torch.cuda.device(tensor.device):
        # The library has a CUDA runtime of its own.
        cuda_library().hs_cuda_use_device(ctypes.c_int32(tensor.device.index))
        yield


def is_capturing(tensor: Tensor) -> bool:
    """Whether the current stream of the tensor's device is being captured into a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
