"""A connection to the store's database: SQLite or PostgreSQL, migrated, its faults in one line.

Writes hold SQLite's write lock from their first statement (BEGIN IMMEDIATE), since a transaction
that reads first and writes later cannot wait for the lock: SQLite fails it at once.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine

from rung import home
from rung.errors import PlaceError, StoreBroken, StoreError
from rung.store.schema import HEAD, to_json

BUSY_SECONDS = 10.0  # how long to wait for a lock before saying so
# Any number will do as long as every Rung uses the same: it names the lock of a migration.
MIGRATION_LOCK = 0x52756E67


class Database:
    """An open, migrated database. Safe to use from several threads."""

    def __init__(self, url: str | None = None, busy_seconds: float = BUSY_SECONDS) -> None:
        """
        Raises:
            StoreError: when the URL is unusable, the database cannot be opened, or is too new.
        """
        self.url = parse_url(url)
        self.shown = self.url.render_as_string(hide_password=True)
        self.path = _file_of(self.url)
        self._engine = self._create(busy_seconds)
        self._writer = self._engine.execution_options(rung_write=True)
        self._reader = self._engine
        if self.url.get_backend_name() == "postgresql":
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._inode: tuple[int, int] | None = None
        try:
            self._migrate()
        except BaseException:
            self.close()
            raise
        self._inode = self._seen()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the store."""
        with self._faults(), self._reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is kept whole, or not at all when anything in it raises."""
        with self._faults(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give every connection back. The database opens again when used."""
        self._engine.dispose()

    def _create(self, busy_seconds: float) -> Engine:
        sqlite = self.url.get_backend_name() == "sqlite"
        arguments: dict[str, Any]
        if sqlite:
            if self.path:
                with contextlib.suppress(OSError):  # the connection says what is wrong
                    self.path.parent.mkdir(parents=True, exist_ok=True)
            arguments = {"timeout": busy_seconds, "check_same_thread": False}
        else:
            options = f"-c lock_timeout={int(busy_seconds * 1000)}"
            arguments = {"connect_timeout": 10, "options": options}
        try:
            engine = sa.create_engine(
                self.url,
                connect_args=arguments,
                json_serializer=to_json,
                pool_pre_ping=not sqlite,  # a server may have been restarted meanwhile
            )
        except ModuleNotFoundError as fault:
            raise StoreError(
                f"the store {self.shown} needs the package '{fault.name}': "
                "pip install 'rung[postgresql]'"
            ) from None
        except (exc.ArgumentError, exc.NoSuchModuleError) as fault:
            raise PlaceError(f"RUNG_STORE is not usable: {fault}") from None
        if sqlite:
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _migrate(self) -> None:
        """Bring the tables to `HEAD`. Costs one small query when they are there already."""
        with self._faults():
            with self._engine.begin() as connection:
                if _revision(connection) == HEAD:
                    return
            with self._writer.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                if _revision(connection) != HEAD:  # nobody else did it while we waited
                    _upgrade(connection, self.shown)

    def _seen(self) -> tuple[int, int] | None:
        if self.path is None:
            return None
        with contextlib.suppress(OSError):
            status = self.path.stat()
            return status.st_dev, status.st_ino
        return None

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what the database says into one line that says what to do."""
        # SQLite goes on writing into a deleted file and reports nothing.
        if self._inode is not None and self._seen() != self._inode:
            raise StoreError(f"the store {self.path} was deleted or replaced: start Rung again")
        try:
            yield
        except exc.IntegrityError as fault:
            raise StoreBroken(f"the store refused an inconsistent record: {fault.orig}") from fault
        except exc.DBAPIError as fault:
            raise _explained(fault, self.shown) from fault
        except exc.TimeoutError as fault:
            raise StoreError(f"the store {self.shown} is busy: try again") from fault


def parse_url(url: str | None) -> URL:
    """The URL given, or RUNG_STORE, or a SQLite file at home.

    Raises:
        PlaceError: when it is not a URL of SQLite on disk or PostgreSQL.
    """
    text = url or os.environ.get("RUNG_STORE") or ""
    if not text:
        return URL.create("sqlite", database=str(home.home() / "rung.db"))
    advice = "use sqlite:////folder/rung.db or postgresql+psycopg://user@host/database"
    try:
        parsed = sa.make_url(text)
    except exc.ArgumentError:
        raise PlaceError(f"RUNG_STORE is not a database URL: {advice}") from None
    if parsed.drivername in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise PlaceError(f"RUNG_STORE names '{parsed.drivername}': {advice}")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise PlaceError(f"RUNG_STORE names a store in memory, which threads do not share: {advice}")
    return parsed


def _file_of(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite" or str(url.database).startswith("file:"):
        return None
    return Path(str(url.database)).absolute()


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` says when a transaction begins
    connection.execute("PRAGMA foreign_keys=ON")
    # Readers never wait for the writer. A read-only or network disk may not allow it.
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode=WAL")
    # What was committed survives a power cut, not just a crash.
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("rung_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _revision(connection: Connection) -> str | None:
    """Which migration the store is at; None for an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version = sa.table("alembic_version", sa.column("version_num"))
    return connection.execute(sa.select(version.c.version_num)).scalar()


def _upgrade(connection: Connection, shown: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "rung.store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        # A revision that alembic does not find was written by a later Rung.
        raise StoreBroken(
            f"the store {shown} was written by a newer Rung: upgrade with pip install -U rung"
        ) from None


def _explained(fault: exc.DBAPIError, shown: str) -> StoreError:
    """What a driver reports, in one line. SQLite tells causes apart by words alone."""
    text = str(fault.orig).strip().split("\n")[0]
    code = getattr(fault.orig, "sqlstate", None) or ""
    for words, codes, meaning in _FAULTS:
        if any(w in text for w in words) or (code and code.startswith(codes)):
            kind = StoreBroken if words[0] in _LASTING else StoreError
            return kind(f"the store {shown} {meaning}")
    return StoreBroken(f"the store {shown} failed ({text}): check that it is there and whole")


# The first words of the faults below that last until somebody mends them.
_LASTING = ("readonly database", "not a database")
# words in SQLite's message, PostgreSQL's SQLSTATE prefixes, what to say
_FAULTS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        ("is locked",),
        ("55P03", "40001", "40P01"),
        "is locked by another process: wait for it or end it, then try again",
    ),
    (
        ("readonly database",),
        ("25006", "42501"),
        "is read-only: give yourself write access, or set RUNG_STORE to another one",
    ),
    (
        ("is full",),
        ("53100",),
        "has no space left on its disk: free some, then try again; nothing was half-written",
    ),
    (
        ("not a database", "malformed"),
        ("XX001", "XX002"),
        "is damaged: restore it from a backup, or move the file away to begin anew",
    ),
    (
        ("unable to open",),
        (),
        "cannot be opened: check that its folder exists and you may write there",
    ),
    (
        ("disk I/O error",),
        ("58030",),
        "cannot be read or written: its disk is full or faulty",
    ),
    (
        ("connection failed", "connection to server", "Connection refused", "timeout expired"),
        ("08", "57P", "53300"),
        "does not answer: check that the server runs and RUNG_STORE is right",
    ),
)
