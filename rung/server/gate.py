"""What every request passes first: its key, the size of its body, and whether the server drains."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rung.server.errors import body, respond

OPEN = frozenset({"/health"})  # needs no key, and answers while draining


@dataclass
class Traffic:
    """What application and server know of each other.

    Attributes:
        draining: set to refuse new requests. in_flight: requests that are being answered.
    """

    draining: bool = False
    in_flight: int = 0


class Gate:
    """ASGI middleware.

    Args:
        app: what comes behind.
        traffic: kept up to date, and asked whether to refuse.
        keys: any of them opens the gate; none leaves it open.
        max_body: bytes.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic, keys: Sequence[str], max_body: int):
        self.app, self.traffic, self.max_body = app, traffic, max_body
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _named(send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await respond(refusal[0], body(refusal[1], refusal[0]))(scope, receive, send)
            return
        self.traffic.in_flight += 1
        try:
            await self.app(scope, self._bounded(receive), send)
        finally:
            self.traffic.in_flight -= 1

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """(status, reason), or None for those who may pass."""
        if scope["path"] in OPEN:
            return None
        headers = Headers(scope=scope)
        if not self._knows(headers.get("authorization", "")):
            return 401, "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
        if self.traffic.draining:
            return 503, "the server is shutting down"
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self.max_body:
            return 413, self._too_large
        return None

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self.max_body} bytes"

    def _knows(self, authorization: str) -> bool:
        if not self._keys:
            return True
        kind, _, given = authorization.partition(" ")
        spoken = given.strip().encode("latin-1")  # the bytes that were sent
        # Every key is compared in full, so that the time says nothing about any of them.
        matches = [hmac.compare_digest(spoken, key) for key in self._keys]
        return kind.lower() == "bearer" and any(matches)

    def _bounded(self, receive: Receive) -> Receive:
        """Counts the bytes of a body that did not announce its length."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_body:
                raise HTTPException(413, self._too_large)
            return message

        return counted


def _named(send: Send) -> Send:
    """Gives every response an id for the log, which the official client shows."""
    name = f"req_{secrets.token_hex(12)}"

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault("x-request-id", name)
        await send(message)

    return sent
