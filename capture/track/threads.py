"""Threads of the tracker: frames in parallel, each frame's work on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread_a_call() -> Iterator[None]:
    """Keep OpenCV and torch to one thread a call inside the block, and give them back theirs after it.

    The tracker's matrices are small and come in batches, so whole frames are what is worth doing in
    parallel; and results then depend neither on the number of cores (DIS flow does, by its stripes)
    nor on who else uses them (OpenMP's threads wait by spinning).
    """
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])


def in_parallel(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yield ``work(item)`` in order; the work must release the interpreter's lock to gain anything."""
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, items)
