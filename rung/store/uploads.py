"""Files that arrive in parts: records here, the bytes of parts below `RUNG_HOME/uploads`."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rung import home
from rung.store import schema
from rung.store.database import Database
from rung.store.files import insert
from rung.store.records import now
from rung.store.serving import Conflict, FileRecord, PartRecord, UploadNotFound, UploadRecord

_UPLOADS: sa.Table = schema.Upload.__table__  # type: ignore[assignment]
_PARTS: sa.Table = schema.UploadPart.__table__  # type: ignore[assignment]

LIFETIME = 3600  # seconds within which an upload must be completed
MAX_PARTS = 10_000  # of one upload
SENT_TWICE = 2  # times the announced bytes that all parts of an upload may have, repeated ones included


def fresh_id(prefix: str) -> str:
    """Make an id that nobody guesses, of an `upload` or of a `part`, whose bytes it also names."""
    return f"{prefix}_{secrets.token_hex(12)}"


def place(part: str) -> Path:
    """Where the bytes of a part lie."""
    return home.folder("uploads") / part


class Uploads:
    """The uploads of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, upload: UploadRecord) -> UploadRecord:
        """Record an upload that was announced just now."""
        values = schema.storable({**upload.as_dict(), "created": now()})
        with self._database.write() as connection:
            connection.execute(sa.insert(_UPLOADS).values(values))
        return UploadRecord(**values)

    def pending(self, id: str, owner: str | None = None) -> UploadRecord:
        """Read an upload that still takes parts.

        Raises:
            UploadNotFound: also for one of another owner than the one given.
            Conflict: where it is completed, cancelled or has expired.
        """
        with self._database.read() as connection:
            return _pending(connection, id, owner)

    def add_part(self, upload: str, id: str, size: int) -> PartRecord:
        """Record a part whose bytes are in place.

        Raises:
            Conflict: where the upload takes no more.
        """
        with self._database.write() as connection:
            asked = _pending(connection, upload)
            own = _PARTS.c.upload == upload
            counts = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(_PARTS.c.bytes), 0))
            count, held = connection.execute(counts.where(own)).one()
            most = SENT_TWICE * asked.bytes
            if held + size > most or count >= MAX_PARTS:
                told = f"the parts of '{upload}' may have {most} bytes, twice what was announced"
                raise Conflict(f"{told}, and there may be {MAX_PARTS} of them")
            part = PartRecord(id=id, upload=upload, bytes=size, created=now())
            connection.execute(sa.insert(_PARTS).values(part.as_dict()))
        return part

    def parts(self, upload: str) -> dict[str, PartRecord]:
        """Parts of an upload by their ids, in the order in which they came."""
        query = sa.select(*_PARTS.c).where(_PARTS.c.upload == upload)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_PARTS.c.created, _PARTS.c.id)).mappings()
            return {row["id"]: PartRecord(**row) for row in rows}

    def complete(self, id: str, file: FileRecord) -> tuple[UploadRecord, FileRecord]:
        """Record what the parts have become, and delete them.

        Raises:
            Conflict: where it was completed or cancelled meanwhile.
        """
        with self._database.write() as connection:
            _pending(connection, id)
            made = insert(connection, file)
            found, gone = _end(connection, id, status="completed", file=file.id)
        _unlink(gone)
        return found, made

    def cancel(self, id: str, owner: str | None = None) -> UploadRecord:
        """Give an upload up, and delete its parts.

        Raises:
            UploadNotFound, Conflict: as `pending`.
        """
        with self._database.write() as connection:
            _pending(connection, id, owner)
            found, gone = _end(connection, id, status="cancelled")
        _unlink(gone)
        return found

    def expire(self) -> None:
        """Delete what is left of uploads that were not completed in time."""
        late = sa.and_(_UPLOADS.c.status == "pending", _UPLOADS.c.expires <= now())
        with self._database.write() as connection:
            for id in list(connection.execute(sa.select(_UPLOADS.c.id).where(late)).scalars()):
                _end(connection, id, status="expired")
        oldest = time.time() - LIFETIME
        for left in home.folder("uploads").iterdir():  # also what a killed server has left behind
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < oldest:
                    left.unlink()


def _pending(connection: Connection, id: str, owner: str | None = None) -> UploadRecord:
    found = _get(connection, id)
    if owner not in (None, found.owner):
        raise UploadNotFound(f"no upload '{id[:80]}'")
    status = found.status
    if status == "pending" and found.expires <= now():
        status = "expired"
    if status != "pending":
        raise Conflict(f"upload '{id}' is {status}: begin a new one")
    return found


def _get(connection: Connection, id: str) -> UploadRecord:
    row = connection.execute(sa.select(*_UPLOADS.c).where(_UPLOADS.c.id == id)).mappings().first()
    if row is None:
        raise UploadNotFound(f"no upload '{id[:80]}'")
    return UploadRecord(**row)


def _end(connection: Connection, id: str, **values: str) -> tuple[UploadRecord, Sequence[str]]:
    """Set the last status of an upload; returns it, and the ids of the parts that it no longer has."""
    own = _PARTS.c.upload == id
    gone = list(connection.execute(sa.select(_PARTS.c.id).where(own)).scalars())
    connection.execute(sa.delete(_PARTS).where(own))
    connection.execute(sa.update(_UPLOADS).where(_UPLOADS.c.id == id).values(values))
    return _get(connection, id), gone


def _unlink(parts: Sequence[str]) -> None:
    for part in parts:
        with contextlib.suppress(OSError):
            place(part).unlink()
