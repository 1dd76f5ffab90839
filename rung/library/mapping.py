"""Mapping two tables: read, climb, and keep the mapper as a model that can be served."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung import bases
from rung.artefacts import folders
from rung.artefacts.cards import Card, write_card
from rung.artefacts.licences import classify, tightest
from rung.config import as_dict
from rung.errors import ConfigError, DataError
from rung.ladder.bar import Bar
from rung.library.knobs import LoadKnobs
from rung.mapping import mapper as mappers
from rung.mapping.climb import Outcome, climb
from rung.mapping.knobs import MapKnobs
from rung.mapping.measure import METRICS, check_metric
from rung.mapping.problem import Problem, read
from rung.mapping.table import Row, rows_of
from rung.methods import artefact
from rung.store import Store
from rung.store.records import DatasetRecord
from rung.train.estimate import device as device_of
from rung.types import BaseInfo, LicenceClass
from rung.version import __version__

if TYPE_CHECKING:
    from rung.store.records import ModelRecord

NOT_COPIED = {"README.md", folders.MANIFEST, artefact.ABOUT}  # of a reranker's folder
Note = Callable[[str], None]


@dataclass(frozen=True)
class Keeping:
    """Under which name the mapper is kept, on which base, and whether it may replace a model."""

    name: str
    base: str
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """What a mapping found.

    Attributes:
        rows: the table, in the order of the left one. model: the mapper, where it was kept.
    """

    outcome: Outcome
    rows: list[Row]
    model: ModelRecord | None = None


def map_records(
    left: str,
    right: str,
    knobs: MapKnobs,
    loading: LoadKnobs,
    keeping: Keeping | None = None,
    note: Note = lambda text: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Mapped:
    """Map two tables, and keep the mapper where that is asked for.

    Raises:
        ConfigError, DataError: for settings, tables and pairs that cannot be used.
        ModelNotFound: for a reranker that is neither a model nor a base.
        Interrupted: when `stopping` says so.
    """
    bar = _bar(knobs.bar)
    started = time.monotonic()
    with Store.open() as store:
        if keeping is not None:
            _check_name(store, keeping)
        problem = read(left, right, knobs)
        problem.note, problem.stopping = note, stopping
        reranker = _reranker(problem, loading) if knobs.reranker else None
        outcome = climb(problem, bar)
        rows = rows_of(outcome)
        if keeping is None:
            return Mapped(outcome=outcome, rows=rows)
        asks = outcome.winner.rung.asks
        base = reranker if reranker is not None and asks else bases.resolve(keeping.base)
        parent = _parent(store, knobs.reranker) if asks else None
        seconds = time.monotonic() - started
        model = _keep(store, keeping.name, outcome, base, parent, seconds)
    return Mapped(outcome=outcome, rows=rows, model=model)


def _bar(said: str | None) -> Bar | None:
    """Raises ConfigError for what no mapping could be held against."""
    if said is None:
        return None
    bar = Bar.parse(said)
    check_metric(bar.metric)
    if bar.lower:
        raise ConfigError(
            f"--bar {said}: of {bar.metric}, more is better; write {bar.metric}={bar.value:g}"
        )
    if not 0 <= bar.value <= 1:
        raise ConfigError(f"--bar {said} cannot be measured: {bar.metric} is at least 0 and at most 1")
    return bar


def _check_name(store: Store, keeping: Keeping) -> None:
    folders.model_name(keeping.name)
    if not keeping.replace and any(m.name == keeping.name for m in store.models.list()):
        raise ConfigError(f"the model '{keeping.name}' exists: choose another name, or --replace it")
    store.models.check(keeping.name)


def _reranker(problem: Problem, loading: LoadKnobs) -> BaseInfo:
    """Load the model that chooses among candidates, and return its base."""
    from rung.mapping.chooser import chooser_of
    from rung.models import load

    name = problem.knobs.reranker
    assert name is not None
    settings = as_dict(loading) | {"device": device_of(loading.device)}
    loaded = load([name], **settings)
    problem.chooser = chooser_of(loaded.engine.bank, loaded.engine.model(name))
    return loaded.base


def _parent(store: Store, name: str | None) -> ModelRecord | None:
    """The model that reranks; None for a base."""
    return next((m for m in store.models.list() if m.name == name), None)


def _keep(
    store: Store,
    name: str,
    outcome: Outcome,
    base: BaseInfo,
    parent: ModelRecord | None,
    seconds: float,
) -> ModelRecord:
    """Write the mapper with its card, and record it with its lineage and what was measured."""
    problem = outcome.problem
    datasets = _datasets(problem)
    metrics = _metrics(outcome)
    cost = {"seconds": seconds}
    folder = folders.model_folder(name)
    about = {
        "rung": __version__, "method": mappers.METHOD, "config": as_dict(problem.knobs),
        "base": {"name": base.name, "spec": base.spec, "digest": base.digest}, "metrics": metrics,
        "cost": cost,
    }  # fmt: skip
    licence, reasons = _licence(store, base, parent)

    def fill(temporary: Path) -> None:
        told = about
        if (
            parent is not None
        ):  # its seams are the reranker's, so the folder is one adapter with a mapper
            for path in Path(parent.folder).iterdir():
                if path.name not in NOT_COPIED and path.is_file():
                    shutil.copyfile(path, temporary / path.name)
            told = about | {k: artefact.about(Path(parent.folder))[k] for k in ("method", "config")}
        mapper_of(outcome).write(temporary)
        text = json.dumps(told, indent=2, sort_keys=True) + "\n"
        (temporary / artefact.ABOUT).write_text(text, encoding="utf-8")
        card = Card(
            name=name, base=base.spec, base_name=base.name, hub_base=base.extra.get("hub_id", ""),
            pipeline_tag="sentence-similarity", method=mappers.METHOD, relation="adapter", peft=False,
            parent=parent.name if parent else None, datasets=datasets, licence=base.licence,
            licence_class=licence, licence_reasons=reasons, metrics=metrics, cost=cost,
            settings={"rung": outcome.winner.name, "threshold": outcome.winner.threshold},
        )  # fmt: skip
        write_card(temporary, card)

    store.models.check(name, parent.name if parent else None)
    folders.write(folder, fill)
    model = store.models.put(
        name, method=mappers.METHOD, base=base, datasets=datasets, folder=folder, metrics=metrics,
        parent=parent.name if parent else None, cost=cost,
    )  # fmt: skip
    if outcome.winner.test is not None:
        for metric in METRICS:
            low, high = outcome.winner.test.interval(metric)
            store.evaluations.add(
                metric=f"test_{metric}", value=outcome.winner.test.value(metric), low=low, high=high,
                model=name, dataset=datasets[-1], n=outcome.winner.test.n,
            )  # fmt: skip
    return model


def mapper_of(outcome: Outcome) -> mappers.RecordMapper:
    """The mapper that answers as a climb's winner does."""
    winner, problem = outcome.winner, outcome.problem
    assert winner.scorer is not None
    return mappers.RecordMapper(
        rung=winner.name, scorer=winner.scorer, calibration=winner.calibration,
        threshold=winner.threshold, sure=problem.knobs.sure, count=problem.knobs.candidates,
        encoder=problem.knobs.encoder, known={k: sorted(v) for k, v in problem.known.items()},
    )  # fmt: skip


