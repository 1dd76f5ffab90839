"""Syntheses: jobs that write a file of rows from a description, by a plan that can be edited."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request

from rung.server.job_routes import Limit, events, fault_of, found, times, turned
from rung.server.lists import listed
from rung.server.responses import EventList, answers
from rung.server.routing import Routes
from rung.server.state import owner_of, service_of
from rung.server.syntheses import SynthesisRequest, order
from rung.server.synthesis_shapes import Synthesis, SynthesisList
from rung.store.serving import JobRecord

routes = Routes("/v1/rung/syntheses", scope="train", tags=["syntheses"])


@routes.post("", **answers(Synthesis))
async def create_synthesis(request: Request, asked: SynthesisRequest) -> dict[str, Any]:
    """Queue a synthesis."""
    service = service_of(request)
    job = await run_sync(order, service, asked, owner_of(request))
    service.wake()
    return shown(job)


@routes.get("", **answers(SynthesisList))
def list_syntheses(request: Request, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """List syntheses, newest first."""
    jobs = service_of(request).store.jobs
    page = jobs.list(after=after, limit=limit, kind="synth", owner=owner_of(request))
    return listed([shown(job) for job in page.items], page.has_more)


@routes.get("/{synthesis_id}", **answers(Synthesis))
def get_synthesis(request: Request, synthesis_id: str) -> dict[str, Any]:
    """Tell how far a synthesis is, with its plan, and with its file once that is written."""
    return shown(found(request, synthesis_id, "synth"))


@routes.post("/{synthesis_id}/cancel", **answers(Synthesis))
def cancel_synthesis(request: Request, synthesis_id: str) -> dict[str, Any]:
    """End a synthesis for good."""
    return shown(turned(request, synthesis_id, "synth", "cancel"))


@routes.post("/{synthesis_id}/pause", **answers(Synthesis))
def pause_synthesis(request: Request, synthesis_id: str) -> dict[str, Any]:
    """Stop a synthesis, to go on later; answers of its teachers are kept."""
    return shown(turned(request, synthesis_id, "synth", "pause"))


@routes.post("/{synthesis_id}/resume", **answers(Synthesis))
def resume_synthesis(request: Request, synthesis_id: str) -> dict[str, Any]:
    """Go on with a paused synthesis."""
    return shown(turned(request, synthesis_id, "synth", "resume"))


@routes.get("/{synthesis_id}/events", **answers(EventList))
def list_events(
    request: Request, synthesis_id: str, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """List what happened in a synthesis, newest first."""
    return events(request, synthesis_id, "synth", after, limit)


def shown(job: JobRecord) -> dict[str, Any]:
    """Describe a synthesis; `training_file` is the file of its rows."""
    said = job.settings
    plan = said.get("plan") or {}
    return {
        "id": job.id,
        "object": "rung.synthesis",
        **times(job),
        "status": job.status,
        "error": fault_of(job),
        "model": job.model,
        "description": said["description"],
        "name": job.name,
        "plan_only": said["plan_only"],
        "topics": plan.get("topics"),
        "labels": plan.get("labels"),
        "settings": said["given"],
        "examples": said["knobs"]["examples"],
        "rows": said.get("rows", 0),
        "training_file": job.result_file,
        "result_files": [job.result_file] if job.result_file else [],
        "made": said.get("made"),
        "metadata": job.notes or None,
    }
