"""A shared viewer: nobody gets in without the password, and nothing that is sent ends or opens it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import viser
from conftest import make_avatar
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from avatar.checks import InputError
from avatar.export.web_browser import find_chromium
from viewer.app import ViewerApp
from viewer.share import tls_context
from viewer.share_login import Gate, GuessLimits, Sessions, need_password, random_password
from viewer.share_messages import Messages, Pace, Refused
from viewer.share_server import ShareServer
from viewer.share_socket import ShareLimits

PASSWORD = "right-password-1"
SERVED = Path(viser.__file__).parent / "client" / "build"
OURS = b"share-note"
"""Stands in viser's page as we hand it on, and nowhere before the login."""
CHROMIUM = find_chromium()


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shared:
    """A server under test, its clock, and short ways to ask it."""

    def __init__(self, upstream: str, limits: ShareLimits, tls: ssl.SSLContext | None = None):
        self.clock = Clock()
        self.sessions = Sessions(clock=self.clock)
        self.server = ShareServer(
            upstream,
            Gate(PASSWORD, clock=self.clock),
            self.sessions,
            hosts=("127.0.0.1",),
            port=0,
            tls=tls,
            limits=limits,
        )
        self.server.start()
        self.port = self.server.port
        self.host = f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: str | None = None, **headers: str):
        """Return status, headers and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def log_in(self, password: str = PASSWORD):
        """Send the form; returns status, headers and body."""
        kind = "application/x-www-form-urlencoded"
        return self.ask("POST", "/login", f"password={password}", Content_Type=kind)

    def cookie(self) -> str:
        """Log in and return the cookie to send."""
        status, headers, _ = self.log_in()
        assert status == 303
        return headers["Set-Cookie"].split(";")[0]

    def socket(self, cookie: str | None, origin: str | None = None, **options):
        """Open a websocket as viser's page does."""
        return connect(
            f"ws://{self.host}/",
            origin=origin or f"http://{self.host}",
            subprotocols=[f"viser-v{viser.__version__}"],
            additional_headers={"Cookie": cookie} if cookie else {},
            compression=None,
            max_size=None,
            **options,
        )

    def raw(self, data: bytes, wait_s: float = 5.0) -> bytes:
        """Send bytes, wait so long for the first of an answer, and return all of it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as link:
            received = b""
            with contextlib.suppress(OSError):
                link.sendall(data)
                link.settimeout(wait_s)
                with contextlib.suppress(TimeoutError):
                    received = link.recv(1 << 16)
                link.shutdown(socket.SHUT_WR)
                while part := link.recv(1 << 16):
                    received += part
            return received

    def works(self) -> None:
        """Assert that a user can still log in and see the viewer."""
        self.clock.now += 1e6
        status, _, page = self.ask("GET", "/", Cookie=self.cookie())
        assert status == 200
        assert OURS in page


@pytest.fixture(scope="module")
def app() -> Iterator[ViewerApp]:
    viewer = ViewerApp(make_avatar(), port=0)
    viewer.start()
    yield viewer
    viewer.stop()


@pytest.fixture
def shared(app) -> Iterator[Shared]:
    under_test = Shared(app.url, ShareLimits(head_s=2.0, messages_per_s=1e6))
    yield under_test
    under_test.server.stop()


READ: list[str] = []
_watching = False


def _on_event(event: str, arguments: tuple) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str):
        READ.append(arguments[0])


@contextlib.contextmanager
def files_watched() -> Iterator[None]:
    """Assert that this process, server and viser in it, opens no file but viser's page (and Python's own)."""
    global _watching
    if not any(hook is _on_event for hook in getattr(sys, "_share_hooks", ())):
        sys.addaudithook(_on_event)
        sys._share_hooks = (_on_event,)  # type: ignore[attr-defined]  # a hook cannot be taken off
    READ.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    outside = [p for p in READ if not p.startswith((str(SERVED), sys.prefix, sys.base_prefix))]
    outside = [p for p in outside if not p.endswith((".py", ".pyc"))]
    assert not outside, outside


# -- before the login ------------------------------------------------------------------------------


def test_nothing_of_the_viewer_is_served_before_the_login(shared):
    for path in ("/", "/index.html", "/assets/x.js", "/session", "/logout", "/login", "/../x"):
        for cookie in ("", "headsplat=", "headsplat=" + "x" * 43, "other=1"):
            status, headers, body = shared.ask("GET", path, Cookie=cookie)
            assert status in (200, 303, 401), path
            assert OURS not in body
            assert b"iser" not in body
            assert len(body) < 4000
            for name in ("Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options"):
                assert headers[name], (path, name)
    for cookie in (None, "headsplat=" + "x" * 43):
        with pytest.raises(InvalidStatus) as refused:
            shared.socket(cookie)
        assert refused.value.response.status_code == 401


def test_before_the_login_the_viewer_is_not_even_asked(app):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # not listening: whoever asked would fail
        shared = Shared(f"http://127.0.0.1:{nobody.getsockname()[1]}", ShareLimits())
        try:
            assert shared.ask("GET", "/")[0] == 303
            assert shared.ask("GET", "/index.html")[0] == 401
            cookie = shared.cookie()
            status, _, body = shared.ask("GET", "/", Cookie=cookie)
            assert status == 502
            assert b"has ended" in body
            with shared.socket(cookie) as link, pytest.raises(ConnectionClosed) as closed:
                link.recv(timeout=10)
            assert closed.value.rcvd.code == 1001
            shared.log_in("wrong")  # the server itself goes on
        finally:
            shared.server.stop()


def test_a_thousand_wrong_passwords_are_slowed_down_and_see_nothing(shared):
    checked = 0
    for attempt in range(1000):
        status, headers, body = shared.log_in(f"wrong-{attempt}")
        assert status in (403, 429)
        assert OURS not in body
        assert "Set-Cookie" not in headers
        checked += status == 403 or "Retry-After" not in headers
        shared.clock.now += 0.5
    # 3 free ones, and then waits of 1, 2, 4 ... s within 500 s.
    assert checked <= 4
    status, headers, _ = shared.log_in()
    assert status == 429, (
        "while it has to wait, the right password must not be told from a wrong one"
    )
    wait = int(headers["Retry-After"])
    assert wait > 1
    shared.clock.now += wait
    assert shared.log_in()[0] == 303


def test_waits_double_from_one_address_and_are_bounded_for_all_together():
    clock = Clock()
    gate = Gate(PASSWORD, clock=clock)
    tried = []
    for _ in range(4000):
        if gate.wait_s("10.0.0.1") == 0:
            assert not gate.try_password("10.0.0.1", "no")[0]
            tried.append(clock.now)
        clock.now += 1.0
    gaps = [b - a for a, b in itertools.pairwise(tried[4:])]
    assert gaps == [2.0**n for n in range(1, 1 + len(gaps))]
    assert len(tried) <= 3 + 12

    gate, count = Gate(PASSWORD, clock=clock), 0
    for host in range(3000):  # as from a botnet, one password a second and address
        address = f"10.{host >> 8}.{host & 255}.7"
        count += gate.wait_s(address) == 0
        gate.try_password(address, "no")
        clock.now += 1.0
    assert count <= 20 + 6 + 3000 / GuessLimits().longest_in_all_s
    # The owner is not kept out for longer than that.
    clock.now += GuessLimits().longest_in_all_s
    assert gate.try_password("10.9.9.9", PASSWORD) == (True, 0.0)


def test_one_ipv6_host_is_one_address():
    clock = Clock()
    gate = Gate(PASSWORD, clock=clock)
    for host in range(5):
        gate.try_password(f"2001:db8::{host + 1:x}", "no")
    assert gate.wait_s("2001:db8::ffff") > 0
    assert gate.wait_s("2001:db8:0:1::1") == 0
    assert gate.wait_s("10.0.0.1") == 0
    for _ in range(5):
        gate.try_password("::ffff:10.0.0.1", "no")
    assert gate.wait_s("10.0.0.1") > 0


@given(st.text(max_size=300))
def test_no_other_text_is_the_password(text):
    assert Gate(PASSWORD).try_password("10.0.0.1", text)[0] == (text == PASSWORD)


def test_guesses_of_many_addresses_take_bounded_memory():
    limits = GuessLimits(addresses=100, free_in_all=10**9)
    gate = Gate(PASSWORD, limits=limits, clock=Clock())
    for host in range(5000):
        gate.try_password(f"10.1.{host >> 8}.{host & 255}", "no")
    assert len(gate._of_address) == 100


def test_passwords_are_random_and_not_short():
    made = {random_password() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"([a-z2-9]{5}-){3}[a-z2-9]{5}", one) for one in made)
    assert need_password("a good long one") == "a good long one"
    with pytest.raises(InputError, match="10 to 256 characters; got 5"):
        need_password("short")


# -- sessions --------------------------------------------------------------------------------------


def test_a_session_has_a_safe_cookie_and_ends(shared):
    _, headers, _ = shared.log_in()
    cookie = headers["Set-Cookie"]
    for word in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"):
        assert word in cookie
    token = cookie.split(";")[0].partition("=")[2]
    assert len(token) >= 43  # 256 bits in base 64
    sent = f"headsplat={token}"
    assert shared.ask("GET", "/session", Cookie=sent)[0] == 200
    assert shared.ask("GET", "/login", Cookie=sent)[0] == 303
    with shared.socket(sent) as link:
        link.recv(timeout=20)
        shared.clock.now += 43200
        assert shared.ask("GET", "/session", Cookie=sent)[0] == 401
        with pytest.raises(ConnectionClosed) as closed:  # a page that is open ends too
            while True:
                link.recv(timeout=20)
    assert closed.value.rcvd.code == 1008

    sent = shared.cookie()
    assert shared.ask("GET", "/logout", Cookie=sent, Sec_Fetch_Site="cross-site")[0] == 403
    assert shared.ask("GET", "/session", Cookie=sent)[0] == 200
    assert shared.ask("GET", "/logout", Cookie=sent)[0] == 303
    assert shared.ask("GET", "/session", Cookie=sent)[0] == 401


def test_sessions_are_bounded():
    clock = Clock()
    sessions = Sessions(most=3, lifetime_s=10, clock=clock)
    tokens = [sessions.open() for _ in range(5)]
    assert [sessions.alive(token) for token in tokens] == [False, False, True, True, True]
    clock.now += 10
    assert len(sessions) == 0


# -- other sites -----------------------------------------------------------------------------------


def test_other_sites_cannot_use_a_browser_that_is_logged_in(shared):
    cookie = shared.cookie()
    for origin in (
        "http://evil.example",
        "null",
        f"https://{shared.host}",
        f"http://{shared.host}.x",
    ):
        with pytest.raises(InvalidStatus) as refused:
            shared.socket(cookie, origin=origin)
        assert refused.value.response.status_code == 403
        status, headers, _ = shared.ask("POST", "/login", f"password={PASSWORD}", Origin=origin)
        assert status == 403
        assert "Set-Cookie" not in headers
    own = f"http://{shared.host}"
    assert shared.ask("POST", "/login", f"password={PASSWORD}", Origin=own)[0] == 303


def test_a_name_that_is_not_this_machine_is_refused(shared):
    for name in (
        "evil.example",
        "127.0.0.1.evil.example",
        "",
        "a b",
        "[::1",
        "localhost.evil.example",
    ):
        answer = shared.raw(f"GET /login HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        assert b" 421 " in answer[:20] or b" 400 " in answer[:20], (name, answer[:60])
    for name in (shared.host, f"localhost:{shared.port}", "[::1]:1", socket.gethostname() + ".lan"):
        answer = shared.raw(f"GET /login HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        assert b" 200 " in answer[:20], name
    both = b"GET /login HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert b" 200 " not in shared.raw(both)[:20]


# -- sizes and time --------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_before_it_is_read(shared):
    cookie = shared.cookie()
    for path in ("/login", "/", "/upload"):
        head = f"POST {path} HTTP/1.1\r\nHost: {shared.host}\r\nCookie: {cookie}\r\n"
        start = time.perf_counter()
        answer = shared.raw(f"{head}Content-Length: {4 << 30}\r\n\r\n".encode() + b"x" * 70_000)
        assert b" 413 " in answer[:20], answer[:60]
        assert time.perf_counter() - start < 5
    head = f"POST /login HTTP/1.1\r\nHost: {shared.host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (
        b" 413 " in shared.raw(head.encode() + b"2000\r\n" + b"x" * 0x2000 + b"\r\n0\r\n\r\n")[:20]
    )
    head = f"GET /login HTTP/1.1\r\nHost: {shared.host}\r\n"
    assert b" 400 " in shared.raw(f"{head}X: {'x' * 100_000}\r\n\r\n".encode())[:20]
    assert b" 400 " in shared.raw((head + "X: y\r\n" * 1000 + "\r\n").encode())[:20]
    assert b" 400 " in shared.raw(b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n")[:20]
    shared.works()


def masked_frame(size: int) -> bytes:
    """Return the head of a binary websocket frame that says it has so many bytes."""
    return b"\x82\xff" + size.to_bytes(8, "big") + b"\0\0\0\0"


def test_a_websocket_message_of_four_gigabytes_ends_its_connection(shared):
    request = (
        f"GET / HTTP/1.1\r\nHost: {shared.host}\r\nOrigin: http://{shared.host}\r\n"
        f"Cookie: {shared.cookie()}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Sec-WebSocket-Protocol: viser-v{viser.__version__}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as link:
        link.sendall(request.encode())
        assert b" 101 " in link.recv(20)
        link.sendall(masked_frame(4 << 30))
        sent = 0
        with pytest.raises(OSError):  # noqa: PT011 (reset, or a broken pipe)
            for _ in range(64):
                link.sendall(b"x" * (1 << 20))
                sent += 1
                time.sleep(0.02)
        assert sent < 64
    shared.works()


def start_upload(**fields) -> bytes:
    """Return viser's message that announces an upload."""
    message = {
        "type": "FileTransferStartUpload",
        "source_component_uuid": "x",
        "transfer_uuid": "t",
        "filename": "pose.json",
        "mime_type": "application/json",
        "part_count": 1,
        "size_bytes": 10,
    }
    return msgspec.msgpack.encode(message | fields)


