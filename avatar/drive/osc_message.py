"""OSC 1.0 datagrams: messages and bundles of them, in and out.

Own code, though python-osc (the tests' oracle) parses them too: that writes a line to the root logger
for every datagram that it does not understand, so that anybody who reaches the port could flood the
terminal, and raises whatever its slices run into.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

DEEPEST = 4
"""Bundles within bundles that are looked into; senders use one."""
BUNDLE = b"#bundle\0"
AT_ONCE = b"\0\0\0\0\0\0\0\1"
"""The time tag of what is to be done when it arrives."""

Value = str | float | int | bool | bytes | None

_FIXED = {"i": ">i", "f": ">f", "h": ">q", "d": ">d", "t": ">Q"}
_SIZES = {"i": 4, "f": 4, "h": 8, "d": 8, "t": 8, "c": 4, "r": 4, "m": 4}
_CONSTANTS: dict[str, Value] = {"T": True, "F": False, "N": None, "I": True}


class OscError(ValueError):
    """Bytes that are no OSC."""


def parse_osc(packet: bytes) -> list[tuple[str, list[Value]]]:
    """Return the messages of a datagram, address and values, those of bundles in their order.

    Raises:
        OscError: it is no OSC datagram.
    """
    return list(_messages(packet, 0))


def _messages(packet: bytes, depth: int) -> Iterator[tuple[str, list[Value]]]:
    if not packet.startswith(BUNDLE):
        yield _message(packet)
        return
    if depth >= DEEPEST or len(packet) < 16:
        raise OscError("a bundle too deep, or cut off")
    at = 16
    while at < len(packet):
        if len(packet) < at + 4:
            raise OscError("a bundle that is cut off")
        (size,) = struct.unpack_from(">i", packet, at)
        at += 4
        # Sizes are those of whole messages, which are never empty: so this ends.
        if size < 4 or size % 4 or len(packet) < at + size:
            raise OscError("a bundle with a wrong size")
        yield from _messages(packet[at : at + size], depth + 1)
        at += size


def _message(packet: bytes) -> tuple[str, list[Value]]:
    address, at = _text(packet, 0)
    if not address.startswith("/"):
        raise OscError("a message without an address")
    if at == len(packet):
        return address, []  # very old senders leave out the types
    types, at = _text(packet, at)
    if not types.startswith(","):
        raise OscError("a message without types")
    values: list[Value] = []
    for kind in types[1:]:
        if kind in ("s", "S"):
            text, at = _text(packet, at)
            values.append(text)
        elif kind == "b":
            if len(packet) < at + 4:
                raise OscError("a blob that is cut off")
            (size,) = struct.unpack_from(">i", packet, at)
            if size < 0 or len(packet) < at + 4 + size:
                raise OscError("a blob with a wrong size")
            values.append(packet[at + 4 : at + 4 + size])
            at += 4 + -(-size // 4) * 4
        elif kind in _SIZES:
            if len(packet) < at + _SIZES[kind]:
                raise OscError("a value that is cut off")
            if kind in _FIXED:
                values.append(struct.unpack_from(_FIXED[kind], packet, at)[0])
            else:
                values.append(packet[at : at + 4])
            at += _SIZES[kind]
        elif kind in _CONSTANTS:
            values.append(_CONSTANTS[kind])
        else:
            raise OscError("a value of an unknown type")
    return address, values


def _text(packet: bytes, at: int) -> tuple[str, int]:
    """Return a text that ends with a zero, and where what follows it begins."""
    end = packet.find(b"\0", at)
    if end < 0:
        raise OscError("a text that is cut off")
    try:
        return packet[at:end].decode(), end + 4 - (end - at) % 4
    except UnicodeDecodeError as error:
        raise OscError("a text that is no UTF-8") from error


def make_osc(address: str, *values: str | float | int) -> bytes:
    """Return a message; floats are written with 32 bits."""
    types, content = ",", b""
    for value in values:
        if isinstance(value, str):
            types += "s"
            content += _padded(value)
        elif isinstance(value, int):
            types += "i"
            content += struct.pack(">i", value)
        else:
            types += "f"
            content += struct.pack(">f", value)
    return _padded(address) + _padded(types) + content


def make_bundle(messages: Sequence[bytes]) -> bytes:
    """Return messages as one bundle, to be taken at once."""
    return BUNDLE + AT_ONCE + b"".join(struct.pack(">i", len(m)) + m for m in messages)


def _padded(text: str) -> bytes:
    content = text.encode() + b"\0"
    return content + b"\0" * (-len(content) % 4)
