"""The avatar as one web page, or as files to embed in one: opened from disk, offline, in any browser.

The page is built from viewer/web (`make web`) and shipped beside this file; here an avatar is put into it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avatar.checks import InputError
from avatar.export.provenance import in_page
from avatar.export.signature import Signature
from avatar.export.splat_common import naming_path
from avatar.export.web_format import PageClip as PageClip  # handed on with the writers
from avatar.export.web_format import encode
from avatar.model.avatar import Avatar
from avatar.tensorfile import write_bytes

_SCRIPT = re.compile(r"<script>(.*)</script>", re.DOTALL)


@dataclass(frozen=True)
class PageFacts:
    """What was written."""

    path: Path
    """The page, or the folder of the parts."""
    bytes: int
    """Size of all of it."""
    gaussians: int
    """How many Gaussians it draws."""
    clips: int
    """How many motions it can play."""


def write_page(
    path: Path,
    avatar: Avatar,
    clips: Sequence[PageClip] = (),
    *,
    title: str = "Avatar",
    facts: Mapping[str, str] | None = None,
) -> PageFacts:
    """Write a self-contained HTML file in which the avatar is posed and drawn, atomically.

    The page asks for nothing outside of itself, and a Content-Security-Policy in it forbids that it could:
    no request, no script but its own, by its hash. Who it shows, the consent note and how it was made are
    taken from the avatar's header.

    Args:
        path: the .html file.
        avatar: the avatar; its deformer must be ``branches`` or ``blendshapes``.
        clips: motions to play, with their sound; names should differ.
        title: heading of the page.
        facts: further lines of its panel, label to text.

    Raises:
        InputError: an avatar that a page cannot pose, sound that cannot be read, or a file that cannot be
            written.
    """
    path = Path(path)
    packed = encode(avatar, clips, title=title, facts=facts)
    made = Signature(avatar, watermark=False).manifest("text/html", path.name)
    text = in_page(page_text(packed, title).decode(), made).encode()
    with naming_path(path):
        write_bytes(path, text)
    return PageFacts(path, len(text), len(avatar), len(clips))


def write_parts(
    folder: Path,
    avatar: Avatar,
    clips: Sequence[PageClip] = (),
    *,
    name: str = "me",
    title: str = "Avatar",
    facts: Mapping[str, str] | None = None,
) -> PageFacts:
    """Write what a web site embeds: NAME.bin, avatar-head.js and an index.html that shows the use of both.

    Unlike the one page these are loaded over HTTP, which browsers do not do from disk.

    Args:
        folder: where; made if missing.
        avatar, clips, title, facts: as for ``write_page``.
        name: of the .bin file: letters, digits, ``-`` and ``_``.

    Raises:
        InputError: as ``write_page``, or another kind of name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise InputError(
            f"The name {name!r} of a web avatar must be 1 to 64 letters, digits, '-' and '_'. "
            "Choose another."
        )
    folder = Path(folder)
    packed = encode(avatar, clips, title=title, facts=facts)
    module = _asset("avatar-head.js").encode()
    index = _EXAMPLE.format(title=html.escape(title), name=name).encode()
    with naming_path(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = {f"{name}.bin": packed, "avatar-head.js": module, "index.html": index}
    for file, content in files.items():
        with naming_path(folder / file):
            write_bytes(folder / file, content)
    return PageFacts(folder, sum(map(len, files.values())), len(avatar), len(clips))


def page_text(packed: bytes, title: str) -> bytes:
    """Return the HTML of a page that holds the bytes of ``encode``."""
    template = _asset("page.html")
    script = _SCRIPT.search(template)
    assert script is not None, "the built page has no script"
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; media-src blob:; worker-src blob:; base-uri 'none'; form-action 'none'"
    )
    # The script and what follows it stay as they were built; marks are looked for before it alone.
    before, after = template[: script.start()], template[script.start() :]
    fields = {
        "%%CSP%%": policy,
        "%%TITLE%%": html.escape(title),
        "%%DATA%%": base64.b64encode(packed).decode(),
    }
    parts = re.split("(%%[A-Z]+%%)", before)
    return ("".join(fields.get(part, part) for part in parts) + after).encode()


_EXAMPLE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<script type="module" src="avatar-head.js"></script>
<avatar-head src="{name}.bin" idle style="width: 100%; height: 90vh"></avatar-head>
</html>
"""


def _asset(name: str) -> str:
    """Return a built file that is shipped with the package."""
    file = importlib.resources.files("avatar.export") / "web_page" / name
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"The web page's part {name} is missing from this installation. Install headsplat again, or in "
            "a checkout run: make web"
        ) from error
