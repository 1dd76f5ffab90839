"""The store: runs, models, bases, data and evaluations, in SQLite or PostgreSQL."""

from __future__ import annotations

import math
from types import TracebackType

import sqlalchemy as sa

from rung.errors import StoreError
from rung.store import schema
from rung.store.batches import Batches
from rung.store.climbs import Climbs
from rung.store.database import BUSY_SECONDS, Database
from rung.store.files import Files
from rung.store.jobs import Jobs
from rung.store.keys import Keys
from rung.store.models import Models, licence_of, tree
from rung.store.records import BaseRecord, DatasetRecord, EvaluationRecord, Node, now
from rung.store.responses import Responses
from rung.store.runs import Runs
from rung.store.sources import Bases, Datasets, put_base, put_dataset
from rung.store.uploads import Uploads
from rung.types import BaseInfo, LicenceClass

_EVALUATIONS: sa.Table = schema.Evaluation.__table__  # type: ignore[assignment]


class Store:
    """What was run and made. Safe to use from several threads and processes.

    Every method raises StoreError, in one line, when the database is locked, read-only, full,
    damaged or gone; nothing is then half-written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.bases = Bases(database)
        self.datasets = Datasets(database)
        self.runs = Runs(database)
        self.models = Models(database)
        self.evaluations = Evaluations(database)
        self.files = Files(database)
        self.jobs = Jobs(database)
        self.keys = Keys(database)
        self.climbs = Climbs(database)
        self.responses = Responses(database)
        self.uploads = Uploads(database)
        self.batches = Batches(database)

    @classmethod
    def open(cls, url: str | None = None, *, busy_seconds: float = BUSY_SECONDS) -> Store:
        """Open, create or migrate a store.

        Args:
            url: `sqlite:////folder/rung.db` or `postgresql+psycopg://...`; left out, RUNG_STORE or
                a SQLite file at home.
            busy_seconds: how long to wait while another process writes.

        Raises:
            StoreError: when it cannot be opened, or was written by a newer Rung.
        """
        return cls(Database(url, busy_seconds))

    @property
    def url(self) -> str:
        """Where the store is, without its password."""
        return self._database.shown

    def lineage(self, name: str) -> Node:
        """What a model was made from, as a tree: parents, base and data with their licences.

        Raises:
            ModelNotFound: naming the nearest.
        """
        with self._database.read() as connection:
            return tree(connection, name)

    def licence(self, name: str) -> tuple[LicenceClass, tuple[str, ...]]:
        """The licence class that results from a model's parts, and what each part says.

        Raises:
            ModelNotFound: naming the nearest.
        """
        return licence_of(self.lineage(name))

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class Evaluations:
    """What was measured of models and bare bases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        *,
        metric: str,
        value: float,
        model: str | None = None,
        base: BaseInfo | BaseRecord | str | None = None,
        dataset: DatasetRecord | str | None = None,
        low: float | None = None,
        high: float | None = None,
        n: int = 0,
    ) -> EvaluationRecord:
        """Record one measurement, of either a model or a bare base.

        Args:
            low, high: the interval of `value`, in its unit. n: examples measured.

        Raises:
            ModelNotFound: when the model is not there.
            StoreError: when the value is not finite, or not exactly one subject is given.
        """
        if (model is None) == (base is None):
            raise StoreError("an evaluation is of a model or of a base: give one of them")
        if not math.isfinite(value):
            raise StoreError(f"{metric} is {value}, which measures nothing: it is not recorded")
        with self._database.write() as connection:
            if model is not None:
                tree(connection, model)  # says which models there are when it is missing
            values = {
                "model": model,
                "base": put_base(connection, base) if base is not None else None,
                "dataset": put_dataset(connection, dataset) if dataset is not None else None,
                "metric": metric,
                "value": value,
                "low": low,
                "high": high,
                "n": n,
                "created": now(),
            }
            values = schema.storable(values)
            row = connection.execute(
                sa.insert(_EVALUATIONS).values(values).returning(_EVALUATIONS.c.id)
            )
            return EvaluationRecord(id=row.scalar_one(), **values)

    def list(
        self, *, model: str | None = None, base: str | None = None, dataset: str | None = None
    ) -> list[EvaluationRecord]:
        """Measurements in the order they were made; `base` and `dataset` are digests."""
        columns = _EVALUATIONS.c
        query = sa.select(*columns).order_by(columns.id)
        for column, wanted in (
            (columns.model, model),
            (columns.base, base),
            (columns.dataset, dataset),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        with self._database.read() as connection:
            return [EvaluationRecord(**row) for row in connection.execute(query).mappings()]
