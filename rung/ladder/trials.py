"""One rung, tried: its settings chosen by validation, its cost measured, the best kept as a model."""

from __future__ import annotations

import dataclasses
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
from rung.ladder.rungs import Rung, own_settings
from rung.ladder.search import Search
from rung.ladder.task_context import TaskContext
from rung.store import Store
from rung.store.climbs import RungRecord
from rung.store.records import RunRecord
from rung.train import job
from rung.train.knobs import TrainKnobs
from rung.train.plan import Plan

LEAST_SECONDS = 0.1  # that a trial takes, whatever the clock says


class Pruned(Exception):
    """A trial was given up, since others were better by then."""


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
    watcher: job.Watcher
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
        given = own_settings(self.rung.method, [TrainKnobs], self.bench.given)
        fixed = {key.rpartition(".")[2] for key in given} | self.rung.settings.keys()
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
        watcher = Steering(self.watcher, search, self.rung.key)
        self._note(status="running", reason=None)
        judge = self._judge(plan)
        try:
            with Meter() as self._meter:
                made = self._run(plan, judge, watcher, left)
        except Pruned:
            search.tell(params, None, watcher.curve, self._given_up())
            self._note(trials=search.kept)
            return
        search.tell(params, made.metrics.get("judged"), watcher.curve, made.run)
        self._note(trials=search.kept)
        if made.outcome:
            self._keep_cost()

    def _run(
        self, plan: Plan, judge: job.Judge, watcher: job.Watcher, left: RunRecord | None
    ) -> job.Made:
        began = now()
        opened = self.bench.opened_for(plan)
        try:
            return job.attempt(plan, opened, judge, watcher, self.store, run=left.id if left else None)
        finally:
            took = now() - began
            self.spent += took
            self._longest = max(self._longest, took)

    def _given_up(self) -> str:
        """The run that was just pruned, which is no failure."""
        run = self.store.runs.list(model=self.name, limit=1)[0]
        self.store.runs.update(run.id, status="cancelled", error="given up: others were better by then")
        return run.id

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

    def _judge(self, plan: Plan) -> job.Judge:
        """Measures what was made on validation, and keeps it when it is the best so far."""

        def judge(made: job.Made) -> dict[str, Any] | None:
            peak = self._meter.peak()  # before measuring adds to it
            bench, opened = self.bench, self.bench.opened_for(plan)
            self.watcher.stage(f"{self.rung.key}: measuring on validation")
            with bench.served(opened, made.adapter, self.rung.key) as model:
                answers, measured = bench.answer(opened, model, bench.validation)
                request = bench.time_requests(opened, model)
            made.metrics["judged"] = measured.value
            if self.best is not None and not better(measured, self.best, bench.task):
                return None
            self.best = measured
            cost = Cost(
                made.state.seconds, 0.0, request.seconds, request.tokens, peak,
            )  # fmt: skip
            self._found(plan, made, answers, measured, cost)
            return {f"validation_{measured.metric}": short_figure(measured)}

        return judge

    def _found(
        self, plan: Plan, made: job.Made, answers: Answers, measured: Measured, cost: Cost
    ) -> None:
        knobs = self.bench.knobs
        metrics = {
            "validation": figure(measured),
            "curve": [[h["step"], h["validation_loss"]] for h in made.state.history],
            "steps": made.state.step,
            "cut_from": self._cut_from(plan, made.state.step),
            "train_tokens": made.state.tokens,
            "parameters": made.adapter.size,
            "choice": made.metrics.get("choice"),
        }
        self._note(
            run=made.run,
            model=self.name,
            settings={**self.record.settings, **changed_settings(plan)},
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
            made = self._run(plan, self._value_of(plan), self.watcher, again)
            known.append({"seed": seed, "value": made.metrics["judged"]})
            self._note(metrics={**self.record.metrics, "seeds": known})

    def _value_of(self, plan: Plan) -> job.Judge:
        """Measures what was made on validation, and does not keep it."""

        def judge(made: job.Made) -> None:
            bench, opened = self.bench, self.bench.opened_for(plan)
            with bench.served(opened, made.adapter, self.rung.key) as model:
                made.metrics["judged"] = bench.answer(opened, model, bench.validation)[1].value

        return judge

    def _note(self, **changed: Any) -> None:
        self.record = self.store.climbs.put(dataclasses.replace(self.record, **changed))


@dataclass
class Steering:
    """Passes everything on, keeps the validation curve, and gives up a trial that falls behind."""

    watcher: job.Watcher
    search: Search
    rung: str
    curve: list[tuple[int, float]] = field(default_factory=list)

    def begin(self, steps: int, at: int) -> None:
        self.watcher.begin(steps, at)

    def step(self, entry: dict[str, Any]) -> None:
        self.watcher.step(entry)

    def validated(self, entry: dict[str, Any]) -> None:
        self.watcher.validated(entry)
        self.curve.append((entry["step"], entry["validation_loss"]))
        if self.search.report(entry["step"], entry["validation_loss"]):
            raise Pruned

    def note(self, text: str) -> None:
        self.watcher.note(text)

    def stage(self, text: str) -> None:
        self.watcher.stage(f"{self.rung}: {text}")

    def prepared(self, *what: Any) -> None:
        self.watcher.prepared(*what)
