"""Climbs: jobs that try every way of adapting the base on a file, from the cheapest up."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request

from rung.ladder.scorecard import Row, Scorecard
from rung.server.climbs import ClimbRequest, order
from rung.server.errors import without_places
from rung.server.job_routes import Limit, events, fault_of, found, times, turned
from rung.server.jobs_supervisor import close_climb
from rung.server.lists import listed
from rung.server.responses import Climb, ClimbList, EventList, answers
from rung.server.routing import Routes
from rung.server.state import Service, owner_of, service_of
from rung.store.files import in_lines
from rung.store.serving import JobRecord

routes = Routes("/v1/rung/climbs", scope="train", tags=["climbs"])


@routes.post("", **answers(Climb))
async def create_climb(request: Request, asked: ClimbRequest) -> dict[str, Any]:
    """Queue a climb."""
    service = service_of(request)
    job = await run_sync(order, service, asked, owner_of(request))
    service.wake()
    return shown(service, job)


@routes.get("", **answers(ClimbList))
def list_climbs(request: Request, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """List climbs, newest first, without their rungs."""
    service = service_of(request)
    page = service.store.jobs.list(after=after, limit=limit, kind="climb", owner=owner_of(request))
    return listed([shown(service, job, rungs=False) for job in page.items], page.has_more)


@routes.get("/{climb_id}", **answers(Climb))
def get_climb(request: Request, climb_id: str) -> dict[str, Any]:
    """Tell how far a climb is, with the figures and costs of its rungs."""
    return shown(service_of(request), found(request, climb_id, "climb"))


@routes.post("/{climb_id}/cancel", **answers(Climb))
def cancel_climb(request: Request, climb_id: str) -> dict[str, Any]:
    """End a climb for good."""
    service = service_of(request)
    told = shown(service, turned(request, climb_id, "climb", "cancel"))
    close_climb(service.store, service.store.jobs.get(climb_id))
    return told


@routes.post("/{climb_id}/pause", **answers(Climb))
def pause_climb(request: Request, climb_id: str) -> dict[str, Any]:
    """Stop a climb, to go on later; finished rungs are kept."""
    return shown(service_of(request), turned(request, climb_id, "climb", "pause"))


@routes.post("/{climb_id}/resume", **answers(Climb))
def resume_climb(request: Request, climb_id: str) -> dict[str, Any]:
    """Go on with a paused climb."""
    return shown(service_of(request), turned(request, climb_id, "climb", "resume"))


@routes.get("/{climb_id}/events", **answers(EventList))
def list_events(
    request: Request, climb_id: str, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """List what happened in a climb, newest first."""
    return events(request, climb_id, "climb", after, limit)


def shown(service: Service, job: JobRecord, rungs: bool = True) -> dict[str, Any]:
    """Describe a climb; its rungs and verdict once it has begun."""
    card = None
    if rungs and job.climb is not None:
        card = Scorecard.of(service.store, service.store.climbs.get(job.climb))
    knobs = job.settings.get("knobs", {})
    return {
        "id": job.id,
        "object": "rung.climb",
        **times(job),
        "status": job.status,
        "error": fault_of(job),
        "model": job.model,
        "name": job.name,
        "training_file": job.training_file or None,
        "bar": knobs.get("bar"),
        "budget": knobs.get("budget"),
        "climb": job.climb,
        "fine_tuned_model": job.fine_tuned_model,
        "verdict": card.climb.verdict.get("says") if card else None,
        "metric": card.metric if card else None,
        "rungs": [_rung(row) for row in card.rows] if card else None,
        "metadata": job.notes or None,
    }


def _rung(row: Row) -> dict[str, Any]:
    cost = {name: row.shown.get(f"{name}_seconds") for name in ("serving", "total")}
    return {
        "key": row.key,
        "method": row.method,
        "status": row.status,
        "reason": without_places(in_lines(row.reason)) if row.reason else None,
        "model": row.model,
        "validation": row.validation,
        "test": row.test,
        "seconds": cost,
        "predicted": not row.cost,
    }
