"""In front of the API: what the page owns goes to the page, everything else passes untouched."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from anyio.to_thread import run_sync
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from rung.server.state import Service

OURS = "/_nicegui"  # its scripts, styles and fonts, and its socket
EXACT = frozenset({"/", "/favicon.ico"})
MISSING = "No page here: pip install 'rung[page]' and start again. The API is at /v1.\n"
TAKEN = "Another server of this process has the page: start each in a process of its own.\n"
MARGIN = 1 << 16  # bytes that surround a file in an upload

log = logging.getLogger("rung.server")


class Page:
    """The page of one service, asleep until somebody opens it.

    NiceGUI knows one application per process, so of several services at a time only the first that is
    looked at has a page; one that begins after that has ended has it next.
    """

    _owner: Page | None = None

    def __init__(self, app: FastAPI, service: Service):
        self.api, self.service = app, service
        self.installed = importlib.util.find_spec("nicegui") is not None
        self._lock = asyncio.Lock()
        self._running: ASGIApp | None = None
        self._life = AsyncExitStack()

    def owns(self, scope: Scope) -> bool:
        """Whether a request is for the page."""
        if scope["type"] not in ("http", "websocket"):
            return False
        path = scope["path"]
        if path in EXACT:
            return scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        return path == OURS or path.startswith((OURS + "/", OURS + "_ws/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.installed:
            await _refuse(MISSING, scope, receive, send)
        elif Page._owner not in (None, self):
            await _refuse(TAKEN, scope, receive, send)
        else:
            await (await self._started())(scope, _bounded(self.service, receive), send)

    async def _started(self) -> ASGIApp:
        """The page's application, made and begun when it is first asked for."""
        async with self._lock:
            if self._running is None:
                Page._owner = self
                # Most of a second, which the requests of others should not have to wait for.
                build = await run_sync(_imported)
                made = build(self.service, self.api)
                await self._life.enter_async_context(made.router.lifespan_context(made))
                self._running = made
        return self._running

    async def close(self) -> None:
        """End what the page has begun."""
        if self._running is not None:
            await self._life.aclose()
            self._running, Page._owner = None, None


class Front:
    """ASGI middleware that hands the page what is the page's."""

    def __init__(self, app: ASGIApp, page: Page):
        self.app, self.page = app, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.page if self.page.owns(scope) else self.app)(scope, receive, send)


def _imported():
    from rung.server.page.layout import build

    return build


async def _refuse(line: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    status = 200 if scope["path"] == "/" else 404
    await PlainTextResponse(line, status)(scope, receive, send)


def _bounded(service: Service, receive: Receive) -> Receive:
    """Ends an upload that is larger than a file may be, as if the browser had gone."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > service.limits.max_file + MARGIN:
                log.warning("an upload to the page is larger than a file may be: refused")
                return {"type": "http.disconnect"}
        return message

    return counted
