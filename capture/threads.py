"""Two small helpers that let decoding, detection and encoding overlap without piling up pictures."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Writer:
    """One worker thread with a short queue, so that pictures wait in line and not in memory."""

    def __init__(self, depth: int = 6) -> None:
        """Let ``depth`` jobs wait, 1 or more; ``put`` blocks while there are more."""
        self._depth = depth

    def __enter__(self) -> Writer:
        self._pool = ThreadPoolExecutor(1)
        self._waiting: list[Future[Any]] = []
        return self

    def put(self, job: Callable[..., Any], *args: Any) -> None:
        """Queue a job; raises what an earlier one raised."""
        self._waiting.append(self._pool.submit(job, *args))
        if len(self._waiting) > self._depth:
            self._waiting.pop(0).result()

    def __exit__(self, kind: type | None, *error: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()


@contextmanager
def prefetched(items: Iterable[T], depth: int = 6) -> Iterator[Iterator[T]]:
    """Run an iterable in a thread, ``depth`` items ahead; its exceptions come out at the consumer."""
    line: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def offer(kind: str, value: Any) -> None:
        while not stop.is_set():
            try:
                line.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                offer("item", item)
                if stop.is_set():
                    return
            offer("end", None)
        except BaseException as error:  # noqa: BLE001 - handed on to the consumer whatever it is
            offer("error", error)

    def consume() -> Iterator[T]:
        while True:
            kind, value = line.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stop.set()
        thread.join()
