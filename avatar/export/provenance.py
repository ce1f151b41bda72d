"""Where a picture comes from: a JSON manifest inside exported videos, pictures and pages.

The words are those of the C2PA technical specification (claim_generator_info, assertions, c2pa.actions,
digitalSourceType), but nothing is signed: the manifest tells those who ask, and proves nothing. It stands in
an MP4 file's comment, in a PNG file's text chunk, in a JPEG file's comment and in a page's meta element; all
of these are lost when the file is encoded anew, which the watermark outlives.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import struct
import zlib
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from avatar import __version__
from avatar.checks import InputError
from avatar.model.avatar import GAUSSIAN_PARAMETERS, Avatar
from avatar.model.store import AVATAR_FORMAT
from avatar.tensorfile import atomic_path

NOTE = "synthetic rendering of a personal head avatar"
MANIFEST_FORMAT = "headsplat.provenance"
MANIFEST_VERSION = 1
PNG_KEYWORD = b"headsplat.provenance"
JPEG_MARK = b"headsplat.provenance\0"
PAGE_MARK = '<meta name="headsplat-provenance" content="'
SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a model that was trained on recordings, as C2PA uses it."""

MOST_WHO, MOST_CONSENT = 200, 2000
"""Characters of the two facts that people write."""
MOST_BYTES = 60_000
"""Size of a manifest; a JPEG comment holds no more than 65,533 bytes."""
MOST_HEADER_BYTES = 16 << 20
MOST_PAGE_BYTES = 64 << 20


def today() -> datetime:
    """Return the time to write into files: now, or that of ``SOURCE_DATE_EPOCH`` where it is set.

    Raises:
        InputError: the variable is no number of seconds.
    """
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    if fixed is None:
        return datetime.now(timezone.utc).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(fixed), timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"SOURCE_DATE_EPOCH must be a whole number of seconds since 1970; got {fixed!r}. "
            "Correct it or unset it."
        ) from error


# -- the avatar ------------------------------------------------------------------------------------


def fingerprint(avatar: Avatar) -> str:
    """Return the SHA-256 of an avatar's Gaussians and head, hexadecimal.

    It is of the numbers, not of the file: notes in the header may change without it.
    """
    digest = hashlib.sha256()
    for name in (*GAUSSIAN_PARAMETERS, "lattice", "basis", "triangle", "barycentric"):
        tensor = getattr(avatar, name).detach().cpu().contiguous()
        if tensor.is_floating_point():
            # -0.0 and 0.0 are one number.
            tensor = tensor.to(torch.float32) + 0.0
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def avatar_id(sha256: str) -> int:
    """Return the 32 bits of a fingerprint that a watermark carries."""
    return int(sha256[:8], 16)


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of an .avatar file without reading its tensors.

    Raises:
        InputError: missing, damaged, or another kind of file.
    """
    return _split(Path(path))[1]


def set_facts(
    path: Path, *, who: str | None = None, consent: str | None = None, created: str | None = None
) -> None:
    """Write who an avatar shows, what the person agreed to, and when it was made, into its header.

    Atomic, and every tensor stays as it is, bit for bit. None leaves a fact as it is; an empty text
    removes it.

    Raises:
        InputError: a text is too long or holds control characters; the file is not an .avatar file.
    """
    facts = {
        "who": checked_text("--who", who, MOST_WHO),
        "consent": checked_text("--consent", consent, MOST_CONSENT),
        "created": created,
    }
    known, header, start = _split(Path(path))
    header |= {name: value for name, value in facts.items() if value}
    header = {name: value for name, value in header.items() if facts.get(name) != ""}
    known["__metadata__"] |= {"header": json.dumps(header, allow_nan=False)}
    text = json.dumps(known, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with (
            atomic_path(Path(path)) as temporary,
            open(path, "rb") as source,
            open(temporary, "wb") as target,
        ):
            target.write(struct.pack("<Q", len(text)) + text)
            source.seek(start)
            while block := source.read(1 << 20):
                target.write(block)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}). Copy it to a folder that is writable."
        ) from error


def checked_text(name: str, text: str | None, most: int) -> str | None:
    """Return a fact that a person wrote, its ends trimmed; raises InputError where it cannot be kept."""
    if text is None:
        return None
    text = text.strip()
    if len(text) > most or any(not c.isprintable() and c != "\n" for c in text):
        raise InputError(
            f"{name} must be at most {most} characters without control characters; got {len(text)} "
            "characters. Give a shorter, plain text."
        )
    return text


def _split(path: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return a safetensors file's table, our header in it, and where its tensors begin."""
    try:
        with open(path, "rb") as file:
            prefix = file.read(8)
            size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= size <= MOST_HEADER_BYTES:
                raise ValueError("no safetensors header")
            text = file.read(size)
        known = json.loads(text)
        header = json.loads(known["__metadata__"]["header"])
        if not isinstance(header, dict) or header.get("format") != AVATAR_FORMAT:
            raise ValueError(f"not {AVATAR_FORMAT}")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged or is not an .avatar file ({error}). Give a file that "
            "`avatar create` or `avatar train` made."
        ) from error
    return known, header, 8 + size


# -- the manifest ----------------------------------------------------------------------------------


