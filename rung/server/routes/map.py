"""Records of another system as the known records that they may be, by a served mapper."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import Field

from rung.engine.request import Completion, MapRequest
from rung.server.requests import Strict
from rung.server.responses import Mapped, answers
from rung.server.routing import Routes
from rung.server.state import account_of, service_of

MAX_RECORDS = 256  # of one request
MAX_CHARACTERS = 20_000  # characters of a name or description
CHARACTERS_OF_A_TOKEN = 4  # a mapper reads no tokens; keys with a quota of them pay by length

routes = Routes("/v1/map", scope="ask", tags=["map"])


class AskedRecord(Strict):
    """A record to be mapped: what it is called, and what else is known of it."""

    name: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    description: str = Field("", max_length=MAX_CHARACTERS)


class AskedToMap(Strict):
    """Records, and how many candidates of each are wanted."""

    model: str
    records: list[AskedRecord] = Field(min_length=1, max_length=MAX_RECORDS)
    candidates: int = Field(5, ge=1, le=200)
    user: str | None = None


@routes.post("", **answers(Mapped))
async def map_records(request: Request, asked: AskedToMap) -> dict[str, Any]:
    """Give each record the known one that it is, or none, and the likeliest candidates.

    Records are mapped one by one: two of them may have one partner.
    """
    service = service_of(request)
    request.state.param = "records"
    mapper = service.engine.model(asked.model).mapper
    total = sum(len(r.name) + len(r.description) for r in asked.records) // CHARACTERS_OF_A_TOKEN
    account = account_of(request)
    account.model = asked.model
    account.reserve(total)
    wanted = [MapRequest(asked.model, r.name, r.description) for r in asked.records]
    found = await run_sync(lambda: service.engine.generate(wanted, remember=True))
    account.spend(total, 0)
    assert mapper is not None  # else the engine has refused
    return {
        "object": "list",
        "model": asked.model,
        "data": [
            {
                "index": i,
                "object": "map",
                **answer(one, mapper.threshold, mapper.sure, asked.candidates),
            }
            for i, one in enumerate(found)
        ],
        "usage": {"prompt_tokens": total, "total_tokens": total},
    }


def answer(found: Completion, threshold: float, sure: float, count: int) -> dict[str, Any]:
    """What one record is: `match` is null where the likeliest candidate lies below the threshold."""
    best = found.matches[0].confidence if found.matches else 0.0
    mapped = bool(found.matches) and best >= threshold
    status = "none" if not mapped else "sure" if best >= sure else "unsure"
    return {
        "match": found.matches[0].id if mapped else None,
        "confidence": best,
        "status": status,
        "candidates": [
            {"id": m.id, "name": m.name, "confidence": m.confidence} for m in found.matches[:count]
        ],
    }
