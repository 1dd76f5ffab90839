"""The climb: attempts at rungs within the budget, at any moment with a best so far, to a verdict.

Validation selects. The test rows are touched once, in the end, by the winner, the runner-up and the
base as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rung.errors import Interrupted, OutOfTime
from rung.evals.measure import Measured
from rung.ladder.arms import Arms, Outlook, Scale
from rung.ladder.attempts import Attempt, attempts_of, how_it_ended, limit_of
from rung.ladder.bar import BASE
from rung.ladder.choice import Standing
from rung.ladder.chooser import Chooser
from rung.ladder.examination import Examination
from rung.ladder.first_figures import FirstFigure, base_as_it_is, without_base
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.levels import Level
from rung.ladder.machine import settle_threads
from rung.ladder.meter import now
from rung.ladder.observer import ClimbObserver
from rung.ladder.rungs import Rung
from rung.ladder.scheme import BASELINE, Step, next_step
from rung.ladder.scheme import Standing as Now
from rung.ladder.task_context import TaskContext
from rung.ladder.trials import Trial
from rung.store import Store
from rung.store.climbs import ClimbRecord, RungRecord

DONE = ("succeeded", "failed", "cancelled")
TESTING = 0.25  # of the budget at most, for the test rows
LOADING = 2.5  # times imports and reading the data: what loading the base takes, imports of its own too
REPORT_SECONDS = 4.0  # kept for the report and the end
LATE = 0.05  # of the budget: what the test rows may take where nothing of it is left


@dataclass
class ClimbController:
    """One climb under way.

    Attributes:
        began: when it, or its resumption, began, on the meter's clock. spent: seconds of earlier parts.
        working: seconds that went into attempts and test rows.
    """

    bench: TaskContext
    store: Store
    record: ClimbRecord
    rungs: dict[str, Rung]
    watcher: ClimbObserver
    records: dict[str, RungRecord] = field(default_factory=dict)
    began: float = field(default_factory=now)
    spent: float = 0.0
    working: float = 0.0
    loading: float = 0.0
    first: FirstFigure | None = None

    @property
    def knobs(self) -> ClimbKnobs:
        return self.bench.knobs

    @cached_property
    def arms(self) -> Arms:
        return Arms(self.bench, self.rungs)

    @property
    def used(self) -> float:
        """Seconds of the budget that are gone."""
        return self.spent + now() - self.began

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return max(0.0, self.knobs.budget.seconds - self.used)

    def run(self) -> ClimbRecord:
        """The baseline first, then attempt after attempt while time is left; then judge."""
        opening = LOADING * (now() - self.began - self.bench.finding)
        self._first_figure()
        if self.first is not None and self.left < opening:
            return self._end_without_base()
        self._load()
        self._list()
        if not self._examined:
            self._climb()
        if not self._examined:
            self._repeat_seeds()
        return self._conclude()

    def _climb(self) -> None:
        """Attempt after attempt while time is left."""
        while (step := self._next()) is not None:
            self._attempt(step)

    @property
    def _examined(self) -> bool:
        """Whether the test rows were touched: nothing is chosen any more then."""
        return any("test" in r.metrics for r in self.records.values())

    def stop(self) -> None:
        """Keep a verdict of what was seen, for a climb that is interrupted."""
        self._keep_verdict(stopped=True)
        self._note_spent()

    def _note_spent(self) -> None:
        settings = {**self.record.settings, "spent": self.used, "working": self.working}
        self.record = self.store.climbs.update(self.record.id, settings=settings)

    def _put(self, record: RungRecord) -> None:
        self.records[record.key] = self.store.climbs.put(record)
        self.watcher.table(list(self.records.values()))

    # --- before the base is loaded ------------------------------------------------------------------

    def _first_figure(self) -> None:
        """Fit and measure the baseline, which needs no base; its model is kept in an attempt later."""
        key = self.chooser.baseline
        if key is None or key in self.records:
            return
        began = now()
        self.watcher.stage(f"{key}: fitting on {len(self.bench.splits.train):,} rows")
        try:
            until = began + self.left
            self.first = without_base(self.bench, self.rungs[key], until, self.watcher.note)
        except Exception:
            return  # an attempt at it will fail alike, and its row then says why
        finally:
            self.working += now() - began
        if self.first is not None:
            self._put(self.first.record(self.record.id, self.rungs[key], self.bench))
            self._keep_verdict()

    def _end_without_base(self) -> ClimbRecord:
        """Conclude by the baseline alone, where loading the base would take longer than there is time.

        Its figure stands; without the base's template it is not kept as a model.
        """
        why = f"no time: the base could not have been loaded within --budget {self.knobs.budget}"
        for key, rung in {BASE: None, **self.rungs}.items():
            if key not in self.records:
                method = rung.method.name if rung else ""
                record = RungRecord(self.record.id, key, method, status="cancelled", reason=why)
                self._put(dataclasses.replace(record, predicted={"counted": False}))
        return self._end(self.chooser.final(self.chooser.choose(), {}))

    def _load(self) -> None:
        """Load the base, and say what is to be said of the machine."""
        began = now()
        _ = self.bench.opened
        self.loading = now() - began
        self.working += self.loading
        told = self.bench.forecaster.machine.told
        if told:
            self.watcher.note(told)

    # --- what to try --------------------------------------------------------------------------------

    def _list(self) -> None:
        """A row for the base and for every rung, with what it will take; misfits say why."""
        wanted = {BASE: None, **self.rungs}
        for key, rung in wanted.items():
            record = self.records.get(key)
            if record is not None and (record.predicted or record.status == "cancelled"):
                continue
            if record is None:
                method = rung.method.name if rung else ""
                settings = dict(rung.settings) if rung else {}
                record = RungRecord(self.record.id, key, method, settings=settings)
            why = self.arms.misfits.get(key)
            if why:
                record = dataclasses.replace(record, status="cancelled", reason=why)
            else:
                record = dataclasses.replace(record, predicted=self.arms.predicted(key))
            self.records[key] = self.store.climbs.put(record)
        self._place()

    def _place(self) -> None:
        """Rows in the order of what they cost in all; the baseline and the base stand first."""

        def total(key: str) -> tuple:
            record, rung = self.records[key], self.rungs.get(key)
            cost = record.cost or record.predicted
            first = 0 if rung and rung.method.baseline else 1 if key == BASE else 2
            return (first, not cost, cost.get("total_seconds", 0.0), key)

        for place, key in enumerate(sorted(self.records, key=total)):
            if self.records[key].place != place:
                self.records[key] = self.store.climbs.put(
                    dataclasses.replace(self.records[key], place=place)
                )
        self.watcher.table(list(self.records.values()))

    def _next(self, busy: Collection[str] = (), workers: int = 1) -> Step | None:
        """The next attempt, at none of the rungs that workers are busy with."""
        for key, record in self.records.items():  # what was under way when the climb was interrupted
            under_way = record.trials.get("now") and record.status in ("running", "interrupted")
            if under_way and key not in busy:
                return Step.of(key, record.trials["now"])
        found = {key: attempts_of(r) for key, r in self.records.items()}
        left = self.left - self._reserve()
        return next_step(
            self.arms.of(found, self.left),
            Now(
                left, *self.chooser.clearing(), self.knobs.all, self.chooser.scale.best_possible,
                frozenset(busy), workers,
            ),
        )  # fmt: skip

    def _reserve(self) -> float:
        """Seconds that are kept for the test rows and the report."""
        budget = self.knobs.budget.seconds
        found = self.chooser.standings()
        ranked = sorted(found, key=lambda s: s.measured.value, reverse=not self.chooser.scale.lower)[:2]
        seconds = sum(self.arms.answer_seconds(s.record.key) for s in ranked)
        if self.records[BASE].status == "succeeded":
            seconds += self.arms.answer_seconds(BASE)
        testing = min(TESTING * budget, len(self.bench.test) * seconds)
        return testing + min(REPORT_SECONDS, 0.1 * budget)

    # --- attempt by attempt -------------------------------------------------------------------------

    def _begin(self, step: Step) -> tuple[float, float]:
        """Note that an attempt is under way; returns seconds after which it ends, and all there are."""
        left = self.left - min(self._reserve(), 0.5 * self.left)
        # Nothing can be said without the baseline: it alone may take all the time there is.
        limit = left if step.why == BASELINE else limit_of(step.seconds, left)
        record = self.records[step.key]
        trials = {**record.trials, "now": step.as_dict()}
        self._put(dataclasses.replace(record, status="running", reason=None, trials=trials))
        self.watcher.stage(f"{step.key}: beginning")
        return limit, left

    def _attempt(self, step: Step) -> None:
        began, (limit, room) = now(), self._begin(step)
        settle_threads(str(self.bench.opened.bank.device))
        try:
            done = self._measure_base(step) if step.key == BASE else self._try(step, limit, room)
            self._put(dataclasses.replace(done, status="succeeded", reason=None))
        except (Interrupted, KeyboardInterrupt):
            self._put(dataclasses.replace(self._newest(step.key), status="interrupted"))
            raise
        except Exception as fault:
            self._failed(step, fault, now() - began)
        finally:
            self.working += now() - began
            self.bench.close_others()
            self._note_spent()
        self._settle()

    def _settle(self) -> None:
        """What an attempt that has ended changes: the order of rows, the best so far."""
        self._place()
        self._keep_verdict()

    def _newest(self, key: str) -> RungRecord:
        """A rung as the store has it, with what an attempt has noted."""
        return next(r for r in self.store.climbs.rungs(self.record.id) if r.key == key)

    def _try(self, step: Step, limit: float, room: float) -> RungRecord:
        rung = self.rungs[step.key]
        trial = Trial(
            self.bench, rung, self.records[step.key], step, self.arms.prediction(step.key, step.level),
            limit, self._name(step.key), self.store, self.watcher, self.record.started,
            self.first if self.first and self.first.key == step.key else None, room,
        )  # fmt: skip
        return trial.run()

    def _failed(self, step: Step, fault: Exception, took: float) -> None:
        """Note an attempt that gave nothing; what an earlier one gave stands."""
        record = self._newest(step.key)
        ended = how_it_ended(fault)
        attempt = Attempt(
            params=dict(step.params), level=step.level, making=took, fault=ended["reason"],
            late=isinstance(fault, OutOfTime),
        )  # fmt: skip
        trials = {"done": [*record.trials.get("done", []), attempt.as_dict()]}
        if isinstance(fault, OutOfTime):
            counted = self.arms.prediction(step.key, step.level)
            self.bench.forecaster.was_late(step.key, counted, took)
        if record.model is None and step.key != BASE:
            record = dataclasses.replace(record, metrics={}, items={})  # no model stands for them
        if "validation" in record.metrics:
            ended = {"status": "succeeded", "reason": f"a later attempt ended: {ended['reason']}"}
        self._put(dataclasses.replace(record, trials=trials, **ended))

    def _measure_base(self, step: Step) -> RungRecord:
        """The base as it is, which rungs are held against."""
        bench, record = self.bench, self.records[BASE]
        limit = limit_of(step.seconds, self.left)
        done, each = base_as_it_is(bench, record, step.level.held, limit, self.loading)
        counted, request = self.arms.prediction(BASE, step.level), done.cost["request_seconds"]
        bench.forecaster.learn(BASE, BASE, counted, 0.0, each, request)
        return done

    def _repeat_seeds(self) -> None:
        """The best settings of rungs again with other seeds, to see what luck does."""
        for key in [k for k in self.rungs if self.records[k].run]:
            for seed in range(1, self.knobs.seeds):
                record = self.records[key]
                known = list(record.metrics.get("seeds", []))
                if len(known) > seed or record.cost.get("wall", 0.0) > self.left - self._reserve():
                    continue
                self._repeat(key, seed, known)

    def _repeat(self, key: str, seed: int, known: list[dict[str, Any]]) -> None:
        record, began = self.records[key], now()
        own = self.store.runs.get(record.run or "").config
        if not known:
            known = [{"seed": own["seed"], "value": record.metrics["validation"]["value"]}]
        held = record.metrics["validation"]["n"]
        share = record.metrics["rows"] / max(record.metrics["rows_of"], 1)
        step = Step(key, (), Level(share, held), record.cost["wall"], "seeds")
        trial = Trial(
            self.bench, self.rungs[key], record, step, self.arms.prediction(key), self.left,
            self._name(key), self.store, self.watcher, self.record.started,
        )  # fmt: skip
        try:
            value = trial.repeat(own, own["seed"] + seed)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as fault:  # what was found before it stands
            self.watcher.note(f"{key} with seed {own['seed'] + seed}: {how_it_ended(fault)['reason']}")
            return
        finally:
            self.working += now() - began
            self.bench.close_others()
        known.append({"seed": own["seed"] + seed, "value": value})
        self._put(dataclasses.replace(record, metrics={**record.metrics, "seeds": known}))

    def _name(self, key: str) -> str:
        return f"{self.record.name}-{key}"[:64]

    # --- the best so far, and the end ---------------------------------------------------------------

    @cached_property
    def chooser(self) -> Chooser:
        """Who wins by what was measured until now."""
        return Chooser(
            bench=self.bench, rungs=self.rungs, records=self.records,
            scale=Scale.of(self.bench.task.metric), used=lambda: self.used, outlook=self._outlook,
        )  # fmt: skip

    def _outlook(self) -> list[Outlook]:
        """What rungs may still come to; nothing is known of that before the base is loaded."""
        if "arms" not in vars(self):
            return []
        return self.arms.outlook({k: attempts_of(r) for k, r in self.records.items()})

    def _keep_verdict(self, stopped: bool = False) -> None:
        said = self.chooser.so_far(stopped)
        if said:
            self.record = self.store.climbs.update(self.record.id, verdict=said)

    def _conclude(self) -> ClimbRecord:
        self._close_untried()
        chosen = self.chooser.choose()
        test = self._examine(chosen.winner, chosen.second) if chosen.winner else {}
        return self._end(self.chooser.final(chosen, test))

    def _end(self, said: dict[str, Any]) -> ClimbRecord:
        self._note_spent()
        self.record = self.store.climbs.update(self.record.id, status="succeeded", verdict=said)
        return self.record

    def _close_untried(self) -> None:
        """Rows that were not reached say why."""
        if self.chooser.cleared is not None and not self.knobs.all:
            return  # the table says that the bar was cleared before
        for key, record in list(self.records.items()):
            if record.status not in DONE:
                why = self.arms.out_of_time(key)
                closed = dataclasses.replace(record, status="cancelled", reason=why)
                self.records[key] = self.store.climbs.put(closed)
        self.watcher.table(list(self.records.values()))

    def _examine(self, winner: Standing, second: Standing | None) -> dict[str, Measured]:
        """Winner, runner-up and base on the test rows, on as many as there is time for."""
        keys = [winner.record.key, *([second.record.key] if second else [])]
        if self.records[BASE].status == "succeeded":
            keys.append(BASE)
        began, end = now(), min(REPORT_SECONDS, 0.1 * self.knobs.budget.seconds)
        room = max(self.left - end, LATE * self.knobs.budget.seconds)
        examination = Examination(
            self.bench, self.store, self.rungs, self.records, self.record.name, self._put,
            self.watcher.stage, self.watcher.note,
        )  # fmt: skip
        found = examination.run({key: self.arms.answer_seconds(key) for key in keys}, room)
        self.working += now() - began
        return found
