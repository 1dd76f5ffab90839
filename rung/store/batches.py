"""Batches: what was asked for, how far it is, and which server is at work on it.

A server claims a batch before it works on it, for `LEASE` seconds that it renews; another one may take
it over when the lease has run out, or when it knows that the server has ended.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rung import home
from rung.store import schema
from rung.store.database import Database
from rung.store.files import insert
from rung.store.pages import page
from rung.store.records import now, stamp
from rung.store.serving import (
    WORKING,
    BatchNotFound,
    BatchRecord,
    BatchStatus,
    Conflict,
    FileRecord,
    Page,
)

_BATCHES: sa.Table = schema.Batch.__table__  # type: ignore[assignment]

LEASE = 30.0  # seconds


def fresh_id() -> str:
    """Make an id that nobody guesses; it also names the journal of what was answered."""
    return f"batch_{secrets.token_hex(12)}"


def journal(id: str) -> Path:
    """Where the answers of a batch are written as they come."""
    return home.folder("batches") / f"{id}.jsonl"


class Batches:
    """The batches of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, batch: BatchRecord) -> BatchRecord:
        """Record a batch that was asked for just now."""
        values = schema.storable({**batch.as_dict(), "created": now()})
        with self._database.write() as connection:
            connection.execute(sa.insert(_BATCHES).values(values))
            return _get(connection, batch.id)

    def get(self, id: str, owner: str | None = None) -> BatchRecord:
        """Read the batch of that id.

        Raises:
            BatchNotFound: also for one of another owner than the one given.
        """
        with self._database.read() as connection:
            return _get(connection, id, owner)

    def list(
        self, *, after: str | None = None, limit: int = 20, owner: str | None = None
    ) -> Page[BatchRecord]:
        """Read batches, newest first; `owner` keeps those that this key made."""
        conditions = [] if owner is None else [_BATCHES.c.owner == owner]
        with self._database.read() as connection:
            rows, more = page(connection, _BATCHES, conditions, after, limit)
        return Page([BatchRecord(**row) for row in rows], more)

    def working(self, base: str) -> Sequence[BatchRecord]:
        """Batches for a base that have not ended, in the order in which they were asked for."""
        query = sa.select(*_BATCHES.c).where(_BATCHES.c.base == base, _BATCHES.c.status.in_(WORKING))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_BATCHES.c.created, _BATCHES.c.id)).mappings()
            return [BatchRecord(**row) for row in rows]

    def claim(self, id: str, claim: str, *, dead: str | None = None) -> bool:
        """Claim a batch for a server, where no other holds it; returns whether that was so.

        Args:
            claim: names the server. dead: the claim of a server that is known to have ended.
        """
        free = sa.or_(
            _BATCHES.c.claim.is_(None), _BATCHES.c.claim.in_([claim, dead or claim]),
            _BATCHES.c.lease <= now(),
        )  # fmt: skip
        change = sa.update(_BATCHES).where(_BATCHES.c.id == id, _BATCHES.c.status.in_(WORKING), free)
        with self._database.write() as connection:
            return connection.execute(change.values(claim=claim, lease=_lease())).rowcount == 1

    def renew(self, id: str, claim: str, **values: Any) -> BatchRecord | None:
        """Renew a claim and set other columns; returns the batch, None where the claim is lost."""
        with self._database.write() as connection:
            change = sa.update(_BATCHES).where(_BATCHES.c.id == id, _BATCHES.c.claim == claim)
            held = connection.execute(change.values(lease=_lease(), **values)).rowcount == 1
            return _get(connection, id) if held else None

    def release(self, id: str, claim: str) -> None:
        """Let others take the batch up."""
        change = sa.update(_BATCHES).where(_BATCHES.c.id == id, _BATCHES.c.claim == claim)
        with self._database.write() as connection:
            connection.execute(change.values(claim=None, lease=None))

    def turn(
        self,
        id: str,
        to: BatchStatus,
        *,
        among: Iterable[str],
        claim: str | None = None,
        files: Sequence[FileRecord] = (),
        **values: Any,
    ) -> BatchRecord:
        """Change a batch's status in one step, if it has one of those that allow it.

        Args:
            among: the statuses it may come from. claim: whose it must be; None: anybody's.
            files: recorded in the same step. values: further columns to set.

        Raises:
            Conflict: naming the status that it has, or saying that the claim is lost.
        """
        with self._database.write() as connection:
            found = _get(connection, id)
            if claim is not None and found.claim != claim:
                raise Conflict(f"another server is at work on batch '{id}'")
            if found.status not in set(among):
                raise Conflict(f"batch '{id}' is {found.status}, so it cannot become {to}")
            for file in files:
                insert(connection, file)
            values |= {"status": to, "moments": {**found.moments, to: now()}}
            if to not in WORKING:
                values |= {"claim": None, "lease": None}
            change = sa.update(_BATCHES).where(_BATCHES.c.id == id)
            connection.execute(change.values(schema.storable(values)))
            return _get(connection, id)


def _get(connection: Connection, id: str, owner: str | None = None) -> BatchRecord:
    row = connection.execute(sa.select(*_BATCHES.c).where(_BATCHES.c.id == id)).mappings().first()
    if row is None or owner not in (None, row["owner"]):
        raise BatchNotFound(f"no batch '{id[:80]}'")
    return BatchRecord(**row)


def _lease() -> str:
    return stamp(datetime.now(UTC) + timedelta(seconds=LEASE))
