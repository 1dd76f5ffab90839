"""Batches: many requests in a file, answered in the background within a day."""

from __future__ import annotations

from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import Query, Request

from rung.server.batches.lines import MAX_BYTES
from rung.server.batches.shapes import MODERATIONS, Batch, BatchList, BatchRequest, shown
from rung.server.errors import ApiError, not_supported
from rung.server.files import expiry
from rung.server.jobs import file_of
from rung.server.lists import paged
from rung.server.responses import answers
from rung.server.routing import Routes
from rung.server.state import Service, account_of, owner_of, service_of
from rung.store.batches import fresh_id
from rung.store.serving import BatchRecord

WINDOW = 24 * 3600  # seconds

routes = Routes("/v1/batches", scope="ask", tags=["batches"])


@routes.post("", **answers(Batch))
async def create_batch(request: Request, asked: BatchRequest) -> dict[str, Any]:
    """Have the requests of a file answered."""
    service, account = service_of(request), account_of(request)
    key = None if account.key is None else account.key.id
    batch = await run_sync(order, service, asked, owner_of(request), key)
    service.wake()
    return shown(batch)


@routes.get("", **answers(BatchList))
def list_batches(
    request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    """Batches, newest first."""
    page = service_of(request).store.batches.list(after=after, limit=limit, owner=owner_of(request))
    return paged([shown(batch) for batch in page.items], page.has_more)


@routes.get("/{batch_id}", **answers(Batch))
def get_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """How far a batch is."""
    return shown(service_of(request).store.batches.get(batch_id, owner_of(request)))


@routes.post("/{batch_id}/cancel", **answers(Batch))
def cancel_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """End a batch; requests that are being answered still come out."""
    service = service_of(request)
    service.store.batches.get(batch_id, owner_of(request))
    batch = service.store.batches.turn(batch_id, "cancelling", among=("validating", "in_progress"))
    service.wake()
    return shown(batch)


def order(service: Service, asked: BatchRequest, owner: str | None, key: str | None) -> BatchRecord:
    """Record a batch.

    Args:
        owner: of the file and the batch. key: id of the key that the requests are answered for.

    Raises:
        ApiError: for a file that is not there, not for batches, too large, or another's.
    """
    file = file_of(service, asked.input_file_id, "input_file_id", owner, purpose="batch")
    if file.bytes > MAX_BYTES:
        told = f"the file of a batch has at most {MAX_BYTES} bytes: make several of it"
        raise ApiError(told, param="input_file_id", code="invalid_file")
    if asked.endpoint == MODERATIONS and not service.moderator.there:
        raise not_supported("endpoint", "this server was started without --moderation")
    expires = expiry(WINDOW)
    assert expires is not None
    lasts = asked.output_expires_after.seconds if asked.output_expires_after else None
    batch = BatchRecord(
        id=fresh_id(), endpoint=asked.endpoint, base=service.settings.base or "", input_file=file.id,
        stored=file.stored, expires=expires, notes=dict(asked.metadata or {}), lasts=lasts,
        owner=owner, key=key,
    )  # fmt: skip
    return service.store.batches.put(batch)
