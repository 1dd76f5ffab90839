"""The application: routes, gate and errors around one engine, and what lives beside them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from anyio.to_thread import run_sync
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from rung.engine import Engine
from rung.server import routes as api_routes
from rung.server.batches.runner import BatchRunner
from rung.server.errors import install
from rung.server.jobs_supervisor import Supervisor
from rung.server.middleware import GateMiddleware, HeadMiddleware
from rung.server.moderation import Judge, Moderator
from rung.server.openapi import describe
from rung.server.page.mount import Front, Page
from rung.server.routing import RequiredScopes
from rung.server.state import Limits, Service, Settings
from rung.version import __version__

WATCH = 0.5  # seconds between two looks at the engine

log = logging.getLogger("rung.server")


def create_app(
    engine: Engine,
    *,
    api_keys: Sequence[str] = (),
    max_body: int = 8 << 20,
    limits: Limits | None = None,
    settings: Settings | None = None,
    moderation: str | Judge | None = None,
    page: bool = False,
) -> FastAPI:
    """An application over an engine, which it starts, watches and stops.

    Args:
        api_keys: any of them is accepted as a bearer token, beside the store's; none at all lets
            everybody in.
        max_body: bytes of a request. limits, settings: everything else, in place of the two.
        moderation: a served classifier, or a callable from a text to probabilities of labels.
        page: whether `/` answers with the page.

    Returns:
        the application; `app.state.traffic` tells and sets whether it still serves.
    """
    limits = limits or Limits(max_body=max_body)
    settings = settings or Settings(api_keys=tuple(api_keys))
    service = Service(engine, limits, settings, Moderator(engine, moderation))

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await run_sync(service.access.refresh)  # before the first request: it asks for a key then
        engine.start()
        if settings.takes_jobs:
            service.background.append(await run_sync(supervisor_of, service))
        service.background.append(BatchRunner(app, service))
        for one in service.background:
            one.start()
        watch = asyncio.create_task(_watch(service))
        yield
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        if app.state.page is not None:
            await app.state.page.close()
        for one in reversed(service.background):
            await run_sync(one.stop)
        await run_sync(engine.stop)
        await run_sync(service.access.refresh)
        await run_sync(service.close)

    app = FastAPI(title="Rung", version=__version__, lifespan=life, openapi_url=None)
    install(app)
    declared = api_routes.registry.all()
    for routes in declared:
        app.include_router(routes)
    describe(app)
    app.state.service, app.state.engine, app.state.traffic = service, engine, service.traffic
    app.add_middleware(GateMiddleware, service=service, scopes=RequiredScopes(declared, app.routes))
    app.add_middleware(HeadMiddleware)
    if settings.origins:  # in front of the gate: a browser asks without a key whether it may
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"],
            allow_headers=["*"], expose_headers=["x-request-id", "retry-after"],
        )  # fmt: skip
    app.state.page = Page(app, service) if page else None
    if page:
        app.add_middleware(Front, page=app.state.page)
    return app


def supervisor_of(service: Service) -> Supervisor:
    """Make the supervisor of a service's jobs; opens the store."""
    return Supervisor(service.catalogue, service.metrics.jobs, service.settings.jobs)


async def _watch(service: Service) -> None:
    """Keep the accounts, and start the engine again where its thread has ended: until then 503."""
    while True:
        await asyncio.sleep(WATCH)
        if service.access.owes:
            await run_sync(service.access.refresh)
        if not service.engine.alive and not service.traffic.draining:
            log.error("the engine has ended: starting it again")
            await run_sync(service.engine.start)
