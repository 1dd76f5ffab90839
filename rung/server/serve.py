"""Serving until told to end.

The first SIGTERM or Ctrl-C drains: requests in flight finish, new ones get 503. A second one aborts.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from rung.errors import ConfigError
from rung.server.protocol import http_settings

GRACE = 5  # seconds


def bind(host: str, port: int) -> socket.socket:
    """The socket to serve on; taken early, so that a busy port is told before a model is loaded.

    Args:
        port: 0 takes a free one.

    Raises:
        ConfigError: when host and port cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # With protocol 0, which is what one gets unasked, the event loop leaves Nagle's algorithm on
        # for every connection: each answer over a kept one then waits for the client's delayed ACK.
        taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, OverflowError) as fault:
        raise ConfigError(f"--host {host} cannot be served on: {fault}") from None
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except (OSError, OverflowError) as fault:
        taken.close()
        if getattr(fault, "errno", None) == errno.EADDRINUSE:
            raise ConfigError(f"port {port} is in use: choose another with --port") from None
        raise ConfigError(f"cannot serve on {host} port {port}: {fault}") from None
    return taken


class Server(uvicorn.Server):
    """uvicorn, draining before it ends.

    Args:
        app: made by `create_app`.
        ready: called once requests are taken.
        draining: called once with the number of requests that are still answered, when it is to end.
        tls: paths of certificate and private key, in PEM; None serves plain HTTP.

    Raises:
        ConfigError: when certificate or key cannot be used.
    """

    def __init__(
        self,
        app: FastAPI,
        ready: Callable[[], None] | None = None,
        tls: tuple[str, str] | None = None,
        draining: Callable[[int], None] | None = None,
    ):
        config = uvicorn.Config(
            app, **http_settings(app.state.service.limits.patience),
            ws="auto" if app.state.page else "none",
            timeout_graceful_shutdown=GRACE,  # once everybody was answered: for who does not hang up
            ssl_certfile=tls[0] if tls else None, ssl_keyfile=tls[1] if tls else None,
        )  # fmt: skip
        try:
            config.load()
        except (OSError, ssl.SSLError) as fault:
            raise ConfigError(f"--tls-certificate and --tls-key cannot be used: {fault}") from None
        super().__init__(config)
        self._service, self._traffic, self._ready = app.state.service, app.state.traffic, ready
        self._draining, self._told = draining, False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    def handle_exit(self, sig: int, frame: object) -> None:
        """A signal arrived. Not kept for raising again: ending after a drain is no failure."""
        if self._traffic.draining:
            self.should_exit = self.force_exit = True
        self._traffic.draining = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # the application's own end, with its checkpoints, is left out then
            self._service.abort()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; True ends."""
        over = await super().on_tick(counter)
        if self._traffic.draining and not self._told and self._draining is not None:
            self._told = True
            self._draining(self._traffic.in_flight)
        return over or (self._traffic.draining and self._traffic.in_flight == 0)


def run(
    app: FastAPI,
    on: socket.socket,
    ready: Callable[[], None] | None = None,
    tls: tuple[str, str] | None = None,
    draining: Callable[[int], None] | None = None,
) -> None:
    """Serve an application until a signal ends it; as `Server`."""
    asyncio.run(Server(app, ready, tls, draining).serve(sockets=[on]))
