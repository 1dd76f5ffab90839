"""One attempt at a rung: made on a share of its rows or steps, measured, kept if it is the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.errors import OutOfTime
from rung.evals.compare import compare
from rung.evals.measure import Measured
from rung.evals.predict import Answers
from rung.ladder.answers import kept_items, one_answer
from rung.ladder.cost import Cost
from rung.ladder.forecast import Prediction
from rung.ladder.meter import Meter, now
from rung.ladder.rungs import Rung
from rung.ladder.scheme import Level, Step
from rung.ladder.task_context import TaskContext
from rung.store import Store
from rung.store.climbs import RungRecord
from rung.store.records import RunRecord
from rung.train import job
from rung.train.observers import Made, Observer, Observers
from rung.train.plan import Plan

PATIENCE = 2.5  # times what an attempt was expected to take: then it ends with what is there
LEAST_SHARE, MOST_SHARE = 0.15, 0.4  # of the time that is left: within them it may be late
MIN_CHOOSE_ROWS = 64  # of validation: what a training on a sample stops by, at least


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of one attempt.

    Attributes:
        params: settings apart from the rung's own. level: of rows and of what it was measured by.
        rows: of training that it saw. steps: of a training; steps_of: that it would have had whole.
        making, answering: seconds of making it, and of one answer among many.
        measured: None where it gave nothing, and `fault` says why; `late` that its time was over.
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
    if new.level.share == old.level.share and new.level.held <= old.level.held:
        return ours.better(theirs)
    seen = compare(theirs, ours)
    better = seen.difference < 0 if ours.lower else seen.difference > 0
    larger = (new.level.share, new.level.held) > (old.level.share, old.level.held)
    return better or not seen.certain if larger else better and seen.certain


@dataclass
class Trial:
    """An attempt under way.

    Attributes:
        limit: seconds after which it ends. name: of the model it makes.
        since: when the climb began; a run of that name interrupted since then goes on.
    """

    bench: TaskContext
    rung: Rung
    record: RungRecord
    step: Step
    prediction: Prediction
    limit: float
    name: str
    store: Store
    watcher: Observer
    since: str = ""
    _meter: Meter = field(default_factory=Meter)

    def run(self) -> RungRecord:
        """Make, measure, and keep it where it is the best of its rung.

        Raises:
            Interrupted: naming the run that was under way.
            Exception: whatever a method raises; the record is then the caller's to close.
        """
        plan = self.plan()
        self._note(status="running", reason=None)
        began = now()
        with Meter() as self._meter:
            attempt = self._make(plan, began + self.limit)
        self._note(trials={"done": [*self.record.trials.get("done", []), attempt.as_dict()]})
        if self.record.run == attempt.run:
            self._keep_cost()
        counted = self.prediction
        self.bench.forecaster.learn(
            self.rung.key, self.rung.method.name, counted, attempt.making, attempt.answering
        )
        return self.record

    def plan(self) -> Plan:
        """The rung's configuration at this level."""
        share = self.step.level.share
        plan = self.bench.plan(self.name, self.rung, **dict(self.step.params))
        plan.train.seconds = self.limit
        if self.rung.method.trained and share < 1:
            plan.train.steps = self.prediction.steps
        return plan

    @property
    def rows(self) -> int:
        """Training rows that it sees."""
        count, share = len(self.bench.opened.splits.train), self.step.level.share
        return count if self.rung.method.trained else max(1, round(share * count))

    def _make(self, plan: Plan, until: float) -> Attempt:
        level, method = self.step.level, self.rung.method
        held = len(self.bench.validation)
        if level.share < 1 or level.held < held:
            held = max(level.held, MIN_CHOOSE_ROWS) if method.trained else level.held
        opened = self.bench.part(plan, self.rows, held)
        made = job.make(
            plan, Named(self.watcher, self.rung.key), self.store, opened=opened, run=self._left(plan)
        )
        with job.under_way(made.run, self.store, made.observers):
            seen, answering = self._measure(made, until)
        steps = made.state.step if method.trained else None
        whole = self.bench.forecaster.schedule(self.bench.plan(self.name, self.rung), 1.0).steps
        return dataclasses.replace(
            seen,
            rows=min(self.rows, made.state.step * plan.train.batch_size) if steps else self.rows,
            steps=steps, steps_of=whole if steps and steps < whole and level.share < 1 else None,
            making=made.state.seconds, answering=answering, run=made.run,
        )  # fmt: skip

    def _left(self, plan: Plan) -> RunRecord | None:
        """The run that was under way when this climb was interrupted, or its process killed."""
        known = self.store.runs.list(model=self.name, status="interrupted", limit=1)
        same = ("steps", "lr", "seed")
        wanted = plan.settings()
        return next(
            (r for r in known if r.started >= self.since
             and all(r.config.get(k) == wanted.get(k) for k in same)),
            None,
        )  # fmt: skip

    def repeat(self, config: Mapping[str, Any], seed: int) -> float:
        """The figure on validation that a run's settings give with another seed; nothing is kept."""
        plan = Plan.of(self.name, config, {"seed": seed})
        opened = self.bench.part(plan, self.rows, self.step.level.held)
        rows = self.bench.validation[: self.step.level.held]

        watcher = Named(self.watcher, self.rung.key)
        made = job.make(plan, watcher, self.store, opened=opened, run=self._left(plan))
        with job.under_way(made.run, self.store, made.observers):
            with self.bench.served(opened, made.adapter, self.rung.key) as model:
                value = self.bench.answer(opened, model, rows)[1].value
            job.drop(made, self.store)
        return value

    # --- measuring --------------------------------------------------------------------------------

    def _measure(self, made: Made, until: float) -> tuple[Attempt, float]:
        """Measure what was made, and keep it where it is the best of its rung so far.

        Returns:
            what was seen of it, and seconds of an answer.
        """
        peak = self._meter.peak()  # before measuring adds to it
        bench, opened = self.bench, self.bench.opened_for(made.plan)
        rows = bench.validation[: self.step.level.held]
        self.watcher.stage(f"{self.rung.key}: measuring on {len(rows)} validation rows")
        began = now()
        with bench.served(opened, made.adapter, self.rung.key) as model:
            answers, measured = bench.answer(opened, model, rows, stopping_at(until))
            answering = (now() - began) / max(len(rows), 1)
            request = bench.time_requests(opened, model)
        own = Attempt(
            params=dict(self.step.params), level=self.step.level, measured=measured,
            only=one_answer(answers, bench.task),
        )  # fmt: skip
        best = best_of(attempts_of(self.record))
        if best is not None and not surpasses(own, best):
            job.drop(made, self.store)
            return own, answering
        cost = Cost(
            seconds=made.state.seconds, request_seconds=request.seconds,
            request_tokens=request.tokens, request_low=request.low, request_high=request.high,
            bytes=peak,
        )  # fmt: skip
        self._found(made, answers, measured, cost, own.only)
        job.keep(made, self.store, {f"validation_{measured.metric}": measured.figure})
        return own, answering

    def _found(
        self, made: Made, answers: Answers, measured: Measured, cost: Cost, only: str | None
    ) -> None:
        bench = self.bench
        whole = bench.forecaster.schedule(bench.plan(self.name, self.rung), 1.0).steps
        trained, share = self.rung.method.trained, self.step.level.share
        rows = len(bench.opened.splits.train)
        chosen_by = f"validation_{made.plan.objective.best[0]}"
        metrics = {
            "validation": measured.as_dict(),
            "curve": [[h["step"], h[chosen_by]] for h in made.state.history],
            "steps": made.state.step,
            "cut_from": whole if trained and share < 1 and made.state.step < whole else None,
            "share": share,
            "rows": min(rows, made.state.step * made.plan.train.batch_size) if trained else self.rows,
            "rows_of": rows,
            "held_of": len(bench.validation),
            "only": only,
            "train_tokens": made.state.tokens,
            "parameters": made.adapter.size,
            "choice": made.metrics.get("choice"),
        }
        kept = changed_settings(made.plan)
        self._note(
            run=made.run,
            model=self.name,
            settings={**self.rung.settings, **kept},
            metrics=metrics,
            cost=cost.as_dict(bench.knobs.requests, bench.knobs.price),
            items={**self.record.items, "validation": kept_items(answers, measured)},
        )

    def _keep_cost(self) -> None:
        """Note what only the end of an attempt tells: wall time, energy, the artefact's size."""
        knobs = self.bench.knobs
        cost = dataclasses.replace(
            Cost.of(self.record.cost), wall=self._meter.seconds, joules=self._meter.joules,
            disk=disk_bytes(self.store, self.name),
        )  # fmt: skip
        self._note(cost=cost.as_dict(knobs.requests, knobs.price))

    def _note(self, **changed: Any) -> None:
        self.record = self.store.climbs.put(dataclasses.replace(self.record, **changed))


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


def disk_bytes(store: Store, name: str) -> int:
    """Bytes of a model's folder."""
    folder = Path(store.models.get(name).folder)
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def changed_settings(plan: Plan) -> dict[str, Any]:
    """The settings that differ from the method's defaults, from which a command can be written."""
    plain = Plan.of(plan.name, {"method": plan.method.name, "data": plan.data.data}).settings()
    differing = {k: v for k, v in plan.settings().items() if v != plain.get(k)}
    differing.pop("seconds", None)  # a limit that was not reached has no part in what was made
    return differing


class Named(Observers):
    """Passes everything on, stages behind the rung's name."""

    def __init__(self, watcher: Observer, rung: str):
        super().__init__([watcher])
        self.rung = rung

    def stage(self, text: str) -> None:
        super().stage(f"{self.rung}: {text}")
