"""The API of this very process, asked without a socket in between.

Keys, scopes, limits and metrics hold for the page as for everybody, whatever the server's address
and certificate. httpx's own ASGI transport hands over an answer only when it is whole, which is of
no use for a stream; this one hands over each piece.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx

from rung.errors import RungError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

DEEP = 64  # pieces of an answer that may wait for whoever reads it


class Refused(RungError):
    """What the API said, in its own words."""


class Api:
    """A client of an application.

    Args:
        key: sent as the bearer token, where there is one.
    """

    def __init__(self, app: ASGIApp, key: str | None = None):
        headers = {b"authorization": f"Bearer {key}".encode()} if key else {}
        self._http = httpx.AsyncClient(
            transport=Transport(app), base_url="http://rung", headers=headers, timeout=None
        )

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        """What stands at a path. Raises Refused, as all of them do."""
        return _read(await self._http.get(path, params=params))

    async def post(self, path: str, **request: Any) -> dict[str, Any]:
        """Send `json`, or `files` with `data`."""
        return _read(await self._http.post(path, **request))

    async def delete(self, path: str) -> dict[str, Any]:
        """Remove what stands at a path."""
        return _read(await self._http.delete(path))

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The events of a streamed answer; leaving off early frees its place in the engine."""
        async with self._http.stream("POST", path, json={**body, "stream": True}) as answer:
            if answer.is_error:
                await answer.aread()
                _read(answer)
            async for line in answer.aiter_lines():
                if not line.startswith("data:") or line.endswith("[DONE]"):
                    continue
                event = json.loads(line.removeprefix("data:"))
                if event.get("error"):
                    raise Refused(event["error"]["message"])
                yield event


def _read(answer: httpx.Response) -> dict[str, Any]:
    content = answer.json()
    if answer.is_error:
        raise Refused(content["error"]["message"])
    return content


class Transport(httpx.AsyncBaseTransport):
    """Runs an application for each request, as a server would."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = _Answer(await request.aread())
        answer.task = asyncio.create_task(self._run(request, answer))
        try:
            start = await answer.pieces.get()
        except asyncio.CancelledError:  # whoever asked has gone before the answer began
            await answer.aclose()
            raise
        if isinstance(start, BaseException):
            raise httpx.ReadError(str(start), request=request) from start
        return httpx.Response(start["status"], headers=start["headers"], stream=answer)

    async def _run(self, request: httpx.Request, answer: _Answer) -> None:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "root_path": "",
            "method": request.method, "scheme": request.url.scheme, "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0], "query_string": request.url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": ("rung", 80), "client": ("page", 0), "state": {}, "extensions": {},
        }  # fmt: skip
        try:
            await self.app(scope, answer.receive, answer.send)
            await answer.pieces.put(None)
        except Exception as fault:
            await answer.pieces.put(fault)


class _Answer(httpx.AsyncByteStream):
    """What comes back, piece by piece; closing it early is a disconnect."""

    def __init__(self, body: bytes):
        self.pieces: asyncio.Queue[Any] = asyncio.Queue(DEEP)
        self.task: asyncio.Task | None = None
        self._body: bytes | None = body
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._gone.is_set():
            raise OSError("whoever asked has gone")
        await self.pieces.put(message)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self.pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise httpx.ReadError(str(piece)) from piece
            yield piece.get("body", b"")
            if not piece.get("more_body"):
                return

    async def aclose(self) -> None:
        self._gone.set()
        while not self.pieces.empty():  # so that a writer that waits for room sees that we went
            self.pieces.get_nowait()
