"""Pages of lists, as the API writes them."""

from __future__ import annotations

from typing import Any


def listed(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Write a page of a list."""
    return {"object": "list", "data": data, "has_more": has_more}


def paged(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Write a page of a list with the ids between which its entries lie."""
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {**listed(data, has_more), **ends}