def test_messages_that_break_the_rules_end_their_connection_and_no_other(shared, app):
    cookie = shared.cookie()
    with shared.socket(cookie) as good:
        good.recv(timeout=20)
        for message, code in (
            ("text", 1008),
            (b"\xc1", 1007),
            (b"", 1007),
            (b"\x91" * 100_000, 1007),
            (start_upload(size_bytes=4 << 30), 1009),
            (start_upload(size_bytes=-1), 1009),
            (start_upload(filename="x.exe"), 1008),
            (b"\x80", 1007),
        ):
            with shared.socket(cookie) as link, pytest.raises(ConnectionClosed) as closed:
                link.send(message)
                while True:
                    link.recv(timeout=20)
            assert closed.value.rcvd.code == code, message
        # Does nothing; passed on it would make the viewer known to a public server.
        with shared.socket(cookie) as link:
            link.send(msgspec.msgpack.encode({"type": "ShareUrlRequest"}))
            link.recv(timeout=20)
        slider = app.panels.weights["jawOpen"]
        update = {"type": "GuiUpdateMessage", "uuid": slider._impl.uuid, "updates": {"value": 0.25}}
        good.send(msgspec.msgpack.encode(update))
        end = time.monotonic() + 20
        while slider.value != 0.25 and time.monotonic() < end:
            time.sleep(0.05)
        assert slider.value == 0.25


