"""What things are made from: bases and data, each known by its digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from rung.artefacts.licences import classify
from rung.errors import StoreError
from rung.store import schema
from rung.store.database import Database
from rung.store.records import BaseRecord, DatasetRecord, now
from rung.types import BaseInfo

R = TypeVar("R", BaseRecord, DatasetRecord)


class Bases:
    """The bases that runs and models refer to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, base: BaseInfo | BaseRecord) -> BaseRecord:
        """Record a base, or bring its name and licence up to date when its digest is known."""
        with self._database.write() as connection:
            put_base(connection, base)
            return get_source(connection, BaseRecord, digest_of(base))

    def get(self, digest: str) -> BaseRecord:
        """The base with that digest. Raises StoreError when there is none."""
        with self._database.read() as connection:
            return get_source(connection, BaseRecord, digest)

    def list(self) -> list[BaseRecord]:
        """All bases by name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(*_BASES.c).order_by(_BASES.c.name))
            return [BaseRecord(**row) for row in rows.mappings()]


class Datasets:
    """The data that runs, models and evaluations refer to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, dataset: DatasetRecord) -> DatasetRecord:
        """Record data, or bring its name and licence up to date when its digest is known."""
        with self._database.write() as connection:
            put_dataset(connection, dataset)
            return get_source(connection, DatasetRecord, dataset.digest)

    def get(self, digest: str) -> DatasetRecord:
        """The data with that digest. Raises StoreError when there is none."""
        with self._database.read() as connection:
            return get_source(connection, DatasetRecord, digest)

    def list(self) -> list[DatasetRecord]:
        """All data by name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(*_DATASETS.c).order_by(_DATASETS.c.name))
            return [DatasetRecord(**row) for row in rows.mappings()]


_BASES: sa.FromClause = schema.Base.__table__
_DATASETS: sa.FromClause = schema.Dataset.__table__


def digest_of(source: BaseInfo | BaseRecord | DatasetRecord | str) -> str:
    """The digest, whether it or the whole record was given."""
    return source if isinstance(source, str) else source.digest


def put_base(connection: Connection, base: BaseInfo | BaseRecord | str) -> str:
    """Record a base within a transaction; a digest alone must be known already."""
    if isinstance(base, str):
        return get_source(connection, BaseRecord, base).digest
    record = BaseRecord.of(base) if isinstance(base, BaseInfo) else base
    return _put(connection, _BASES, record)


def put_dataset(connection: Connection, dataset: DatasetRecord | str) -> str:
    """Record data within a transaction; a digest alone must be known already."""
    if isinstance(dataset, str):
        return get_source(connection, DatasetRecord, dataset).digest
    return _put(connection, _DATASETS, dataset)


def put_datasets(connection: Connection, datasets: Sequence[DatasetRecord | str]) -> list[str]:
    """Record several, in order, each once."""
    return list(dict.fromkeys(put_dataset(connection, dataset) for dataset in datasets))


def get_source(connection: Connection, kind: type[R], digest: str) -> R:
    """The base or data with that digest. Raises StoreError when there is none."""
    table, word = (_BASES, "base") if kind is BaseRecord else (_DATASETS, "data")
    row = connection.execute(sa.select(*table.c).where(table.c.digest == digest)).mappings().first()
    if row is None:
        raise StoreError(f"the store knows no {word} with digest '{digest}': put it first")
    return kind(**row)


def _put(connection: Connection, table: sa.FromClause, record: BaseRecord | DatasetRecord) -> str:
    if not record.digest:
        raise StoreError(f"'{record.name}' has no digest: it cannot be told from others")
    known = record.licence_class != "unknown"
    record = replace(
        record,
        licence=record.licence or "unknown",
        licence_class=record.licence_class if known else classify(record.licence),
        created=record.created or now(),
    )
    values: dict[str, Any] = schema.storable(record.as_dict())
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(values)
    fresh = {key: value for key, value in values.items() if key not in ("digest", "created")}
    connection.execute(statement.on_conflict_do_update(index_elements=["digest"], set_=fresh))
    return record.digest
