"""Choosing among what was measured: who wins so far, and what may be said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.evals.measure import Measured
from rung.ladder import advice as advise
from rung.ladder import choice, verdict
from rung.ladder.arms import Outlook, Scale
from rung.ladder.bar import BASE
from rung.ladder.choice import Choice, Standing
from rung.ladder.examination import compared
from rung.ladder.rungs import Rung
from rung.ladder.task_context import TaskContext
from rung.ladder.verdict import Evidence
from rung.store.climbs import RungRecord


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Choose the winner of a climb, and write its verdict.

    Attributes:
        records: the climb's rows by key, which grow as it goes on.
        used: seconds of the budget that are gone. outlook: what rungs may still come to.
    """

    bench: TaskContext
    rungs: Mapping[str, Rung]
    records: Mapping[str, RungRecord]
    scale: Scale
    used: Callable[[], float]
    outlook: Callable[[], Sequence[Outlook]]

    @property
    def baseline(self) -> str | None:
        """The key of the rung that needs no base, if there is one."""
        return next((k for k, r in self.rungs.items() if r.method.baseline), None)

    def standings(self) -> list[Standing]:
        """The rungs with a figure; the base as it is does not stand for election."""
        return choice.standings([r for r in self.records.values() if r.key in self.rungs])

    @property
    def cleared(self) -> float | None:
        """What the cheapest rung that clears the bar costs in all."""
        return self.clearing()[0]

    def clearing(self) -> tuple[float | None, frozenset[str]]:
        """What the cheapest rung that clears the bar costs in all, and the rungs whose figure does on
        too few validation rows to count; see `Standing.clears`."""
        bar = self.bench.bar
        if bar is None:
            return None, frozenset()
        found = [s for s in self.standings() if s.only is None and bar.cleared(s.measured.value)]
        sure = [s for s in found if s.clears(bar)]
        doubted = frozenset(s.key for s in found) - {s.key for s in sure}
        return min((s.total for s in sure), default=None), doubted

    def choose(self) -> Choice:
        """Winner and runner-up, by validation alone."""
        return choice.choose(self.standings(), self.bench.bar, self.baseline, self.scale.tie)

    def so_far(self, stopped: bool = False) -> dict[str, Any]:
        """The verdict by what was seen until now; empty where nothing was."""
        chosen = self.choose()
        if chosen.winner is None:
            return {}
        seen = self._evidence(chosen, {}, stopped)
        return {
            "so_far": True, "says": verdict.says(seen), "winner": chosen.winner.key,
            "model": chosen.winner.record.model, "next": advise.advice(seen),
            "curve": advise.curve(chosen.winner),
        }  # fmt: skip

    def final(self, chosen: Choice, test: Mapping[str, Measured]) -> dict[str, Any]:
        """The verdict of a climb that has ended, with figures on the test rows."""
        winner, second, bar = chosen.winner, chosen.second, self.bench.bar
        seen = self._evidence(chosen, test, False)
        if winner is None:
            return {"says": verdict.says(seen), "winner": None, "next": advise.advice(seen)}
        own = test.get(winner.key)
        against = compared(test, winner.key)
        return {
            "says": verdict.says(seen),
            "winner": winner.key,
            "model": winner.record.model,
            "runner_up": second.key if second else None,
            "cleared": None if bar is None or own is None else bar.cleared(own.value),
            "cleared_on_validation": None if bar is None else winner.clears(bar),
            "test": {key: m.as_dict() for key, m in test.items()},
            "against": {key: c.as_dict() for key, c in against.items()},
            "curve": advise.curve(winner),
            "next": advise.advice(seen),
        }

    def _evidence(self, chosen: Choice, test: Mapping[str, Measured], stopped: bool) -> Evidence:
        budget = self.bench.knobs.budget
        return Evidence(
            bar=self.bench.bar, task=self.bench.task, chosen=chosen, test=test,
            records=list(self.records.values()), baseline=self.baseline, base=BASE,
            budget=str(budget), seconds=budget.seconds, used=self.used(), outlook=self.outlook(),
            stopped=stopped, test_of=len(self.bench.test), best_possible=self.scale.best_possible,
        )  # fmt: skip
