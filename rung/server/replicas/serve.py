"""`rung serve --replicas N`: replicas and the router in front of them, until told to end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import psutil
import uvicorn

from rung.engine.engine import MEMORY_SHARE
from rung.errors import ConfigError
from rung.launch import ray_cluster
from rung.server.knobs import ServeKnobs
from rung.server.protocol import http_settings
from rung.server.replicas.children import Child, command, environment
from rung.server.replicas.hosted import Hosts, reserved
from rung.server.replicas.router import Router, application
from rung.server.serve import GRACE
from rung.server.state import Limits


def run(
    names: Sequence[str],
    given: Mapping[str, Any],
    knobs: ServeKnobs,
    on: socket.socket,
    ready: Callable[[], None],
) -> None:
    """Start replicas of the engine, and serve all of them at one address.

    Args:
        names: of the models. given: settings by knob, as the user said them. ready: called once
            requests are taken.

    Raises:
        ConfigError: where a replica cannot be started, or certificate or key cannot be used.
    """
    limits = Limits.of(knobs)
    router = Router(knobs.replicas, limits.max_body, limits.most_upload, limits.patience)
    if knobs.memory is None and knobs.cluster in (None, ray_cluster.LOCAL):
        # Each by itself would take two fifths of what is free.
        each = int(MEMORY_SHARE * psutil.virtual_memory().available / knobs.replicas)
        given = {**given, "memory": f"{each}B"}
    hosts = reserved(knobs.cluster, knobs.replicas) if knobs.cluster else contextlib.nullcontext()
    with hosts as found:
        children = [
            _child(found, place, knobs.replicas, command(names, given, place), router)
            for place in range(knobs.replicas)
        ]
        asyncio.run(_run(children, router, knobs, on, ready))


def _child(hosts: Hosts | None, place: int, count: int, words: Sequence[str], router: Router) -> Child:
    """One replica, on this machine or on a host of a cluster; the router is told when it answers."""
    came, went = partial(router.came, place), partial(router.went, place)
    if hosts is None:
        return Child(words, environment(count), came, went)
    return hosts.child(place, words, came, went)


async def _run(
    children: Sequence[Child],
    router: Router,
    knobs: ServeKnobs,
    on: socket.socket,
    ready: Callable[[], None],
) -> None:
    try:
        await asyncio.gather(*(child.start() for child in children))
        server = _Server(_config(application(router), knobs), ready)
        await server.serve(sockets=[on])
        if not server.force_exit:  # a second signal does not wait for what they are answering
            await asyncio.gather(*(child.stop() for child in children))
    finally:
        for child in children:
            child.kill()
        await router.client.aclose()


def _config(app: Any, knobs: ServeKnobs) -> uvicorn.Config:
    tls = knobs.tls
    config = uvicorn.Config(
        app, **http_settings(Limits.of(knobs).patience), lifespan="off", ws="none",
        timeout_graceful_shutdown=int(knobs.timeout or knobs.max_wait) + GRACE,
        ssl_certfile=tls[0] if tls else None, ssl_keyfile=tls[1] if tls else None,
    )  # fmt: skip
    try:
        config.load()
    except (OSError, ssl.SSLError) as fault:
        raise ConfigError(f"--tls-certificate and --tls-key cannot be used: {fault}") from None
    return config


class _Server(uvicorn.Server):
    """uvicorn, which says when it takes requests; ending after a drain is no failure."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: object) -> None:
        """A signal arrived. Not kept for raising again."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
