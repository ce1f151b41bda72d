"""A websocket passed on between a browser that logged in and the viewer, within bounds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from viewer.share_messages import NOT_ALLOWED, Messages, Pace, Refused

_PROTOCOL = re.compile(r"viser-v[0-9A-Za-z.+-]{1,32}")
SESSION_CHECK_S = 2.0
"""How soon a websocket ends after its session, seconds."""


@dataclass(frozen=True)
class ShareLimits:
    """What one browser, and all together, may take."""

    sockets: int = 24
    """Open websockets in all; every one costs rendering."""
    sockets_of_address: int = 6
    connections: int = 256
    connections_of_address: int = 32
    head_s: float = 10.0
    """Seconds in which a new connection must have sent a whole request's head."""
    idle_s: float = 30.0
    """Seconds that a connection stays open between requests."""
    form_bytes: int = 4096
    """Size of a login form."""
    line_bytes: int = 8190
    """Size of a request's first line, and of each header."""
    headers: int = 64
    message_bytes: int = 2 << 20
    """Size of one websocket message; viser's page uploads files in parts of half a MiB."""
    messages_per_s: float = 400.0
    bytes_per_s: float = 16.0 * (1 << 20)
    page_bytes: int = 64 << 20
    """Size of a file of viser's page."""
    send_s: float = 20.0
    """Seconds that a browser may take for one message."""


async def pass_on(
    request: web.BaseRequest,
    client: aiohttp.ClientSession,
    upstream: str,
    *,
    alive: Callable[[], bool],
    limits: ShareLimits,
) -> web.WebSocketResponse:
    """Pass a websocket on, in both directions, until either side or the session ends.

    Args:
        request: the browser's, of somebody who logged in.
        client: what the viewer is called with.
        upstream: the viewer's address.
        alive: whether the session still is.
        limits: what the browser may take.

    Raises:
        web.HTTPException: it is no proper websocket handshake.
    """
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    protocols = [p.strip() for p in offered if _PROTOCOL.fullmatch(p.strip())][:4]
    browser = web.WebSocketResponse(
        protocols=protocols,
        max_msg_size=limits.message_bytes,
        heartbeat=60.0,
        compress=False,
        timeout=5.0,
    )
    await browser.prepare(request)
    transport = request.transport
    assert transport is not None
    abort = transport.abort
    code, reason = int(aiohttp.WSCloseCode.GOING_AWAY), "the viewer has ended"
    try:
        async with client.ws_connect(
            upstream,
            protocols=protocols,
            max_msg_size=256 << 20,
            compress=0,
            timeout=aiohttp.ClientWSTimeout(ws_close=1.0),  # pyright: ignore[reportCallIssue] (attrs)
        ) as viewer:
            try:
                await _until_one_ends(
                    _to_viewer(browser, viewer, limits),
                    _to_browser(viewer, browser, limits, abort),
                    _session_ended(alive),
                )
                # Codes below 1002 and the reserved ones say no more than that it ended.
                if viewer.close_code in (1002, 1008, 1011):
                    code, reason = viewer.close_code, "the viewer closed the connection"
            except Refused as refusal:
                code, reason = refusal.code, refusal.reason
            # Before the viewer's side, which may take its time.
            await _close(browser, code, reason)
    except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError):
        await _close(browser, code, reason)
    return browser


async def _close(browser: web.WebSocketResponse, code: int, reason: str) -> None:
    await browser.close(code=code, message=reason.encode()[:120], drain=False)


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until the first ends, and raise what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _to_viewer(
    browser: web.WebSocketResponse,
    viewer: aiohttp.ClientWebSocketResponse[bool],
    limits: ShareLimits,
) -> None:
    messages = Messages()
    count = Pace(limits.messages_per_s, 2 * limits.messages_per_s)
    size = Pace(limits.bytes_per_s, 4 * limits.bytes_per_s)
    async for message in browser:
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise Refused(NOT_ALLOWED, "not a message of the viewer's page")
        if messages.admit(message.data):
            await viewer.send_bytes(message.data)
        await count.take(1)
        await size.take(len(message.data))


async def _to_browser(
    viewer: aiohttp.ClientWebSocketResponse[bool],
    browser: web.WebSocketResponse,
    limits: ShareLimits,
    abort: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    async for message in viewer:
        if message.type is not aiohttp.WSMsgType.BINARY:
            continue
        # Not wait_for, which before Python 3.12 may lose a cancellation.
        too_slow = loop.call_later(limits.send_s, abort)
        try:
            await browser.send_bytes(message.data)
        finally:
            too_slow.cancel()


async def _session_ended(alive: Callable[[], bool]) -> None:
    """End, by Refused, once the session has expired or was closed."""
    while alive():
        await asyncio.sleep(SESSION_CHECK_S)
    raise Refused(NOT_ALLOWED, "log in again")
