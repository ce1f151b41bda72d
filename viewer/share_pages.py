"""The few pages and headers that a shared viewer answers with by itself."""

from __future__ import annotations

import base64
import hashlib
import html

STYLE = """
:root{color-scheme:light dark}*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;min-height:100vh;margin:0;display:grid;place-items:center;padding:1rem}
form,main{width:min(22rem,100%)}h1{font-size:1.25rem;margin:0 0 .25rem}p{margin:.25rem 0 1rem}
label{display:block;font-weight:600}input,button{font:inherit;width:100%;padding:.6rem;border-radius:.4rem}
input{border:1px solid #888;margin:.25rem 0 .75rem}button{border:0;background:#1d4ed8;color:#fff;cursor:pointer}
[role=alert]{border-left:.25rem solid #d97706;padding-left:.6rem}
"""

WATCH = """
(() => {
  let note = null;
  const say = (text) => {
    if (!text) { if (note) { note.remove(); note = null; } return; }
    if (!note) {
      note = document.createElement("div");
      note.id = "share-note";
      note.setAttribute("role", "alert");
      note.style.cssText = "position:fixed;left:50%;top:1rem;transform:translateX(-50%);z-index:9999;" +
        "background:#7c2d12;color:#fff;padding:.5rem 1rem;border-radius:.4rem;font:15px system-ui,sans-serif";
      document.body.append(note);
    }
    note.textContent = text;
  };
  setInterval(() => fetch("/session", {cache: "no-store"}).then(
    (answer) => {
      if (answer.status === 401) location.replace("/login");
      else say(answer.ok ? "" : "The viewer has ended on the other machine. Waiting for it.");
    },
    () => say("The connection to the viewer is lost. Trying again.")), PERIOD);
})();
"""
"""Tells the user when viewer or session have ended; runs in the viewer's page."""
WATCH_PERIOD_MS = 4000


def _hash_source(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


OWN_POLICY = (
    f"default-src 'none'; style-src {_hash_source(STYLE)}; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Content security policy of pages of our own: no script, nothing loaded."""


def viewer_policy(socket_origin: str) -> str:
    """Return the content security policy of viser's page, which may connect to nothing but this server.

    Args:
        socket_origin: ws:// or wss:// with host and port.
    """
    # viser's page is one file with inline script that makes functions of text, WebAssembly and workers.
    return (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        f"media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' {socket_origin} "
        "data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


def security_headers(policy: str) -> dict[str, str]:
    """Return the headers of every answer."""
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        # no-referrer would make the login form's origin "null".
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "geolocation=(), payment=(), usb=()",
        "Cache-Control": "no-store",
    }


def login_page(message: str = "") -> str:
    """Return the page that asks for the password, with a sentence about the last try."""
    alert = f'<p role="alert">{html.escape(message)}</p>' if message else ""
    return _page(
        "Log in",
        '<form method="post" action="/login"><h1>A shared avatar</h1>'
        "<p>The password stands on the terminal of the machine that shares it.</p>"
        f'{alert}<label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" '
        'maxlength="256" required autofocus><button>Log in</button></form>',
    )


def sentence_page(title: str, sentence: str) -> str:
    """Return a page that says one thing."""
    return _page(title, f"<main><h1>{html.escape(title)}</h1><p>{html.escape(sentence)}</p></main>")


def watched(page: bytes) -> bytes:
    """Return viser's page with the script that notices the end of viewer or session."""
    script = f"<script>{WATCH.replace('PERIOD', str(WATCH_PERIOD_MS))}</script>".encode()
    place = page.rfind(b"</head>")
    return page if place < 0 else page[:place] + script + page[place:]


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
