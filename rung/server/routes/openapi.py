"""The description of the API."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from rung.server.routing import ANY_KEY, Routes

routes = Routes(scope=ANY_KEY)


@routes.get("/openapi.json", include_in_schema=False)
def describe_api(request: Request) -> dict[str, Any]:
    """Describe every request and answer."""
    return request.app.openapi()
