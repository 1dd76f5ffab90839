"""What a batch looks like to clients: what is asked for, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rung.server.files import ExpiresAfter
from rung.server.requests import Metadata, Strict
from rung.server.responses import Count, Listing, Moment, Shape
from rung.store.serving import BatchRecord, BatchStatus, unix

MODERATIONS = "/v1/moderations"
Endpoint = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations"
]
# Statuses that tell when they began; `created` and `expires` are of the batch itself.
TOLD: tuple[BatchStatus, ...] = (
    "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled",
)  # fmt: skip


class BatchRequest(Strict):
    input_file_id: str = Field(max_length=64)
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(Shape):
    code: str
    message: str
    param: str | None
    line: Annotated[int, Field(ge=1)] | None


class BatchErrors(Shape):
    object: Literal["list"]
    data: Annotated[list[BatchError], Field(min_length=1)]


class BatchCounts(Shape):
    total: Count
    completed: Count
    failed: Count


class BatchInputTokens(Shape):
    cached_tokens: Count


class BatchOutputTokens(Shape):
    reasoning_tokens: Count


class BatchUsage(Shape):
    input_tokens: Count
    input_tokens_details: BatchInputTokens
    output_tokens: Count
    output_tokens_details: BatchOutputTokens
    total_tokens: Count


class Batch(Shape):
    """Requests of a file that are answered in the background."""

    id: Annotated[str, Field(pattern="^batch_")]
    object: Literal["batch"]
    endpoint: Endpoint
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"]
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: Moment
    in_progress_at: Moment | None
    expires_at: Moment
    finalizing_at: Moment | None
    completed_at: Moment | None
    failed_at: Moment | None
    expired_at: Moment | None
    cancelling_at: Moment | None
    cancelled_at: Moment | None
    request_counts: BatchCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None


class BatchList(Listing):
    data: list[Batch]
    first_id: str | None
    last_id: str | None


def shown(batch: BatchRecord) -> dict[str, Any]:
    """A batch in OpenAI's words."""
    moments = {f"{status}_at": unix(batch.moments.get(status)) for status in TOLD}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", **batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": unix(batch.created),
        "expires_at": unix(batch.expires),
        **moments,
        "request_counts": {
            "total": batch.total, "completed": batch.completed, "failed": batch.failed,
        },
        "usage": batch.usage or None,
        "metadata": batch.notes or None,
    }  # fmt: skip
