"""What every request passes first: its key, the size of its body, and whether the server drains.

And last: every answer carries an id, is counted, and makes one line of the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time

from anyio.to_thread import run_sync
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rung.server.access import ON_BEHALF, Account, OnBehalf
from rung.server.errors import ApiError, of_fault, respond, waiting
from rung.server.routing import ANY_KEY, OPEN, RequiredScopes
from rung.server.state import Service

MISFRAMED = "two_lengths"  # what follows on the connection must not be taken for a request
UPLOADS = re.compile(r"/v1/files|/v1/uploads/[^/]+/parts")  # take bodies as large as files

log = logging.getLogger("rung.requests")


class GateMiddleware:
    """ASGI middleware around the application of a service.

    Args:
        scopes: tells which scope a request needs of its key.
    """

    def __init__(self, app: ASGIApp, service: Service, scopes: RequiredScopes):
        self.app, self.service, self.traffic = app, service, service.traffic
        self.scopes = scopes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith("/v1/") and scope["path"].endswith("/"):
            scope = {
                **scope,
                "path": scope["path"].rstrip("/"),
            }  # clients do not follow a redirected POST
        began, seen = time.perf_counter(), _Seen()
        send = seen.watch(_patient(send, self.service.limits.patience))
        try:
            scope["rung.account"] = await self._admit(scope)
        except ApiError as fault:
            close = {"Connection": "close"} if fault.code == MISFRAMED else {}
            headers = {**waiting(fault), **close}
            await respond(*of_fault(fault), headers, scope["path"])(scope, receive, send)
            self._note(scope, seen, time.perf_counter() - began)
            return
        self.traffic.in_flight += 1
        try:
            await self.app(scope, self._bounded(scope, receive), send)
        except _Unread:
            log.warning("a client stopped reading: %s", seen.id)
        finally:
            self.traffic.in_flight -= 1
            self.service.access.settle(scope["rung.account"])
            self._note(scope, seen, time.perf_counter() - began)

    async def _admit(self, scope: Scope) -> Account:
        """Whose request it is. Raises ApiError for those who may not pass."""
        access, needed = self.service.access, self.scopes.of(scope)
        if needed == OPEN:
            return Account()
        if access.stale:
            await run_sync(access.refresh)
        headers, behalf = Headers(scope=scope), scope.get(ON_BEHALF)
        if isinstance(behalf, OnBehalf):
            account = access.account_on_behalf(behalf.key)
        else:
            said = headers.get("authorization") or f"Bearer {headers.get('x-api-key', '')}"
            account = access.account(said)
        if self.traffic.draining:
            raise ApiError("the server is shutting down", status=503)
        if needed != ANY_KEY:
            account.needs(needed)
        if "transfer-encoding" in headers and "content-length" in headers:
            told = "a request has Content-Length or Transfer-Encoding, not both"
            raise ApiError(told, code=MISFRAMED)
        length = headers.get("content-length", "0")
        most = self._most(scope)
        if length.isascii() and length.isdigit() and int(length[:20]) > most:
            raise ApiError(_too_large(most), status=413)
        return account

    def _most(self, scope: Scope) -> int:
        limits = self.service.limits
        return limits.most_upload if UPLOADS.fullmatch(scope["path"]) else limits.max_body

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Counts the bytes of a body, and waits only so long for the next of them."""
        seen, whole, most = 0, False, self._most(scope)

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:  # only the disconnect is left to come
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.service.limits.patience)
            except TimeoutError:
                raise HTTPException(408, "the request did not arrive in time") from None
            whole = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > most:
                raise HTTPException(413, _too_large(most))
            return message

        return counted

    def _note(self, scope: Scope, seen: _Seen, seconds: float) -> None:
        account = scope.get("rung.account")
        route = getattr(scope.get("route"), "path", "none")
        self.service.metrics.request(route, scope["method"], seen.status, seconds, account)
        if not self.service.settings.log:
            return
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": seen.id, "method": scope["method"], "path": scope["path"][:200],
            "status": seen.status, "seconds": round(seconds, 4),
        }  # fmt: skip
        if account is not None:
            line |= {"model": account.model, "prompt_tokens": account.asked}
            line |= {"completion_tokens": account.drawn, "key": account.key and account.key.id}
        if notes := scope.get("rung.notes"):
            line["stages"] = {note["stage"]: note["seconds"] for note in notes}
        log.info(json.dumps(line))


class HeadMiddleware:
    """ASGI middleware that answers HEAD as GET without the body, wherever GET is answered."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, without_body)


class _Unread(OSError):
    """The client does not take its answer."""


def _patient(send: Send, seconds: float) -> Send:
    """Gives up a client that does not take what it asked for, as if it had gone away."""

    async def sent(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            raise _Unread from None

    return sent


class _Seen:
    """The id and the status of an answer."""

    def __init__(self) -> None:
        self.id, self.status = f"req_{secrets.token_hex(12)}", 0

    def watch(self, send: Send) -> Send:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                MutableHeaders(scope=message).setdefault("x-request-id", self.id)
            await send(message)

        return sent


def _too_large(most: int) -> str:
    return f"the body is larger than {most} bytes"
