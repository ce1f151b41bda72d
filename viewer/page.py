"""What the page itself has to do: its title, and saying when this program is gone.

viser's page greys its panel out and tries to connect again by itself; it does not say why. The element here
hears a beat every second. A page that has heard none for a while asks the server once over HTTP, as a
folded panel hears no beats either, and writes what is the matter over the picture.
"""

from __future__ import annotations

import re

import viser

BEAT_S = 1.0
"""How often the server is to call ``Page.beat``."""
OVERDUE_S = 4.0
"""Without a beat for this long, a page asks."""
GONE = (
    "The program behind this page has ended, or cannot be reached. This page connects again by itself "
    "once it is back."
)

_GUARD = """<img alt="" style="display:none" src="" onerror="
(() => {{ document.title = 'headsplat'; window.headsplatBeat = performance.now();
if (window.headsplatGuard) return;
window.headsplatGuard = setInterval(async () => {{
let gone = performance.now() - window.headsplatBeat > {overdue};
if (gone) try {{ await fetch('alive', {{cache: 'no-store'}}); gone = false; }} catch {{}}
let note = document.getElementById('headsplat-gone');
if (!gone) {{ if (note) note.remove(); return; }}
if (note) return;
note = document.createElement('div'); note.id = 'headsplat-gone'; note.textContent = '{text}';
note.style.cssText = 'position:fixed;left:1em;bottom:1em;max-width:30em;padding:1em;z-index:99999;'
+ 'background:#7a1f1f;color:#fff;border-radius:6px;font:14px/1.4 sans-serif';
document.body.appendChild(note); }}, 1500); }})()">"""

_BEAT = """<img alt="" style="display:none" src="" data-number="{number}" onerror="
window.headsplatBeat = performance.now()">"""


_MARKUP = re.compile(r"[\\`*_\[\]<>&~|#!]")


def plain(text: str) -> str:
    """Return Markdown that shows a text as it is.

    viser's page renders HTML in Markdown, scripts too, and what is wrong with an uploaded file is told in
    the file's own words, to everybody who looks on.
    """
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


class Page:
    """The element in all pages of one server."""

    def __init__(self, server: viser.ViserServer) -> None:
        """Add it."""
        server.gui.add_html(_GUARD.format(overdue=round(1e3 * OVERDUE_S), text=GONE))
        self._beat = server.gui.add_html("")
        self._number = 0

    def beat(self) -> None:
        """Tell all pages that this program is there."""
        self._number += 1
        self._beat.content = _BEAT.format(number=self._number)
