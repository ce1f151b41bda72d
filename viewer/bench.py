"""What the viewer delivers: frames a second, delays, memory, measured by clients on the wire.

The viewer runs in this process and the clients in others, as browsers do, so neither takes the other's
interpreter. Frames are taken at 512 x 512 with the motion playing; delays from the message of a slider
to the arrival of the next picture, with all else still.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from avatar.capture_data import Track
from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.types import Progress, Reporter, ignore_progress
from viewer.app import ViewerApp
from viewer.wire import WireClient

SIDE = 512
"""Canvas of every client, pixels."""
SLIDER = "jawOpen"
"""Label of the slider whose delay is measured."""
QUIET_S = 0.5
"""A page counts as still after this long without a picture: longer than the sharp one takes to follow."""
WARM_S = 1.5
"""Pictures of a client's first moments are not counted."""


@dataclass(frozen=True)
class ViewBenchConfig:
    """How long to look."""

    seconds: float = 6.0
    """Of each measurement of frames a second."""
    moves: int = 40
    """Of the slider."""
    cycles: int = 100
    """Openings and closings of a client between the two readings of memory."""
    warm_cycles: int = 20
    """Cycles before the first reading: libraries and thread stacks are loaded by then."""


def bench_view(
    avatar: Avatar,
    track: Track,
    config: ViewBenchConfig | None = None,
    *,
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Measure a viewer of this avatar on this machine.

    Args:
        avatar: who is shown.
        track: the motion that plays.
        config: how long.
        report: listener, stage ``"view"``.

    Returns:
        ``frames_per_s`` (one client), ``frames_per_s_of_3`` (each of three at once), ``bytes_per_frame`` and ``height`` of
        its pictures (they shrink where the machine cannot keep pace),
        ``slider_ms`` (median) and ``slider_ms_90`` (9th decile), ``memory_mb`` [before, after the
        cycles] and ``memory_growth`` (share), both None where the system does not tell,
        ``killed``: frames/s of a client before and after another
        is killed as pictures travel to it, and its ``longest_gap_ms``.

    Raises:
        InputError: a client got no picture.
    """
    config = config or ViewBenchConfig()
    app = ViewerApp(avatar, track=track, port=0)
    app.start()
    try:
        app.panels.look_panel.resolution.value = SIDE
        done = _Counter(report)
        done("one client")
        one = _watch(app.url, config.seconds, 1)[0]
        done("three clients")
        three = _watch(app.url, config.seconds, 3)
        done("a killed client")
        killed = _kill_one(app, config.seconds)
        done("the slider")
        app.panels.playing.value = False
        delays = _client("slide", app.url, config.moves)["delays_s"]
        done("opening and closing")
        _client("cycle", app.url, config.warm_cycles)
        before = _settled_memory(app)
        _client("cycle", app.url, config.cycles)
        after = _settled_memory(app)
        done("")
    finally:
        app.stop()
    if not one["arrivals"] or not delays:
        raise InputError("No picture reached the client; run avatar doctor to see what works here.")
    return {
        "gaussians": len(avatar),
        "side": SIDE,
        "motion_frames_per_s": track.fps,
        "frames_per_s": _rate(one),
        "bytes_per_frame": round(statistics.median(size for _, size, _ in one["arrivals"])),
        "height": round(statistics.median(height for _, _, height in one["arrivals"])),
        "frames_per_s_of_3": [_rate(client) for client in three],
        "slider_ms": round(1e3 * statistics.median(delays), 1),
        "slider_ms_90": round(1e3 * sorted(delays)[int(0.9 * (len(delays) - 1))], 1),
        "killed": killed,
        "cycles": config.cycles,
        **_memory(before, after),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def print_table(result: dict[str, Any]) -> None:
    """Print what was measured beside what is wanted of two idle cores."""
    killed, growth = result["killed"], result["memory_growth"]
    low = min(result["frames_per_s_of_3"])
    rows = (
        ("frames/s, one client", f"{result['frames_per_s']:.1f}", ">= 30"),
        ("frames/s, each of three", f"{low:.1f}", ">= 10"),
        ("slider to picture, ms", f"{result['slider_ms']:.0f}", "<= 60"),
        ("slider to picture, 9th decile", f"{result['slider_ms_90']:.0f}", ""),
        (
            "height of moving pictures, pixels",
            f"{result['height']}",
            f"{SIDE}, less on a slow machine",
        ),
        ("bytes a picture", f"{result['bytes_per_frame']:,}", ""),
        ("memory after cycles", "unknown" if growth is None else f"{growth:+.1%}", "<= 5 %"),
        (
            "other client's frames/s at a kill",
            f"{killed['before']:.1f} -> {killed['after']:.1f}",
            "not less",
        ),
        ("its longest gap, ms", f"{killed['longest_gap_ms']:.0f}", ""),
    )
    for name, value, wanted in rows:
        print(f"{name:<36}{value:>16}   {wanted}")
    print(
        f"{result['gaussians']:,} Gaussians at {SIDE} x {SIDE}, {result['cores']} cores, "
        f"{result['cycles']} cycles. Times are medians where not said otherwise."
    )


class _Counter:
    def __init__(self, report: Reporter) -> None:
        self._report, self._done = report, 0

    def __call__(self, what: str) -> None:
        self._report(Progress("view", self._done, 5, what))
        self._done += 1


def _start(kind: str, url: str, amount: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "viewer.bench", kind, url, str(amount)]
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    text, _ = process.communicate(timeout=600)
    if process.returncode:
        raise InputError("A client of the viewer ended early; its own message is above.")
    return json.loads(text)


def _client(kind: str, url: str, amount: float) -> dict[str, Any]:
    return _result(_start(kind, url, amount))


def _watch(url: str, seconds: float, clients: int) -> list[dict[str, Any]]:
    processes = [_start("watch", url, seconds) for _ in range(clients)]
    return [_result(process) for process in processes]


def _kill_one(app: ViewerApp, seconds: float) -> dict[str, float]:
    """Watch with two clients, kill one half way; return what the other got."""
    watcher, victim = _start("watch", app.url, seconds), _start("watch", app.url, 10 * seconds)
    end = time.monotonic() + 60
    while len(app.paces) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(WARM_S + seconds / 2)
    killed_at = time.perf_counter()
    victim.kill()
    victim.wait()
    with suppress(ValueError):
        victim.communicate()
    seen = _result(watcher)
    # Both clocks are the machine's monotonic one, so they compare across processes.
    times = [at for at, _, _ in seen["arrivals"]]
    before, after = [t for t in times if t < killed_at], [t for t in times if t >= killed_at]
    gaps = [b - a for a, b in pairwise(times)]
    return {
        "before": _pace(before),
        "after": _pace(after),
        "longest_gap_ms": round(1e3 * max(gaps, default=0.0), 1),
    }


def _rate(client: dict[str, Any]) -> float:
    return _pace([at for at, _, _ in client["arrivals"]])


def _pace(times: Sequence[float]) -> float:
    """Pictures a second between the first and the last."""
    if len(times) < 2:
        return 0.0
    return round((len(times) - 1) / (times[-1] - times[0]), 2)


def _memory(before: float | None, after: float | None) -> dict[str, Any]:
    if before is None or after is None:
        return {"memory_mb": None, "memory_growth": None}
    megabytes = [round(before / 1e6, 1), round(after / 1e6, 1)]
    return {"memory_mb": megabytes, "memory_growth": round(after / before - 1, 4)}


def _settled_memory(app: ViewerApp) -> float | None:
    """Bytes that this process holds, once all clients have left; None where the system does not tell."""
    end = time.monotonic() + 20
    while app.paces and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1.0)
    status = Path("/proc/self/statm")
    if not status.is_file():
        return None
    return int(status.read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


def _run_watch(url: str, seconds: float) -> dict[str, Any]:
    client = WireClient(url, SIDE, SIDE)
    client.wait_picture(0, 30)
    start = time.perf_counter() + WARM_S
    time.sleep(WARM_S + seconds)
    client.close()
    return {"arrivals": [arrival for arrival in client.arrivals if arrival[0] >= start]}


def _run_slide(url: str, moves: float) -> dict[str, Any]:
    client = WireClient(url, SIDE, SIDE)
    client.wait_picture(0, 30)
    delays = []
    for move in range(int(moves)):
        client.wait_quiet(QUIET_S)
        count = len(client.arrivals)
        begun = time.perf_counter()
        client.set_value(SLIDER, round(0.1 + 0.8 * ((move * 7) % 10) / 10, 2))
        delays.append(client.wait_picture(count, 10) - begun)
    client.set_value(SLIDER, 0.0)
    client.close()
    return {"delays_s": delays}


def _run_cycle(url: str, cycles: float) -> dict[str, Any]:
    for _ in range(int(cycles)):
        client = WireClient(url, SIDE, SIDE)
        client.wait_picture(0, 30)
        client.close()
    return {"cycles": cycles}


if __name__ == "__main__":
    kinds = {"watch": _run_watch, "slide": _run_slide, "cycle": _run_cycle}
    print(json.dumps(kinds[sys.argv[1]](sys.argv[2], float(sys.argv[3]))))