def test_uploads_are_bounded():
    messages = Messages()
    assert not messages.admit(msgspec.msgpack.encode({"type": "ShareUrlRequest"}))
    part = {"type": "FileTransferPart", "transfer_uuid": "t", "part_index": 0}
    with pytest.raises(Refused, match="no announced"):
        messages.admit(msgspec.msgpack.encode(part | {"content": b"x"}))
    assert messages.admit(start_upload())
    assert messages.admit(msgspec.msgpack.encode(part | {"content": b"x" * 4}))
    with pytest.raises(Refused):
        messages.admit(msgspec.msgpack.encode(part | {"content": b"x" * 7}))
    assert messages.admit(msgspec.msgpack.encode(part | {"content": b"x" * 6}))
    with pytest.raises(Refused):
        messages.admit(msgspec.msgpack.encode(part | {"content": b"x"}))
    for name in "ab":
        messages.admit(start_upload(transfer_uuid=name))
    with pytest.raises(Refused, match="at a time"):
        messages.admit(start_upload(transfer_uuid="c"))


@given(st.binary(max_size=200))
def test_any_bytes_are_admitted_dropped_or_refused(data):
    with contextlib.suppress(Refused):
        assert Messages().admit(data) in (True, False)


def test_who_sends_too_fast_is_read_more_slowly():
    clock = Clock()
    pace = Pace(10, 20, clock)
    assert [pace.owed_s(10) for _ in range(4)] == [0, 0, 1, 2]
    clock.now += 2
    assert pace.owed_s(0) == 0


