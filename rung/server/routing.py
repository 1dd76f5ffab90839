"""Declares which scope a key needs for a route, and finds the scope of a request.

A file of `rung/server/routes/` assigns `routes = Routes(prefix, scope=...)`; `needs` sets another scope
for one of its endpoints. A route that declares nothing needs `admin`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from rung.server.bodies import ParsingRoute
from rung.store.serving import SCOPES

OPEN = "open"  # the scope of what needs no key, and answers while the server drains
ANY_KEY = "any"  # the scope of what every key opens
ADMIN = "admin"  # the scope of what declares none

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Routes(APIRouter):
    """Routes of one resource, with the scope that each needs.

    Args:
        prefix: begins the path of every route.
        scope: a scope of a key, `open` for no key at all, or `any` for any key.
        settings: passed to FastAPI's APIRouter.

    Raises:
        ValueError: for an unknown scope.
    """

    def __init__(self, prefix: str = "", *, scope: str = ADMIN, **settings: Any):
        super().__init__(prefix=prefix, **{"route_class": ParsingRoute, **settings})
        self.scope = _known(scope)

    def scope_of(self, route: BaseRoute) -> str:
        """The scope that a route of these needs."""
        own = getattr(route.endpoint, "rung_scope", None) if isinstance(route, APIRoute) else None
        return own or self.scope


def needs(scope: str) -> Callable[[Endpoint], Endpoint]:
    """Declare the scope of a single endpoint, in place of its router's."""
    _known(scope)

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.rung_scope = scope  # type: ignore[attr-defined]
        return endpoint

    return mark


class RequiredScopes:
    """Tells the scope that a request needs, by the route that will answer it.

    Args:
        declared: the included routes. every: all routes of the application, read at each request.
    """

    def __init__(self, declared: Sequence[Routes], every: Sequence[BaseRoute]):
        self._declared, self._every = declared, every

    def of(self, scope: Scope) -> str:
        """The scope for an ASGI request; `any` where no route answers (404 or 405)."""
        for routes in self._declared:
            if not scope["path"].startswith(routes.prefix):
                continue
            for route in routes.routes:
                if route.matches(scope)[0] is Match.FULL:
                    return routes.scope_of(route)
        if any(route.matches(scope)[0] is Match.FULL for route in self._every):
            return ADMIN
        return ANY_KEY


def _known(scope: str) -> str:
    if scope not in (OPEN, ANY_KEY, *SCOPES):
        raise ValueError(f"'{scope}' is no scope: {', '.join((OPEN, ANY_KEY, *SCOPES))}")
    return scope
