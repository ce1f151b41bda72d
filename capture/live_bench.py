"""Measure live driving on this machine: updates a second from the wire, or a camera, to posed Gaussians."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatar.drive.live import LiveConfig, StreamDriver
from avatar.drive.live_send import send_motion
from avatar.drive.livelink import open_livelink
from avatar.drive.motion import ARKIT_COUNT, FaceMotion
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_INDEX
from avatar.types import HeadState, Progress, Reporter, ignore_progress
from capture.live import ClipCamera, FaceReader, WebcamDriver
from capture.track.threads import one_thread_a_call

WARM_UP_S = 0.5
"""Not measured: threads start, kernels load."""


def bench_live(
    avatar: Avatar,
    *,
    seconds: float = 10.0,
    rate: float = 60.0,
    video: Path | None = None,
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Measure the live paths, end to end but for the drawing.

    Args:
        avatar: who is driven.
        seconds: how long each part runs.
        rate: packets, and pictures, a second.
        video: a clip to play as a webcam; no webcam part where None.
        report: listener.

    Returns:
        ``rows``, one a part: ``updates_per_s`` posed, ``latency_ms`` from the sending (the picture's
        arrival) to posed Gaussians, median and 95th percentile, ``dropped``, ``cpu_share`` of one core;
        ``filter_ms``, what the filter and the interpolation add to that.
    """
    config = LiveConfig()
    with one_thread_a_call(), torch.no_grad():
        rows = [_livelink(avatar, seconds, rate)]
        report(Progress("bench live", 1, 1 if video is None else 3))
        if video is not None:
            rows.append(_webcam(avatar, video, seconds, rate))
            report(Progress("bench live", 2, 3))
            rows.append(_fit_alone(video, seconds))
            report(Progress("bench live", 3, 3))
    lag = {
        f"at {speed:g} units a second": 1e3 * (config.delay_s + config.weights.lag_s(speed))
        for speed in (0.0, 2.0, 10.0)
    }
    return {"gaussians": len(avatar), "rows": rows, "filter_ms": lag}


def speech_like(seconds: float, rate: float) -> FaceMotion:
    """Return a motion of a jaw and lids that never rest, for as long as asked."""
    time_s = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    weights = torch.zeros(len(time_s), ARKIT_COUNT, dtype=torch.float64)
    weights[:, ARKIT_INDEX["jawOpen"]] = 0.25 - 0.25 * torch.cos(2 * torch.pi * 3 * time_s)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        weights[:, ARKIT_INDEX[name]] = torch.cos(2 * torch.pi * 0.3 * time_s).clamp(min=0) ** 40
    head = 0.2 * torch.stack([torch.sin(time_s * (k + 1)) for k in range(3)], -1)
    return FaceMotion(time_s, weights, head)


def _livelink(avatar: Avatar, seconds: float, rate: float) -> dict[str, Any]:
    motion = speech_like(seconds + WARM_UP_S, rate)
    driver = open_livelink(avatar, port=0)
    started: list[float] = []

    def clock() -> float:
        now = time.perf_counter()
        if not started:
            started.append(now)
        return now

    sent: list[int] = []
    sender = threading.Thread(
        target=lambda: sent.append(
            send_motion(motion, ("127.0.0.1", driver.port), clock=clock).packets
        )
    )
    try:
        sender.start()
        # A packet's time is when it was to leave, counted from the sender's start.
        row = _watch(avatar, driver.state, driver.stream, seconds, lambda t: started[0] + t)
        sender.join()
        time.sleep(0.05)
    finally:
        driver.close()
    return {"part": "Live Link UDP", "sent": sent[0], **row, **_drops(driver.stream, sent[0])}


def _webcam(avatar: Avatar, video: Path, seconds: float, rate: float) -> dict[str, Any]:
    driver = WebcamDriver(avatar, lambda: ClipCamera(video, fps=rate))
    try:
        row = _watch(avatar, driver.state, driver.stream, seconds, lambda t: t)
    finally:
        driver.close()
    return {"part": f"webcam at {rate:g} pictures a second", **row, **_drops(driver.stream, None)}


def _fit_alone(video: Path, seconds: float) -> dict[str, Any]:
    """How many pictures a second one core turns into samples when none has to be waited for."""
    camera, reader = ClipCamera(video, realtime=False), FaceReader()
    took: list[float] = []
    end = time.perf_counter() + seconds
    cpu = time.process_time()
    try:
        while time.perf_counter() < end:
            picture = camera.read()
            if picture is None:
                break
            start = time.perf_counter()
            reader.sample(picture, len(took) / camera.fps)
            took.append(time.perf_counter() - start)
    finally:
        camera.close()
        reader.close()
    return {
        "part": "face found and fitted, as fast as it goes",
        "updates": len(took),
        "updates_per_s": 1 / float(np.mean(took)),
        "cpu_ms_a_picture": 1e3 * (time.process_time() - cpu) / len(took),
        "ms_median": 1e3 * float(np.median(took)),
        "ms_p95": 1e3 * float(np.percentile(took, 95)),
        "ms_largest": 1e3 * float(np.max(took)),
    }


def _drops(stream: StreamDriver, sent: int | None) -> dict[str, Any]:
    dropped = {name: n for name, n in stream.counts.items() if name != "accepted"}
    lost = {} if sent is None else {"never arrived": sent - stream.counts.total()}
    return {"accepted": stream.counts["accepted"], "dropped": dropped | lost}


def _watch(
    avatar: Avatar,
    state: Callable[[float], HeadState],
    stream: StreamDriver,
    seconds: float,
    when: Callable[[float], float],
) -> dict[str, Any]:
    """Pose the avatar for every new sample, for some seconds from the first on."""
    waited_from = time.perf_counter()
    latencies: list[float] = []
    seen: float | None = None
    first: float | None = None
    cpu = time.process_time()
    while True:
        now = time.perf_counter()
        newest = stream.newest_time_s
        if first is None and now - waited_from > 20:
            break  # nothing comes: the row says so
        if first is not None and now - first > seconds + WARM_UP_S:
            break
        if newest is None or newest == seen:
            time.sleep(0.0005)
            continue
        seen = newest
        if first is None:
            first = now
        avatar.pose(state(now))
        if now - first < WARM_UP_S:
            cpu = time.process_time()
            continue
        latencies.append(time.perf_counter() - when(newest))
    if not latencies:
        return {"updates": 0, "updates_per_s": 0.0}
    return {
        "updates": len(latencies),
        "updates_per_s": len(latencies) / seconds,
        "latency_ms_median": 1e3 * float(np.median(latencies)),
        "latency_ms_p95": 1e3 * float(np.percentile(latencies, 95)),
        "cpu_share": (time.process_time() - cpu) / seconds,
    }
