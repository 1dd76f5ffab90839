"""What models were trained on: the data to measure them on by default, and rows that they know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rung import methods, objectives
from rung.bases.source import MODEL
from rung.config import knobs_of, resolve
from rung.data import DataKnobs, Dataset, load, split
from rung.errors import DataError, ModelNotFound, RungError
from rung.store import Store
from rung.store.records import RunNotFound, RunRecord
from rung.types import Example

HELD = ("validation", "test")  # parts that share no row with the training part of the same split
TRAINED = f"{MODEL}:"  # begins the spec of a base that is a trained model


def own_run(names: Sequence[str]) -> RunRecord | None:
    """The run whose data models are measured on where nobody names any: of the first that was trained
    here; None where all are bases."""
    with Store.open() as store:
        return next((run for name in names for run in _lineage(store, name)), None)


def settings_of(run: RunRecord | None) -> dict[str, Any]:
    """The settings of the data, and of its split, that a run had."""
    fields = {k.name for k in knobs_of(DataKnobs)}
    config = {} if run is None else run.config
    return {key: value for key, value in config.items() if key in fields}


def require_same(run: RunRecord, dataset: Dataset) -> None:
    """Check that data which was found by a run's settings is what the run had.

    Raises:
        DataError: where it has changed since, or another file has its name here.
    """
    if dataset.digest != run.data and _as_trained_on(run) is None:
        raise DataError(
            f"{dataset.source} is not what {run.model} was trained on: it has changed, or is another "
            "file of that name; name the data with --data"
        )


def known_rows(
    names: Sequence[str], items: Sequence[Example], data: DataKnobs, part: str
) -> Iterator[tuple[str, int]]:
    """Of each model that has some of the items among its training rows, or that goes on from such a
    model: (its name, how many).

    Args:
        data, part: where the items are from.
    """
    with Store.open() as store:
        runs = {name: list(_lineage(store, name)) for name in dict.fromkeys(names)}
    for name, lineage in runs.items():
        learnt: set[str] = set()
        for run in lineage:
            learnt.update(e.content_key for e in _training_rows(run, data, part))
        count = sum(e.content_key in learnt for e in items)
        if count:
            yield name, count


def _training_rows(run: RunRecord, data: DataKnobs, part: str) -> Sequence[Example]:
    """The training rows of a run; none where they cannot be among a part of the data, or are not known
    any more."""
    try:
        own = _knobs(run)
        dataset = None if own == data and part in HELD else _as_trained_on(run)
        return () if dataset is None else split(dataset, own).train
    except RungError:
        return ()


def _knobs(run: RunRecord) -> DataKnobs:
    return resolve([DataKnobs], settings_of(run))[0]


def _as_trained_on(run: RunRecord) -> Dataset | None:
    """The data of a run, read as the run read it; None where it is not the same any more."""
    try:
        wants = methods.get(run.method).wants
        if wants is None:
            wants = objectives.get(run.objective or str(run.config.get("objective"))).wants
        dataset = load(_knobs(run), wants)
    except (RungError, OSError):
        return None
    return dataset if dataset.digest == run.data else None


def _lineage(store: Store, name: str | None) -> Iterator[RunRecord]:
    """The run of a model that was trained on data, then those of the models that it stands on: parents
    that it goes on from, and bases that are models themselves."""
    wanted, seen = [name], set()
    while wanted:
        name = (wanted.pop(0) or "").removeprefix(TRAINED)
        if not name or name in seen:
            continue
        seen.add(name)
        try:
            model = store.models.get(name)
            run = store.runs.get(model.run) if model.run else None
        except (ModelNotFound, RunNotFound):
            continue
        wanted.append(model.parent)
        if run is None:
            continue
        if run.config.get("data"):
            yield run
        base = str(run.config.get("base") or "")
        if base.startswith(TRAINED):
            wanted.append(base)
