"""HTTP/1.1 for uvicorn with errors in the API's shape, bounded waiting for headers, and an orderly end.

uvicorn alone answers a malformed request in plain text, closes a connection that still sends (which
resets it, so that the client never reads why), and waits for the end of headers for ever. It closes
an idle connection after 5 s, just when httpx, under openai's client, would still use it: a request
that crosses the closing is lost.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from rung.server.errors import body

MAX_HEADERS = 64 << 10  # bytes of a request's first line and headers
KEEP_ALIVE = 120  # seconds of an idle connection: clients keep theirs for 5 to 90
LINGER = 2.0  # seconds in which a refused client may read why, while what it still sends is dropped
MESSAGES = {
    408: "the request's headers did not arrive in time",
    431: f"the request's headers are larger than {MAX_HEADERS} bytes",
}


class Protocol(H11Protocol):
    """A connection. `patience`: seconds within which the headers of a request must have arrived."""

    patience = 60.0

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._headers_due: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_headers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:  # read, so that closing does not reset the connection, and dropped
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._watch_headers()
        else:
            self._unwatch_headers()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._unwatch_headers()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; called while the parser's fault is handled."""
        fault = sys.exc_info()[1]
        self._refuse(getattr(fault, "error_status_hint", 400), "the request is not valid HTTP/1.1")

    def _watch_headers(self) -> None:
        if self._headers_due is None:
            self._headers_due = self.loop.call_later(self.patience, self._give_up)

    def _unwatch_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _give_up(self) -> None:
        self._headers_due = None
        if self.transport.is_closing() or self._refused:
            return
        if self.conn.trailing_data[0]:
            self._refuse(408, "")
        else:  # it has said nothing, so there is nothing to answer
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer with an error, and close once the client has had time to read it."""
        self._refused = True
        self._unwatch_headers()
        self._unset_keepalive_if_required()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = json.dumps(body(MESSAGES.get(status, message), status)).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(content))),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(LINGER, self.transport.close)
        else:
            self.transport.close()


def http_settings(patience: float) -> dict[str, Any]:
    """What every `uvicorn.Config` of Rung says of connections.

    Args:
        patience: seconds within which the headers of a request must have arrived.
    """
    return {
        # uvicorn wants a class, which it calls itself. h11, in pure Python, bounds headers.
        "http": type("Protocol", (Protocol,), {"patience": patience}),
        "h11_max_incomplete_event_size": MAX_HEADERS,
        "timeout_keep_alive": KEEP_ALIVE,
        "server_header": False,
        "log_level": "warning",
        "access_log": False,  # the gate logs requests
    }
