"""Faults in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, never a `detail`."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from rung import home
from rung.data.encoding import clean
from rung.engine.request import ContextExceeded
from rung.errors import ModelNotFound, RungError, StoreBroken, one_line
from rung.store.pages import UnknownCursor

log = logging.getLogger("rung.server")

RETRY_AFTER = "1"  # seconds
# Codes of what trying again does not mend.
FINAL = ("insufficient_quota", "request_exceeds_rate", "store_broken")
URL = re.compile(r"\b(?:sqlite|postgres\w*)(?:\+\w+)?://[^\s:]\S*?(?=[\s:,;)]|$)")
# Beginning of an address -> how errors are written there; everywhere else as OpenAI writes them.
SHAPES: dict[str, Callable[[int, dict[str, Any]], dict[str, Any]]] = {}
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
PARTS = ("body", "query", "path", "header", "cookie")  # of a request, which parameters' names leave out
CODES = {
    401: "invalid_api_key", 408: "timeout", 413: "request_too_large", 429: "queue_full",
    503: "unavailable",
}  # fmt: skip


class ApiError(RungError):
    """A request that is refused.

    Args:
        param: the parameter at fault. code: OpenAI's word for the fault.
        wait: seconds after which to try again, where that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        wait: float | None = None,
    ):
        super().__init__(message)
        self.http_status, self.param, self.code, self.wait = status, param, code, wait


def not_supported(param: str, reason: str) -> ApiError:
    """For a feature that exists elsewhere: refused, since ignoring it would answer wrongly."""
    return ApiError(f"'{param}' is not supported: {reason}", param=param, code="not_supported")


def body(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Write the JSON of an error; places on this machine are left out of its message."""
    message = " ".join(without_places(message).splitlines())  # a client's names may hold line breaks
    kind = "server_error" if status >= 500 else TYPES.get(status, "invalid_request_error")
    error = {"message": clean(message), "type": kind, "param": param, "code": code or CODES.get(status)}
    return {"error": error}


def without_places(message: str) -> str:
    """Replace where the store and Rung's home are on this machine: they are no client's business."""
    message = URL.sub("of this server", message)
    for place in (os.environ.get("RUNG_STORE", "").partition(":///")[2], str(home.home())):
        if place and place != "/":
            message = message.replace(f"{place}/", "").replace(place, "of this server")
    return message


def of_fault(fault: Exception, param: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON for anything that was raised; `param` where the fault does not say."""
    if isinstance(fault, ApiError):
        status = fault.http_status
        return status, body(str(fault), status, fault.param, fault.code)
    if isinstance(fault, ModelNotFound):
        return 404, body(str(fault), 404, "model", "model_not_found")
    if isinstance(fault, UnknownCursor):
        return 400, body(str(fault), 400, "after", "invalid_value")
    if isinstance(fault, ContextExceeded):
        return 400, body(str(fault), 400, param, "context_length_exceeded")
    if isinstance(fault, StoreBroken):
        log.error("the store cannot be used: %s", fault)
        return 500, body(str(fault), 500, param, "store_broken")
    if isinstance(fault, RungError):
        return fault.http_status, body(str(fault), fault.http_status, param)
    log.error("a request failed", exc_info=fault)
    return 500, body("the server met a fault of its own", 500)


def respond(
    status: int, content: dict[str, Any], headers: Mapping[str, str] | None = None, path: str = ""
) -> JSONResponse:
    """An error as a response, with what the client needs for trying again.

    Args:
        path: of the request: some addresses have errors of another shape.
    """
    extra = {"Retry-After": RETRY_AFTER} if status in (429, 503) else {}
    if status in (409, 501) or content["error"]["code"] in FINAL:
        extra = {"x-should-retry": "false"}  # clients would try again, and nothing would have changed
    if status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    for beginning, written in SHAPES.items():
        if path.startswith(beginning):
            content = written(status, content)
    return JSONResponse(content, status, {**extra, **(headers or {})})


def waiting(fault: Exception) -> dict[str, str]:
    """When to try again, as headers, where the fault says."""
    wait = getattr(fault, "wait", None)
    if wait is None:
        return {}
    return {"Retry-After": str(max(1, math.ceil(wait))), "retry-after-ms": str(math.ceil(wait * 1000))}


def install(app: FastAPI) -> None:
    """Make every fault of an application come out in this shape."""

    @app.exception_handler(RungError)
    async def refused(request: Request, fault: RungError) -> JSONResponse:
        status, content = of_fault(fault, getattr(request.state, "param", None))
        return respond(status, content, waiting(fault), request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, fault: RequestValidationError) -> JSONResponse:
        message, param, code = described(fault.errors())
        return respond(400, body(message, 400, param, code), path=request.url.path)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, fault: HTTPException) -> JSONResponse:
        message = str(fault.detail)
        if fault.status_code == 404:
            message = f"no such address: {request.method} {request.url.path}{_meant(request)}"
        param, code = getattr(fault, "param", None), getattr(fault, "code", None)
        content = body(message, fault.status_code, param, code)
        return respond(fault.status_code, content, fault.headers, request.url.path)

    @app.exception_handler(Exception)
    async def broken(request: Request, fault: Exception) -> JSONResponse:
        return respond(*of_fault(fault), path=request.url.path)


def _meant(request: Request) -> str:
    """A hint where only the client's base URL is wrong: `/v1` left out, or there twice."""
    path = request.url.path
    other = path.removeprefix("/v1") if path.startswith("/v1/v1/") else "/v1" + path
    routes = request.app.routes
    if all(r.matches({**request.scope, "path": other})[0] is not Match.FULL for r in routes):
        return ""
    return f", there is {other}: look at /v1 in your client's base URL"


def described(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None, str | None]:
    """Pydantic's findings as (one line, the first parameter at fault, code)."""
    params, lines = [], []
    for error in errors:
        where, *inner = map(str, error["loc"]) if error["loc"] else ("",)
        named = where == "body" or (where in PARTS and inner)
        place = inner if named or not where else [where, *inner]
        kind, message = error["type"], error["msg"].removeprefix("Value error, ")
        if kind == "json_invalid":
            return "the body is not valid JSON", None, None
        if not place:
            told = "the body must be a JSON object, sent with the header Content-Type: application/json"
            return told, None, None
        if kind == "extra_forbidden":
            lines.append(f"unknown parameter '{'.'.join(place)}'")
        elif kind == "missing":
            lines.append(f"'{'.'.join(place)}' is required")
        else:
            lines.append(f"'{'.'.join(place)}': {message[:1].lower()}{message[1:]}")
        params.append(place[0] if len(place) == 1 else ".".join(place))
    return one_line(list(dict.fromkeys(lines)), 5)[:1000], params[0][:200], "invalid_value"
