"""What each rung will take, found by a trial of two steps, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rung.errors import RungError
from rung.ladder.forecast import Prediction, predict_rung
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.rungs import all_rungs
from rung.ladder.task_context import TaskContext


@dataclass(frozen=True)
class Planned:
    """One rung: what it will take, or why it cannot be tried."""

    key: str
    method: str
    prediction: Prediction | None
    reason: str | None = None

    def as_dict(self, knobs: ClimbKnobs) -> dict[str, Any]:
        """Plain data for JSON."""
        plain: dict[str, Any] = {"key": self.key, "method": self.method, "reason": self.reason}
        if self.prediction is None:
            return plain
        found = self.prediction
        counts = {"steps": found.steps, "tokens": found.tokens, "parameters": found.parameters}
        return {**plain, **counts, **found.cost.as_dict(knobs.requests, knobs.price)}


def plan(
    given: Mapping[str, Any], knobs: ClimbKnobs, stage: Callable[[str], None] = lambda _: None
) -> list[Planned]:
    """Every rung by what it will cost in all; those that cannot be tried come last.

    Raises:
        RungError: for data, settings or a base on which nothing can be planned.
    """
    bench = TaskContext.open(given, knobs, stage)
    rows = []
    for rung in all_rungs(bench.task, knobs.only, knobs.skip):
        stage(f"{rung.key}: a trial of two steps")
        try:
            found = predict_rung(bench, rung)
        except RungError as fault:
            rows.append(Planned(rung.key, rung.method.name, None, str(fault)))
            continue
        finally:
            bench.close_others()
        rows.append(Planned(rung.key, rung.method.name, found))
    return sorted(rows, key=lambda r: _total(r, knobs.requests))


def _total(row: Planned, requests: int) -> tuple:
    found = row.prediction
    return (found is None, found.cost.total(requests) if found else 0.0, row.key)
