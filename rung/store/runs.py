"""Runs: what is being executed, what was, and what came of it."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rung.errors import ConfigError, StoreError, nearest
from rung.store import schema
from rung.store.database import Database
from rung.store.records import (
    ENDED,
    STATUSES,
    BaseRecord,
    DatasetRecord,
    RunNotFound,
    RunRecord,
    Status,
    moment,
    now,
)
from rung.store.sources import put_base, put_dataset
from rung.types import BaseInfo

_RUNS: sa.Table = schema.Run.__table__  # type: ignore[assignment]


class Runs:
    """The runs of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        model: str,
        method: str,
        *,
        objective: str = "",
        config: Mapping[str, Any] | None = None,
        parent: str | None = None,
        base: BaseInfo | BaseRecord | str | None = None,
        data: DatasetRecord | str | None = None,
        status: Status = "running",
    ) -> RunRecord:
        """Record that this process begins a run (or queues one), with its base and data.

        Args:
            model: the name of the model it makes, which begins the run's id.
            parent: the model it starts from. base, data: records, or digests the store knows.
        """
        with self._database.write() as connection:
            record = RunRecord(
                id=fresh_id(connection, model, _RUNS.c.id),
                model=model,
                method=method,
                objective=objective,
                status=status,
                config=dict(config or {}),
                parent=parent,
                base=put_base(connection, base) if base is not None else None,
                data=put_dataset(connection, data) if data is not None else None,
                host=platform.node(),
                pid=os.getpid(),
                started=now(),
                heartbeat=now(),
            )
            connection.execute(sa.insert(_RUNS).values(schema.storable(record.as_dict())))
            return _get(connection, record.id)

    def get(self, run: str) -> RunRecord:
        """The run with that id. Raises RunNotFound naming the nearest."""
        with self._database.read() as connection:
            return as_it_is(_get(connection, run))

    def list(
        self, *, status: Status | None = None, model: str | None = None, limit: int | None = None
    ) -> list[RunRecord]:
        """Runs, newest first. One whose process is gone counts as interrupted."""
        query = sa.select(*_RUNS.c).order_by(_RUNS.c.started.desc(), _RUNS.c.id)
        if model is not None:
            query = query.where(_RUNS.c.model == model)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        records = [as_it_is(RunRecord(**row)) for row in rows]
        kept = [record for record in records if status in (None, record.status)]
        return kept[:limit]

    def update(
        self,
        run: str,
        *,
        status: Status | None = None,
        metrics: Mapping[str, Any] | None = None,
        cost: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        base: BaseInfo | BaseRecord | str | None = None,
        data: DatasetRecord | str | None = None,
        error: str | None = None,
    ) -> RunRecord:
        """Replace what is given, and note that the run is alive.

        `running` makes this process the run's own and clears its end and error, as a resume wants;
        any end notes the time.
        """
        values: dict[str, Any] = {"heartbeat": now()}
        given = {"metrics": metrics, "cost": cost, "config": config, "error": error}
        values |= {key: value for key, value in given.items() if value is not None}
        if status is not None:
            values |= _turn(status) | ({"error": error} if error is not None else {})
        with self._database.write() as connection:
            if base is not None:
                values["base"] = put_base(connection, base)
            if data is not None:
                values["data"] = put_dataset(connection, data)
            change = sa.update(_RUNS).where(_RUNS.c.id == run).values(schema.storable(values))
            connection.execute(change)
            return _get(connection, run)

    def take_up(self, run: RunRecord) -> RunRecord:
        """Make this process a run's own, as `update` to `running` does, unless another was first.

        Args:
            run: as it was read when it was found to be free.

        Raises:
            ConfigError: where a process has taken it up, or given a sign, since.
        """
        values = {"heartbeat": now(), **_turn("running")}
        same = [_RUNS.c[name] == getattr(run, name) for name in ("id", "host", "pid", "heartbeat")]
        with self._database.write() as connection:
            change = sa.update(_RUNS).where(*same).values(schema.storable(values))
            taken, found = connection.execute(change).rowcount, _get(connection, run.id)
        if not taken:
            raise still_running("run", found.id, found.host, found.pid)
        return found

    def forget(self, run: str) -> None:
        """Delete the record of a run that did nothing, such as one whose settings were refused."""
        with self._database.write() as connection:
            connection.execute(sa.delete(_RUNS).where(_RUNS.c.id == run))

    def beat(self, run: str) -> Status:
        """Note that the run is alive; returns its status, so that it learns of a cancellation."""
        with self._database.write() as connection:
            change = sa.update(_RUNS).where(_RUNS.c.id == run).values(heartbeat=now())
            connection.execute(change)
            return _get(connection, run).status


