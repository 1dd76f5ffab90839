"""Whether the server lives, is ready, and how it fares."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from rung.engine.request import EngineStopped
from rung.server.responses import Health, answers
from rung.server.routing import ANY_KEY, OPEN, Routes, needs
from rung.server.state import service_of

routes = Routes(scope=ANY_KEY, tags=["health"])


@routes.get("/health", **answers(Health))
@needs(OPEN)
def health(request: Request) -> dict[str, str]:
    """Whether process and engine live."""
    if not service_of(request).engine.alive:
        raise EngineStopped("the engine does not run")
    return {"status": "ok"}


@routes.get("/ready", **answers(Health))
def ready(request: Request) -> dict[str, str]:
    """Whether requests are taken."""
    return health(request)


@routes.get("/metrics", response_class=Response)
@needs("metrics")
def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    text = service_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
