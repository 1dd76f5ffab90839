"""What came of attempts at a rung, which of them stands for it, and how long one may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.errors import ConfigError, MethodMisfit, OutOfTime, RungError
from rung.evals.compare import compare
from rung.evals.measure import Measured
from rung.ladder.levels import Level
from rung.ladder.meter import now
from rung.store.climbs import RungRecord
from rung.train.gradient import out_of_memory

PATIENCE = 2.5  # times what an attempt was expected to take: then it ends with what is there
LEAST_SHARE, MOST_SHARE = 0.15, 0.4  # of the time that is left: within them it may be late


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of one attempt.

    Attributes:
        params: settings apart from the rung's own. level: of rows and of what it was measured by.
        rows: of training that it saw. steps: of a training; steps_of: that it would have had whole.
        making, answering: seconds of making it, and of one answer among many.
        measured: None where it gave nothing, and `fault` says why.
        late: whether its time was over; a figure is then of a training that was cut.
        only: the one answer that it gives to every row, if it does.
    """

    params: dict[str, Any]
    level: Level
    rows: int = 0
    steps: int | None = None
    steps_of: int | None = None
    making: float = 0.0
    answering: float = 0.0
    run: str | None = None
    measured: Measured | None = None
    fault: str | None = None
    late: bool = False
    only: str | None = None

    def making_all(self, steps: int) -> float:
        """Seconds that all of so many steps take, where its time was over after some of them."""
        cut = self.late and self.steps is not None and 0 < self.steps < steps
        return self.making * steps / self.steps if cut and self.steps else self.making

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a store."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["level"] = [self.level.share, self.level.held]
        if self.measured is not None:
            plain["measured"] = [self.measured.as_dict(), self.measured.items_dict()]
        return plain

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Attempt:
        """From what `as_dict` gave."""
        plain = dict(kept)
        plain["level"] = Level(*kept["level"])
        if kept["measured"] is not None:
            plain["measured"] = Measured.of(*kept["measured"])
        return cls(**plain)


def attempts_of(record: RungRecord) -> list[Attempt]:
    """The attempts that a stored rung holds, in their order."""
    return [Attempt.of(kept) for kept in record.trials.get("done", [])]


def request_seconds(record: RungRecord, run: str | None) -> float:
    """Seconds of a request by itself, where a rung's figures are those of this run; else 0."""
    return record.cost.get("request_seconds", 0.0) if record.run == run else 0.0


def best_of(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt that stands for its rung: more rows win unless fewer are clearly better."""
    best: Attempt | None = None
    for one in attempts:
        if one.measured is not None and (best is None or surpasses(one, best)):
            best = one
    return best


def surpasses(new: Attempt, old: Attempt) -> bool:
    """Whether a later attempt takes the place of an earlier one."""
    assert new.measured is not None and old.measured is not None
    count = min(new.measured.n, old.measured.n)
    ours, theirs = new.measured.first(count), old.measured.first(count)
    if _learned(new)[0] == _learned(old)[0] and new.level.held <= old.level.held:
        return ours.better(theirs)
    seen = compare(theirs, ours)
    better = seen.difference < 0 if ours.lower else seen.difference > 0
    larger = _learned(new) > _learned(old)
    return better or not seen.certain if larger else better and seen.certain


def _learned(attempt: Attempt) -> tuple[float, int]:
    """The share of the whole that it learned from, less than its level where time ended a training."""
    share = attempt.level.share
    if attempt.late and attempt.steps and attempt.steps_of:
        share = attempt.steps / attempt.steps_of
    return share, attempt.level.held


def stopping_at(until: float) -> Callable[[], bool]:
    """For whoever asks between passes whether to stop.

    Raises:
        OutOfTime: in place of an answer, once the time is over.
    """

    def stopping() -> bool:
        if now() > until:
            raise OutOfTime("its time was over before it had been measured")
        return False

    return stopping


def limit_of(seconds: float, left: float) -> float:
    """Seconds after which an attempt that should take `seconds` ends, within those that are left."""
    patient = min(PATIENCE * seconds, max(seconds, MOST_SHARE * left))
    return max(1.0, min(max(patient, LEAST_SHARE * left), left))


def how_it_ended(fault: Exception) -> dict[str, Any]:
    """How a rung that raised ends: skipped when it does not fit, else failed, with the reason."""
    if out_of_memory(fault):
        return {"status": "failed", "reason": "out of memory: lower --max-tokens or --max-length"}
    said = str(fault) if isinstance(fault, RungError) else f"{type(fault).__name__}: {fault}"
    skipped = isinstance(fault, (MethodMisfit, ConfigError, OutOfTime))
    return {"status": "cancelled" if skipped else "failed", "reason": " ".join(said.split())[:300]}
