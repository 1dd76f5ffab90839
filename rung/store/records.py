"""What the store hands out: plain frozen records, never rows tied to a session.

Moments are UTC in ISO 8601 with microseconds, such as `2026-11-21T09:31:05.250000Z`: they sort as
text and read the same in SQLite, PostgreSQL and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from rung.errors import RungError
from rung.types import BaseInfo, LicenceClass

Status = Literal["queued", "running", "interrupted", "failed", "succeeded", "cancelled"]
STATUSES: tuple[Status, ...] = (
    "queued",
    "running",
    "interrupted",
    "failed",
    "succeeded",
    "cancelled",
)
# A run in one of these has come to its end.
ENDED: frozenset[str] = frozenset({"failed", "succeeded", "cancelled"})


class RunNotFound(RungError):
    """No run of that id is in the store."""

    http_status = 404


class InUse(RungError):
    """Something cannot be removed or replaced because others are built on it."""

    http_status = 409


def now() -> str:
    """This moment as the store writes it."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """A moment with a time zone as the store writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment(text: str) -> datetime:
    """The moment that a record's text means, with its time zone."""
    return datetime.fromisoformat(text)


def age(text: str) -> float:
    """Seconds since the moment that a record's text means."""
    return (datetime.now(UTC) - moment(text)).total_seconds()


class Record:
    """What all records share."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class BaseRecord(Record):
    """A base that something was made from. `digest` identifies its weights on any machine."""

    digest: str
    name: str
    spec: str
    licence: str = "unknown"
    licence_class: LicenceClass = "unknown"
    organisation: str = ""
    created: str = ""

    @classmethod
    def of(cls, info: BaseInfo) -> BaseRecord:
        """The record of a base that was resolved; its path on this machine is left out."""
        return cls(
            digest=info.digest,
            name=info.name,
            spec=info.spec,
            licence=info.licence,
            licence_class=info.licence_class,
            organisation=info.organisation,
        )


class DatasetLike(Protocol):
    """What is asked of loaded data; its package imports this one, so it is not named here."""

    @property
    def digest(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def format(self) -> str: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class DatasetRecord(Record):
    """Data that something was made from or measured on. `digest` covers its rows."""

    digest: str
    name: str
    source: str = ""
    licence: str = "unknown"
    licence_class: LicenceClass = "unknown"
    rows: int = 0
    format: str = ""
    created: str = ""

    @classmethod
    def of(cls, dataset: DatasetLike) -> DatasetRecord:
        """The record of data that was loaded, such as `rung.data.Dataset`."""
        return cls(
            digest=dataset.digest,
            name=dataset.name,
            source=dataset.source,
            licence=dataset.licence,
            rows=len(dataset),
            format=dataset.format,
        )


@dataclass(frozen=True)
class ModelRecord(Record):
    """A base plus what a method learned. `licence` is what its maker declared, if anything;
    `licence_class` is the tightest of it, the base, the parents and the data when it was put."""

    name: str
    method: str
    base: str  # digest
    parent: str | None = None  # name of the model it was trained on from
    run: str | None = None
    folder: str = ""
    licence: str | None = None
    licence_class: LicenceClass = "unknown"
    metrics: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()  # digests
    created: str = ""

    @property
    def created_unix(self) -> int:
        """Seconds since 1970, as OpenAI's API gives it."""
        return int(moment(self.created).timestamp())


@dataclass(frozen=True)
class RunRecord(Record):
    """One execution. `metrics` are the latest, `cost` in seconds, tokens and bytes."""

    id: str
    model: str
    method: str
    objective: str = ""
    status: Status = "running"
    config: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    base: str | None = None
    data: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    host: str = ""
    pid: int = 0
    started: str = ""
    finished: str | None = None
    heartbeat: str = ""

    @property
    def started_unix(self) -> int:
        """Seconds since 1970, as OpenAI's API gives it."""
        return int(moment(self.started).timestamp())


@dataclass(frozen=True)
class EvaluationRecord(Record):
    """One measurement of a model, or of a bare base; `low` and `high` bound its interval."""

    id: int
    metric: str
    value: float
    model: str | None = None
    base: str | None = None
    dataset: str | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    created: str = ""


@dataclass(frozen=True)
class Node:
    """A part of a model's lineage, with the parts it was made from below it.

    `licence` is what the part itself states; a model's `licence_class` counts in all its parts.
    """

    kind: Literal["model", "base", "data"]
    name: str
    licence: str | None
    licence_class: LicenceClass
    digest: str = ""
    method: str = ""
    children: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        """This node and all below it, depth first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
