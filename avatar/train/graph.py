"""Steps one by one or, on a GPU, as replays of CUDA graphs: a step is hundreds of small kernels, and to launch
each from Python takes longer than to run it.

A graph holds where everything lies in memory. So there is one for each size of picture, inputs are copied to the
place it reads, and whatever puts tensors elsewhere (densification, a return to a checkpoint) ends in ``forget``.
A step is taken as it is written until it has been taken ``WARM_UP`` times, for kernels to be loaded, moments
to be made and room for pairs to be learned; then it is captured. Where that fails, steps go on as before, slower.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from avatar.raster import rasterize
from avatar.raster.cuda_raster import pair_budget
from avatar.train.device import Lane
from avatar.train.fit_state import FitState
from avatar.train.step import InputRows, StepInputs, inputs_of, picture_step

WARM_UP = 3
"""Steps taken as they are written before one is captured."""
PLAIN = "HEADSPLAT_PLAIN_STEPS"
"""Environment variable: where it is set to anything but 0, no step is captured, for debugging."""

Size = tuple[int, int]
"""Width and height of a picture, pixels."""


class Graph(Protocol):
    """A captured step."""

    def replay(self) -> None:
        """Take it again, on what now lies where it read when it was captured."""


class StepRunner:
    """Takes the steps of a fit on pictures, and those of its deformer on the gradients they leave."""

    def __init__(
        self,
        fit: FitState,
        rows: InputRows,
        lane: Lane,
        *,
        fixed: bool | None = None,
        said: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Create; nothing is captured yet.

        Args:
            fit: what steps change.
            rows: their small inputs, on the fit's device.
            lane: where the work goes; its owner enters it.
            fixed: copy inputs to the same place for each step; None does on a GPU.
            said: is told once why steps cannot be captured.
        """
        self.fit, self._rows, self._lane, self._said = fit, rows, lane, said
        on_gpu = lane.stream is not None
        self._fixed = on_gpu if fixed is None else fixed
        self.captures = on_gpu and os.environ.get(PLAIN, "0") == "0"
        """Whether steps are captured where they can be."""
        self._packed = torch.empty_like(rows.packed[0, 0])
        self._background = torch.empty(3, device=lane.device)
        self._inputs: dict[Size, StepInputs] = {}
        self.forget()

    def forget(self) -> None:
        """Drop all graphs: tensors have moved."""
        self._graphs: dict[Size | int, Graph] = {}
        self._taken: Counter[Size | int] = Counter()
        # One pool for all: nothing that a graph leaves in it is read after the replay.
        self._pool: Any = None
        self._gradient: Tensor | None = None
        self._deformer_inputs: tuple[Tensor, Tensor] | None = None

    # -- pictures -----------------------------------------------------------------------------

    def take(
        self, row: int, rgba: Tensor, background: Tensor, *, half: bool, measure: bool
    ) -> None:
        """Step the Gaussians on a picture, and the deformer where it is its turn.

        Args:
            row: training row of the picture.
            rgba: [H, W, 4] uint8 on the fit's device.
            background: [3] on the CPU.
            half: whether the picture is the half one.
            measure: see ``picture_step``; a captured step always does.
        """
        fit = self.fit
        inputs = self._filled(row, rgba, background, half)
        size = (inputs.camera.width, inputs.camera.height)
        if self._captured(size, lambda: self._capture_picture(inputs)):
            fit.adam.write_rates()
            self._graphs[size].replay()
            assert self._gradient is not None
            gradient: Tensor | None = self._gradient.clone()
        else:
            if self.captures and self._taken[size] == 1:
                self._make_room(inputs)
            gradient = picture_step(fit, inputs, measure=measure)
        fit.pulls += gradient is not None
        if gradient is not None:
            fit.pending.append((row, gradient))
        if len(fit.pending) >= fit.config.deformer_frames:
            self.step_deformer()

    def _filled(self, row: int, rgba: Tensor, background: Tensor, half: bool) -> StepInputs:
        packed = self._rows.packed[int(half), row]
        height, width = rgba.shape[:2]
        if not self._fixed:
            nothing = torch.zeros(2, dtype=torch.int64, device=rgba.device)
            return inputs_of(self._rows, packed, rgba, background.to(rgba.device), nothing)
        self._packed.copy_(packed)
        if self._background.is_cuda:
            background = background.pin_memory()
        self._background.copy_(background, non_blocking=True)
        if (width, height) not in self._inputs:
            nothing = torch.zeros(2, dtype=torch.int64, device=rgba.device)
            self._inputs[width, height] = inputs_of(
                self._rows, self._packed, torch.empty_like(rgba), self._background, nothing
            )
        inputs = self._inputs[width, height]
        inputs.rgba.copy_(rgba)
        return inputs

    @torch.no_grad()
    def _make_room(self, inputs: StepInputs) -> None:
        """Draw once without gradients, which waits for the count of pairs and makes room for them."""
        avatar = self.fit.avatar
        posed = avatar.assemble(inputs.state, avatar.deformer(inputs.features))
        rasterize(posed, inputs.camera, background=inputs.background)

    def _capture_picture(self, inputs: StepInputs) -> Callable[[], None]:
        fit, camera = self.fit, inputs.camera
        # No news of pairs is taken in while a step is captured; by now all there is has arrived.
        pair_budget(self._lane.device, camera.width, camera.height).room(len(fit.avatar))
        fit.adam.write_rates()
        if self._gradient is None:
            self._gradient = torch.zeros(len(fit.avatar), 13, device=self._lane.device)
        kept = self._gradient

        def work() -> None:
            gradient = picture_step(fit, inputs, measure=True)
            if gradient is not None:
                kept.copy_(gradient)

        return work

    # -- the deformer -------------------------------------------------------------------------

    def step_deformer(self) -> None:
        """Step the deformer on the frames since its last step, of which only these gradients are kept."""
        fit = self.fit
        if not fit.pending:
            return
        rows, gradients = (list(part) for part in zip(*fit.pending, strict=True))
        fit.pending = []
        features, stacked = self._rows.features(rows), torch.stack(gradients)
        count = len(rows)
        # Before a densification there may be fewer frames than usual: not often enough for a graph.
        usual = count == fit.config.deformer_frames
        if usual and self._captured(count, lambda: self._capture_deformer(features, stacked)):
            assert self._deformer_inputs is not None
            self._deformer_inputs[0].copy_(features)
            self._deformer_inputs[1].copy_(stacked)
            fit.deformer_step.write_rates()
            self._graphs[count].replay()
        else:
            fit.deformer_step.step(features, stacked)

    def _capture_deformer(self, features: Tensor, gradients: Tensor) -> Callable[[], None]:
        fit, own = self.fit, (features.clone(), gradients.clone())
        self._deformer_inputs = own
        fit.deformer_step.write_rates()
        return lambda: fit.deformer_step.step(*own)

    # -- capturing ----------------------------------------------------------------------------

    def _captured(self, key: Size | int, prepare: Callable[[], Callable[[], None]]) -> bool:
        """Whether there is a graph under ``key`` to replay, after capturing one where it is time to."""
        if not self.captures:
            return False
        if key in self._graphs:
            return True
        self._taken[key] += 1
        if self._taken[key] <= WARM_UP:
            return False
        try:
            self._lane.synchronize()
            self._graphs[key] = self._graph_of(prepare())
        except RuntimeError as error:
            # A capture that breaks off has run nothing.
            self.captures = False
            self._graphs.clear()
            self.fit.adam.zero_grad(set_to_none=True)
            self.fit.avatar.zero_grad(set_to_none=True)
            # What ends a broken capture raises too; what broke it says more.
            reason = str(error.__context__ or error).splitlines()[0]
            self._said(
                f"Steps cannot be captured in a CUDA graph here, so they take longer: {reason}"
            )
            return False
        return True

    def _graph_of(self, work: Callable[[], None]) -> Graph:
        """Capture ``work``, which is not run by that."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads read pictures and serve the viewer meanwhile.
        with torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._lane.stream,
            capture_error_mode="thread_local",
        ):
            work()
        return graph

    # -- room for pairs -----------------------------------------------------------------------

    def make_room(self) -> None:
        """Make more room where Gaussians were left out of pictures for want of it; waits for the device."""
        short = False
        for (width, height), inputs in self._inputs.items():
            most, left_out = inputs.pairs.tolist()
            inputs.pairs.zero_()
            if left_out > 0:
                pair_budget(self._lane.device, width, height).learn(most)
                short = True
        if short:
            self.forget()
