"""What the routes share: the engine, the store, the jobs, the limits."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Request

from rung.engine import Engine
from rung.server.access import Access, Account
from rung.server.logprobs import TokenLogprobs
from rung.server.metrics import Metrics
from rung.server.middleware import Traffic
from rung.server.moderation import Moderator
from rung.server.pipeline import Pipeline
from rung.server.stages import Lines, Stages, guarded
from rung.store import Store

if TYPE_CHECKING:
    from rung.server.jobs_supervisor import Supervisor
    from rung.server.page.climb_runs import Ascents


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        max_body, max_file: bytes of a request, and of an uploaded file.
        timeout: seconds within which an answer must be finished; None: no limit.
        patience: seconds that a client may take between two pieces of its request.
    """

    max_body: int = 8 << 20
    max_file: int = 512 << 20
    timeout: float | None = None
    patience: float = 60.0


@dataclass(frozen=True)
class Settings:
    """How a server behaves, beside its limits.

    Attributes:
        base: spec of the base in memory, for jobs; None: jobs are not taken.
        organisation: the part of a tuned model's name that says who made it.
        jobs: tunings that run at once. job_options: knobs that every job gets.
        api_keys: keys that open everything, beside those in the store.
        guarded: models whose requests and answers pass the moderation; `*` is all of them.
        stages: what else models have around them, by their names; `*` is for those not named.
    """

    base: str | None = None
    organisation: str = "rung"
    jobs: int = 1
    job_options: dict[str, Any] = field(default_factory=dict)
    api_keys: Sequence[str] = ()
    guarded: frozenset[str] = frozenset()
    log: bool = False
    stages: Mapping[str, Stages] = field(default_factory=dict)


class Service:
    """One server's state, found at `app.state.service`."""

    def __init__(self, engine: Engine, limits: Limits, settings: Settings, moderator: Moderator):
        self.engine, self.limits, self.settings = engine, limits, settings
        self.moderator = moderator
        self._lines = Lines(engine, guarded(settings.stages, sorted(settings.guarded)), moderator)
        self.traffic, self.metrics = Traffic(), Metrics(engine)
        self.access = Access(settings.api_keys, self.keys)
        self.supervisor: Supervisor | None = None
        self.ascents: Ascents | None = None  # climbs begun on the page
        self.loading = threading.RLock()  # held while models come and go
        self.stored: dict[str, str] = {}  # served name -> name in the store, where they differ
        self.aliases: set[str] = set()  # served names that are suffixes of jobs
        self._store: Store | None = None
        self._lock = threading.Lock()
        self._pieces: dict[str, TokenLogprobs] = {}

    @property
    def store(self) -> Store:
        """The store, opened when it is first needed; a server that only answers does without."""
        with self._lock:
            if self._store is None:
                self._store = Store.open()
            return self._store

    def keys(self):
        """The keys that are in force."""
        return self.store.keys

    def course(self, request: Request, name: str, traced: bool = False) -> Pipeline:
        """The way of a request through the stages of a model."""
        course = Pipeline(self._lines.of(name, self.stored.get(name, name)), traced)
        request.scope["rung.notes"] = course.notes
        return course

    def pieces(self, name: str) -> TokenLogprobs:
        """What single tokens of a model's tokenizer stand for."""
        template = self.engine.model(name).template
        key = template.tokenizer_digest  # never `id(template)`, which returns for another one
        if key not in self._pieces:
            self._pieces[key] = TokenLogprobs(template)
        return self._pieces[key]

    def abort(self) -> None:
        """End at once what would outlive an abort; jobs go on from their last checkpoint some day."""
        if self.supervisor is not None:
            self.supervisor.abort()
        if self.ascents is not None:
            self.ascents.interrupt_all()
        self.engine.stop()

    def close(self) -> None:
        """Give back what is held."""
        if self.ascents is not None:
            self.ascents.stop()
        if self._store is not None:
            self._store.close()


def service_of(request: Request) -> Service:
    """The service behind a request."""
    return request.app.state.service


def account_of(request: Request) -> Account:
    """Whose request it is, and what it has used."""
    return request.scope["rung.account"]
