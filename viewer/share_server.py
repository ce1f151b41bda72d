"""A viewer shared with the local network: a server before it that lets nobody in without the password.

viser itself listens on 127.0.0.1, on a port of its own. The server here listens on the network, answers
everybody with the login page, and passes pages and websockets of those who logged in on to viser. Before the
login nothing of viser is read, not even asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, urlsplit

import aiohttp
from aiohttp import web

from avatar.checks import InputError
from viewer.share_guard import Guards
from viewer.share_login import Gate, Sessions
from viewer.share_pages import (
    OWN_POLICY,
    login_page,
    security_headers,
    sentence_page,
    viewer_policy,
    watched,
)
from viewer.share_socket import ShareLimits, pass_on

_log = logging.getLogger("headsplat.share")
_SAFE_PATH = re.compile(r"/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*(?:[A-Za-z0-9_-][A-Za-z0-9._-]*)?")
_ENDED = "The viewer on the other machine has ended. This page can be loaded again once it runs."


class ShareServer:
    """The server before the viewer; runs in a thread of its own."""

    def __init__(
        self,
        upstream: str,
        gate: Gate,
        sessions: Sessions,
        *,
        hosts: Sequence[str] = ("0.0.0.0", "::"),
        port: int = 8080,
        tls: ssl.SSLContext | None = None,
        names: Sequence[str] = (),
        limits: ShareLimits = ShareLimits(),
    ) -> None:
        """Prepare; nothing listens before ``start``.

        Args:
            upstream: address of the viewer on this machine, http://127.0.0.1:PORT.
            gate: checks passwords.
            sessions: remembers who logged in.
            hosts: addresses to listen on; those of a family that this machine lacks are left out.
            port: port to listen on; 0 lets the system choose.
            tls: certificate and key; None for plain HTTP.
            names: names by which browsers may call this machine, beside its own and its addresses.
            limits: what browsers may take.
        """
        self._upstream = upstream.rstrip("/")
        self._gate, self._sessions = gate, sessions
        self._hosts, self._wanted_port = tuple(hosts), port
        self._tls, self._limits = tls, limits
        own = socket.gethostname().lower()
        self._names = {"localhost", own, own.partition(".")[0], *(n.lower() for n in names)}
        self._guards = Guards(
            most=limits.connections,
            most_of_address=limits.connections_of_address,
            head_s=limits.head_s,
            idle_s=limits.idle_s,
        )
        self._sockets: dict[str, int] = {}
        self._page: bytes | None = None
        self._client: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self.port = port
        """The port, after ``start``."""

    def start(self) -> None:
        """Listen and serve.

        Raises:
            InputError: the port is taken or not allowed.
            RuntimeError: it was started before.
        """
        if self._thread is not None:
            raise RuntimeError("a server can be started once; make another.")
        self._thread = threading.Thread(target=self._run, name="share server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise InputError(
                f"The shared viewer cannot listen on port {self._wanted_port} ({self._failure}). "
                "Choose another port with --port, or end the program that uses this one."
            ) from self._failure

    def stop(self) -> None:
        """Close all connections and free the port; doing so twice does no harm."""
        loop, ended = self._loop, self._ended
        if loop is not None and ended is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ended.set)
        if self._thread is not None:
            self._thread.join(10.0)

    @property
    def scheme(self) -> str:
        """What addresses begin with: http or https."""
        return "https" if self._tls else "http"

    # -- life ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        limits = self._limits
        server = web.Server(
            self._handle,
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            max_headers=limits.headers,
            keepalive_timeout=limits.idle_s,
            # What is sent after a refusal is read for no longer than this.
            lingering_time=0.5,
            # A small form may be a large one in disguise.
            auto_decompress=False,
            access_log=None,
            logger=_log,
        )
        # No cookies, no proxies of the environment, no unpacking: what viser says is handed on.
        async with aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=20),
        ) as self._client:
            listeners = await self._listen(lambda: self._guards.guard(server()))
            self._ready.set()
            try:
                await self._ended.wait()
            finally:
                for listener in listeners:
                    listener.close()
                server.pre_shutdown()
                await server.shutdown(1.0)
                self._guards.close()

    async def _listen(self, factory: Callable[[], asyncio.Protocol]) -> list[asyncio.Server]:
        """Listen on all addresses that this machine has a family of; on one at least."""
        loop, listeners, refusal = asyncio.get_running_loop(), [], None
        port = self._wanted_port
        for host in self._hosts:
            try:
                listener = await loop.create_server(
                    factory,
                    host,
                    port,
                    ssl=self._tls,
                    ssl_handshake_timeout=self._limits.head_s if self._tls else None,
                    backlog=64,
                )
            except (OSError, OverflowError) as error:
                missing = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
                if isinstance(error, OSError) and error.errno in missing:
                    refusal = refusal or error
                    continue
                for other in listeners:
                    other.close()
                raise OSError(*error.args) from error
            listeners.append(listener)
            port = self.port = listener.sockets[0].getsockname()[1]
        if not listeners:
            raise refusal or OSError("no address to listen on")
        return listeners

    # -- answers ---------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._guards.busy(request.protocol):
            try:
                return await self._answer(request)
            except (aiohttp.ClientError, asyncio.TimeoutError):
                return self._sentence(502, "No viewer", _ENDED)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if not self._is_ours(request.headers.getall("Host", [])):
            return self._sentence(421, "Another machine", "This is not the server of that name.")
        if path == "/login" and request.method == "POST":
            return await self._log_in(request)
        if request.method not in ("GET", "HEAD"):
            # Bodies are not read, whatever size they say they have.
            return self._sentence(
                413 if request.body_exists else 405, "Refused", "Nothing is taken."
            )
        alive = self._sessions.alive(self._token(request))
        if path == "/login":
            return self._redirect("/") if alive else self._html(200, login_page())
        if not alive:
            is_page = path == "/" and "Upgrade" not in request.headers
            return (
                self._redirect("/login")
                if is_page
                else self._sentence(401, "Log in", "Log in first.")
            )
        if path == "/session":
            return await self._session()
        if path == "/logout":
            return self._log_out(request)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._socket(request)
        return await self._file(request, path)

    async def _log_in(self, request: web.BaseRequest) -> web.Response:
        limits = self._limits
        if not self._same_origin(request, needed=False):
            return self._sentence(403, "Refused", "This form came from another site.")
        if (request.content_length or 0) > limits.form_bytes:
            return self._sentence(413, "Refused", "The form is too large.")
        body = b""
        with contextlib.suppress(asyncio.TimeoutError):
            body = await asyncio.wait_for(self._body(request), limits.head_s)
        if len(body) > limits.form_bytes:
            return self._sentence(413, "Refused", "The form is too large.")
        try:
            form = parse_qs(body.decode("ascii"), max_num_fields=8, keep_blank_values=True)
        except (ValueError, UnicodeDecodeError):
            return self._sentence(400, "Refused", "The form cannot be read.")
        password = form.get("password", [""])[0]
        right, wait = self._gate.try_password(request.remote or "", password)
        if right:
            answer = self._redirect("/")
            answer.set_cookie(
                self._cookie,
                self._sessions.open(),
                max_age=int(self._sessions.lifetime_s),
                path="/",
                httponly=True,
                samesite="Strict",
                secure=self._tls is not None,
            )
            return answer
        if wait > 0:
            message = f"Too many wrong passwords. Try again in {wait:.0f} s."
            answer = self._html(429, login_page(message))
            answer.headers["Retry-After"] = str(int(wait) + 1)
            return answer
        return self._html(403, login_page("This is not the password."))

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Read a body up to one byte more than a form may have."""
        body = b""
        while len(body) <= self._limits.form_bytes:
            part = await request.content.read(self._limits.form_bytes + 1 - len(body))
            if not part:
                break
            body += part
        return body

    def _log_out(self, request: web.BaseRequest) -> web.Response:
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return self._sentence(403, "Refused", "This link came from another site.")
        self._sessions.close(self._token(request))
        answer = self._redirect("/login")
        answer.del_cookie(self._cookie, path="/")
        return answer

    async def _session(self) -> web.Response:
        """Answer a page that asks whether all still runs: with 502 where the viewer is gone."""
        assert self._client is not None
        async with self._client.get(f"{self._upstream}/none", allow_redirects=False):
            return web.Response(text="{}", headers=security_headers(OWN_POLICY))

    async def _file(self, request: web.BaseRequest, path: str) -> web.Response:
        """Pass one file of viser's page on; viser serves the folder of its page alone."""
        if not _SAFE_PATH.fullmatch(path):
            return self._sentence(404, "Not found", "There is no such page.")
        if path != "/" or self._page is None:
            assert self._client is not None
            async with self._client.get(
                f"{self._upstream}{path}",
                headers={"Accept-Encoding": "identity"},
                allow_redirects=False,
            ) as found:
                if found.status != 200:
                    return self._sentence(404, "Not found", "There is no such page.")
                body = await found.content.read(self._limits.page_bytes + 1)
                while (part := await found.content.read(1 << 20)) and len(
                    body
                ) <= self._limits.page_bytes:
                    body += part
                if len(body) > self._limits.page_bytes:
                    return self._sentence(502, "Refused", "This file is too large.")
                kind = found.headers.get("Content-Type", "application/octet-stream")
            if path == "/":
                self._page = watched(body)
        if path == "/":
            body, kind = self._page or b"", "text/html; charset=utf-8"
        scheme = "wss" if self._tls else "ws"
        policy = viewer_policy(f"{scheme}://{request.headers['Host']}")
        return web.Response(body=body, headers=security_headers(policy) | {"Content-Type": kind})

    # -- websockets ------------------------------------------------------------------------------

    async def _socket(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass a websocket on, in both directions, until either side or the session ends."""
        limits, address = self._limits, request.remote or ""
        if not self._same_origin(request, needed=True):
            return self._sentence(403, "Refused", "This connection came from another site.")
        mine = self._sockets.get(address, 0)
        if mine >= limits.sockets_of_address or sum(self._sockets.values()) >= limits.sockets:
            return self._sentence(503, "Full", "Too many pages look on. Close one of them.")
        self._sockets[address] = mine + 1
        try:
            token = self._token(request)
            assert self._client is not None
            return await pass_on(
                request,
                self._client,
                self._upstream,
                alive=lambda: self._sessions.alive(token),
                limits=limits,
            )
        except web.HTTPException:
            return self._sentence(400, "Refused", "This is no websocket.")
        finally:
            self._sockets[address] -= 1
            if not self._sockets[address]:
                del self._sockets[address]

    # -- who asks --------------------------------------------------------------------------------

    @property
    def _cookie(self) -> str:
        # Browsers take a cookie of this prefix over TLS alone, and from this very host.
        return "__Host-headsplat" if self._tls else "headsplat"

    def _token(self, request: web.BaseRequest) -> str:
        return request.cookies.get(self._cookie, "")

    def _is_ours(self, hosts: Sequence[str]) -> bool:
        """Return whether a request names this machine: the page of another site must not reach it."""
        if len(hosts) != 1:
            return False
        try:
            name = urlsplit(f"//{hosts[0]}").hostname or ""
        except ValueError:
            return False
        if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]{1,255}", hosts[0]):
            return False
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        # Routers give this machine's name an ending of their own.
        return name in self._names or name.partition(".")[0] in self._names - {"localhost"}

    def _same_origin(self, request: web.BaseRequest, *, needed: bool) -> bool:
        """Return whether a request comes from a page of this server; browsers say so."""
        origin = request.headers.get("Origin")
        if origin is None:
            site = request.headers.get("Sec-Fetch-Site", "same-origin")
            return not needed and site in ("same-origin", "none")
        return origin.lower() == f"{self.scheme}://{request.headers.get('Host', '')}".lower()

    # -- small answers ---------------------------------------------------------------------------

    def _html(self, status: int, page: str) -> web.Response:
        headers = security_headers(OWN_POLICY)
        return web.Response(status=status, text=page, content_type="text/html", headers=headers)

    def _sentence(self, status: int, title: str, sentence: str) -> web.Response:
        answer = self._html(status, sentence_page(title, sentence))
        if status in (413, 405, 421):
            answer.force_close()
        return answer

    def _redirect(self, path: str) -> web.Response:
        return web.Response(status=303, headers=security_headers(OWN_POLICY) | {"Location": path})
