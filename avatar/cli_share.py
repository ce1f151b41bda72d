"""``avatar view --share-lan``: the viewer for other machines too, behind a password.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from avatar.console import console

if TYPE_CHECKING:
    from avatar.capture_data import Capture
    from avatar.model.avatar import Avatar
    from viewer.share import Shared


def share_avatar(
    model: Avatar,
    captured: Capture | None,
    *,
    port: int,
    certificate: Path | None,
    key: Path | None,
) -> None:
    """Show an avatar to the local network until Ctrl-C; see ``viewer.share.share``."""
    from viewer.app import ViewerApp
    from viewer.share import PASSWORD_VARIABLE, share

    def ready(shared: Shared) -> None:
        console.print(f"Open on another machine: {shared.url} (Ctrl-C ends it)")
        if shared.password is None:
            console.print(f"The password is the one in {PASSWORD_VARIABLE}.")
        else:
            console.print(f"The password, for this once: [bold]{escape(shared.password)}[/bold]")
        if not shared.encrypted:
            console.print(
                "Without --certificate and --key the password and all pictures cross the network "
                "readable: do this in networks that you trust only."
            )

    # On 127.0.0.1 and a port of its own; the network meets the server before it.
    app = ViewerApp(
        model,
        track=captured.track if captured else None,
        audio=captured.audio if captured else None,
        port=0,
    )
    share(
        app,
        port=port,
        password=os.environ.get(PASSWORD_VARIABLE),
        certificate=certificate,
        key=key,
        ready=ready,
    )
