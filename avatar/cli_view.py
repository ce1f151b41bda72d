"""``avatar view``: look at an avatar in the browser, on this machine or, behind a password, from others.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.markup import escape

from avatar.cli_common import UsageError, find_voice
from avatar.cli_export_formats import posed_exports
from avatar.cli_live import LiveOptions, live_sources
from avatar.cli_say import speaker
from avatar.console import console

if TYPE_CHECKING:
    from viewer.share import Shared


def view(
    path: tyro.conf.Positional[Path],
    /,
    port: int = 8080,
    share_lan: bool = False,
    certificate: Path | None = None,
    key: Path | None = None,
    live: tyro.conf.OmitArgPrefixes[LiveOptions] = LiveOptions(),
) -> None:
    """Look at an avatar in the browser: any side, 52 sliders, gaze, the captured motion; or at a capture.

    Args:
        path: a .avatar file, a .capture folder, a run (finished or not), or a folder that `avatar create`
            made.
        port: port on this machine (127.0.0.1; nothing is served beyond it without --share-lan).
        share_lan: let other machines look too, behind a random password that is printed once; one of your
            own goes into the environment variable HEADSPLAT_SHARE_PASSWORD (docs/sharing.md).
        certificate: with --share-lan, file with a TLS certificate (PEM), for an encrypted connection.
        key: the certificate's private key (PEM).
    """
    if not share_lan and (certificate or key):
        raise UsageError("--certificate and --key go with --share-lan: 127.0.0.1 needs no TLS.")
    from viewer.opening import open_path, serve
    from viewer.share import PASSWORD_VARIABLE, share

    if live.voice is None:
        live = replace(live, voice=find_voice(path if path.is_dir() else path.parent))
    # Shared, it listens on a port of its own on 127.0.0.1; the network meets the server before it.
    app = open_path(
        path,
        live=lambda avatar, track: live_sources(avatar, live, track),
        say=speaker,
        exports=posed_exports(),
        port=0 if share_lan else port,
    )
    if not share_lan:
        serve(app, lambda url: console.print(f"The viewer is at {url} (Ctrl-C ends it)"))
        return
    share(
        app,
        port=port,
        password=os.environ.get(PASSWORD_VARIABLE),
        certificate=certificate,
        key=key,
        ready=_tell,
    )


def _tell(shared: Shared) -> None:
    """Say where the shared viewer is and how to get in."""
    from viewer.share import PASSWORD_VARIABLE

    console.print(f"Open on another machine: {shared.url} (Ctrl-C ends it)")
    if shared.password is None:
        console.print(f"The password is the one in {PASSWORD_VARIABLE}.")
    else:
        console.print(f"The password, for this once: [bold]{escape(shared.password)}[/bold]")
    if not shared.encrypted:
        console.print(
            "Without --certificate and --key the password and all pictures cross the network readable: "
            "do this in networks that you trust only."
        )