def _datasets(problem: Problem) -> list[DatasetRecord]:
    """Both tables, and the pairs where there are any, for the lineage."""
    import hashlib

    found = [
        DatasetRecord(t.digest, Path(t.source).name, t.source, rows=len(t.records), format="records")
        for t in problem.tables
    ]
    if problem.known:
        text = json.dumps(sorted([k, *sorted(v)] for k, v in problem.known.items()))
        digest = hashlib.sha256(text.encode()).hexdigest()
        source = ", ".join(problem.knobs.pairs)
        name = ", ".join(Path(p).name for p in problem.knobs.pairs)
        found.append(DatasetRecord(digest, name, source, rows=len(problem.known), format="pairs"))
    # Two tables with the same records are one data set.
    return list({record.digest: record for record in found}.values())


def _metrics(outcome: Outcome) -> dict[str, Any]:
    """Of the winner on validation and test, with intervals."""
    found: dict[str, Any] = {}
    for part in ("validation", "test"):
        figures = getattr(outcome.winner, part)
        if figures is not None:
            found |= {f"{part}_{name}": value for name, value in figures.as_dict().items()}
    return found


def _licence(
    store: Store, base: BaseInfo, parent: ModelRecord | None
) -> tuple[LicenceClass, list[str]]:
    parts: list[tuple[str, LicenceClass]] = [
        (f"base {base.name}: {base.licence}", base.licence_class),
        ("data: unknown", classify("unknown")),
    ]
    if parent is not None:
        parts.append((f"parent {parent.name}: its own", store.licence(parent.name)[0]))
    return tightest(p[1] for p in parts), [f"{text} ({group})" for text, group in parts]


def training_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Rows that a reranker can be tuned on: the questions of the training part with their answers.

    Raises:
        DataError: when no pairs are known, or none's right record is among the candidates.
    """
    from rung.mapping.rungs import rerank

    problem = outcome.problem
    if problem.parts is None:
        raise DataError("--rows writes questions about known pairs: give some with --pairs")
    scorers = {
        one.name: one.scorer for one in outcome.tried if one.scorer is not None and not one.scorer.asks
    }
    _, inner = rerank.best_of(problem, scorers)
    found = rerank.questions(problem, inner, problem.parts.train)
    if not found:
        raise DataError(
            "no right record is among the candidates of a training record: raise --reranked"
        )
    return [
        {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
        for a, b in found
    ]
