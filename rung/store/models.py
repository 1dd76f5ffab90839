"""Models and what they were made from, recorded together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rung import home
from rung.artefacts import folders
from rung.artefacts.licences import classify, tightest
from rung.errors import ConfigError, ModelNotFound, nearest
from rung.store import schema
from rung.store.database import Database
from rung.store.records import (
    BaseRecord,
    DatasetRecord,
    InUse,
    ModelRecord,
    Node,
    RunRecord,
    now,
)
from rung.store.runs import as_it_is
from rung.store.sources import get_source, put_base, put_datasets
from rung.types import LICENCE_ORDER, BaseInfo, LicenceClass

_MODELS: sa.Table = schema.Model.__table__  # type: ignore[assignment]
_LINKS: sa.Table = schema.ModelDataset.__table__  # type: ignore[assignment]
_FURTHER: sa.Table = schema.ModelBase.__table__  # type: ignore[assignment]
_BASES: sa.Table = schema.Base.__table__  # type: ignore[assignment]
_RUNS: sa.Table = schema.Run.__table__  # type: ignore[assignment]


class Models:
    """The models of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        name: str,
        *,
        method: str,
        base: BaseInfo | BaseRecord | str,
        datasets: Sequence[DatasetRecord | str] = (),
        parent: str | None = None,
        run: str | None = None,
        folder: str | Path = "",
        licence: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        cost: Mapping[str, Any] | None = None,
        further: Sequence[BaseInfo] = (),
    ) -> ModelRecord:
        """Record a model with its lineage in one transaction; one of that name is replaced.

        The evaluations of a replaced model go with it, since they measured other weights.

        Args:
            base, datasets: records, or digests the store knows. parent: the model trained on from.
            licence: what its maker declares; left out, its parts alone decide.
            further: bases that it stands on beside its own.

        Raises:
            ConfigError: for a name that is not allowed, or a model among its own ancestors.
            InUse: when other models were made from the one to be replaced.
            ModelNotFound: when the parent is not there.
        """
        with self._database.write() as connection:
            _check(connection, name, parent)
            values: dict[str, Any] = {
                "name": name,
                "method": method,
                "base": put_base(connection, base),
                "parent": parent,
                "run": run,
                "folder": _kept(folder),
                "licence": licence,
                "licence_class": "unknown",
                "metrics": dict(metrics or {}),
                "cost": dict(cost or {}),
                "created": now(),
            }
            connection.execute(sa.delete(_MODELS).where(_MODELS.c.name == name))
            connection.execute(sa.insert(_MODELS).values(schema.storable(values)))
            for place, digest in enumerate(put_datasets(connection, datasets)):
                link = {"model": name, "dataset": digest, "place": place}
                connection.execute(sa.insert(_LINKS).values(link))
            for place, info in enumerate(further):
                link = {"model": name, "base": put_base(connection, info), "place": place}
                connection.execute(sa.insert(_FURTHER).values(link))
            _change(connection, name, licence_class=licence_of(tree(connection, name))[0])
            return _get(connection, name)

    def check(self, name: str, parent: str | None = None) -> None:
        """Raise now what `put` would raise after hours of training."""
        with self._database.read() as connection:
            _check(connection, name, parent)

    def get(self, name: str) -> ModelRecord:
        """The model of that name. Raises ModelNotFound naming the nearest."""
        with self._database.read() as connection:
            return _get(connection, name)

    def list(self) -> list[ModelRecord]:
        """All models by name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(*_MODELS.c)).mappings().all()
            links = connection.execute(sa.select(*_LINKS.c).order_by(_LINKS.c.place)).all()
        data: dict[str, list[str]] = {}
        for model, dataset, _ in links:
            data.setdefault(model, []).append(dataset)
        # Sorted here, as databases differ in how they sort text.
        records = [_record(row, data.get(row["name"], ())) for row in rows]
        return sorted(records, key=lambda record: record.name)

    def update(
        self,
        name: str,
        *,
        metrics: Mapping[str, Any] | None = None,
        cost: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
    ) -> ModelRecord:
        """Replace what is given. Raises ModelNotFound."""
        given = {"metrics": metrics, "cost": cost, "folder": folder}
        values = {key: value for key, value in given.items() if value is not None}
        if folder is not None:
            values["folder"] = _kept(folder)
        with self._database.write() as connection:
            _get(connection, name)
            if values:
                _change(connection, name, **values)
            return _get(connection, name)

    def remove(self, name: str) -> ModelRecord:
        """Forget a model and its evaluations; its folder is left to the caller.

        Raises:
            ModelNotFound: naming the nearest.
            InUse: naming the models made from it.
        """
        with self._database.write() as connection:
            record = _get(connection, name)
            if users := _children(connection, name):
                raise InUse(f"'{name}' is the parent or base of {users}: remove them first")
            if runs := _trained_on(connection, name):
                raise InUse(f"'{name}' is what {runs} trains on: wait for its end, or cancel it")
            connection.execute(sa.delete(_MODELS).where(_MODELS.c.name == name))
            return record

    def delete(self, name: str) -> ModelRecord:
        """Forget a model, then delete its own folder; a link, or a folder elsewhere, is left.

        In this order a crash between the two leaves a folder nobody uses, not a model without one.

        Raises:
            ModelNotFound, InUse: as `remove`.
        """
        record, own = self.remove(name), folders.model_folder(name)
        if own.is_dir() and not own.is_symlink():
            folders.remove(own)
        return record


def tree(connection: Connection, name: str) -> Node:
    """The lineage of a model: itself, then its parent or base, then its data."""
    record = _get(connection, name)
    parts: list[Node] = []
    same_base = False
    if record.parent is not None:
        parts.append(tree(connection, record.parent))
        same_base = any(n.kind == "base" and n.digest == record.base for n in parts[0].walk())
    if not same_base:
        base = get_source(connection, BaseRecord, record.base)
        parts.append(Node("base", base.name, base.licence, base.licence_class, base.digest))
    query = sa.select(_FURTHER.c.base).where(_FURTHER.c.model == name).order_by(_FURTHER.c.place)
    for digest in connection.execute(query).scalars():
        base = get_source(connection, BaseRecord, digest)
        parts.append(Node("base", base.name, base.licence, base.licence_class, base.digest))
    for digest in record.datasets:
        data = get_source(connection, DatasetRecord, digest)
        parts.append(Node("data", data.name, data.licence, data.licence_class, data.digest))
    # Without a licence of its own a model adds no condition to those of its parts.
    own = [classify(record.licence)] if record.licence else []
    found = tightest(own + [part.licence_class for part in parts])
    return Node("model", name, record.licence, found, "", record.method, tuple(parts))


def licence_of(root: Node) -> tuple[LicenceClass, tuple[str, ...]]:
    """The tightest class in a lineage, and what each part says, the tightest first."""
    parts = [n for n in root.walk() if n.kind != "model" or n.licence]
    parts.sort(key=lambda n: -LICENCE_ORDER.index(_own_class(n)))
    return root.licence_class, tuple(dict.fromkeys(_reason(n) for n in parts))


def _own_class(part: Node) -> LicenceClass:
    return classify(part.licence) if part.kind == "model" else part.licence_class


def _reason(part: Node) -> str:
    if not part.licence or part.licence == "unknown":
        return f"{part.kind} {part.name} states no licence"
    return f"{part.kind} {part.name} is under {part.licence} ({_own_class(part)})"


def _check(connection: Connection, name: str, parent: str | None) -> None:
    folders.model_name(name)
    ancestor = parent
    while ancestor is not None:
        if ancestor == name:
            raise ConfigError(f"'{name}' would descend from itself: choose another name")
        ancestor = _get(connection, ancestor).parent
    if users := _children(connection, name):
        raise InUse(f"'{name}' is the parent or base of {users}: choose another name")


def _children(connection: Connection, name: str) -> str:
    """The models that were made from one: as their parent, or as the base that it is for them."""
    as_base = sa.select(_BASES.c.digest).where(_BASES.c.spec == f"model:{name}").scalar_subquery()
    own = sa.select(_MODELS.c.name).where(
        _MODELS.c.name != name, (_MODELS.c.parent == name) | _MODELS.c.base.in_(as_base)
    )
    further = sa.select(_FURTHER.c.model).where(_FURTHER.c.base.in_(as_base))
    found = {*connection.execute(own).scalars(), *connection.execute(further).scalars()} - {name}
    return ", ".join(f"'{n}'" for n in sorted(found))


def _trained_on(connection: Connection, name: str) -> str:
    """The runs that are under way with a model as their parent."""
    query = sa.select(*_RUNS.c).where(_RUNS.c.parent == name, _RUNS.c.status == "running")
    runs = [as_it_is(RunRecord(**row)) for row in connection.execute(query).mappings()]
    return ", ".join(run.id for run in runs if run.status == "running")


def _change(connection: Connection, name: str, **values: Any) -> None:
    change = sa.update(_MODELS).where(_MODELS.c.name == name)
    connection.execute(change.values(schema.storable(values)))


def _get(connection: Connection, name: str) -> ModelRecord:
    row = connection.execute(sa.select(*_MODELS.c).where(_MODELS.c.name == name)).mappings().first()
    if row is None:
        known = connection.execute(sa.select(_MODELS.c.name)).scalars().all()
        raise ModelNotFound(f"no model '{name}' (rung models lists them){nearest(name, known)}")
    query = sa.select(_LINKS.c.dataset).where(_LINKS.c.model == name).order_by(_LINKS.c.place)
    return _record(row, connection.execute(query).scalars())


def _record(row: Mapping[Any, Any], datasets: Iterable[str]) -> ModelRecord:
    values = dict(row)
    if values["folder"]:
        values["folder"] = str(home.folder("models") / values["folder"])
    return ModelRecord(**values, datasets=tuple(datasets))


def _kept(folder: str | Path) -> str:
    """How a folder is stored: relative to the models' folder, so that home may move."""
    if not str(folder):
        return ""
    path, models = Path(folder).absolute(), home.folder("models").absolute()
    return str(path.relative_to(models) if path.is_relative_to(models) else path)
