"""Orders climbs as jobs of the store, goes on with those that were interrupted, and interrupts them."""

from __future__ import annotations

import contextlib
import platform
import signal
import threading
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic import Field

from rung.artefacts import folders
from rung.config import Knob, as_dict, knobs_of, resolve
from rung.data.knobs import DataKnobs
from rung.errors import ConfigError, nearest
from rung.ladder.bar import Bar
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.rungs import check_names
from rung.server import reinforcement
from rung.server.errors import ApiError
from rung.server.jobs import OURS, file_of, in_api_words, safe_value, takes_jobs
from rung.server.requests import Metadata, Strict
from rung.server.state import Service
from rung.store.climbs import ClimbRecord
from rung.store.files import place
from rung.store.jobs import fresh_id
from rung.store.serving import ACTIVE, Conflict, JobRecord
from rung.train.knobs import TrainKnobs

WHERE = frozenset({"workers", "cluster"})  # a climb computes: its owner's to say, no client's
_ordering = threading.Lock()  # held while it is looked whether a job is at a climb


class ClimbRequest(Strict):
    """A climb on an uploaded file. `settings` are knobs of `rung climb`, of training and of data."""

    model: str
    training_file: str
    name: str | None = Field(None, min_length=1, max_length=40)
    metadata: Metadata | None = None
    settings: dict[str, Any] = Field(default_factory=dict, max_length=64)


def order(service: Service, asked: ClimbRequest, owner: str | None = None) -> JobRecord:
    """Check a request and record it as a job.

    Args:
        owner: id of the key that asks.

    Raises:
        ApiError: naming the parameter at fault. ModelNotFound: for a model that is not served.
    """
    base = takes_jobs(service)
    if service.engine.model(asked.model).root is not None:
        raise ApiError(f"'{asked.model}' is tuned already: a climb begins at the base", param="model")
    file = file_of(service, asked.training_file, "training_file", owner)
    knobs, rest = _settings(service, asked.settings, owner)
    name = asked.name or task_name(file.name)
    try:
        folders.model_name(f"{name}-x")
    except ConfigError as fault:
        raise ApiError(f"'name': {fault}", param="name") from None
    data = str(place(file.stored))
    given = {**service.settings.job_options, **rest, "base": base, "data": data}
    return service.store.jobs.put(
        JobRecord(
            fresh_id("climb"), "validating_files", asked.model, base, name, file.id, kind="climb",
            settings={"given": given, "knobs": as_dict(knobs)}, notes=dict(asked.metadata or {}),
            owner=owner,
        )
    )  # fmt: skip


def task_name(file: str) -> str:
    """Name a climb after the file that a client uploaded: the stored name says nothing of it."""
    from rung.ladder import climb

    return climb.task_name(PurePath(file.replace("\\", "/")).name)


def go_on(service: Service, climb: ClimbRecord) -> JobRecord:
    """Order that a climb of the store goes on, whoever has begun it.

    Raises:
        Conflict: where its job is at work, or waits for its turn.
    """
    base, jobs = takes_jobs(service), service.store.jobs
    with _ordering:  # two who press at once would order it twice
        job = job_of(service, climb)
        if job is not None and job.status == "paused":
            return jobs.turn(job.id, "queued", among=["paused"], say="The climb goes on", attempts=0)
        if job is not None and job.status in ACTIVE:
            raise Conflict(f"climb {climb.id} goes on already, by job {job.id}")
        bare = service.catalogue.bare.name
        return jobs.put(
            JobRecord(
                fresh_id("climb"), "queued", bare, base, climb.name, "", kind="climb",
                climb=climb.id, settings=climb.settings,
            )
        )  # fmt: skip


def job_of(service: Service, climb: ClimbRecord) -> JobRecord | None:
    """The newest job of a climb; None for one that was begun on the command line."""
    found = service.store.jobs.list(kind="climb").items
    return next((job for job in found if job.climb == climb.id), None)


def interrupt(service: Service, climb: ClimbRecord) -> None:
    """Stop a climb; it keeps what is finished and can be gone on with.

    Raises:
        ConfigError: when it runs on another machine and is no job of this store.
    """
    job = job_of(service, climb)
    if job is not None and job.status in ACTIVE:
        service.store.jobs.turn(job.id, "paused", among=ACTIVE, say="The climb has been paused")
        service.wake()
        return
    if climb.host != platform.node():
        raise ConfigError(f"climb {climb.id} runs on {climb.host}: stop it there")
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(climb.pid)
        if "climb" in process.cmdline():
            process.send_signal(signal.SIGINT)


def known_knobs() -> dict[str, Knob]:
    """What a client may set of a climb, by name."""
    classes = (TrainKnobs, DataKnobs, ClimbKnobs)
    return {k.name: k for cls in classes for k in knobs_of(cls) if k.name not in OURS | WHERE}


def _settings(
    service: Service, said: Mapping[str, Any], owner: str | None
) -> tuple[ClimbKnobs, dict[str, Any]]:
    """The climb's own knobs, checked, and those of data and training."""
    known, own = known_knobs(), {k.name for k in knobs_of(ClimbKnobs)}
    mine: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in said.items():
        param = f"settings.{key[:80]}"
        if key not in known:
            raise ApiError(f"unknown knob '{key[:80]}'{nearest(key, known)}", param=param)
        if key in own:
            mine[key] = value
            if (known[key].metavar or "").startswith("SPEC") and value is not None:
                reinforcement.safe_spec(str(value), param)  # no address, and no code of this machine
        else:
            rest[key] = safe_value(service, known[key], value, param, owner)
    try:
        (knobs,) = resolve([ClimbKnobs], mine)
        resolve([DataKnobs, TrainKnobs], rest)
        check_names(knobs.only, knobs.skip)
        if knobs.bar is not None:
            Bar.parse(knobs.bar)
    except ConfigError as fault:
        raise ApiError(in_api_words(str(fault)), param="settings") from None
    return knobs, rest
