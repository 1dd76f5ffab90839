"""What each rung will take, from arithmetic and the machine's speed, before anything is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rung.ladder.arms import Arms
from rung.ladder.forecast import Prediction
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


@dataclass(frozen=True)
class Outline:
    """Every rung by what it will cost in all, and what is to be said of the machine."""

    rows: list[Planned]
    machine: str | None


def plan(
    given: Mapping[str, Any], knobs: ClimbKnobs, stage: Callable[[str], None] = lambda _: None
) -> Outline:
    """Every rung by what it will cost in all; those that cannot be tried come last.

    Raises:
        RungError: for data, settings or a base on which nothing can be planned.
    """
    bench = dataclasses.replace(TaskContext.open(given, knobs, stage), tries=False)
    rungs = {r.key: r for r in all_rungs(bench.task, knobs.only, knobs.skip, bench.reads)}
    stage("counting what each rung computes")
    arms = Arms(bench, rungs)
    rows = [
        Planned(
            key, rung.method.name, None if key in arms.misfits else arms.prediction(key),
            arms.misfits.get(key),
        )
        for key, rung in rungs.items()
    ]  # fmt: skip
    ranked = sorted(rows, key=lambda r: _total(r, knobs.requests))
    return Outline(ranked, bench.forecaster.machine.told)


def _total(row: Planned, requests: int) -> tuple:
    found = row.prediction
    return (found is None, found.cost.total(requests) if found else 0.0, row.key)
