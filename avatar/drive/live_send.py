"""Send a file of ARKit coefficients as a phone would, in real time: to try live driving without one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from avatar.checks import InputError
from avatar.drive.livelink import LiveLinkPacket, make_packet, sample_values
from avatar.drive.motion import FaceMotion
from avatar.drive.osc import vmc_bundle

Protocol = Literal["livelink", "osc"]
DEVICE, SUBJECT = "headsplat", "headsplat-send"
RATE = 60
"""Frames a second in which Live Link's times are counted."""


@dataclass(frozen=True)
class Sent:
    """What became of the sending."""

    packets: int
    """Datagrams handed to the network."""
    refused: int
    """Datagrams that the system refused; over the network losses are not noticed."""
    late_s: float
    """By how much the latest datagram left after its time."""
    seconds: float
    """How long it took."""


def send_motion(
    motion: FaceMotion,
    to: tuple[str, int],
    *,
    protocol: Protocol = "livelink",
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    stop: threading.Event | None = None,
) -> Sent:
    """Send every sample of a motion at its time.

    Args:
        motion: what to send.
        to: address and UDP port.
        protocol: Live Link Face packets, or VMC's OSC messages (which carry no eye angles).
        repeats: how many times, one after the other.
        clock: seconds; waits go by it too.
        stop: ends the sending early when set.

    Raises:
        InputError: the address is not known.
    """
    stop = stop or threading.Event()
    try:
        family, _, _, _, address = socket.getaddrinfo(*to, type=socket.SOCK_DGRAM)[0]
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{to[0]}, port {to[1]} is no address that can be sent to ({error}). "
            "Give HOST:PORT, for example 127.0.0.1:11111."
        ) from error
    length = float(motion.time_s[-1]) + 1 / RATE
    packets = refused = 0
    late = 0.0
    start = clock()
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        for repeat in range(repeats):
            for i, time_s in enumerate(motion.time_s.tolist()):
                due = repeat * length + time_s
                if stop.wait(max(0.0, start + due - clock())):
                    return Sent(packets, refused, late, clock() - start)
                late = max(late, clock() - start - due)
                try:
                    udp.sendto(_datagram(motion, i, due, protocol), address)
                    packets += 1
                except OSError:
                    refused += 1  # nobody listens there (yet)
    return Sent(packets, refused, late, clock() - start)


def _datagram(motion: FaceMotion, i: int, due_s: float, protocol: Protocol) -> bytes:
    weights = motion.weights[i].numpy()
    head = None if motion.head is None else motion.head[i].numpy()
    gaze = None if motion.gaze is None else motion.gaze[i].numpy()
    if protocol == "osc":
        return vmc_bundle(weights, head)
    frame, subframe = divmod(due_s * RATE, 1.0)
    values = sample_values(weights, head, gaze)
    return make_packet(
        LiveLinkPacket(DEVICE, SUBJECT, int(frame), float(np.float32(subframe)), (RATE, 1), values)
    )
