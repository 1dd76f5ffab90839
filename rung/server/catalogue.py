"""The models that a server serves while its engine runs: those that jobs make, and those deleted."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rung import bases
from rung.artefacts import folders
from rung.engine import ServedModel
from rung.errors import ConfigError, ModelNotFound, RungError
from rung.models import find_model, read_model
from rung.store.records import ModelRecord
from rung.store.serving import CheckpointRecord, JobRecord

if TYPE_CHECKING:
    from rung.server.state import Service

log = logging.getLogger("rung.server")


def served_name(job: JobRecord, organisation: str, base: str) -> str:
    """`ft:BASE:ORGANISATION:SUFFIX:ID`, as OpenAI names what a job made."""
    short = job.id.removeprefix("ftjob-")[:12]
    return f"ft:{base}:{organisation}:{job.suffix or ''}:{short}"


def serve_job(service: Service, job: JobRecord) -> str:
    """Serve what a job made under its long name and, where it has one, its suffix.

    The newest job of a suffix has it. Checkpoints are served beside it.

    Raises:
        ArtefactError: when the model's folder is damaged.
    """
    bare = base_of(service)
    record = service.store.models.get(job.name)
    name = served_name(job, service.settings.organisation, bare.name)
    with service.loading:
        model = _put(service, Path(record.folder), bare, record, name)
        service.stored[name] = job.name
        if job.suffix:
            service.engine.load(dataclasses.replace(model, name=job.suffix))
            service.stored[job.suffix] = job.name
            service.aliases.add(job.suffix)
        for one in service.store.jobs.checkpoints(job.id).items:
            _put(service, Path(one.folder), bare, record, checkpoint_name(name, one))
    return name


def serve_kept(service: Service, name: str) -> None:
    """Serve a model of the store under its own name.

    Raises:
        ModelNotFound: naming the nearest.
        ConfigError: when it stands on another base than this server's.
        ArtefactError: when its folder is damaged.
    """
    found, bare = find_model(service.store, name), base_of(service)
    own = bases.resolve(service.settings.base) if service.settings.base else None
    if found.record is None or own is None or found.base.digest != own.digest:
        raise ConfigError(f"'{name}' stands on {found.base.name}: this server has {bare.name}")
    with service.loading:
        _put(service, Path(found.record.folder), bare, found.record, name)


def checkpoint_name(name: str, checkpoint: CheckpointRecord) -> str:
    """What a checkpoint of a served model goes by."""
    return f"{name}:{checkpoint.model}"


def _put(
    service: Service, folder: Path, bare: ServedModel, record: ModelRecord, name: str
) -> ServedModel:
    engine = service.engine
    made, adapter = read_model(
        folder, engine.bank, name, root=bare.name, parent=record.parent or bare.name,
        created=record.created_unix, owned_by=service.settings.organisation,
    )  # fmt: skip
    return engine.load(made, adapter)


def serve_jobs(service: Service) -> None:
    """Serve what earlier jobs made on this base; a model that is damaged or gone is left out."""
    done = service.store.jobs.list(statuses=["succeeded"], limit=10_000).items
    for job in sorted(done, key=lambda j: j.created):
        if job.base == service.settings.base:
            try:
                serve_job(service, job)
            except RungError as fault:
                log.warning("the model of job %s is not served: %s", job.id, fault)


def base_of(service: Service) -> ServedModel:
    """The bare base under its own name."""
    return next(m for m in service.engine.models.values() if m.slot == -1)


def stored_name(service: Service, name: str) -> str:
    """What a served model is called in the store."""
    return service.stored.get(name, name)


def stop_serving(service: Service, name: str) -> None:
    """Take a model out of the engine, under all its names, and out of the store.

    Raises:
        ModelNotFound: naming the nearest. ApiError: for the base. InUse: for a parent of others.
    """
    from rung.server.errors import ApiError

    model = service.engine.model(name)
    if model.root is None:
        raise ApiError(f"'{name}' is the base, which every model here needs", status=403)
    stored = stored_name(service, name)
    with contextlib.suppress(ModelNotFound, ConfigError):
        service.store.models.remove(stored)
        folder = folders.model_folder(stored)
        if folder.is_dir() and not folder.is_symlink():
            folders.remove(folder)
    with service.loading:
        for other, one in list(service.engine.models.items()):
            if one.slot == model.slot or _checkpoint_of(other, stored, service):
                service.engine.unload(other)
                service.aliases.discard(other)


def _checkpoint_of(name: str, stored: str, service: Service) -> bool:
    """Whether a served name is a checkpoint of a model of the store."""
    whole, mark, _ = name.partition(":ckpt-step-")
    return bool(mark) and service.stored.get(whole) == stored
