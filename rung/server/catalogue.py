"""The models that a server serves while its engine runs: those that jobs make, and those deleted."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from rung import bases
from rung.engine import Engine, ServedModel
from rung.errors import ConfigError, ModelNotFound, RungError
from rung.models import find_model, read_model
from rung.server.errors import ApiError
from rung.store import Store
from rung.store.records import ModelRecord
from rung.store.serving import CheckpointRecord, JobKind, JobRecord

log = logging.getLogger("rung.server")

CHECKPOINT = ":ckpt-step-"  # between the name of a job's model and the step of a checkpoint


class Catalogue:
    """Serves models of the store on a running engine, and stops serving them.

    Args:
        store: opens the store, or returns the open one.
        base: spec of the base in memory; None where only what was loaded at the start is served.
        organisation: the part of a tuned model's name that says who made it.

    Attributes:
        aliases: served names that are suffixes of jobs; the newest job of a suffix has it.
    """

    def __init__(self, engine: Engine, store: Callable[[], Store], base: str | None, organisation: str):
        self.engine, self.base, self.organisation = engine, base, organisation
        self.aliases: set[str] = set()
        self._open = store
        self._serve: dict[JobKind, Callable[[JobRecord], str | None]] = {
            "tune": self._serve_tuned,
            "climb": self._serve_winner,
            "synth": lambda job: None,  # leaves rows
        }
        self._stored: dict[str, str] = {}  # served name -> name in the store, where they differ
        self._lock = threading.RLock()  # held while models come and go

    @property
    def store(self) -> Store:
        """The store that models are read from."""
        return self._open()

    @property
    def bare(self) -> ServedModel:
        """The bare base under its own name."""
        return next(m for m in self.engine.models.values() if m.slot == -1)

    def stored_name(self, name: str) -> str:
        """Return what a served model is called in the store."""
        return self._stored.get(name, name)

    def job_model_name(self, job: JobRecord) -> str:
        """Name a job's model as OpenAI does: `ft:BASE:ORGANISATION:SUFFIX:ID`."""
        short = job.id.removeprefix("ftjob-")[:12]
        return f"ft:{self.bare.name}:{self.organisation}:{job.suffix or ''}:{short}"

    def serve_job(self, job: JobRecord) -> str | None:
        """Serve what a job made.

        Returns:
            the name that it is served by; None where a climb found nothing better than the base, and
            for a synthesis, which makes no model.

        Raises:
            ArtefactError: when the model's folder is damaged.
        """
        return self._serve[job.kind](job)

    def _serve_winner(self, job: JobRecord) -> str | None:
        """Serve the winner of a climb under its name in the store, where it stands on this base."""
        name = self.store.climbs.get(job.climb or "").verdict.get("model")
        if name is not None:
            try:
                self.serve_kept(name)
            except ConfigError as fault:  # its method has changed the base's own weights
                log.warning("the winner of %s is kept, not served: %s", job.climb, fault)
        return name

    def _serve_tuned(self, job: JobRecord) -> str:
        """Serve a tuned model under its long name and, where the job has one, its suffix.

        Checkpoints are served beside it.
        """
        record = self.store.models.get(job.name)
        name = self.job_model_name(job)
        with self._lock:
            model = self._put(Path(record.folder), record, name)
            self._stored[name] = job.name
            if job.suffix:
                self.engine.load(dataclasses.replace(model, name=job.suffix))
                self._stored[job.suffix] = job.name
                self.aliases.add(job.suffix)
            for one in self.store.jobs.checkpoints(job.id).items:
                self._put(Path(one.folder), record, checkpoint_name(name, one))
        return name

    def serve_jobs(self) -> None:
        """Serve what earlier jobs made on this base; a model that is damaged or gone is left out."""
        done = self.store.jobs.list(statuses=["succeeded"], limit=10_000).items
        for job in sorted(done, key=lambda j: j.created):
            if job.base == self.base:
                try:
                    self.serve_job(job)
                except RungError as fault:
                    log.warning("the model of job %s is not served: %s", job.id, fault)

    def serve_kept(self, name: str) -> None:
        """Serve a model of the store under its own name.

        Raises:
            ModelNotFound: naming the nearest.
            ConfigError: when it stands on another base than this server's.
            ArtefactError: when its folder is damaged.
        """
        found = find_model(self.store, name)
        own = bases.resolve(self.base) if self.base else None
        if found.record is None or own is None or found.base.digest != own.digest:
            told = f"'{name}' stands on {found.base.name}: this server has {self.bare.name}"
            raise ConfigError(told)
        with self._lock:
            self._put(Path(found.record.folder), found.record, name)

    def alias(self, name: str, model: str) -> None:
        """Serve a model under a second name too.

        Raises:
            ModelNotFound: naming the nearest. ConfigError: where the name is taken.
        """
        served = self.engine.model(model)
        if name in self.engine.models:
            raise ConfigError(f"--alias {name}={model}: there is a model '{name}' already")
        self.engine.load(dataclasses.replace(served, name=name))
        self._stored[name] = self.stored_name(model)

    def stop_serving(self, name: str) -> None:
        """Take a model out of the engine, under all its names, and out of the store.

        Raises:
            ModelNotFound: naming the nearest. ApiError: for the base. InUse: for a parent of others.
        """
        model = self.engine.model(name)
        if model.root is None:
            raise ApiError(f"'{name}' is the base, which every model here needs", status=403)
        stored = self.stored_name(name)
        with contextlib.suppress(ModelNotFound, ConfigError):
            self.store.models.delete(stored)
        with self._lock:
            for other, one in list(self.engine.models.items()):
                if one.slot == model.slot or self._is_checkpoint(other, stored):
                    self.engine.unload(other)
                    self.aliases.discard(other)

    def _put(self, folder: Path, record: ModelRecord, name: str) -> ServedModel:
        bare = self.bare
        made, adapter = read_model(
            folder, self.engine.bank, name=name, root=bare.name, parent=record.parent or bare.name,
            created=record.created_unix, owned_by=self.organisation,
        )  # fmt: skip
        return self.engine.load(made, adapter)

    def _is_checkpoint(self, name: str, stored: str) -> bool:
        """Whether a served name is a checkpoint of a model of the store."""
        whole, mark, _ = name.partition(CHECKPOINT)
        return bool(mark) and self._stored.get(whole) == stored


def checkpoint_name(name: str, checkpoint: CheckpointRecord) -> str:
    """Name a checkpoint of a served model."""
    return f"{name}:{checkpoint.model}"
