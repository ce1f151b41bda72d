"""Memory: what a fit needs at least, what there is, and what to say when it runs out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.model.create import CreateConfig
from avatar.model.create_views import VIEW_SIDE
from avatar.model.deform import CHANNEL_UNITS
from avatar.train.config import TrainConfig
from avatar.train.frames import CACHE_BYTES

SPARE = 0.2
"""Share of the memory beyond what the fit needs that is left to others."""
GAUSSIAN_FLOATS = 15
"""Means 3, quaternions 4, log scales 3, opacity, colour 3, share of the torso."""
PIXEL_BYTES = 200
"""A step's buffers by the pixel: target, picture, coverage, their gradients, and what the loss keeps."""

RAN_OUT = (
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    "insufficient memory",
    "failed to allocate",
    "can't start new thread",  # there is no room for its stack
)

MEMINFO = Path("/proc/meminfo")
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Limit, use and its parts of the container that this process may run in, versions 2 and 1."""


def available_bytes() -> int | None:
    """Return the bytes that this process can still take, of the machine's and its container's.

    None where the system does not say, as outside of Linux.
    """
    found = [value for value in (_free_of_machine(), *map(_free_of, CGROUPS)) if value is not None]
    return min(found, default=None)


def _free_of_machine() -> int | None:
    return _field(MEMINFO, "MemAvailable:", 1024)


def _free_of(files: tuple[str, str, str]) -> int | None:
    """What a container's limit leaves; None where there is none."""
    try:
        limit, used = (int(Path(file).read_text()) for file in files[:2])
    except (OSError, ValueError):  # no such file, or "max"
        return None
    # Files that were read lately count as used, but make room for whoever asks.
    return max(0, limit - used + (_field(Path(files[2]), "inactive_file", 1) or 0))


def _field(file: Path, name: str, unit: int) -> int | None:
    """Return the number after ``name`` in a file of lines "name number", in bytes."""
    try:
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] == [name]:
                return int(words[1]) * unit
    except (OSError, ValueError, IndexError):
        pass
    return None


def needed_bytes(capture: Capture, config: TrainConfig) -> int:
    """Return what a fit takes at its peak without any training picture kept, an estimate from below.

    The peak is a checkpoint: parameters, moments and gradients lie in memory, and once more as the
    file's bytes.
    """
    create = config.create
    first = create.face + create.hair + create.torso + 2 * create.eye + create.mouth
    count = max(first, config.densify.maximum if config.densify.rounds > 0 else 0)
    channels = len(CHANNEL_UNITS)
    # Value, gradient and two moments; the offsets' gradients are kept by the frame, not by the shape.
    floats = 4 * GAUSSIAN_FLOATS + channels * (3 * _shapes(create) + config.deformer_frames)
    model = 2 * 4 * count * floats
    sizes = [capture.size_within(config.max_side, k) for k in range(len(capture.cameras))]
    pixels = max(width * height for width, height in sizes)
    views = create.hull_frames * 4 * VIEW_SIDE * VIEW_SIDE
    return int(model) + max(views, pixels * PIXEL_BYTES)


def _shapes(create: CreateConfig) -> float:
    """Return the number of offset shapes that a Gaussian has, the mean of all at the start."""
    if create.deformer == "blendshapes":
        return create.shapes
    if create.deformer != "branches":
        return 0  # what such a kind has of each Gaussian's own is about as much as one shape, or nothing
    head = create.face + create.hair + 2 * create.eye
    by_part = (
        (head, create.shapes),
        (create.mouth, create.mouth_shapes),
        (create.torso, create.torso_shapes),
    )
    gaussians = sum(count for count, _ in by_part)
    return sum(count * shapes for count, shapes in by_part) / max(1, gaussians)


def cache_bytes(capture: Capture, config: TrainConfig, available: int | None) -> int:
    """Return the memory that training pictures may take beside the fit.

    Args:
        capture: what is fitted to.
        config: how.
        available: bytes that can be taken; None where that is not known.

    Raises:
        InputError: the fit does not fit, even with no picture kept.
    """
    if available is None:
        return CACHE_BYTES
    needed = needed_bytes(capture, config)
    if needed > available:
        raise InputError(
            f"This fit needs at least {needed / 1e9:.2g} GB of memory and {available / 1e9:.2g} GB are "
            "free. End other programs, or give a smaller --preset."
        )
    return min(CACHE_BYTES, int((1 - SPARE) * (available - needed)))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in any of the ways of numpy, torch, OpenCV and kernels."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    # torch, our kernels and OpenCV (whose error has no base class but Exception) only say it in words.
    spoken = isinstance(error, RuntimeError | cv2.error)
    return spoken and any(words in str(error).lower() for words in RAN_OUT)


def on_a_gpu(error: BaseException) -> bool:
    """Whether the memory that ran out, see ``ran_out``, is that of a GPU: torch's or a kernel's word."""
    return isinstance(error, RuntimeError) and "cuda" in str(error).lower()


@contextmanager
def out_of_memory_said(run: Path) -> Iterator[None]:
    """Turn an error for want of memory into an InputError that says what to do."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        if on_a_gpu(error):
            raise InputError(
                f"The GPU's memory ran out while fitting. {run} can go on from its last checkpoint (the same "
                "command again; avatar train: with --resume) once other programs that use the GPU have ended "
                "(nvidia-smi lists them), or with --device cpu; else give a smaller --preset."
            ) from error
        raise InputError(
            f"Memory ran out while fitting. {run} can go on from its last checkpoint (the same command "
            "again; avatar train: with --resume) once other programs have ended; else give a smaller "
            "--preset, or capture the clip again with a smaller --max-side."
        ) from error
