"""One rung, tried: its settings chosen by validation, its cost measured, the best kept as a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rung.evals.measure import Measured
from rung.evals.predict import Answers
from rung.ladder.bar import Bar
from rung.ladder.cost import Cost
from rung.ladder.forecast import Prediction
from rung.ladder.judge import falls
from rung.ladder.kept import (
    better,
    changed_settings,
    disk_bytes,
    figure,
    kept_items,
    measured_of,
    short_figure,
)
from rung.ladder.meter import Meter, now
from rung.ladder.rungs import Rung
from rung.ladder.search import Search
from rung.ladder.task_context import TaskContext
from rung.store import Store
from rung.store.climbs import RungRecord
from rung.store.records import RunRecord
from rung.train import job
from rung.train.observers import Made, Observer, Observers, Stop, Validation
from rung.train.plan import Plan

LEAST_SECONDS = 0.1  # that a trial takes, whatever the clock says
GIVEN_UP = "given up: others were better by then"


@dataclass
class Trial:
    """A rung being tried.

    Attributes:
        allotted: seconds it may take. name: of the model it makes.
        since: when the climb began; a run of that name interrupted since then goes on.
    """

    bench: TaskContext
    rung: Rung
    record: RungRecord
    prediction: Prediction
    allotted: float
    name: str
    store: Store
    watcher: Observer
    since: str = ""
    best: Measured | None = None
    spent: float = 0.0
    _longest: float = 0.0
    _meter: Meter = field(default_factory=Meter)

    def run(self) -> RungRecord:
        """Try settings while there is time, then seeds.

        Raises:
            Interrupted: naming the run that was under way.
            Exception: whatever a method raises; the record is then the caller's to close.
        """
        knobs, bar = self.bench.knobs, self.bench.bar
        space = {} if not self.rung.method.trained else self._space()
        search = Search(space, falls(self.bench.task), self.record.trials)
        self._recall(search)
        left = self._left_behind()
        while len(search.done) < knobs.trials and not self._good_enough(bar):
            if search.done and (not search.left or not self._time_for_another()):
                break
            self._try(search, left)
            left = None
        self._repeat(left)
        return self.record

    def _good_enough(self, bar: Bar | None) -> bool:
        return self.best is not None and bar is not None and bar.cleared(self.best.value)

    def _space(self) -> dict[str, tuple[Any, ...]]:
        """Knobs to search; what the user or the rung itself has set is not searched."""
        fixed = {**self.bench.given, **self.rung.settings}
        return {k: v for k, v in self.rung.method.search.items() if k not in fixed}

    def _recall(self, search: Search) -> None:
        """What an interrupted attempt had measured already."""
        kept = self.record.metrics.get("validation")
        if search.done and kept:
            self.best = measured_of(kept, self.record.items["validation"])
            self._longest = self.record.cost.get("wall", 0.0)

    def _left_behind(self) -> RunRecord | None:
        """The run that was under way when this climb was interrupted, or its process killed."""
        if self.record.status not in ("running", "interrupted"):
            return None
        known = self.store.runs.list(model=self.name, status="interrupted", limit=1)
        return next((run for run in known if run.started >= self.since), None)

    def _time_for_another(self) -> bool:
        """Whether another trial, as long as the longest so far, stays within what is allotted."""
        return self.spent + max(self._longest, LEAST_SECONDS) <= self.allotted

    # --- one trial ------------------------------------------------------------------------------

    def _try(self, search: Search, left: RunRecord | None) -> None:
        if left is not None and left.config.get("seed") != self._plan({}).train.seed:
            left = None  # one of the repetitions, which come later
        params = search.ask({k: left.config.get(k) for k in search.space} if left else None)
        plan = self._plan(params)
        pruner = Pruner(search)
        self._note(status="running", reason=None)
        with Meter() as self._meter, self._timed():
            made = self._make(plan, left, pruner)
            with job.under_way(made.run, self.store, made.observers):
                value = self._judge(made)
        search.tell(params, value, pruner.curve, made.run)
        self._note(trials=search.kept)
        if self.record.run == made.run:
            self._keep_cost()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count a trial's seconds, from its training to its measuring."""
        began = now()
        try:
            yield
        finally:
            took = now() - began
            self.spent += took
            self._longest = max(self._longest, took)

    def _make(self, plan: Plan, left: RunRecord | None, pruner: Observer | None = None) -> Made:
        told = Observers.of(_Named(self.watcher, self.rung.key), pruner)
        return job.make(plan, told, self.store, opened=self.bench.opened_for(plan), run=left)

    def _plan(self, params: dict[str, Any]) -> Plan:
        plan = self.bench.plan(self.name, self.rung, **params)
        predicted = self.prediction
        if self.rung.method.trained and predicted.cost.wall > self.allotted:
            share = max(0.0, self.allotted - (predicted.cost.wall - predicted.cost.seconds))
            steps = int(predicted.steps * share / max(predicted.cost.seconds, 1e-9))
            plan.train.steps = max(1, steps)
        return plan

    def _cut_from(self, plan: Plan, done: int) -> int | None:
        """The steps that the settings ask for, where time ended the training before an early stop."""
        most = plan.train.steps
        if most == self.bench.plan(self.name, self.rung).train.steps or most is None or done < most:
            return None
        return self.prediction.steps

    def _judge(self, made: Made) -> float | None:
        """Measure what was made on validation, and keep it when it is the best so far.

        Returns:
            its figure; None where it was given up before its end.
        """
        if made.stopped:
            job.drop(made, self.store, made.stopped.reason)
            return None
        peak, bench = self._meter.peak(), self.bench  # before measuring adds to it
        self.watcher.stage(f"{self.rung.key}: measuring on validation")
        with bench.served(made.prepared, made.adapter, self.rung.key) as model:
            answers, measured = bench.answer(made.prepared, model, bench.validation)
            request = bench.time_requests(made.prepared, model)
        if self.best is not None and not better(measured, self.best, bench.task):
            job.drop(made, self.store)
            return measured.value
        self.best = measured
        cost = Cost(made.state.seconds, 0.0, request.seconds, request.tokens, peak)
        self._found(made, answers, measured, cost)
        job.keep(made, self.store, {f"validation_{measured.metric}": short_figure(measured)})
        return measured.value

    def _found(self, made: Made, answers: Answers, measured: Measured, cost: Cost) -> None:
        knobs = self.bench.knobs
        metrics = {
            "validation": figure(measured),
            "curve": [[h["step"], h["validation_loss"]] for h in made.state.history],
            "steps": made.state.step,
            "cut_from": self._cut_from(made.plan, made.state.step),
            "train_tokens": made.state.tokens,
            "parameters": made.adapter.size,
            "choice": made.metrics.get("choice"),
        }
        self._note(
            run=made.run,
            model=self.name,
            settings={**self.record.settings, **changed_settings(made.plan)},
            metrics=metrics,
            cost=cost.as_dict(knobs.requests, knobs.price),
            items={**self.record.items, "validation": kept_items(answers, measured)},
        )

    def _keep_cost(self) -> None:
        """Note what only the end of a trial tells: wall time, energy, the artefact's size."""
        knobs = self.bench.knobs
        cost = dataclasses.replace(
            Cost.of(self.record.cost), wall=self._meter.seconds, joules=self._meter.joules,
            disk=disk_bytes(self.store, self.name),
        )  # fmt: skip
        self._note(cost=cost.as_dict(knobs.requests, knobs.price))

    def close(self) -> RungRecord:
        """The rung is done."""
        self._note(status="succeeded", reason=None)
        return self.record

    # --- seeds ------------------------------------------------------------------------------------

    def _repeat(self, left: RunRecord | None) -> None:
        """The best settings again with other seeds, to see what luck does."""
        bench, known = self.bench, list(self.record.metrics.get("seeds", []))
        if self.best is None or bench.knobs.seeds < 2:
            return
        own = Plan.of(self.name, self.store.runs.get(self.record.run or "").config)
        known = known or [{"seed": own.train.seed, "value": self.best.value}]
        for seed in range(own.train.seed + len(known), own.train.seed + bench.knobs.seeds):
            plan = Plan.of(self.name, own.settings(), {"seed": seed})
            again = left if left is not None and left.config.get("seed") == seed else None
            with self._timed():
                made = self._make(plan, again)
                with job.under_way(made.run, self.store, made.observers):
                    value = self._value(made)
                    job.drop(made, self.store)
            known.append({"seed": seed, "value": value})
            self._note(metrics={**self.record.metrics, "seeds": known})

    def _value(self, made: Made) -> float:
        """What was made is worth on validation."""
        with self.bench.served(made.prepared, made.adapter, self.rung.key) as model:
            return self.bench.answer(made.prepared, model, self.bench.validation)[1].value

    def _note(self, **changed: Any) -> None:
        self.record = self.store.climbs.put(dataclasses.replace(self.record, **changed))


class Pruner(Observer):
    """Keeps the validation curve, and stops a trial that falls behind others."""

    def __init__(self, search: Search):
        self.search = search
        self.curve: list[tuple[int, float]] = []

    def validated(self, event: Validation) -> Stop | None:
        self.curve.append((event.step, event.value))
        return Stop(GIVEN_UP) if self.search.report(event.step, event.value) else None


class _Named(Observers):
    """Passes everything on, with the rung's name in front of a training's stages."""

    def __init__(self, watcher: Observer, rung: str):
        super().__init__([watcher])
        self.rung = rung

    def stage(self, text: str) -> None:
        super().stage(f"{self.rung}: {text}")
