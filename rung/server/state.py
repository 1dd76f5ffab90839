"""What the routes share: the engine, the store, the jobs, the limits."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from fastapi import Request

from rung import __version__
from rung.engine import Engine
from rung.server.access import Access, Account
from rung.server.catalogue import Catalogue
from rung.server.knobs import ServeKnobs
from rung.server.metrics import Metrics
from rung.server.moderation import Moderator
from rung.server.stages import Pipelines, Stages, guarded
from rung.store import Store
from rung.store.keys import Keys


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        max_body, max_file: bytes of a request, and of an uploaded file.
        timeout: seconds within which an answer must be finished; None: no limit.
        max_responses: stored model responses of each key; the oldest are deleted beyond it.
        max_wait: seconds within which the engine must have taken a request up; None: no limit.
        patience: seconds that a client may take between two pieces of its request.
    """

    max_body: int = 8 << 20
    max_file: int = 512 << 20
    max_responses: int = 10_000
    timeout: float | None = None
    max_wait: float | None = 300.0
    patience: float = 60.0

    @property
    def most_upload(self) -> int:
        """Bytes of a request that holds a file, with what stands around it."""
        return self.max_file + (1 << 16)

    @classmethod
    def of(cls, knobs: ServeKnobs) -> Limits:
        """The limits that a server's knobs set."""
        mega = 1_000_000  # bytes of a megabyte
        return cls(
            max_body=int(knobs.max_body * mega),
            max_file=int(knobs.max_file * mega),
            max_responses=knobs.max_responses,
            timeout=knobs.timeout,
            max_wait=knobs.max_wait,
        )


@dataclass(frozen=True)
class Settings:
    """How a server behaves, beside its limits.

    Attributes:
        base: spec of the base in memory, for jobs; None: jobs are not taken.
        organisation: the part of a tuned model's name that says who made it.
        jobs: tunings that run at once. job_options: knobs that every job gets.
        python_graders: whether Python of clients is run, in a process with limits.
        api_keys: keys that open everything, beside those in the store.
        guarded: models whose requests and answers pass the moderation; `*` is all of them.
        origins: web pages that may ask from browsers; `*` is all of them.
        aliases: second names of models -> the models.
        template_settings: what of a chat template requests may set.
        stages: what else models have around them, by their names; `*` is for those not named.
    """

    base: str | None = None
    organisation: str = "rung"
    jobs: int = 1
    job_options: dict[str, Any] = field(default_factory=dict)
    python_graders: bool = False
    api_keys: Sequence[str] = ()
    guarded: frozenset[str] = frozenset()
    log: bool = False
    origins: Sequence[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    template_settings: frozenset[str] = frozenset()
    stages: Mapping[str, Stages] = field(default_factory=dict)

    @classmethod
    def of(cls, knobs: ServeKnobs, **loaded: Any) -> Settings:
        """What a server's knobs set.

        Args:
            loaded: what follows from the models: `base`, `job_options` and `stages`.
        """
        return cls(
            organisation=knobs.organisation, jobs=knobs.jobs, python_graders=knobs.python_graders,
            api_keys=tuple(knobs.api_key), guarded=frozenset(knobs.guard), log=knobs.log,
            origins=tuple(knobs.origin), aliases=knobs.aliases,
            template_settings=frozenset(knobs.template_setting), **loaded,
        )  # fmt: skip

    @property
    def takes_jobs(self) -> bool:
        """Whether clients may order tunings and climbs."""
        return self.base is not None and self.jobs > 0


@dataclass
class Traffic:
    """What application and server know of each other.

    Attributes:
        draining: set to refuse new requests. in_flight: requests that are being answered.
    """

    draining: bool = False
    in_flight: int = 0


class Background(Protocol):
    """Work that goes on beside requests as long as the application lives."""

    def start(self) -> object:
        """Begin."""

    def wake(self) -> None:
        """Look at once whether there is something to do."""

    def stop(self) -> None:
        """End in an orderly way, so that nothing is lost; waits for the end."""

    def abort(self) -> None:
        """End at once."""


class Service:
    """One server's state, found at `app.state.service`.

    Attributes:
        pipelines: the stages of each model. catalogue: what is served, and what may be.
        background: started with the application and stopped with it.
    """

    def __init__(self, engine: Engine, limits: Limits, settings: Settings, moderator: Moderator):
        self.engine, self.limits, self.settings = engine, limits, settings
        self.moderator = moderator
        stages = guarded(settings.stages, sorted(settings.guarded))
        self.pipelines = Pipelines(engine, stages, moderator)
        self.traffic, self.metrics = Traffic(), Metrics(engine)
        self.access = Access(settings.api_keys, self.keys)
        self.catalogue = Catalogue(engine, lambda: self.store, settings.base, settings.organisation)
        for name, model in settings.aliases.items():
            self.catalogue.alias(name, model)
        self.background: list[Background] = []
        self._store: Store | None = None
        self._lock = threading.Lock()

    @cached_property
    def fingerprint(self) -> str:
        """What answers to one seed depend on beside the request: Rung, base and number format."""
        parts = (__version__, self.catalogue.bare.name, str(self.engine.bank.dtype))
        return "fp_" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]

    @property
    def store(self) -> Store:
        """The store, opened when it is first needed; a server that only answers does without."""
        with self._lock:
            if self._store is None:
                self._store = Store.open()
            return self._store

    def keys(self) -> Keys:
        """Return the keys of the store."""
        return self.store.keys

    def wake(self) -> None:
        """Let what goes on beside requests look at once whether there is something to do."""
        for one in self.background:
            one.wake()

    def abort(self) -> None:
        """End at once what would outlive an abort; jobs go on from their last checkpoint some day."""
        for one in self.background:
            one.abort()
        self.engine.stop()

    def close(self) -> None:
        """Give back what is held."""
        if self._store is not None:
            self._store.close()


def service_of(request: Request) -> Service:
    """The service behind a request."""
    return request.app.state.service


def account_of(request: Request) -> Account:
    """Whose request it is, and what it has used."""
    return request.scope["rung.account"]


def owner_of(request: Request) -> str | None:
    """The key whose files and jobs a request sees; None where it sees all.

    Keys of the command line, keys with the scope `admin`, and servers without keys see all.
    """
    key = account_of(request).key
    return None if key is None else key.owner
