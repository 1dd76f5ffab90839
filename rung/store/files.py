"""Files of the server: records here, bytes below `RUNG_HOME/files` under generated names."""

from __future__ import annotations

import contextlib
import re
import secrets
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rung import home
from rung.store import schema
from rung.store.database import Database
from rung.store.pages import page
from rung.store.records import now
from rung.store.serving import OVER, WORKING, Conflict, FileNotFound, FileRecord, Page

_FILES: sa.Table = schema.File.__table__  # type: ignore[assignment]
_JOBS: sa.Table = schema.Job.__table__  # type: ignore[assignment]
_BATCHES: sa.Table = schema.Batch.__table__  # type: ignore[assignment]


def fresh_id() -> str:
    """An id that nobody guesses; it also names the stored file."""
    return f"file-{secrets.token_hex(12)}"


def place(stored: str) -> Path:
    """Where the bytes of a file lie."""
    return home.folder("files") / stored


def in_lines(text: str) -> str:
    """Leave the generated name of a file out of a fault of data: `file-0a1b.jsonl:7` is line 7.

    Flags that would cure it are left out too: no client of the API can give them.
    """
    text = re.sub(r",? or say --[a-z-]+", "", text)
    text = re.sub(r"[^\s(]*file-[0-9a-f]{24}\.\w+:(\d+)", r"line \1", text)
    return re.sub(r"[^\s(]*file-[0-9a-f]{24}(\.\w+)?", "the file", text)


class Files:
    """The files of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        id: str,
        *,
        name: str,
        purpose: str,
        stored: str,
        size: int,
        expires: str | None = None,
        owner: str | None = None,
    ) -> FileRecord:
        """Record a file whose bytes are in place."""
        record = FileRecord(id, name, purpose, stored, size, now(), expires, owner)
        with self._database.write() as connection:
            return insert(connection, record)

    def get(self, id: str, owner: str | None = None) -> FileRecord:
        """Read the file of that id.

        Raises:
            FileNotFound: also for one that has expired, or is of another owner than the one given.
        """
        with self._database.read() as connection:
            return _get(connection, id, owner)

    def list(
        self,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        descending: bool = True,
        owner: str | None = None,
    ) -> Page[FileRecord]:
        """Read files by when they were made; `owner` keeps those that this key made."""
        conditions = [_lasting()]
        if owner is not None:
            conditions.append(_FILES.c.owner == owner)
        if purpose is not None:
            conditions.append(_FILES.c.purpose == purpose)
        with self._database.read() as connection:
            rows, more = page(connection, _FILES, conditions, after, limit, descending)
        return Page([FileRecord(**row) for row in rows], more)

    def remove(self, id: str) -> FileRecord:
        """Forget a file and delete its bytes.

        Raises:
            FileNotFound: when it is not there.
            Conflict: while a job or a batch that has not ended needs it.
        """
        with self._database.write() as connection:
            record = _get(connection, id)
            if user := _user(connection, id):
                raise Conflict(f"'{id}' is in use by {user}: cancel that first, or wait for its end")
            connection.execute(sa.delete(_FILES).where(_FILES.c.id == id))
        place(record.stored).unlink(missing_ok=True)
        return record

    def expire(self) -> int:
        """Delete what has expired and is not in use; returns how many."""
        with self._database.write() as connection:
            rows = connection.execute(sa.select(_FILES.c.id, _FILES.c.stored).where(~_lasting())).all()
            gone = [row for row in rows if not _user(connection, row.id)]
            if gone:
                ids = [row.id for row in gone]
                connection.execute(sa.delete(_FILES).where(_FILES.c.id.in_(ids)))
        for row in gone:
            with contextlib.suppress(OSError):
                place(row.stored).unlink()
        return len(gone)


def insert(connection: Connection, record: FileRecord) -> FileRecord:
    """Record a file within a transaction; returns it as it is stored."""
    values = schema.storable(record.as_dict())
    connection.execute(sa.insert(_FILES).values(values))
    return FileRecord(**values)


def _lasting() -> sa.ColumnElement[bool]:
    return sa.or_(_FILES.c.expires.is_(None), _FILES.c.expires > now())


def _get(connection: Connection, id: str, owner: str | None = None) -> FileRecord:
    query = sa.select(*_FILES.c).where(_FILES.c.id == id, _lasting())
    row = connection.execute(query).mappings().first()
    if row is None or owner not in (None, row["owner"]):
        raise FileNotFound(f"no file '{id[:80]}'")
    return FileRecord(**row)


def _user(connection: Connection, id: str) -> str | None:
    """A job or a batch that still needs the file."""
    uses = sa.or_(_JOBS.c.training_file == id, _JOBS.c.validation_file == id)
    jobs = sa.select(_JOBS.c.id).where(uses, _JOBS.c.status.not_in(OVER))
    reads = _BATCHES.c.input_file == id
    batches = sa.select(_BATCHES.c.id).where(reads, _BATCHES.c.status.in_(WORKING))
    return connection.execute(sa.union_all(jobs, batches).limit(1)).scalar()
