"""``avatar view --share-lan``: a viewer on 127.0.0.1, and the server before it that asks for a password."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from avatar.checks import InputError
from viewer.share_login import Gate, Sessions, need_password, random_password
from viewer.share_server import ShareServer

PASSWORD_VARIABLE = "HEADSPLAT_SHARE_PASSWORD"
"""Environment variable with a password of the user's own: a command line is there for all to read."""


class Shareable(Protocol):
    """A viewer that can be shared, as ``viewer.app.ViewerApp`` on 127.0.0.1 and a port of its own."""

    @property
    def url(self) -> str:
        """Address of its page on this machine."""
        ...

    def start(self) -> None:
        """Listen and serve."""
        ...

    def stop(self) -> None:
        """End."""
        ...


@dataclass(frozen=True)
class Shared:
    """What to tell the user, once."""

    url: str
    """Address to open on another machine."""
    password: str | None
    """The random password; None where the user chose one."""
    encrypted: bool


def share(
    app: Shareable,
    *,
    port: int = 8080,
    password: str | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    hosts: tuple[str, ...] = ("0.0.0.0", "::"),
    ready: Callable[[Shared], None] | None = None,
) -> None:
    """Serve a viewer to the local network until Ctrl-C.

    Args:
        app: the viewer, not started yet.
        port: port to listen on; 0 lets the system choose.
        password: a password of the user's own; None for a random one.
        certificate: file with the certificate chain (PEM), and ``key`` with its private key; without them
            everything is sent readable, the password too.
        hosts: addresses to listen on.
        ready: called once with what to tell the user.

    Raises:
        InputError: the port is taken, the password is too short, or the certificate does not fit.
    """
    tls = tls_context(certificate, key)
    chosen = random_password() if password is None else need_password(password)
    app.start()
    try:
        server = ShareServer(app.url, Gate(chosen), Sessions(), hosts=hosts, port=port, tls=tls)
        server.start()
        try:
            if ready is not None:
                url = f"{server.scheme}://{lan_address()}:{server.port}"
                ready(Shared(url, chosen if password is None else None, tls is not None))
            threading.Event().wait()
        finally:
            server.stop()
    except KeyboardInterrupt:
        pass
    finally:
        app.stop()


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return what TLS needs; None where neither file is given.

    Raises:
        InputError: only one of the two is given, a file cannot be read or is no PEM file, the key has a
            passphrase, or the two do not belong together.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = "--certificate" if certificate is None else "--key"
        raise InputError(f"TLS needs a certificate and its key; {missing} is missing. Give both.")
    for path in (certificate, key):
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}). Give PEM files of a certificate and its key."
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    asked = False

    def no_passphrase() -> bytes:
        # Without it OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        return b""

    try:
        context.load_cert_chain(certificate, key, password=no_passphrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        code = getattr(error, "reason", None) or ""
        if asked:
            problem = (
                f"the key {key} has a passphrase; take it off with: openssl pkey -in KEY -out PLAIN"
            )
        elif code == "KEY_VALUES_MISMATCH":
            problem = f"the key {key} is not that of the certificate {certificate}; give the pair"
        else:
            problem = (
                f"{certificate} must hold a certificate and {key} its private key, both as PEM "
                f"({code or error}); give such files"
            )
        raise InputError(f"TLS cannot be used: {problem}.") from error
    return context


def lan_address() -> str:
    """Return the address by which the local network most likely knows this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: the system only picks the way it would go. The address is one for examples.
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostname()
