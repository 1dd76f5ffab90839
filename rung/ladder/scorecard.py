"""The rungs of one climb side by side, as plain data for a terminal, a page or JSON."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rung import methods
from rung.data.problem import counted
from rung.evals import metrics
from rung.ladder.bar import BASE
from rung.store import Store
from rung.store.climbs import ClimbRecord, RungRecord
from rung.train.knobs import SETTLED

CLEARED_BEFORE = "the bar was cleared before"


@dataclass(frozen=True)
class Row:
    """One rung. Figures that are not there yet are None; others have value, low and high.

    `cut_from` is the number of steps that a training should have had, where time ended it; `share` the
    part of its rows or steps that a rung was tried on; `only` the one answer that it gives to all rows;
    `baseline` says that it needs no base, `below` says that the baseline does better.
    """

    key: str
    method: str
    status: str
    reason: str | None
    model: str | None
    validation: dict[str, Any] | None
    test: dict[str, Any] | None
    cost: dict[str, Any]
    predicted: dict[str, Any]
    seeds: list[float]
    settings: dict[str, Any]
    choice: str | None
    steps: int | None
    cut_from: int | None
    command: str
    rows: int | None = None
    rows_of: int | None = None
    share: float = 1.0
    only: str | None = None
    below: bool = False
    baseline: bool = False

    @property
    def shown(self) -> dict[str, Any]:
        """What the table shows as cost: measured, or predicted until then."""
        return self.cost or self.predicted

    @property
    def untried(self) -> bool:
        """Whether nothing is known of it, since the climb ended below."""
        return self.reason == CLEARED_BEFORE


@dataclass(frozen=True)
class Scorecard:
    """A climb with its rows, in the order of their cost; the base as it is comes first."""

    climb: ClimbRecord
    rows: tuple[Row, ...]
    data: dict[str, Any]
    base: dict[str, Any]
    licence: dict[str, Any]

    @classmethod
    def of(cls, store: Store, climb: ClimbRecord) -> Scorecard:
        """Read a climb from the store."""
        rows = tuple(rows_of(store.climbs.rungs(climb.id, items=False), climb))
        data = store.datasets.get(climb.data or "").as_dict()
        base = store.bases.get(climb.base or "").as_dict()
        model = climb.verdict.get("model")
        licence: dict[str, Any] = {}
        if model and model in {m.name for m in store.models.list()}:
            group, reasons = store.licence(model)
            licence = {"class": group, "reasons": list(reasons)}
        return cls(climb, rows, data, base, licence)

    @property
    def metric(self) -> str:
        return self.climb.task["metric"]

    @property
    def knobs(self) -> dict[str, Any]:
        return self.climb.settings.get("knobs", {})

    @property
    def winner(self) -> str | None:
        return self.climb.verdict.get("winner")

    def row(self, key: str) -> Row | None:
        """The row of that key."""
        return next((r for r in self.rows if r.key == key), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        climb = self.climb
        return {
            "climb": climb.id, "name": climb.name, "status": climb.status, "task": climb.task,
            "bar": climb.bar, "verdict": climb.verdict, "data": self.data, "base": self.base,
            "licence": self.licence, "requests": self.knobs.get("requests"),
            "seconds": climb.settings.get("spent"), "working": climb.settings.get("working"),
            "rungs": [asdict(r) for r in self.rows],
        }  # fmt: skip


def rows_of(records: Sequence[RungRecord], climb: ClimbRecord) -> list[Row]:
    """Stored rungs as rows, those marked that the baseline surpasses."""
    rows = [row_of(r, climb) for r in records]
    known = methods.names()
    rows = [replace(r, baseline=r.method in known and methods.get(r.method).baseline) for r in rows]
    floor = next((r.validation for r in rows if r.validation and r.baseline), None)
    if floor is None:
        return rows
    sign = -1 if metrics.get(climb.task["metric"]).lower else 1
    least = sign * floor["value"]
    return [
        replace(r, below=r.validation is not None and sign * r.validation["value"] < least)
        for r in rows
    ]


def row_of(record: RungRecord, climb: ClimbRecord) -> Row:
    """A stored rung as a row."""
    found = record.metrics
    reason = record.reason
    if record.status == "queued" and climb.status == "succeeded":
        reason = CLEARED_BEFORE if climb.bar else "not reached"
    return Row(
        record.key, record.method, record.status, reason, record.model,
        found.get("validation"), found.get("test"), record.cost, record.predicted,
        [s["value"] for s in found.get("seeds", [])], record.settings, found.get("choice"),
        found.get("steps"), found.get("cut_from"),
        command(record, climb.settings.get("given", {})), found.get("rows"), found.get("rows_of"),
        found.get("share", 1.0), found.get("only"),
    )  # fmt: skip


def command(record: RungRecord, given: Mapping[str, Any]) -> str:
    """The command that makes the row's model again."""
    if record.key == BASE:
        return f"rung chat {shlex.quote(str(given.get('base', 'smollm2-135m')))}"
    name = record.model or f"{record.key}-again"
    settings = {**{k: v for k, v in given.items() if k not in SETTLED}, **record.settings}
    settings = {k: v for k, v in settings.items() if k not in (*SETTLED, "method", "data")}
    words = ["rung", "tune", name, "--method", record.method, "--data", str(given.get("data", ""))]
    for key, value in sorted(settings.items()):
        words += flags(key, value)
    return " ".join(shlex.quote(w) for w in [*words, "--replace"])


