"""The arms of a climb: every rung with its settings, its levels, and what each level will take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.config import bare
from rung.errors import ConfigError, MethodMisfit
from rung.evals import metrics
from rung.ladder.arm import Arm, Outcome, Params
from rung.ladder.attempts import Attempt
from rung.ladder.forecast import Prediction
from rung.ladder.levels import Level, levels
from rung.ladder.rungs import Rung
from rung.ladder.task_context import TaskContext, timing_seconds
from rung.train.plan import Plan

TIE = 0.01  # of the metric's range: figures that close to each other are called alike


@dataclass(frozen=True)
class Outlook:
    """What a rung may come to with all its rows, and what that takes.

    Attributes:
        potential: on the hopeful side; None of a rung that was never tried. seconds: of the attempt.
        total: seconds of the attempt and of the requests that it is meant for.
        whole: whether it was tried with all its rows.
    """

    key: str
    potential: float | None
    seconds: float
    total: float
    whole: bool
    learns: bool


@dataclass(frozen=True)
class Scale:
    """What a metric's figures can be.

    Attributes:
        lower: whether less is better; sign: what turns figures so that more is.
        best_possible: its sign turned; None where there is no bound.
        tie: how far apart figures may be that are called alike; None: a hundredth of the best.
    """

    lower: bool
    best_possible: float | None
    tie: float | None

    @property
    def sign(self) -> int:
        return -1 if self.lower else 1

    @classmethod
    def of(cls, metric: str) -> Scale:
        """Of the metric of that name."""
        found = metrics.get(metric)
        low, high = found.bounds
        best = -low if found.lower else high
        return cls(
            found.lower, best if math.isfinite(best) else None,
            TIE * (high - low) if math.isfinite(high) else None,
        )  # fmt: skip


@dataclass
class Arms:
    """The arms of one climb; `base` is the key of the base as it is.

    Attributes:
        misfits: why rungs cannot be tried, by key.
    """

    bench: TaskContext
    rungs: Mapping[str, Rung]
    base: str = "base"
    misfits: dict[str, str] = field(default_factory=dict)
    _plans: dict[tuple[str, Params], Plan] = field(default_factory=dict)
    _levels: dict[str, tuple[Level, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scale = Scale.of(self.bench.task.metric)
        given = {bare(name) for name in self.bench.given}
        for key, rung in self.rungs.items():
            if said := sorted(given & rung.settings.keys()):
                self.misfits[key] = f"--{said[0].replace('_', '-')} says it for every rung"
                continue
            try:
                self.prediction(key)
            except (ConfigError, MethodMisfit) as fault:
                self.misfits[key] = str(fault)

    def plan(self, key: str, params: Params = ()) -> Plan:
        """A rung's configuration, made once."""
        if (key, params) not in self._plans:
            self._plans[key, params] = self.bench.plan("planned", self.rungs[key], **dict(params))
        return self._plans[key, params]

    def prediction(self, key: str, level: Level | None = None, params: Params = ()) -> Prediction:
        """What a level of a rung, or all of it, will take."""
        forecaster = self.bench.forecaster
        level = level or Level(1.0, len(self.bench.validation))
        if key == self.base:
            return forecaster.base(level.held)
        return forecaster.of_rung(self.rungs[key], self.plan(key, params), level.share, level.held)

    def predicted(self, key: str) -> dict[str, Any]:
        """The same of all of a rung, as plain data for tables."""
        found, knobs = self.prediction(key), self.bench.knobs
        about = {"steps": found.steps, "tokens": found.tokens, "parameters": found.parameters}
        return {**found.cost.as_dict(knobs.requests, knobs.price), **about}

    def seconds(self, key: str, level: Level, params: Params = ()) -> float:
        """What an attempt will take, single requests timed."""
        found = self.prediction(key, level, params).cost
        return found.wall + timing_seconds(found.request_seconds)

    def answer_seconds(self, key: str) -> float:
        """Seconds of one row among many, as measured where it was."""
        return self.prediction(key).answer_seconds

    def lowest(self, key: str) -> float:
        """Seconds of the smallest sample."""
        return self.seconds(key, self.levels(key)[0])

    def out_of_time(self, key: str) -> str:
        """Why a rung that fits was not tried."""
        budget, seconds = self.bench.knobs.budget, self.lowest(key)
        sample = f"a sample would take about {seconds:.0f} s"
        if seconds <= budget.seconds:  # others have had it
            return f"no time left of --budget {budget}: {sample}"
        return f"no time: {sample} of --budget {budget}"

    def levels(self, key: str) -> tuple[Level, ...]:
        """From the smallest sample to the whole; what was begun keeps its levels."""
        if key in self._levels:
            return self._levels[key]
        bench = self.bench
        held, each = len(bench.validation), self.answer_seconds(key)
        rows, steps, fresh = 0, None, False
        if key != self.base:
            method, plan = self.rungs[key].method, self.plan(key)
            fresh = method.own_base
            learned = method.reads(plan.config, len(bench.splits.train), held)[0]
            rows = learned if not method.trained else len(bench.splits.train)
            steps = bench.forecaster.schedule(plan, 1.0).steps if method.trained else None
        return levels(rows, held, steps, each, bench.knobs.budget.seconds, fresh)

    def of(self, attempts: Mapping[str, Sequence[Attempt]], left: float) -> list[Arm]:
        """Every arm with what came of it."""
        found = []
        for key in (self.base, *self.rungs):
            if key in self.misfits:
                continue
            done = list(attempts.get(key, ()))
            if done and key not in self._levels:
                self._levels[key] = self.levels(key)
            found += self._arms(key, done)
        return found

    def _arms(self, key: str, done: Sequence[Attempt]) -> list[Arm]:
        rung = self.rungs.get(key)
        made = []
        for params in [(), *(self._settings(rung) if rung else [])]:
            arm = Arm(
                key, params, self.levels(key), self._cost(key, params), self._total(key),
                default=not params, baseline=bool(rung and rung.method.baseline),
                reference=rung is None, before=self._before(rung),
                trained=bool(rung and rung.method.trained),
                fresh=bool(rung and rung.method.own_base),
            )  # fmt: skip
            arm.outcomes = [self._outcome(a) for a in done if tuple(sorted(a.params.items())) == params]
            made.append(arm)
        return made

    def _before(self, rung: Rung | None) -> str | None:
        """The rung of the same method that is tried first, if it can be tried; see `Method.behind`."""
        first = rung and rung.method.behind(rung.settings)
        if rung is None or first is None:
            return None
        return next(
            (
                key for key, r in self.rungs.items()
                if r.method.name == rung.method.name and r.settings == first and key not in self.misfits
            ),
            None,
        )  # fmt: skip

    def _cost(self, key: str, params: Params) -> Any:
        return lambda level: self.seconds(key, level, params)

    def _total(self, key: str) -> float:
        return self.prediction(key).cost.total(self.bench.knobs.requests)

    def _outcome(self, attempt: Attempt) -> Outcome:
        measured = attempt.measured
        if measured is None:
            return Outcome(attempt.level, late=attempt.late, took=attempt.making)
        high = measured.low if self.scale.lower else measured.high
        value, high = self.scale.sign * measured.value, self.scale.sign * high
        return Outcome(attempt.level, value, high, cut=attempt.late)

    def _settings(self, rung: Rung) -> list[Params]:
        """Settings to try beside the rung's own, as many as `trials` allows."""
        knobs = self.bench.knobs
        fixed = {bare(key) for key in self.bench.given} | rung.settings.keys()
        objective = self.plan(rung.key).objective
        search = {**rung.method.search, **objective.search}
        if "lr" in rung.method.search:
            search["lr"] = tuple(map(objective.scaled, rung.method.search["lr"]))
        space = {k: v for k, v in search.items() if k not in fixed}
        if not rung.method.trained or not space:
            return []
        names = sorted(space)
        every = itertools.product(*(space[name] for name in names))
        own = tuple(space[name][0] for name in names)
        others = [values for values in every if values != own]
        # One change at a time first.
        others.sort(key=lambda values: sum(a != b for a, b in zip(values, own, strict=True)))
        return [tuple(zip(names, values, strict=True)) for values in others[: knobs.trials - 1]]

    def outlook(self, attempts: Mapping[str, Sequence[Attempt]]) -> list[Outlook]:
        """What each rung may still come to."""
        found = []
        for arm in self.of(attempts, 0.0):
            if not arm.default or arm.key == self.base or arm.failed:
                continue
            hope = arm.potential(self.scale.best_possible)
            found.append(
                Outlook(
                    arm.key, self.scale.sign * hope if math.isfinite(hope) else None,
                    arm.cost(arm.levels[-1]), arm.total, arm.whole,
                    len({v.share for v in arm.levels}) > 1,
                )
            )  # fmt: skip
        return found
