"""Climbs and their rungs: the scorecards, kept from the first rung on so that a climb can resume."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rung.errors import nearest
from rung.store import schema
from rung.store.database import Database
from rung.store.records import (
    ENDED,
    BaseRecord,
    DatasetRecord,
    Record,
    RunNotFound,
    Status,
    now,
)
from rung.store.runs import alive, fresh_id, still_running
from rung.store.sources import put_base, put_dataset
from rung.types import BaseInfo

_CLIMBS: sa.Table = schema.Climb.__table__  # type: ignore[assignment]
_RUNGS: sa.Table = schema.Rung.__table__  # type: ignore[assignment]
_ITEMS: sa.Table = schema.RungItems.__table__  # type: ignore[assignment]


class ClimbNotFound(RunNotFound):
    """No climb of that id is in the store."""


@dataclass(frozen=True)
class ClimbRecord(Record):
    """One climb. `data` and `base` are digests, `verdict` is empty until it has ended."""

    id: str
    name: str
    task: dict[str, Any]
    data: str | None = None
    base: str | None = None
    bar: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    status: Status = "running"
    verdict: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    pid: int = 0
    started: str = ""
    finished: str | None = None
    heartbeat: str = ""


@dataclass(frozen=True)
class RungRecord(Record):
    """One rung of a climb.

    Attributes:
        place: its place in the order of predicted cost.
        status: queued, running, interrupted, failed, succeeded, or cancelled where it was skipped.
        reason: why it failed or was skipped.
        items: what was answered and what each answer is worth, by part of the data.
    """

    climb: str
    key: str
    method: str
    place: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    status: Status = "queued"
    reason: str | None = None
    run: str | None = None
    model: str | None = None
    predicted: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    trials: dict[str, Any] = field(default_factory=dict)
    items: dict[str, Any] = field(default_factory=dict)


class Climbs:
    """The climbs of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        *,
        task: Mapping[str, Any],
        base: BaseInfo | BaseRecord | str,
        data: DatasetRecord | str,
        bar: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> ClimbRecord:
        """Record that this process begins a climb; `name` begins its id."""
        with self._database.write() as connection:
            record = ClimbRecord(
                id=fresh_id(connection, name, _CLIMBS.c.id),
                name=name,
                task=dict(task),
                data=put_dataset(connection, data),
                base=put_base(connection, base),
                bar=bar,
                settings=dict(settings or {}),
                host=platform.node(),
                pid=os.getpid(),
                started=now(),
                heartbeat=now(),
            )
            connection.execute(sa.insert(_CLIMBS).values(schema.storable(record.as_dict())))
            return _get(connection, record.id)

    def get(self, climb: str) -> ClimbRecord:
        """The climb with that id. Raises ClimbNotFound naming the nearest."""
        with self._database.read() as connection:
            return _as_it_is(_get(connection, climb))

    def update(
        self,
        climb: str,
        *,
        status: Status | None = None,
        verdict: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> ClimbRecord:
        """Replace what is given, and note that the climb is alive.

        `running` makes this process the climb's own, as a resume wants; any end notes the time.
        """
        values: dict[str, Any] = {"heartbeat": now()}
        given = {"verdict": verdict, "settings": settings, "status": status}
        values |= {key: value for key, value in given.items() if value is not None}
        if status == "running":
            values |= _own()
        elif status is not None and (status in ENDED or status == "interrupted"):
            values["finished"] = now()
        with self._database.write() as connection:
            change = sa.update(_CLIMBS).where(_CLIMBS.c.id == climb)
            connection.execute(change.values(schema.storable(values)))
            return _get(connection, climb)

    def take_up(self, climb: ClimbRecord) -> ClimbRecord:
        """Make this process a climb's own, as `update` to `running` does, unless another was first.

        Args:
            climb: as it was read when it was found to be free.

        Raises:
            ConfigError: where a process has taken it up, or given a sign, since.
        """
        values = {"heartbeat": now(), "status": "running", **_own()}
        same = [_CLIMBS.c[name] == getattr(climb, name) for name in ("id", "host", "pid", "heartbeat")]
        with self._database.write() as connection:
            change = sa.update(_CLIMBS).where(*same).values(schema.storable(values))
            taken, found = connection.execute(change).rowcount, _get(connection, climb.id)
        if not taken:
            raise still_running("climb", found.id, found.host, found.pid)
        return found

    def put(self, rung: RungRecord) -> RungRecord:
        """Record a rung, or what became of it."""
        values = schema.storable(rung.as_dict())
        items = {"climb": values["climb"], "key": values["key"], "items": values["items"]}
        row = {key: value for key, value in values.items() if key != "items"}
        with self._database.write() as connection:
            _upsert(connection, _RUNGS, row)
            if items["items"]:
                _upsert(connection, _ITEMS, items)
            beat = sa.update(_CLIMBS).where(_CLIMBS.c.id == rung.climb)
            connection.execute(beat.values(heartbeat=now()))
        return RungRecord(**values)

    def rungs(self, climb: str, *, items: bool = True) -> list[RungRecord]:
        """Read the rungs of a climb by their place; without `items` these are left empty."""
        query = sa.select(*_RUNGS.c).where(_RUNGS.c.climb == climb)
        kept = sa.select(_ITEMS.c.key, _ITEMS.c["items"]).where(_ITEMS.c.climb == climb)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_RUNGS.c.place, _RUNGS.c.key)).mappings().all()
            found = {key: held for key, held in connection.execute(kept)} if items else {}
        return [RungRecord(**row, items=found.get(row["key"], {})) for row in rows]

    def list(self, *, data: str | None = None) -> list[ClimbRecord]:
        """Climbs, newest first; `data` is a digest."""
        query = sa.select(*_CLIMBS.c).order_by(_CLIMBS.c.started.desc(), _CLIMBS.c.id)
        if data is not None:
            query = query.where(_CLIMBS.c.data == data)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [_as_it_is(ClimbRecord(**row)) for row in rows]


def _own() -> dict[str, Any]:
    """The columns by which a climb under way is this process's."""
    return {"finished": None, "host": platform.node(), "pid": os.getpid()}


def _upsert(connection: Connection, table: sa.Table, values: Mapping[str, Any]) -> None:
    """Insert a row of a climb and key, or update those of its columns that have changed."""
    where = (table.c.climb == values["climb"]) & (table.c.key == values["key"])
    before = connection.execute(sa.select(*table.c).where(where)).mappings().first()
    if before is None:
        connection.execute(sa.insert(table).values(values))
    elif changed := {key: value for key, value in values.items() if before[key] != value}:
        connection.execute(sa.update(table).where(where).values(changed))


def _get(connection: Connection, climb: str) -> ClimbRecord:
    query = sa.select(*_CLIMBS.c).where(_CLIMBS.c.id == climb)
    row = connection.execute(query).mappings().first()
    if row is None:
        known = connection.execute(sa.select(_CLIMBS.c.id)).scalars().all()
        raise ClimbNotFound(
            f"no climb '{climb}' (rung board --climbs lists them){nearest(climb, known[:50])}"
        )
    return ClimbRecord(**row)


def _as_it_is(climb: ClimbRecord) -> ClimbRecord:
    """A climb that says `running` though its process on this machine is gone was interrupted."""
    if climb.status != "running" or climb.host != platform.node():
        return climb
    return climb if alive(climb.pid, climb.heartbeat) else replace(climb, status="interrupted")
