"""Live Link Face over UDP: the packets of Epic's phone app in its Live Link (ARKit) mode.

Big-endian throughout: version (uint8, 6), device id and subject name (each an int32 length and so many
bytes of UTF-8; Unreal writes a negative length for UTF-16), frame time (int32 frame number, float32
sub-frame, int32 numerator and denominator of the frame rate), count (uint8, 61) and so many float32:
the 52 coefficients in Apple's order, then yaw, pitch, roll of the head, of the left and of the right
eye in radians, signs as ``arkit_csv`` says. A packet with a count of 0 says that no face is seen.
The newer MetaHuman mode of the app sends packets of another kind, which are refused by their version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatar.drive.arkit_csv import VALUE_NAMES
from avatar.drive.live import FaceSample, LiveConfig
from avatar.drive.live_udp import LOOPBACK, UdpDriver
from avatar.drive.motion import ARKIT_COUNT
from avatar.model.avatar import Avatar

PORT = 11111
"""What the app sends to unless told otherwise."""
PACKET_VERSION = 6
LONGEST_NAME = 256
"""Bytes of a device id or subject name; the app's are far shorter."""
FASTEST = 1000.0
"""Frames a second; a higher rate is a damaged packet."""


@dataclass(frozen=True)
class LiveLinkPacket:
    """One packet."""

    device: str
    """The phone's id."""
    subject: str
    """The name that the user gave in the app."""
    frame: int
    """Number of the frame; with timecode, since midnight."""
    subframe: float
    """Share of a frame past it."""
    rate: tuple[int, int]
    """Frames a second as numerator and denominator."""
    values: np.ndarray
    """[61] float32 coefficients and angles; [0] where no face is seen."""

    @property
    def time_s(self) -> float:
        """The frame's time on the phone's clock, seconds."""
        return (self.frame + self.subframe) * self.rate[1] / self.rate[0]


class PacketError(ValueError):
    """A datagram is no packet of this protocol; the text is the reason under which it is counted."""


def parse_packet(packet: bytes) -> LiveLinkPacket:
    """Read a packet; raises PacketError with the reason where it is none."""
    if not packet:
        raise PacketError("empty")
    if packet[0] != PACKET_VERSION:
        raise PacketError("of another version (choose Live Link ARKit mode in the app)")
    device, at = _text(packet, 1)
    subject, at = _text(packet, at)
    if len(packet) < at + 17:
        raise PacketError("cut off")
    frame, subframe, numerator, denominator, count = struct.unpack_from(">ifiiB", packet, at)
    if numerator <= 0 or denominator <= 0 or numerator / denominator > FASTEST:
        raise PacketError("without a frame rate")
    if not 0 <= subframe <= 1:  # also NaN
        raise PacketError("without a time")
    values = packet[at + 17 :]
    if count not in (0, len(VALUE_NAMES)):
        raise PacketError("of another number of values")
    if len(values) != 4 * count:
        raise PacketError("cut off" if len(values) < 4 * count else "too long")
    table = np.frombuffer(values, ">f4").astype(np.float32)
    return LiveLinkPacket(device, subject, frame, subframe, (numerator, denominator), table)


def _text(packet: bytes, at: int) -> tuple[str, int]:
    """Return the text at an offset, and where it ends."""
    if len(packet) < at + 4:
        raise PacketError("cut off")
    (length,) = struct.unpack_from(">i", packet, at)
    size = length if length >= 0 else -2 * length
    if size > LONGEST_NAME:
        raise PacketError("with a name too long")
    if len(packet) < at + 4 + size:
        raise PacketError("cut off")
    content = packet[at + 4 : at + 4 + size]
    text = content.decode("utf-8" if length >= 0 else "utf-16-be", errors="replace")
    return text.rstrip("\0"), at + 4 + size


def make_packet(packet: LiveLinkPacket) -> bytes:
    """Return the bytes of a packet."""
    names = b""
    for name in (packet.device, packet.subject):
        content = name.encode()[:LONGEST_NAME]
        names += struct.pack(">i", len(content)) + content
    time = struct.pack(">ifiiB", packet.frame, packet.subframe, *packet.rate, len(packet.values))
    values = np.asarray(packet.values, ">f4").tobytes()
    return bytes([PACKET_VERSION]) + names + time + values


def packet_sample(packet: LiveLinkPacket, address: str) -> FaceSample:
    """Return what a packet with a face says, in the project's signs."""
    with np.errstate(invalid="ignore"):  # NaN of any kind is refused with the sample, not warned of
        values = packet.values.astype(np.float64)
    angles = values[ARKIT_COUNT:]
    eyes = -np.stack([angles[3:5], angles[6:8]])
    sender = f"{address.rsplit(':', 1)[0]} {packet.device} {packet.subject}"
    return FaceSample(values[:ARKIT_COUNT], angles[:3], eyes, packet.time_s, sender)


def sample_values(
    weights: np.ndarray, head: np.ndarray | None, gaze: np.ndarray | None
) -> np.ndarray:
    """Return the 61 values [61] of a packet from coefficients and angles; the inverse of the above."""
    values = np.zeros(len(VALUE_NAMES))
    values[:ARKIT_COUNT] = weights
    if head is not None:
        values[ARKIT_COUNT : ARKIT_COUNT + 3] = head
    if gaze is not None:
        values[ARKIT_COUNT + 3 : ARKIT_COUNT + 5] = -np.asarray(gaze)[0]
        values[ARKIT_COUNT + 6 : ARKIT_COUNT + 8] = -np.asarray(gaze)[1]
    return values.astype(np.float32)


class LiveLinkParser:
    """Packets to samples; a ``Parser``."""

    def __init__(self) -> None:
        self._refused: list[str] = []

    def samples(self, packet: bytes, address: str, arrival_s: float) -> Iterator[FaceSample]:
        """Yield the sample of a packet, if it has one."""
        try:
            parsed = parse_packet(packet)
        except PacketError as error:
            self._refused.append(str(error))
            return
        if len(parsed.values) == 0:
            self._refused.append("without a face")
            return
        yield packet_sample(parsed, address)

    def refused(self) -> Iterator[str]:
        """Yield the reasons since last asked."""
        refused, self._refused = self._refused, []
        yield from refused


def open_livelink(
    avatar: Avatar,
    *,
    port: int = PORT,
    listen: str = LOOPBACK,
    config: LiveConfig | None = None,
    record: Path | None = None,
) -> UdpDriver:
    """Listen for the Live Link Face app; arguments and errors as ``UdpDriver``."""
    return UdpDriver(
        avatar, LiveLinkParser(), label="Live Link Face", port=port, listen=listen, config=config,
        record=record,
    )  # fmt: skip