def flags(key: str, value: Any) -> list[str]:
    """A knob as words of a command, each with its flag, so that no value can be taken for another."""
    flag = "--" + key.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [f"{flag}={one}" for one in (value if isinstance(value, (list, tuple)) else [value])]


# --- words for tables -------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits them."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size(count: float | None) -> str:
    """Bytes in the unit that suits them."""
    if not count:
        return ""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def interval(figure: Mapping[str, Any] | None) -> str:
    """`0.812 [0.77, 0.85]`."""
    if not figure:
        return ""
    if figure.get("low") is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.2f}, {figure['high']:.2f}]"


WORDS = {"queued": "waiting", "running": "running", "cancelled": "skipped", "failed": "failed",
         "interrupted": "interrupted", "succeeded": ""}  # fmt: skip


def head(metric: str, requests: int) -> tuple[str, ...]:
    """The table's titles."""
    return ("rung", metric, "making it", "a request", f"{requests:,} requests", "total", "memory",
            "tokens", "note")  # fmt: skip


SPARE = (7, 6, 4)  # of them, what narrow terminals do without: tokens, memory, all requests


def cells(row: Row, winner: str | None = None, why: bool = True) -> tuple[str, ...]:
    """A row as text. What is only predicted has a tilde.

    Args:
        why: whether the note has the reason of a rung that was not measured; else see `reasons`.
    """
    cost, about = row.shown, "" if row.cost else "~"

    def told(text: str) -> str:
        return about + text if text else ""

    tokens = cost.get("request_tokens")
    return (
        row.key,
        interval(row.validation),
        told(duration(cost.get("seconds"))) if cost else "",
        told(duration(cost.get("request_seconds"))) if cost else "",
        told(duration(cost.get("serving_seconds"))) if cost else "",
        told(duration(cost.get("total_seconds"))) if cost else "",
        told(size(cost.get("bytes"))) if cost else "",
        f"{tokens:.0f}" if tokens else "",
        _note(row, winner, why),
    )


def _note(row: Row, winner: str | None, why: bool) -> str:
    if row.key == winner:
        return ", ".join(part for part in ("winner", _cut(row), _unfit(row)) if part)
    if row.reason and why:
        return _said(row)
    return _status(row) or made(row)


def _status(row: Row) -> str:
    return "not tried" if row.status == "queued" and row.reason else WORDS.get(row.status, row.status)


def _said(row: Row) -> str:
    return ": ".join(word for word in (_status(row), row.reason) if word)


def made(row: Row) -> str:
    """How a measured rung was made: seeds, a training that time ended, or what it chose."""
    found = _cut(row) or (f"with {row.choice}" if row.choice else "")
    if row.seeds:
        found = f"{len(row.seeds)} seeds: {min(row.seeds):.3f} to {max(row.seeds):.3f}"
    worth = "one answer to all" if row.only is not None else "below baseline" if row.below else ""
    return "; ".join(part for part in (found, worth, _unfit(row)) if part)


def _unfit(row: Row) -> str:
    """How many validation rows its context did not hold."""
    long = (row.validation or {}).get("unanswered")
    return f"{counted(long, 'row')} too long, counted as wrong" if long else ""


def _cut(row: Row) -> str:
    """What a rung was tried on, where it was not all."""
    if row.cut_from:
        return f"{row.steps}/{row.cut_from} steps"
    if row.share < 1 and row.rows and row.rows_of:
        return f"on {row.rows:,} of {row.rows_of:,} rows"
    return ""


def reasons(rows: Sequence[Row]) -> list[str]:
    """A line for every reason for which rungs were not measured, or not wholly."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.reason and not row.untried:
            found.setdefault(_said(row), []).append(row.key)
    return [f"{', '.join(keys)} {said}" for said, keys in found.items()]


def pareto(rows: Sequence[Row], lower: bool) -> list[str]:
    """Keys of the rungs that no other beats in both quality and cost."""
    measured = [r for r in rows if r.validation and r.cost]
    sign = -1 if lower else 1
    kept = []
    for row in measured:
        mine = (sign * row.validation["value"], -row.cost["total_seconds"])  # type: ignore[index]
        beaten = any(
            (sign * o.validation["value"], -o.cost["total_seconds"]) != mine  # type: ignore[index]
            and sign * o.validation["value"] >= mine[0]  # type: ignore[index]
            and -o.cost["total_seconds"] >= mine[1]
            for o in measured
        )
        if not beaten:
            kept.append(row.key)
    return kept
