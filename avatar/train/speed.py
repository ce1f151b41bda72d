"""Frames a second of an avatar: drawing alone, and posing a new state and drawing."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.raster import one_torch_thread, rasterize
from avatar.raster.cuda_raster import pairs_left_out
from avatar.train.device import Lane
from avatar.train.step import InputRows, inputs_of
from avatar.types import Camera, HeadState, RenderOutput

ROUNDS = 5
"""On a GPU the frames are timed so often; the median counts."""


@torch.no_grad()
def frame_rates(
    avatar: Avatar, states: HeadState, camera: Camera, count: int, device: torch.device
) -> tuple[float, float]:
    """Return frames a second of drawing alone, and of posing a new state and drawing.

    On the CPU they are medians of single frames. On a GPU ``count`` frames follow each other without a wait,
    each after its state was copied there from the CPU, between two CUDA events; frames are replays of a CUDA graph.

    Args:
        avatar: on the CPU; it is left as it is.
        states: at least one, on the CPU.
        camera: from where.
        count: frames that are timed.
        device: where.
    """
    if device.type == "cpu":
        return _on_cpu(avatar, states, camera, count)
    return _on_gpu(copy.deepcopy(avatar), states, camera, count, Lane(device))


def _on_cpu(avatar: Avatar, states: HeadState, camera: Camera, count: int) -> tuple[float, float]:
    white = torch.ones(3)
    draw, both = [], []
    for k in range(count):
        state = states[k % len(states)]
        with one_torch_thread():
            begin = time.perf_counter()
            gaussians = avatar.pose(state)
            posed = time.perf_counter()
            rasterize(gaussians, camera, background=white)
            end = time.perf_counter()
        draw.append(end - posed)
        both.append(end - begin)
    return round(1 / median(draw), 1), round(1 / median(both), 1)


def _on_gpu(
    avatar: Avatar, states: HeadState, camera: Camera, count: int, lane: Lane
) -> tuple[float, float]:
    no_features = torch.zeros(len(states), 0)
    rows = InputRows(no_features, states, [(camera, camera)] * len(states))
    there = [row.pin_memory() for row in rows.packed[0]]
    with lane.entered():
        avatar = avatar.to(lane.device)
        packed, white = there[0].to(lane.device), torch.ones(3, device=lane.device)
        rgba = torch.empty(camera.height, camera.width, 4, dtype=torch.uint8, device=lane.device)
        inputs = inputs_of(rows, packed, rgba, white, torch.zeros(2, device=lane.device))

        def animate() -> RenderOutput:
            return rasterize(avatar.pose(inputs.state), inputs.camera, background=white)

        # Written out once, which waits for the count of pairs in each and makes room for them.
        for row in there:
            packed.copy_(row, non_blocking=True)
            animate()
        posed = avatar.pose(inputs.state)

        def draw() -> RenderOutput:
            return rasterize(posed, inputs.camera, background=white)

        return _replayed(draw, [], packed, count, lane), _replayed(
            animate, there, packed, count, lane
        )


def _replayed(
    frame: Callable[[], RenderOutput],
    there: list[Tensor],
    packed: Tensor,
    count: int,
    lane: Lane,
) -> float:
    """Return frames a second of replays of ``frame``, each after a copy of one of ``there``, if any."""
    assert lane.stream is not None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=lane.stream, capture_error_mode="thread_local"):
        picture = frame()
    rates = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(lane.device)
        begin.record(lane.stream)
        for k in range(count):
            if there:
                packed.copy_(there[k % len(there)], non_blocking=True)
            graph.replay()
        end.record(lane.stream)
        torch.cuda.synchronize(lane.device)
        rates.append(count / begin.elapsed_time(end) * 1e3)
    assert pairs_left_out(picture.stats) == 0
    return round(median(rates), 1)