def test_half_requests_are_timed_out_and_do_not_fill_the_server(app):
    limits = ShareLimits(head_s=0.6, idle_s=0.6, connections=12, connections_of_address=12)
    shared = Shared(app.url, limits)
    try:
        links = []
        for half in (b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\nX-", b"POST /login"):
            for _ in range(3):
                link = socket.create_connection(("127.0.0.1", shared.port), timeout=20)
                link.sendall(half)
                links.append(link)
        body = f"POST /login HTTP/1.1\r\nHost: {shared.host}\r\nContent-Length: 99\r\n\r\npass"
        extra = socket.create_connection(("127.0.0.1", shared.port), timeout=20)
        with contextlib.suppress(ConnectionError):  # one too many: closed at once
            assert extra.recv(10) == b""
        for link in links:
            for _ in range(3):  # a drop now and then does not help
                with contextlib.suppress(OSError):
                    link.sendall(b"a")
            with contextlib.suppress(ConnectionError):
                while part := link.recv(1000):  # or it was no request already
                    assert part.startswith(b"HTTP/1.0 400") or b"HTTP" not in part
            link.close()
        with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as link:
            link.sendall(body.encode())
            assert link.recv(20)[9:12] in (b"403", b"429", b"400")
        shared.works()
    finally:
        shared.server.stop()


def test_websockets_are_bounded(app):
    shared = Shared(app.url, replace(ShareLimits(), sockets_of_address=2))
    try:
        cookie = shared.cookie()
        with shared.socket(cookie), shared.socket(cookie):
            with pytest.raises(InvalidStatus) as refused:
                shared.socket(cookie)
            assert refused.value.response.status_code == 503
        end = time.monotonic() + 20
        while shared.server._sockets and time.monotonic() < end:
            time.sleep(0.05)
        assert not shared.server._sockets
        shared.socket(cookie).close()
    finally:
        shared.server.stop()


# -- paths and fuzz --------------------------------------------------------------------------------

PATHS = (
    *("/../../../../etc/passwd", "/..%2f..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd"),
    *("//etc/passwd", "/etc/passwd", "/....//....//etc/passwd", "/..\\..\\etc\\passwd"),
    *("/index.html/../../index.html", "/.git/config", "/%00", "/index.html%00.js", "/a/./b"),
    *("/..;/etc/passwd", "/%252e%252e/etc/passwd", "/\x7f", "/~root", "/C:/windows/win.ini"),
    *("http://evil.example/etc/passwd", "/../../package.json", "/src/App.tsx", "/build/", "/."),
)


def test_no_path_leads_out_of_the_viewers_page(shared):
    cookie = shared.cookie()
    with files_watched():
        assert shared.ask("GET", "/", Cookie=cookie)[0] == 200
        assert shared.ask("GET", "/index.html", Cookie=cookie)[0] == 200
        for path in PATHS:
            head = f"GET {path} HTTP/1.1\r\nHost: {shared.host}\r\nCookie: {cookie}\r\n"
            answer = shared.raw(f"{head}Connection: close\r\n\r\n".encode("latin-1"))
            assert answer[9:12] in (b"404", b"400"), (path, answer[:40])
            assert b"root:" not in answer


WORDS = [
    *(b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b" ", b" ", b" "),
    *(b"/", b"/login", b"/session", b"/logout", b"*", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"),
    *(b"\r\n", b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"Host: localhost", b"Cookie: headsplat=x"),
    *(b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999"),
    *(b"Transfer-Encoding: chunked", b"Upgrade: websocket", b"Connection: Upgrade", b"5\r\nhello"),
    *(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: x", b"Expect: 100-continue", b"\0"),
    *(b"password=x", b"..", b"%2e%2e", b"\xff\xfe", b"Origin: null", b"0\r\n\r\n", b":"),
    *(path.encode("latin-1") for path in PATHS),
]


def random_request(chance: random.Random, cookie: str, host: str) -> bytes:
    """Return bytes that are a request, nearly one, or none at all."""
    kind = chance.random()
    if kind < 0.15:
        return chance.randbytes(chance.randrange(200))
    if kind < 0.5:
        return b"".join(chance.choices(WORDS, k=chance.randrange(1, 25))) + b"\r\n\r\n"
    method = chance.choice((b"GET", b"GET", b"HEAD", b"POST", b"PUT"))
    path = chance.choice(PATHS).encode("latin-1") if kind < 0.8 else b"/login"
    request = b"%s %s HTTP/1.1\r\nHost: %s\r\nCookie: %s\r\n" % (
        method,
        path,
        *(host.encode(), cookie.encode() if chance.random() < 0.7 else b"headsplat=a"),
    )
    for _ in range(chance.randrange(4) if chance.random() < 0.3 else 0):
        request += chance.choice(WORDS) + b"\r\n"
    request += b"\r\n"
    if kind > 0.9:
        place = chance.randrange(len(request))
        request = request[:place] + chance.randbytes(3) + request[place + chance.randrange(5) :]
    return request


TYPES = [
    *("GuiUpdateMessage", "ViewerCameraMessage", "ShareUrlRequest", "FileTransferPart", "Message"),
    *("FileTransferStartUpload", "GetRenderResponseMessage", "ScenePointerMessage", "", "\0"),
]
NAMES = ["uuid", "updates", "position", "wxyz", "transfer_uuid", "content", "filename", "fov", "x"]


def random_message(chance: random.Random, uuids: list[str]) -> bytes:
    """Return bytes that are a message of viser's page, nearly one, or none at all."""
    kind = chance.random()
    if kind < 0.05:
        return chance.randbytes(chance.randrange(100))
    values = [0, -1, 2**40, 1e308, float("nan"), None, True, "x" * 50, b"y", [], {}, [1.0] * 4]
    message = {name: chance.choice(values) for name in chance.sample(NAMES, chance.randrange(5))}
    message["type"] = chance.choice(TYPES)
    if kind > 0.5:
        message |= {
            "type": "GuiUpdateMessage",
            "uuid": chance.choice(uuids),
            "updates": {"value": chance.choice(values)},
        }
    data = msgspec.msgpack.encode(message)
    if kind < 0.15:
        place = chance.randrange(len(data))
        data = data[:place] + chance.randbytes(1) + data[place + 1 :]
    return data


def fuzz(shared: Shared, app: ViewerApp, requests: int, messages: int, seed: int) -> None:
    """Send so many of both, and see that all still works and nothing else was read."""
    chance = random.Random(seed)
    cookie = shared.cookie()
    shared.ask("GET", "/", Cookie=cookie)
    uuids = ["none", *(h._impl.uuid for h in list(app.panels.weights.values())[:5])]
    with files_watched():
        answers = Counter(
            shared.raw(random_request(chance, cookie, shared.host), 0.02)[9:12]
            for _ in range(requests)
        )
        # They got as far as the login, the sessions and the paths, not only to the parser.
        assert min(answers[status] for status in (b"200", b"303", b"401", b"404", b"405")) > 10, (
            answers
        )
        for _ in range(messages // 10):
            with contextlib.suppress(ConnectionClosed), shared.socket(cookie) as link:
                for _ in range(10):
                    link.send(random_message(chance, uuids))
                assert link.ping(ack_on_close=True).wait(20)  # all were read
    shared.works()
    # The viewer behind it draws for a new browser.
    with shared.socket(shared.cookie()) as link:
        link.recv(timeout=20)


@pytest.fixture
def quiet_loops(caplog):
    """Keep what viser logs of broken messages off the test's output."""
    caplog.set_level("CRITICAL")


def test_random_requests_and_messages_end_nothing(shared, app, quiet_loops):
    fuzz(shared, app, 2000, 1000, seed=1)


@pytest.mark.slow
def test_a_hundred_thousand_random_requests_and_messages_end_nothing(shared, app, quiet_loops):
    fuzz(shared, app, 75_000, 25_000, seed=2)


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pems(tmp_path_factory) -> Path:
    """Return a folder with two self-signed pairs, and a key with a passphrase."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make certificates")
    folder = tmp_path_factory.mktemp("pem")
    for name in ("a", "b"):
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"]
        command += ["subjectAltName=DNS:localhost,IP:127.0.0.1"]
        command += ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"]
        subprocess.run(command, check=True, capture_output=True)
    command = [openssl, "pkey", "-in", f"{folder}/a.key", "-aes256", "-passout", "pass:secret"]
    subprocess.run([*command, "-out", f"{folder}/locked.key"], check=True, capture_output=True)
    return folder


def test_over_tls_the_cookie_is_secure(app, pems):
    shared = Shared(app.url, ShareLimits(), tls_context(pems / "a.pem", pems / "a.key"))
    try:
        trusted = ssl.create_default_context(cafile=str(pems / "a.pem"))
        link = http.client.HTTPSConnection("localhost", shared.port, timeout=20, context=trusted)
        link.request("POST", "/login", f"password={PASSWORD}")
        answer = link.getresponse()
        answer.read()
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-headsplat=")
        assert "Secure" in cookie
        link.request("GET", "/", headers={"Cookie": cookie.split(";")[0]})
        assert OURS in link.getresponse().read()
        with connect(
            f"wss://localhost:{shared.port}/",
            ssl=trusted,
            origin=f"https://localhost:{shared.port}",
            subprotocols=[f"viser-v{viser.__version__}"],
            additional_headers={"Cookie": cookie.split(";")[0]},
            max_size=None,
        ) as socket_:
            assert len(socket_.recv(timeout=20)) > 16
        link.close()
        shared.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")  # plain HTTP ends nothing
        assert shared.server.scheme == "https"
    finally:
        shared.server.stop()


def test_certificates_that_do_not_fit_are_named(pems, tmp_path):
    assert tls_context(None, None) is None
    (tmp_path / "text.pem").write_text("not a certificate")
    for certificate, key, words in (
        (pems / "a.pem", None, "--key is missing"),
        (None, pems / "a.key", "--certificate is missing"),
        (pems / "a.pem", pems / "b.key", "is not that of the certificate"),
        (pems / "a.pem", pems / "locked.key", "has a passphrase"),
        (tmp_path / "text.pem", pems / "a.key", "both as PEM"),
        (pems / "none.pem", pems / "a.key", "none.pem cannot be read"),
        (tmp_path, pems / "a.key", "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            tls_context(certificate, key)


# -- life ------------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_and_stopping_frees_it(app):
    first = Shared(app.url, ShareLimits())
    options = {"hosts": ("127.0.0.1",), "port": first.port}
    with pytest.raises(InputError, match="cannot listen on port"):
        ShareServer(app.url, Gate(PASSWORD), Sessions(), **options).start()
    first.server.stop()
    first.server.stop()
    second = ShareServer(app.url, Gate(PASSWORD), Sessions(), **options)
    second.start()
    second.stop()
    with pytest.raises(InputError, match="cannot listen on port 99999"):
        ShareServer(app.url, Gate(PASSWORD), Sessions(), port=99999).start()


def test_the_command_prints_a_password_once_and_it_opens(tmp_path, tiny_avatar):
    tiny_avatar.save(tmp_path / "me.avatar")
    command = [sys.executable, "-m", "avatar.cli", "view", str(tmp_path / "me.avatar")]
    command += ["--share-lan", "--port", "0"]
    said = tmp_path / "said.txt"
    environment = {k: v for k, v in os.environ.items() if k != "HEADSPLAT_SHARE_PASSWORD"}
    with open(said, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        end = time.monotonic() + 60
        while "readable" not in said.read_text() and time.monotonic() < end:
            assert process.poll() is None, said.read_text()
            time.sleep(0.1)
        text = said.read_text()
        port = int(re.search(r"http://[^ ]*:(\d+)", text).group(1))
        (password,) = re.findall(r"(?:[a-z2-9]{5}-){3}[a-z2-9]{5}", text)
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        link.request("POST", "/login", f"password={password}")
        answer = link.getresponse()
        answer.read()
        assert answer.status == 303
        link.request("GET", "/", headers={"Cookie": answer.headers["Set-Cookie"].split(";")[0]})
        assert OURS in link.getresponse().read()
        link.close()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert "Traceback" not in said.read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="needs the Chromium browser, which is not installed")
def test_a_browser_logs_in_sees_the_avatar_and_is_told_of_the_end(shared, app, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        page = browser.new_page(viewport={"width": 900, "height": 560})
        errors: list[str] = []
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://{shared.host}/")
        assert page.url.endswith("/login")
        page.fill("#password", "not this one")
        page.click("button")
        assert page.inner_text("[role=alert]") == "This is not the password."
        page.screenshot(path=tmp_path / "login.png")
        errors.clear()  # Chromium notes the 403
        page.fill("#password", PASSWORD)
        page.click("button")
        page.wait_for_url(f"http://{shared.host}/")
        page.get_by_role("tab", name="Expression").click(timeout=30_000)
        page.get_by_role("button", name="mouth open").click()
        weight = app.panels.weights["jawOpen"]
        end = time.monotonic() + 30
        while weight.value != 0.7 and time.monotonic() < end:
            page.wait_for_timeout(100)
        assert weight.value == 0.7
        app.panels.set_weights({})
        page.screenshot(path=tmp_path / "viewer.png")
        assert not [e for e in errors if "bounding sphere" not in e], errors
        shared.server.stop()
        page.wait_for_selector("#share-note", timeout=30_000)
        assert "Trying again" in page.inner_text("#share-note")
        browser.close()
