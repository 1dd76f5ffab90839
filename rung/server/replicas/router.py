"""The router: one OpenAI-compatible address over several replicas.

A request whose body names a model goes where the policy says; everything else (files, jobs, keys, the
page) to the first replica, which alone runs jobs. A question to a replica that is gone is asked of
another as long as nothing of the answer was sent; a stream that has begun ends with an error event.
What may have changed something, such as ordering a job, is not asked twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from rung.server import routes
from rung.server.errors import body as error_body
from rung.server.errors import respond
from rung.server.middleware import UPLOADS
from rung.server.replicas.metrics import summed
from rung.server.replicas.policy import Warm
from rung.server.streaming import GONE as CLIENT_GONE
from rung.server.streaming import unless_gone

ANSWERING = (
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/embeddings", "/v1/moderations",
    "/v1/responses", "/v1/score", "/v1/map",
)  # fmt: skip
MODELS = "/v1/models/"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# Of one connection alone (RFC 9110, 7.6.1), and what the client library says anew.
HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "content-length",
}  # fmt: skip
REPLICAS = "# HELP rung_replicas Replicas that answer.\n# TYPE rung_replicas gauge\nrung_replicas {}\n"
TEXTS = ("system", "tools", "messages", "prompt", "input")  # of a body, in the order of a prompt
GONE = "the replica that answered has ended: ask again"
GONE_WITH_IT = "the replica ended with this request: look whether it was done before asking again"
NOBODY = "no replica answers now: try again in some seconds"
NOT_FOUND = 404  # of a replica that was started before a job made the model
ASKS = 4  # replicas that one request is asked of at most, restarted ones among them
PATIENCE_SECONDS = 0.5  # before a replica is looked for again where none is alive


class _TooLargeError(Exception):
    """A body is larger than it may be."""


class Router:
    """Replicas by their places, and requests on their way to them.

    Attributes:
        addresses: of each replica; None while it is down.

    Args:
        max_body, max_file: bytes of a body, and of an upload's. patience: seconds that it waits for the
            next part of one.
    """

    def __init__(self, count: int, max_body: int, max_file: int = 0, patience: float = 60.0):
        self.policy = Warm(count)
        for place in range(count):
            self.policy.lost(place)  # until it answers
        self.addresses: list[str | None] = [None] * count
        self.max_body, self.max_file, self.patience = max_body, max(max_body, max_file), patience
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self.client = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=10.0), limits=limits)

    def came(self, place: int, address: str) -> None:
        """A replica answers."""
        self.addresses[place] = address
        self.policy.back(place)

    def went(self, place: int) -> None:
        """A replica has ended."""
        self.addresses[place] = None
        self.policy.lost(place)

    # --- one request ------------------------------------------------------------------------------

    async def answer(self, request: Request) -> Response:
        """Ask a replica, another one where it is gone, and pass the answer on."""
        path = request.url.path
        try:
            if UPLOADS.fullmatch(path):
                return await self._uploaded(request)
            body = b"".join([part async for part in self._parts(request, self.max_body)])
        except TimeoutError:
            return _error(408, "the request did not arrive in time", path)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        except _TooLargeError as fault:
            return _error(413, str(fault), path)
        model, text = _about(path, body)
        asked = self._asked(request, body, model, text)
        if model is None:  # it may change something, and comes to its end
            answered = await asked
            if request.method == "DELETE" and path.startswith(MODELS) and answered.status_code == 200:
                await self._told(request, body)
            return answered
        return await unless_gone(request.receive, asked) or Response(status_code=CLIENT_GONE)

    async def _asked(self, request: Request, body: bytes, model: str | None, text: str) -> Response:
        tried: set[int] = set()
        lacking: dict[int, Response] = {}  # what replicas said that do not know what is asked for
        for _ in range(ASKS + len(self.addresses)):
            place = self._place(model, text, tried)
            if place is None and lacking:
                break
            if place is None:
                tried.clear()
                await asyncio.sleep(PATIENCE_SECONDS)
                continue
            try:
                asked = await self._ask(request, body, place)
            except asyncio.CancelledError:  # the client went away
                self.policy.done(place)
                raise
            except httpx.HTTPError as fault:
                self.policy.done(place)
                if model is None and not isinstance(fault, httpx.ConnectError):
                    return _error(502, GONE_WITH_IT, request.url.path)
                tried.add(place)
                continue
            answered = await self._pass_on(asked, place)
            if answered is not None and (model is None or answered.status_code != NOT_FOUND):
                for other in lacking if model is not None else ():
                    self.policy.lacks(other, model or "")
                return answered
            if answered is not None:
                lacking[place] = answered
                tried.add(place)
                continue
            if model is None:
                return _error(502, GONE_WITH_IT, request.url.path)
            tried.add(place)
        return next(iter(lacking.values()), None) or _error(503, NOBODY, request.url.path)

    async def _told(self, request: Request, body: bytes) -> None:
        """Tell the other replicas what the first one has done: each holds its models in memory."""
        for place, address in enumerate(self.addresses):
            if place and address is not None:
                with contextlib.suppress(httpx.HTTPError):
                    answered = await self._ask(request, body, place)
                    await answered.aclose()

    def _place(self, model: str | None, text: str, tried: set[int]) -> int | None:
        if model is not None:
            return self.policy.choose(model, text, frozenset(tried))
        if self.addresses[0] is None:
            return None
        self.policy.replicas[0].in_flight += 1
        return 0

    async def _uploaded(self, request: Request) -> Response:
        """Pass an upload on to the first replica as it comes: it may be larger than memory should hold.

        Raises:
            TimeoutError, ClientDisconnect, _TooLargeError: as its parts do.
        """
        path = request.url.path
        for _ in range(ASKS):
            if (place := self._place(None, "", set())) is not None:
                break
            await asyncio.sleep(PATIENCE_SECONDS)
        else:
            return _error(503, NOBODY, path)
        try:
            asked = await self._ask(request, self._parts(request, self.max_file), place)
        except httpx.HTTPError as fault:
            self.policy.done(place)
            lost = not isinstance(fault, httpx.ConnectError)
            return _error(502, GONE_WITH_IT, path) if lost else _error(503, NOBODY, path)
        except BaseException:  # its parts do not come, or are too many
            self.policy.done(place)
            raise
        return await self._pass_on(asked, place) or _error(502, GONE_WITH_IT, path)

    async def _parts(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """The parts of a body as they come.

        Raises:
            TimeoutError: where the next one does not come. ClientDisconnect: where it breaks off.
            _TooLargeError: where they are more than `most` bytes.
        """
        seen, parts = 0, aiter(request.stream())
        told = _TooLargeError(f"the body is larger than {most:,} bytes")
        if int(request.headers.get("content-length") or 0) > most:
            raise told
        while (part := await asyncio.wait_for(anext(parts, None), self.patience)) is not None:
            seen += len(part)
            if seen > most:
                raise told
            yield part

    async def _ask(
        self, request: Request, body: bytes | AsyncIterator[bytes], place: int
    ) -> httpx.Response:
        url = f"{self.addresses[place]}{request.url.path}"
        if request.url.query:
            url += f"?{request.url.query}"
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in HOP]
        asked = self.client.build_request(request.method, url, headers=headers, content=body)
        return await self.client.send(asked, stream=True)

    async def _pass_on(self, asked: httpx.Response, place: int) -> Response | None:
        """The answer, whole or as a stream; None where the replica ended before anything was sent."""
        headers = {k: v for k, v in asked.headers.items() if k.lower() not in HOP}
        if asked.headers.get("content-type", "").startswith("text/event-stream"):
            stream = self._stream(asked, place)
            return StreamingResponse(stream, asked.status_code, headers)
        try:
            content = b"".join([part async for part in asked.aiter_raw()])
        except httpx.HTTPError:
            return None
        finally:
            self.policy.done(place)
            await asked.aclose()
        return Response(content, asked.status_code, headers)

    async def _stream(self, asked: httpx.Response, place: int) -> AsyncIterator[bytes]:
        try:
            async for part in asked.aiter_raw():
                yield part
        except httpx.HTTPError:
            said = {"error": {"message": GONE, "type": "server_error", "code": "replica_lost"}}
            yield f"\n\nevent: error\ndata: {json.dumps(said)}\n\n".encode()
        finally:
            self.policy.done(place)
            await asked.aclose()

    # --- of all replicas --------------------------------------------------------------------------

    async def metrics(self, request: Request) -> Response:
        """Figures of all replicas, summed."""
        found = [await self._text(request, address) for address in self.addresses if address]
        refused = next((r for r in found if r is not None and r.status_code != 200), None)
        if refused is not None:
            return Response(refused.content, refused.status_code, media_type="application/json")
        alive = sum(address is not None for address in self.addresses)
        text = summed([r.text for r in found if r is not None]) + REPLICAS.format(alive)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _text(self, request: Request, address: str) -> httpx.Response | None:
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in HOP]
        with contextlib.suppress(httpx.HTTPError):
            return await self.client.get(f"{address}/metrics", headers=headers)
        return None

    async def health(self, request: Request) -> Response:
        """Whether any replica answers."""
        if any(self.addresses):
            return JSONResponse({"status": "ok"})
        return _error(503, NOBODY)


def application(router: Router) -> Starlette:
    """The application over replicas; who serves it starts and stops them."""
    routes.registry.all()  # which say what shape errors have at their addresses
    return Starlette(
        routes=[
            Route("/metrics", router.metrics),
            Route("/health", router.health),
            Route("/{path:path}", router.answer, methods=METHODS),
        ],
    )


def _about(path: str, body: bytes) -> tuple[str | None, str]:
    """(the model that is asked, the text in its order), or (None, "") for what is no question."""
    if path.rstrip("/") not in ANSWERING:
        return None, ""
    try:
        said: Any = json.loads(body)
        model = said.get("model")
    except (ValueError, AttributeError):
        return "", ""  # any replica refuses it
    parts = [said[key] for key in TEXTS if said.get(key)]
    return str(model), json.dumps(parts, ensure_ascii=False)


def _error(status: int, message: str, path: str = "") -> JSONResponse:
    return respond(status, error_body(message, status), path=path)
