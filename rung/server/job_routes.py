"""What the routes of tunings, climbs and syntheses share: all are jobs, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query, Request

from rung.server.errors import without_places
from rung.server.lists import listed
from rung.server.state import owner_of, service_of
from rung.store.serving import ACTIVE, EventRecord, JobKind, JobRecord, JobStatus, unix

Limit = Annotated[int, Query(ge=1, le=1000)]
# What a client may do to a job -> its new status, the statuses that allow it, what is said of it.
TURNS: dict[str, tuple[JobStatus, Sequence[JobStatus], str]] = {
    "cancel": ("cancelled", (*ACTIVE, "paused"), "has been cancelled"),
    "pause": ("paused", ACTIVE, "has been paused"),
    "resume": ("queued", ("paused",), "has been resumed"),
}
NAMES: dict[JobKind, str] = {"tune": "job", "climb": "climb", "synth": "synthesis"}


def found(request: Request, id: str, kind: JobKind) -> JobRecord:
    """A job that the client may see. Raises JobNotFound."""
    return service_of(request).store.jobs.get(id, kind, owner_of(request))


def turned(request: Request, id: str, kind: JobKind, word: str) -> JobRecord:
    """Do to a job what a word of TURNS says; returns it as it is then.

    Raises:
        JobNotFound: for one that the client may not see. Conflict: where its status does not allow it.
    """
    service, (to, among, say) = service_of(request), TURNS[word]
    found(request, id, kind)
    told_of = f"The {NAMES[kind]} {say}"
    job = service.store.jobs.turn(id, to, among=among, say=told_of, attempts=0)
    service.wake()
    return job


def events(request: Request, id: str, kind: JobKind, after: str | None, limit: int) -> dict[str, Any]:
    """A page of what happened in a job, newest first."""
    found(request, id, kind)
    after = after.removeprefix("ftevent-") if after else None
    page = service_of(request).store.jobs.events(id, after=after, limit=limit)
    return listed([told(event) for event in page.items], page.has_more)


def times(job: JobRecord) -> dict[str, Any]:
    """When a job was made, ended, or will probably end."""
    return {
        "created_at": unix(job.created),
        "finished_at": unix(job.finished),
        "estimated_finish": unix(job.estimate) if job.status in ACTIVE else None,
    }


def fault_of(job: JobRecord) -> dict[str, Any] | None:
    """Why a job failed, without places on this machine."""
    if not job.error:
        return None
    return {**job.error, "message": without_places(job.error["message"])}


def told(event: EventRecord) -> dict[str, Any]:
    """An event in OpenAI's words."""
    return {
        "id": f"ftevent-{event.id}",
        "object": "fine_tuning.job.event",
        "created_at": unix(event.created),
        "level": event.level,
        "type": event.kind,
        "message": without_places(event.message),
        "data": event.data or None,
    }
