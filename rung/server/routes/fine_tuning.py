"""Tuning jobs."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request

from rung.server.catalogue import checkpoint_name
from rung.server.job_routes import Limit, events, fault_of, found, times, turned
from rung.server.jobs import JobRequest, order
from rung.server.lists import listed, paged
from rung.server.responses import CheckpointList, EventList, Job, JobList, answers
from rung.server.routing import Routes
from rung.server.state import owner_of, service_of
from rung.store.serving import CheckpointRecord, JobRecord, unix

routes = Routes("/v1/fine_tuning/jobs", scope="train", tags=["fine-tuning"])


@routes.post("", **answers(Job))
async def create_job(request: Request, asked: JobRequest) -> dict[str, Any]:
    """Queue a tuning."""
    service = service_of(request)
    job = await run_sync(order, service, asked, owner_of(request))
    service.wake()
    return shown(job, service.settings.organisation)


@routes.get("", **answers(JobList))
def list_jobs(
    request: Request, after: str | None = None, limit: Limit = 20, metadata: str | None = None
) -> dict[str, Any]:
    """Jobs, newest first; `metadata[key]=value` keeps those that carry it."""
    service = service_of(request)
    notes = {
        key[9:-1]: value
        for key, value in request.query_params.items()
        if key.startswith("metadata[") and key.endswith("]")
    }
    page = service.store.jobs.list(
        after=after, limit=limit, notes=notes, kind="tune", owner=owner_of(request)
    )
    return listed([shown(j, service.settings.organisation) for j in page.items], page.has_more)


@routes.get("/{job_id}", **answers(Job))
def get_job(request: Request, job_id: str) -> dict[str, Any]:
    """How far a job is."""
    return _shown(request, found(request, job_id, "tune"))


@routes.post("/{job_id}/cancel", **answers(Job))
def cancel_job(request: Request, job_id: str) -> dict[str, Any]:
    """End a job for good."""
    return _shown(request, turned(request, job_id, "tune", "cancel"))


@routes.post("/{job_id}/pause", **answers(Job))
def pause_job(request: Request, job_id: str) -> dict[str, Any]:
    """Stop a job at a checkpoint, to go on later."""
    return _shown(request, turned(request, job_id, "tune", "pause"))


@routes.post("/{job_id}/resume", **answers(Job))
def resume_job(request: Request, job_id: str) -> dict[str, Any]:
    """Go on with a paused job."""
    return _shown(request, turned(request, job_id, "tune", "resume"))


def _shown(request: Request, job: JobRecord) -> dict[str, Any]:
    return shown(job, service_of(request).settings.organisation)


@routes.get("/{job_id}/events", **answers(EventList))
def list_events(
    request: Request, job_id: str, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """What happened in a job, newest first."""
    return events(request, job_id, "tune", after, limit)


@routes.get("/{job_id}/checkpoints", **answers(CheckpointList))
def list_checkpoints(
    request: Request, job_id: str, after: str | None = None, limit: Limit = 10
) -> dict[str, Any]:
    """The last states of a job's model, newest first; each can be asked."""
    service = service_of(request)
    job = found(request, job_id, "tune")
    page = service.store.jobs.checkpoints(job_id, after=after, limit=limit)
    name = service.catalogue.job_model_name(job)
    checkpoints = [kept(one, checkpoint_name(name, one)) for one in page.items]
    return paged(checkpoints, page.has_more)


def shown(job: JobRecord, organisation: str) -> dict[str, Any]:
    """A job in OpenAI's words."""
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        **times(job),
        "error": fault_of(job),
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": organisation,
        "status": job.status,
        "hyperparameters": job.hyperparameters,
        "method": job.method,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": [job.result_file] if job.result_file else [],
        "trained_tokens": job.trained_tokens,
        "seed": job.seed,
        "suffix": job.suffix,
        "metadata": job.notes or None,
        "integrations": [],
    }


def kept(one: CheckpointRecord, name: str) -> dict[str, Any]:
    """A checkpoint in OpenAI's words; once the job has succeeded it can be asked by its name."""
    return {
        "id": one.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": unix(one.created),
        "fine_tuned_model_checkpoint": name,
        "fine_tuning_job_id": one.job,
        "step_number": one.step,
        "metrics": one.metrics,
    }