def manifest(
    avatar: Avatar,
    *,
    format: str,
    title: str = "",
    marked: bool = False,
    when: datetime | None = None,
) -> dict[str, Any]:
    """Return what an exported file says about itself.

    Args:
        avatar: who is shown.
        format: the file's media type, for example ``"video/mp4"``.
        title: the file's name.
        marked: whether its pictures carry the watermark.
        when: time to write down; None for ``today()``.
    """
    sha256 = fingerprint(avatar)
    shown: dict[str, Any] = {"sha256": sha256}
    for name in ("who", "consent", "created", "source_sha256"):
        if avatar.header.get(name):
            shown[name] = avatar.header[name]
    action = {
        "action": "c2pa.created",
        "when": (when or today()).astimezone(timezone.utc).isoformat().replace("+00:00", "Z"),
        "softwareAgent": {"name": "headsplat", "version": __version__},
        "digitalSourceType": SYNTHETIC,
        "description": NOTE,
    }
    assertions = [
        {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
        {"label": "headsplat.avatar", "data": shown},
    ]
    if marked:
        mark = {"alg": "headsplat.watermark.1", "value": f"{avatar_id(sha256):08x}"}
        assertions.append({"label": "c2pa.soft-binding", "data": mark})
    return {
        "manifest": MANIFEST_FORMAT,
        "version": MANIFEST_VERSION,
        "claim_generator_info": [{"name": "headsplat", "version": __version__}],
        "title": title,
        "dc:format": format,
        "signed": False,
        "assertions": assertions,
    }


def to_text(made: Mapping[str, Any]) -> str:
    """Return a manifest as ASCII JSON in which nothing ends an HTML element.

    Raises:
        ValueError: it is larger than ``MOST_BYTES``.
    """
    text = json.dumps(made, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    # Names that look like addresses are none that a page loads; nobody should take them for such.
    text = text.replace("://", ":\\/\\/")
    if len(text) > MOST_BYTES:
        raise ValueError(f"a manifest may have {MOST_BYTES} bytes; this one has {len(text)}.")
    return text


def from_text(text: str | bytes) -> dict[str, Any] | None:
    """Return the manifest that a text holds; None where it holds none of ours."""
    if len(text) > MOST_BYTES:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and found.get("manifest") == MANIFEST_FORMAT:
        return found
    return None


def assertion(found: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the data of one assertion of a manifest, empty where there is none."""
    stated = found.get("assertions")
    for one in stated if isinstance(stated, list) else []:
        if (
            isinstance(one, dict)
            and one.get("label") == label
            and isinstance(one.get("data"), dict)
        ):
            return one["data"]
    return {}


# -- containers ------------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_END = 33


def in_png(png: bytes, made: Mapping[str, Any]) -> bytes:
    """Return a PNG file with the manifest as an iTXt chunk after its header."""
    if not png.startswith(_PNG):
        raise ValueError("not a PNG file.")
    body = b"iTXt" + PNG_KEYWORD + b"\0\0\0\0\0" + to_text(made).encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_PNG_HEADER_END] + chunk + png[_PNG_HEADER_END:]


def from_png(png: bytes) -> dict[str, Any] | None:
    """Return the manifest in a PNG file; None where there is none or the file is damaged before it."""
    place = len(_PNG)
    while png.startswith(_PNG) and place + 12 <= len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        if kind == b"iTXt" and data.startswith(PNG_KEYWORD + b"\0\0\0\0\0"):
            return from_text(data[len(PNG_KEYWORD) + 5 :])
        place += 12 + size
    return None


def in_jpeg(jpeg: bytes, made: Mapping[str, Any]) -> bytes:
    """Return a JPEG file with the manifest as a comment before its tables."""
    if jpeg[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG file.")
    place = 2
    while jpeg[place : place + 2] in (b"\xff\xe0", b"\xff\xe1"):  # JFIF and Exif come first
        place += 2 + struct.unpack(">H", jpeg[place + 2 : place + 4])[0]
    data = JPEG_MARK + to_text(made).encode()
    return jpeg[:place] + b"\xff\xfe" + struct.pack(">H", len(data) + 2) + data + jpeg[place:]


def from_jpeg(jpeg: bytes) -> dict[str, Any] | None:
    """Return the manifest in a JPEG file; None where there is none or the file is damaged before it."""
    place = 2
    while jpeg[:2] == b"\xff\xd8" and place + 4 <= len(jpeg) and jpeg[place] == 0xFF:
        kind = jpeg[place + 1]
        (size,) = struct.unpack(">H", jpeg[place + 2 : place + 4])
        data = jpeg[place + 4 : place + 2 + size]
        if kind == 0xFE and data.startswith(JPEG_MARK):
            return from_text(data[len(JPEG_MARK) :])
        if kind == 0xDA or size < 2:
            return None
        place += 2 + size
    return None


def in_page(page: str, made: Mapping[str, Any]) -> str:
    """Return an HTML page with the manifest as a meta element, at the end of its head."""
    element = f'{PAGE_MARK}{html.escape(to_text(made))}">'
    place = page.find("</head>")
    return page + element if place < 0 else page[:place] + element + page[place:]


def from_page(page: str) -> dict[str, Any] | None:
    """Return the manifest in an HTML page; None where there is none."""
    place = page.find(PAGE_MARK)
    if place < 0:
        return None
    start = place + len(PAGE_MARK)
    # Escaping makes six characters of a quote at most.
    end = page.find('"', start, start + 6 * MOST_BYTES + 1)
    return None if end < 0 else from_text(html.unescape(page[start:end]))


def from_video(path: Path) -> dict[str, Any] | None:
    """Return the manifest in a video's comment; None where there is none.

    Raises:
        InputError: it is no video.
    """
    import av  # FFmpeg's libraries, which who only writes facts into an avatar can do without

    try:
        with av.open(str(path)) as container:
            return from_text(container.metadata.get("comment", ""))
    except (OSError, av.FFmpegError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a video ({error}).") from error
