"""Tuning jobs: what was asked for, how far it is, what happened."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rung.store import schema
from rung.store.database import Database
from rung.store.pages import page
from rung.store.records import now
from rung.store.serving import (
    OVER,
    CheckpointRecord,
    Conflict,
    EventRecord,
    JobKind,
    JobNotFound,
    JobRecord,
    JobStatus,
    Page,
)

_JOBS: sa.Table = schema.Job.__table__  # type: ignore[assignment]
_EVENTS: sa.Table = schema.JobEvent.__table__  # type: ignore[assignment]
_CHECKPOINTS: sa.Table = schema.JobCheckpoint.__table__  # type: ignore[assignment]

KEPT = 3  # checkpoints of a job
MAX_DIGITS = 18  # of an event's id, which is a 64-bit integer
PREFIXES: dict[JobKind, str] = {"tune": "ftjob", "climb": "climbjob", "synth": "synthjob"}
NAMES: dict[JobKind, str] = {"tune": "fine-tuning job", "climb": "climb", "synth": "synthesis"}


def fresh_id(kind: JobKind = "tune") -> str:
    """Make an id; that of a tuning is of OpenAI's form."""
    return f"{PREFIXES[kind]}-{secrets.token_hex(8)}"


class Jobs:
    """The jobs of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, job: JobRecord) -> JobRecord:
        """Record a job that was asked for just now."""
        values = schema.storable({**job.as_dict(), "created": now()})
        with self._database.write() as connection:
            connection.execute(sa.insert(_JOBS).values(values))
            _say(connection, job.id, [("info", "message", f"Created {NAMES[job.kind]}: {job.id}", {})])
            return _get(connection, job.id)

    def get(self, id: str, kind: JobKind | None = None, owner: str | None = None) -> JobRecord:
        """Read the job of that id.

        Raises:
            JobNotFound: also where it is of another kind, or of another owner than the one given.
        """
        with self._database.read() as connection:
            return _get(connection, id, kind, owner)

    def list(
        self,
        *,
        after: str | None = None,
        limit: int = 1000,
        statuses: Iterable[str] | None = None,
        notes: Mapping[str, str] | None = None,
        kind: JobKind | None = None,
        owner: str | None = None,
    ) -> Page[JobRecord]:
        """Read jobs, newest first.

        Args:
            notes: keeps those whose metadata holds all of these.
            kind: keeps those of it. owner: keeps those that this key ordered.
        """
        conditions: list[sa.ColumnElement[bool]] = []
        conditions += [] if statuses is None else [_JOBS.c.status.in_(list(statuses))]
        conditions += [] if kind is None else [_JOBS.c.kind == kind]
        conditions += [] if owner is None else [_JOBS.c.owner == owner]
        for key, value in (notes or {}).items():
            conditions.append(_JOBS.c.notes[key].as_string() == value)
        with self._database.read() as connection:
            rows, more = page(connection, _JOBS, conditions, after, limit)
        return Page([JobRecord(**row) for row in rows], more)

    def turn(
        self, id: str, to: JobStatus, *, among: Iterable[str], say: str | None = None, **values: Any
    ) -> JobRecord:
        """Change a job's status in one step, if it has one of those that allow it.

        Args:
            among: the statuses it may come from. say: an event that tells of it.
            values: further columns to set.

        Raises:
            Conflict: naming the status that it has.
        """
        with self._database.write() as connection:
            job = _get(connection, id)
            if job.status not in set(among):
                raise Conflict(f"job '{id}' is {job.status}, so it cannot become {to}")
            values["status"] = to
            if to in OVER:
                values |= {"finished": now(), "estimate": None}
            _change(connection, id, values)
            if say:
                level = "error" if to == "failed" else "info"
                _say(connection, id, [(level, "message", say, {})])
            return _get(connection, id)

    def update(self, id: str, **values: Any) -> None:
        """Set columns other than the status."""
        with self._database.write() as connection:
            _change(connection, id, values)

    def claim(self, id: str) -> JobRecord:
        """Note that this process works at the job, and return it."""
        with self._database.write() as connection:
            _change(connection, id, {"host": platform.node(), "pid": os.getpid()})
            return _get(connection, id)

    def say(self, id: str, events: Iterable[tuple[str, str, str, dict[str, Any]]]) -> None:
        """Add events: (level, kind, message, data) each."""
        with self._database.write() as connection:
            _say(connection, id, events)

    def events(self, id: str, *, after: str | None = None, limit: int = 20) -> Page[EventRecord]:
        """What happened, newest first; `after` is the id of an event. Raises JobNotFound."""
        with self._database.read() as connection:
            _get(connection, id)
            known = after is not None and after.isdecimal() and len(after) <= MAX_DIGITS
            cursor = None if after is None else int(after) if known else -1
            rows, more = page(connection, _EVENTS, [_EVENTS.c.job == id], cursor, limit)
        return Page([EventRecord(**row) for row in rows], more)

    def checkpoint(
        self, id: str, *, step: int, model: str, folder: str, metrics: Mapping[str, Any]
    ) -> Sequence[CheckpointRecord]:
        """Record a checkpoint of a step; returns those that are too many, which are forgotten."""
        made = CheckpointRecord(
            f"ftckpt_{secrets.token_hex(12)}", id, step, model, folder, dict(metrics), now()
        )
        with self._database.write() as connection:
            again = sa.delete(_CHECKPOINTS).where(_CHECKPOINTS.c.job == id, _CHECKPOINTS.c.step >= step)
            connection.execute(again)
            connection.execute(sa.insert(_CHECKPOINTS).values(schema.storable(made.as_dict())))
            rows, _ = page(connection, _CHECKPOINTS, [_CHECKPOINTS.c.job == id], None, 1000)
            old = [CheckpointRecord(**row) for row in rows[KEPT:]]
            gone = _CHECKPOINTS.c.id.in_([c.id for c in old])
            connection.execute(sa.delete(_CHECKPOINTS).where(gone))
        return old

    def checkpoints(
        self, id: str, *, after: str | None = None, limit: int = 10
    ) -> Page[CheckpointRecord]:
        """Checkpoints, newest first. Raises JobNotFound."""
        with self._database.read() as connection:
            _get(connection, id)
            rows, more = page(connection, _CHECKPOINTS, [_CHECKPOINTS.c.job == id], after, limit)
        return Page([CheckpointRecord(**row) for row in rows], more)


def _get(
    connection: Connection, id: str, kind: JobKind | None = None, owner: str | None = None
) -> JobRecord:
    row = connection.execute(sa.select(*_JOBS.c).where(_JOBS.c.id == id)).mappings().first()
    if row is None or kind not in (None, row["kind"]) or owner not in (None, row["owner"]):
        raise JobNotFound(f"no {NAMES[kind or 'tune']} '{id[:80]}'")
    return JobRecord(**row)


def _change(connection: Connection, id: str, values: Mapping[str, Any]) -> None:
    change = sa.update(_JOBS).where(_JOBS.c.id == id).values(schema.storable(dict(values)))
    connection.execute(change)


def _say(
    connection: Connection, id: str, events: Iterable[tuple[str, str, str, dict[str, Any]]]
) -> None:
    rows = [
        {"job": id, "level": level, "kind": kind, "message": message, "data": data, "created": now()}
        for level, kind, message, data in events
    ]
    if rows:
        connection.execute(sa.insert(_EVENTS), [schema.storable(row) for row in rows])
