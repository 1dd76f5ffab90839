"""The leaderboard: what every climb and evaluation found on a task, the best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rung.errors import DataError, nearest
from rung.evals import metrics
from rung.ladder.bar import BASE
from rung.store import Store
from rung.store.climbs import ClimbRecord, RungRecord


@dataclass(frozen=True)
class Entry:
    """One model's figure on one task. `part` says which rows it was measured on.

    Attributes:
        task: of one data set there is one, named by the first climb on it, else by the data.
    """

    task: str
    data: str
    model: str
    method: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    part: str
    total_seconds: float | None
    base: str
    climb: str | None
    when: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def entries(store: Store, task: str | None = None) -> list[Entry]:
    """All entries, task by task, the best first within each metric and part of the data.

    Args:
        task: name of the data, name of a climb, or the beginning of the data's digest.

    Raises:
        DataError: when nothing was measured on such a task, naming the nearest.
    """
    climbs = list(reversed(store.climbs.list()))  # the first one first
    own = {d.digest: d.name for d in store.datasets.list()}
    names = own | {c.data: c.name for c in reversed(climbs) if c.data}
    bases = {b.digest: b.name for b in store.bases.list()}
    found: dict[tuple, Entry] = {}
    for climb in climbs:
        for record in store.climbs.rungs(climb.id):
            for entry in _of_rung(climb, record, names, bases):
                found[entry.data, entry.model, entry.metric, entry.part] = entry
    for entry in _evaluated(store, names, bases):
        found.setdefault((entry.data, entry.model, entry.metric, entry.part), entry)
    meant = {c.data for c in climbs if c.name == task} | {d for d, name in own.items() if name == task}
    kept = [e for e in found.values() if task is None or _is(task, e) or e.data in meant]
    if task is not None and not kept:
        known = {e.task for e in found.values()}
        raise DataError(f"nothing was measured on '{task}'{nearest(task, known)}")
    return sorted(kept, key=_rank)


def _of_rung(
    climb: ClimbRecord, record: RungRecord, names: dict[str, str], bases: dict[str, str]
) -> list[Entry]:
    base = bases.get(climb.base or "", "")
    # A rung that needs no base stands for itself before its model is kept.
    model = record.model or (base if record.key == BASE else f"{climb.name}-{record.key}")
    made = []
    for part in ("test", "validation"):
        seen = record.metrics.get(part)
        if record.status != "succeeded" or not seen:
            continue
        made.append(
            Entry(
                names.get(climb.data or "", climb.name), climb.data or "", model,
                record.method or BASE,
                seen["metric"], seen["value"], seen["low"], seen["high"], seen["n"], part,
                record.cost.get("total_seconds"), base, climb.id, climb.started,
            )
        )  # fmt: skip
    return made


def _evaluated(store: Store, names: dict[str, str], bases: dict[str, str]) -> list[Entry]:
    """What was measured outside of climbs; losses of a training say nothing here."""
    models = {m.name: m for m in store.models.list()}
    made = []
    for e in store.evaluations.list():
        part = "test" if e.metric.startswith("test_") else "data"
        metric = e.metric.removeprefix("test_")
        if metric not in metrics.names() or e.dataset is None:
            continue
        model = models.get(e.model or "")
        base = bases.get(model.base if model else e.base or "", "")
        made.append(
            Entry(
                names.get(e.dataset, e.dataset[:12]), e.dataset, e.model or base,
                model.method if model else BASE, metric, e.value, e.low, e.high, e.n, part,
                None, base, None, e.created,
            )
        )  # fmt: skip
    return made


def _is(task: str, entry: Entry) -> bool:
    if len(task) >= 6 and entry.data.startswith(task):
        return True
    return task == entry.task


def _rank(entry: Entry) -> tuple:
    lower = metrics.get(entry.metric).lower
    part = ("test", "data", "validation").index(entry.part)
    value = entry.value if lower else -entry.value
    return (entry.task, entry.data, entry.metric, part, value, entry.total_seconds or 0.0)


def tasks(found: Sequence[Entry]) -> list[str]:
    """The tasks of entries, each once."""
    return list(dict.fromkeys(e.task for e in found))
