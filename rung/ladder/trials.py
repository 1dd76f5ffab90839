"""One attempt at a rung: made on a share of its rows or steps, measured, kept if it is the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.evals import metrics
from rung.evals.answers import Answers
from rung.evals.measure import Measured
from rung.ladder.answers import kept_items, one_answer
from rung.ladder.attempts import (
    PATIENCE,
    Attempt,
    attempts_of,
    best_of,
    request_seconds,
    stopping_at,
    surpasses,
)
from rung.ladder.cost import Cost
from rung.ladder.first_figures import FirstFigure
from rung.ladder.forecast import Prediction
from rung.ladder.meter import Meter, now
from rung.ladder.rungs import Rung
from rung.ladder.scheme import Step
from rung.ladder.task_context import TaskContext, timing_seconds
from rung.store import Store
from rung.store.climbs import RungRecord
from rung.store.records import RunRecord
from rung.train import job
from rung.train.observers import Made, Observer, Observers
from rung.train.plan import Plan
from rung.train.prepare import with_tokens
from rung.types import Task

LEAST_SECONDS = 1.0  # that a training has, though its preparation took them
SPARED = 1.5  # times what measuring should take: what a training leaves of an attempt's time
MIN_CHOOSE_ROWS = 64  # of validation: what a training on a sample stops by, at least


@dataclass
class Trial:
    """An attempt under way.

    Attributes:
        limit: seconds after which it ends. name: of the model it makes.
        since: when the climb began; a run of that name interrupted since then goes on.
        first: what was fitted already, before the base was loaded.
        room: seconds that the climb has for attempts: a model that is made is measured while they last.
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
    first: FirstFigure | None = None
    room: float = 0.0
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
            attempt = self._make(plan, began)
        done = [*self.record.trials.get("done", []), attempt.as_dict()]
        cost = self._whole_cost() if self.record.run == attempt.run else self.record.cost
        # At once: a climb that is killed behind it finds an attempt that has ended, with its cost.
        self._note(status="succeeded", reason=None, trials={"done": done}, cost=cost)
        counted = self.prediction
        self.bench.forecaster.learn(
            self.rung.key, self.rung.method.name, counted, attempt.making_all(counted.steps),
            attempt.answering, request_seconds(self.record, attempt.run),
        )  # fmt: skip
        return self.record

    def plan(self) -> Plan:
        """The rung's configuration at this level."""
        share = self.step.level.share
        plan = self.bench.plan(self.name, self.rung, **dict(self.step.params))
        plan.train.seconds = self._making_seconds
        if self.rung.method.trained and share < 1:
            plan.train.steps = self.prediction.steps
        return plan

    @property
    def _making_seconds(self) -> float:
        """Seconds that making may take: a training is ended before none are left to measure it.

        It has what it is expected to take, and of what is over measuring has its part first.
        """
        return self.limit - self._spared if self.rung.method.trained else self.limit

    @property
    def _spared(self) -> float:
        """Seconds that a training leaves to be measured in, half of all at most."""
        measuring, limit = self._measuring, self.limit
        spared = max(measuring, min(SPARED * measuring, limit - self.prediction.cost.seconds))
        return min(0.5 * limit, spared)

    @property
    def _measuring(self) -> float:
        """Seconds that measuring is expected to take."""
        counted = self.prediction
        answering = counted.answer_seconds * self.step.level.held
        return answering + timing_seconds(counted.cost.request_seconds)

    def _measured_until(self, began: float) -> float:
        """When measuring ends what began then; a training's last step may have taken what was spared,
        and its time is lost without a figure: it is measured while the climb has time.
        """
        until = began + self.limit
        if not self.rung.method.trained:
            return until
        return max(until, min(began + self.room, now() + PATIENCE * self._measuring))

    @property
    def rows(self) -> int:
        """Training rows that it sees."""
        count, share = len(self.bench.splits.train), self.step.level.share
        return count if self.rung.method.trained else max(1, round(share * count))

    def _make(self, plan: Plan, began: float) -> Attempt:
        level, method = self.step.level, self.rung.method
        held = len(self.bench.validation)
        if level.share < 1 or level.held < held:
            held = max(level.held, MIN_CHOOSE_ROWS) if method.trained else level.held
        opened = self.bench.part(plan, self.rows, held)
        told = Observers.of(
            Named(self.watcher, self.rung.key), Deadline(plan, began + self.limit - self._spared)
        )
        made = job.make(
            plan, told, self.store, opened=opened, run=self._left(plan),
            fitted=self.first.fitted if self.first else None, task=self._chosen_by,
        )  # fmt: skip
        if self.first is not None:
            made.state.seconds = self.first.making
        with job.under_way(made.run, self.store, made.observers):
            _heed(made)
            seen, answering = self._measure(made, self._measured_until(began))
        steps = made.state.step if method.trained else None
        return dataclasses.replace(
            seen,
            rows=min(self.rows, made.state.step * plan.train.batch_size) if steps else self.rows,
            steps=steps, steps_of=self._cut_from(made), making=made.state.seconds,
            answering=answering, run=made.run, late=self._timed_out(made),
        )  # fmt: skip

    @property
    def _chosen_by(self) -> Task | None:
        """What methods choose their candidates by: the climb's task, unless a referee measures it."""
        return None if metrics.by_wins(self.bench.task) else self.bench.task

    def _cut_from(self, made: Made) -> int | None:
        """Steps of the whole training, where this one had a share of them or its time was over."""
        if not self.rung.method.trained or not (self.step.level.share < 1 or self._timed_out(made)):
            return None
        whole = self.bench.forecaster.schedule(self.bench.plan(self.name, self.rung), 1.0).steps
        return whole if made.state.step < whole else None

    def _timed_out(self, made: Made) -> bool:
        """Whether a training ended before its last step because its time was over."""
        limit = made.plan.train.seconds
        over = limit is not None and made.state.seconds >= limit
        return over and 0 < made.state.step < self.prediction.steps

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
        made = job.make(
            plan, watcher, self.store, opened=opened, run=self._left(plan), task=self._chosen_by
        )
        with job.under_way(made.run, self.store, made.observers):
            _heed(made)
            opened = with_tokens(plan, opened)[0]
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
        bench = self.bench
        opened = with_tokens(made.plan, bench.opened_for(made.plan))[0]
        rows = bench.validation[: self.step.level.held]
        self.watcher.stage(f"{self.rung.key}: measuring on {len(rows)} validation rows")
        began = now()
        with bench.served(opened, made.adapter, self.rung.key) as model:
            if self.first is not None:  # measured before the base was there
                answers, measured = self.first.answers, self.first.measured
                answering = self.first.answering
            else:
                answers, measured = bench.answer(opened, model, rows, stopping_at(until))
                answering = (now() - began) / max(len(rows), 1)
            if self.rung.method.baseline:
                request = bench.time_without_base(made.adapter)
            else:
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
            seconds=made.state.seconds + made.spared, request_seconds=request.seconds,
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
        trained, cut, late = self.rung.method.trained, self._cut_from(made), self._timed_out(made)
        rows = len(bench.splits.train)
        chosen_by = f"validation_{made.plan.objective.best[0]}"
        metrics = {
            "validation": measured.as_dict(),
            "curve": [[h["step"], h[chosen_by]] for h in made.state.history],
            "steps": made.state.step,
            "cut_from": cut,
            "share": made.state.step / cut if cut and late else self.step.level.share,
            "rows": min(rows, made.state.step * made.plan.train.batch_size) if trained else self.rows,
            "rows_of": rows,
            "held_of": len(bench.validation),
            "only": only,
            "train_tokens": made.state.tokens,
            "parameters": made.adapter.size,
            "choice": ", ".join(filter(None, [made.metrics.get("choice"), made.told])) or None,
        }
        kept = changed_settings(made.plan)
        if late:  # of the command that makes it again, which has no such limit
            kept["steps"] = made.state.step
        self._note(
            run=made.run,
            model=self.name,
            settings={**self.rung.settings, **kept},
            metrics=metrics,
            cost=cost.as_dict(bench.knobs.requests, bench.knobs.price),
            items={**self.record.items, "validation": kept_items(answers, measured)},
        )

    def _whole_cost(self) -> dict[str, Any]:
        """The cost with what only the end tells: wall time, energy, the artefact's size."""
        knobs = self.bench.knobs
        cost = dataclasses.replace(
            Cost.of(self.record.cost), wall=self._meter.seconds, joules=self._meter.joules,
            disk=disk_bytes(self.store, self.name),
        )  # fmt: skip
        return cost.as_dict(knobs.requests, knobs.price)

    def _note(self, **changed: Any) -> None:
        self.record = self.store.climbs.put(dataclasses.replace(self.record, **changed))


def _heed(made: Made) -> None:
    """Stop where a signal came while a rung was made that did not look: a climb has more to stop.

    Raises:
        KeyboardInterrupt: so that the rung is taken up again.
    """
    if made.asked:
        raise KeyboardInterrupt


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


class Deadline(Observer):
    """Ends a training at a time on the meter's clock, however long its rows took to be rendered.

    One that goes on after an interruption has the seconds of its plan.
    """

    def __init__(self, plan: Plan, at: float):
        self.plan, self.at = plan, at

    def begin(self, steps: int, at: int) -> None:
        knobs = self.plan.train
        if at == 0 and knobs.seconds is not None:
            knobs.seconds = min(knobs.seconds, max(LEAST_SECONDS, self.at - now()))


class Named(Observers):
    """Passes everything on, stages behind the rung's name."""

    def __init__(self, watcher: Observer, rung: str):
        super().__init__([watcher])
        self.rung = rung

    def stage(self, text: str) -> None:
        super().stage(f"{self.rung}: {text}")
