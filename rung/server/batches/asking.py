"""Asks the routes of this process a line of a batch, on behalf of the key that made the batch.

The request takes the whole way of one from outside (size, key, rate, quota, account, log, metrics);
only the key comes as an object in its scope, since the key itself is nowhere.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from rung.server.access import ON_BEHALF, OnBehalf
from rung.server.errors import FINAL, RETRY_AFTER

REVOKED = "invalid_api_key"
AGAIN = frozenset({429, 503})  # statuses after which a line is asked again
MAX_WAIT = 60.0  # seconds before a line is asked again


def client_of(app: ASGIApp, key: str | None) -> httpx.AsyncClient:
    """A client whose requests go to an application of this process, on behalf of a key.

    Args:
        key: id of the key; None for one of the command line, or where none were set.
    """

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, ON_BEHALF: OnBehalf(key)}, receive, send)

    transport = httpx.ASGITransport(app=asked, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://rung")


async def ask(client: httpx.AsyncClient, endpoint: str, body: dict[str, Any]) -> httpx.Response:
    """Ask one line.

    Raises:
        ValueError, RecursionError: for a body that cannot be written as JSON.
    """
    content = json.dumps(body, ensure_ascii=False).encode()
    return await client.post(endpoint, content=content, headers={"content-type": "application/json"})


def told(response: httpx.Response) -> dict[str, Any]:
    """An answer as a line of output or errors holds it."""
    return {
        "status_code": response.status_code,
        "request_id": response.headers.get("x-request-id", ""),
        "body": response.json(),
    }


def again_in(response: httpx.Response) -> float | None:
    """Seconds after which a line is to be asked again; None where the answer is the last word."""
    code = code_of(response)
    if response.status_code == 401 and code == REVOKED:
        return float(RETRY_AFTER)  # until the batch is ended for it
    if response.status_code not in AGAIN or code in FINAL:
        return None
    if (exact := response.headers.get("retry-after-ms")) is not None:
        return min(MAX_WAIT, int(exact) / 1000)
    return min(MAX_WAIT, float(response.headers.get("retry-after", RETRY_AFTER)))


def code_of(response: httpx.Response) -> str | None:
    """The code of an error; None for an answer."""
    if response.status_code < 400:
        return None
    return response.json()["error"]["code"]
