"""Where a fit computes: the CPU, or an NVIDIA GPU with a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from avatar.checks import InputError
from avatar.raster.cuda import cuda_state, missing

DeviceName = Literal["auto", "cpu", "cuda"]


def compute_device(name: DeviceName) -> torch.device:
    """Return the device that a name stands for; auto is the GPU where its kernels run, else the CPU.

    Raises:
        InputError: cuda was asked for and cannot run here; with the reason and the remedy.
    """
    if name == "cpu" or (name == "auto" and missing()):
        return torch.device("cpu")
    if missing():
        raise InputError(
            f"--device cuda does not work here: {cuda_state()}. Until then leave --device out: the CPU "
            "gives the same avatar, later."
        )
    return torch.device("cuda", torch.cuda.current_device())


def device_label(device: torch.device) -> str:
    """Return what eval.json calls a device: cpu, or the GPU's name."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


class Lane:
    """A device and the order of work on it.

    On a GPU all work goes to one stream that is not the usual one, as only such a stream can be captured in a
    CUDA graph, and gradients are summed on the stream of the forward pass.
    """

    def __init__(self, device: torch.device) -> None:
        """Create on ``device``."""
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def synchronize(self) -> None:
        """Wait for the work of the lane; on the CPU it is done."""
        if self.stream is not None:
            self.stream.synchronize()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the work inside the block onto the lane, after what is under way and before what follows."""
        if self.stream is None:
            yield
            return
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        try:
            with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
                yield
        finally:
            outside.wait_stream(self.stream)