def _turn(status: Status) -> dict[str, Any]:
    """What changes along with a status."""
    if status not in STATUSES:
        raise StoreError(f"'{status}' is no status of a run{nearest(status, STATUSES)}")
    if status == "running":
        owner = {"host": platform.node(), "pid": os.getpid()}
        return {"status": status, "finished": None, "error": None, **owner}
    ended = status in ENDED or status == "interrupted"
    return {"status": status, "finished": now() if ended else None}


def fresh_id(connection: Connection, name: str, column: sa.Column) -> str:
    """An id such as `coach-20261121-0931-ab12`: readable, and unique in a column by its last part."""
    start = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M}"
    for length in (2, 2, 2, 8):
        found = f"{start}-{secrets.token_hex(length)}"
        if connection.execute(sa.select(column).where(column == found)).first() is None:
            return found
    raise StoreError(f"no free id for '{name}': try again")


def _meant(connection: Connection, name: str) -> str:
    """The run of a model, or the climb, of which the name was given in place of a run's; else empty."""
    newest = sa.select(_RUNS.c.id).where(_RUNS.c.model == name).order_by(_RUNS.c.started.desc())
    if found := connection.execute(newest).scalars().first():
        return f", the last of model '{name}' is {found}"
    climbs: Any = schema.Climb.__table__
    if connection.execute(sa.select(climbs.c.id).where(climbs.c.id == name)).first():
        return f", it is a climb: rung climb --resume {name}"
    return ""


def _get(connection: Connection, run: str) -> RunRecord:
    row = connection.execute(sa.select(*_RUNS.c).where(_RUNS.c.id == run)).mappings().first()
    if row is None:
        known = connection.execute(sa.select(_RUNS.c.id)).scalars().all()
        hint = nearest(run, known)
        if len(known) > 20 and "did you mean" not in hint:
            hint = ""  # a list of all is no help
        raise RunNotFound(f"no run '{run}' (rung runs lists them){_meant(connection, run) or hint}")
    return RunRecord(**row)


def as_it_is(run: RunRecord) -> RunRecord:
    """A run that says `running` though its process on this machine is gone was interrupted."""
    if run.status != "running" or run.host != platform.node():
        return run
    return run if alive(run.pid, run.heartbeat) else replace(run, status="interrupted")


def still_running(what: str, id: str, host: str, pid: int, hint: str = "") -> ConfigError:
    """Say which process is at a run or climb."""
    return ConfigError(f"{what} {id} is still running in process {pid} on {host}{hint}")


def refuse_running(what: str, id: str, host: str, pid: int, force: bool) -> None:
    """Raise ConfigError for a run or climb under way; with `force` only for one of this host."""
    elsewhere = host != platform.node()
    if not (force and elsewhere):
        hint = "; if that process is gone, add --force" if elsewhere else ""
        raise still_running(what, id, host, pid, hint)


def alive(pid: int, heartbeat: str) -> bool:
    """Whether the process of this machine that gave the heartbeat is still there."""
    import psutil

    try:
        process = psutil.Process(pid)
        # Process ids are used again: a process younger than the last heartbeat is another one.
        older = process.create_time() <= moment(heartbeat).timestamp() + 2
        return older and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
