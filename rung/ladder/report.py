"""The scorecard as one page that needs no network: plots, errors, costs, lineage, commands."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rung.config import resolve
from rung.data.knobs import DataKnobs
from rung.errors import RungError, StoreError
from rung.evals import metrics
from rung.ladder import plots, scorecard
from rung.ladder.bar import BASE, Bar
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.lessons import Lesson, lessons
from rung.ladder.scorecard import Row, Scorecard
from rung.ladder.task_context import read_for, selecting, shared_settings
from rung.store import Store
from rung.store.climbs import ClimbRecord, RungRecord
from rung.types import Example, Task

MATRIX_LABELS = 30  # above, no page holds the matrix: the pairs most often confused are listed
MOST_CONFUSED = 40  # pairs that are listed


def write_report(
    store: Store, card: Scorecard, path: Path | None = None, examples: Sequence[Example] | None = None
) -> Path:
    """Write the page and return its path.

    Args:
        path: by default report.html here, or report-CLIMB.html where that is not this climb's.
        examples: the rows that rungs were selected by; read again from the source by default.

    Raises:
        StoreError: when the file cannot be written.
    """
    page = render(store, card, examples)
    path = path or _free_path(card.climb)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as fault:
        raise StoreError(
            f"cannot write {path} ({fault.strerror}): say --report FILE; the climb itself is kept"
        ) from None
    return path


def _free_path(climb: ClimbRecord) -> Path:
    """Where the page of a climb goes that was given no place: over nobody else's page."""
    usual = Path("report.html")
    if not usual.exists() or _written_for(usual) == climb.id:
        return usual
    return Path(f"report-{climb.name}.html")


def _written_for(path: Path) -> str | None:
    """The climb whose page a file is; None where it is no such page."""
    with contextlib.suppress(OSError):
        head = path.read_bytes()[:1000].decode(errors="replace")
        if found := re.search(r'<meta name="climb" content="([^"]*)">', head):
            return found[1]
    return None


def render(store: Store, card: Scorecard, examples: Sequence[Example] | None = None) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    records = store.climbs.rungs(card.climb.id)
    kept = [r for r in card.rows if not r.untried]
    environment = Environment(
        loader=PackageLoader("rung.ladder"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    for name in ("duration", "size", "interval"):
        environment.filters[name] = getattr(scorecard, name)
    environment.filters["note"] = _note
    drawn = {name: Markup(svg) for name, svg in _drawings(card, records).items()}
    return environment.get_template("report.html").render(
        card=card,
        rows=kept,
        base=BASE,
        plots=drawn,
        confusion=_confusion(card),
        lessons=_lessons(card, records, examples),
        lineage=_lineage(store, card),
        requests=card.knobs.get("requests", 0),
        price=card.knobs.get("price"),
        capped=_capped(card),
        joules=any(r.cost.get("joules") for r in card.rows),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _note(row: Row, winner: str | None, second: str | None, base: str) -> str:
    """What the table says of a rung beside its figures."""
    place = {winner: "winner", second: "runner-up", base: "the base as it is"}.get(row.key, "")
    return "; ".join(part for part in (place, scorecard.made(row)) if part)


def _capped(card: Scorecard) -> int | None:
    """To how many validation rows the climb was held, where there may have been more."""
    most = card.knobs.get("validation_rows")
    return most if any(r.validation and r.validation["n"] == most for r in card.rows) else None


def _drawings(card: Scorecard, records: Sequence[RungRecord]) -> dict[str, str]:
    lower = metrics.get(card.metric).lower
    points = [
        {"key": r.key, "cost": r.cost["total_seconds"], "winner": r.key == card.winner,
         **{k: r.validation[k] for k in ("value", "low", "high")}}
        for r in card.rows
        if r.validation and r.cost
    ]  # fmt: skip
    drawn = {}
    if points:
        bar = Bar.parse(card.climb.bar).value if card.climb.bar else None
        front = scorecard.pareto(card.rows, lower)
        floor = next((r.validation["value"] for r in card.rows if r.baseline and r.validation), None)
        drawn["pareto"] = plots.pareto(points, card.metric, bar, front, floor)
    lines = {r.key: r.metrics["curve"] for r in records if len(r.metrics.get("curve") or ()) > 1}
    if lines:
        drawn["curves"] = plots.curves(lines)
    known = card.climb.verdict.get("curve") or []
    if len(known) > 1:
        drawn["data"] = plots.data_curve(known, card.metric)
    return drawn


def _confusion(card: Scorecard) -> dict[str, Any] | None:
    """The winner's confusion matrix on the test rows."""
    row = card.row(card.winner) if card.winner else None
    seen = (row.test or row.validation) if row else None
    if not seen or not seen.get("confusion"):
        return None
    labels, cells = seen["labels"], seen["confusion"]
    columns = [*labels, "none of them"]
    used = [i for i in range(len(columns)) if i < len(labels) or any(c[i] for c in cells)]
    most = max((v for c in cells for v in c), default=0) or 1
    part = "test" if row and row.test else "validation"
    if len(labels) > MATRIX_LABELS:
        return {"pairs": _confused(labels, columns, cells), "part": part, "count": len(labels)}
    return {
        "labels": labels,
        "columns": [columns[i] for i in used],
        "cells": [[(c[i], c[i] / most) for i in used] for c in cells],
        "part": part,
    }


def _confused(
    labels: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[int]]
) -> list[tuple[str, str, int, int]]:
    """(right, answered, times, of how many) of the labels most often taken for others."""
    found = [
        (labels[i], columns[k], count, sum(line))
        for i, line in enumerate(cells)
        for k, count in enumerate(line)
        if count and i != k
    ]
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))[:MOST_CONFUSED]


def _lessons(
    card: Scorecard, records: Sequence[RungRecord], examples: Sequence[Example] | None
) -> list[Lesson]:
    lower = metrics.get(card.metric).lower
    try:
        shown = validation_rows(card) if examples is None else examples
    except RungError:  # the source is gone: the rest of the page stands without it
        return []
    return lessons(shown, records, card.winner, lower)


def validation_rows(card: Scorecard) -> Sequence[Example]:
    """The rows that rungs were selected by, read again from their source."""
    settings = card.climb.settings
    (data,) = resolve([DataKnobs], shared_settings(settings["given"], [DataKnobs]))
    (knobs,) = resolve([ClimbKnobs], settings["knobs"])
    dataset, splits = read_for(data, knobs, lambda _: None)
    if dataset.digest != card.climb.data:
        return []
    task = {**card.climb.task, "labels": tuple(card.climb.task["labels"])}
    return selecting(Task(**task), splits, knobs)


def _lineage(store: Store, card: Scorecard) -> list[dict[str, Any]]:
    model = card.climb.verdict.get("model")
    if not model or model not in {m.name for m in store.models.list()}:
        return []
    return [
        {"kind": n.kind, "name": n.name, "method": n.method, "licence": n.licence or "",
         "group": n.licence_class, "digest": n.digest[:12]}
        for n in store.lineage(model).walk()
    ]  # fmt: skip
