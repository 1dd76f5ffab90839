"""What models were trained on: the data to measure them on by default, and rows that they know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rung.config import knobs_of, resolve
from rung.data import DataKnobs, Dataset, load, split
from rung.errors import ModelNotFound, RungError
from rung.evals import tasks
from rung.store import Store
from rung.store.records import RunNotFound, RunRecord
from rung.types import Example

HELD = ("validation", "test")  # parts that share no row with the training part of the same split


def settings_of(names: Sequence[str]) -> dict[str, Any]:
    """The settings of the data, and of its split, that the first of some models was trained with.

    Args:
        names: of models, or of bases, which were not trained here; nothing where all are.
    """
    with Store.open() as store:
        return next((_settings(run) for name in names for run in _lineage(store, name)), {})


def known_rows(
    names: Sequence[str], items: Sequence[Example], dataset: Dataset, data: DataKnobs, part: str
) -> Iterator[tuple[str, int]]:
    """Of each model that was trained on some of the items, itself or as one that it went on from: (its
    name, how many).

    Args:
        dataset, data, part: where the items are from.
    """
    with Store.open() as store:
        runs = {name: list(_lineage(store, name)) for name in dict.fromkeys(names)}
    for name, lineage in runs.items():
        learnt: set[str] = set()
        for run in lineage:
            learnt.update(e.content_key for e in _trained_on(run, dataset, data, part))
        count = sum(e.content_key in learnt for e in items)
        if count:
            yield name, count


def _trained_on(run: RunRecord, dataset: Dataset, data: DataKnobs, part: str) -> Sequence[Example]:
    """The training rows of a run on the same data; none where the data has changed since."""
    try:
        (own,) = resolve([DataKnobs], _settings(run))
        if own == data and part in HELD:
            return ()
        if run.data != dataset.digest:
            if own.data != data.data:
                return ()
            dataset = load(own, tasks.wanted(own, None))
        return split(dataset, own).train
    except RungError:
        return ()


def _settings(run: RunRecord) -> dict[str, Any]:
    fields = {k.name for k in knobs_of(DataKnobs)}
    return {key: value for key, value in run.config.items() if key in fields}


def _lineage(store: Store, name: str | None) -> Iterator[RunRecord]:
    """The run of a model that was trained on data, then those of the models that it went on from."""
    while name is not None:
        try:
            model = store.models.get(name)
            run = store.runs.get(model.run) if model.run else None
        except (ModelNotFound, RunNotFound):
            return
        if run is not None and run.config.get("data"):
            yield run
        name = model.parent
