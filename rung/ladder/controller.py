"""The climb: attempts at rungs within the budget, at any moment with a best so far, to a verdict.

Validation selects. The test rows are touched once, in the end, by the winner, the runner-up and the
base as it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rung.errors import ConfigError, Interrupted, MethodMisfit, OutOfTime, RungError
from rung.evals.measure import Measured
from rung.ladder import advice as advise
from rung.ladder import verdict
from rung.ladder.answers import kept_items, one_answer
from rung.ladder.arms import Arms
from rung.ladder.bar import BASE
from rung.ladder.cost import Cost
from rung.ladder.examination import Examination, compared
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.machine import settle_threads
from rung.ladder.meter import now
from rung.ladder.observer import ClimbObserver
from rung.ladder.rungs import Rung
from rung.ladder.scheme import BASELINE, Level, Step, next_step
from rung.ladder.scheme import Standing as Now
from rung.ladder.task_context import TaskContext
from rung.ladder.trials import Attempt, Trial, attempts_of, limit_of, stopping_at
from rung.ladder.verdict import Standing
from rung.store import Store
from rung.store.climbs import ClimbRecord, RungRecord
from rung.train.gradient import out_of_memory

DONE = ("succeeded", "failed", "cancelled")
TESTING = 0.25  # of the budget at most, for the test rows
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
        """Attempt after attempt while time is left; then judge."""
        self._list()
        while not self._examined and (step := self._next()) is not None:
            self._attempt(step)
        if not self._examined:
            self._repeat_seeds()
        return self._conclude()

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

    # --- what to try --------------------------------------------------------------------------------

    def _list(self) -> None:
        """A row for the base and for every rung, with what it will take; misfits say why."""
        wanted = {BASE: None, **self.rungs}
        for key, rung in wanted.items():
            if key in self.records:
                continue
            method = rung.method.name if rung else ""
            settings = dict(rung.settings) if rung else {}
            record = RungRecord(self.record.id, key, method, settings=settings)
            why = self.arms.misfits.get(key)
            if why:
                record = dataclasses.replace(record, status="cancelled", reason=why)
            else:
                record = dataclasses.replace(record, predicted=self._predicted(key))
            self.records[key] = self.store.climbs.put(record)
        self._place()

    def _predicted(self, key: str) -> dict[str, Any]:
        found = self.arms.prediction(key)
        about = {"steps": found.steps, "tokens": found.tokens, "parameters": found.parameters}
        return {**found.cost.as_dict(self.knobs.requests, self.knobs.price), **about}

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

    def _next(self) -> Step | None:
        for key, record in self.records.items():  # what was under way when the climb was interrupted
            if record.trials.get("now") and record.status in ("running", "interrupted"):
                kept = record.trials["now"]
                params = tuple(sorted(kept["params"].items()))
                return Step(key, params, Level(*kept["level"]), kept["seconds"], kept["why"])
        found = {key: attempts_of(r) for key, r in self.records.items()}
        left = self.left - self._reserve()
        return next_step(
            self.arms.of(found, self.left),
            Now(left, self._cleared(), self.knobs.all, self.arms.best_possible),
        )

    def _cleared(self) -> float | None:
        """What the cheapest rung that clears the bar costs in all."""
        bar = self.bench.bar
        totals = [
            r.cost["total_seconds"]
            for r in self.records.values()
            if bar is not None and r.status == "succeeded" and r.method and "validation" in r.metrics
            and not r.metrics.get("only") and bar.cleared(r.metrics["validation"]["value"])
        ]  # fmt: skip
        return min(totals, default=None)

    def _reserve(self) -> float:
        """Seconds that are kept for the test rows and the report."""
        budget = self.knobs.budget.seconds
        found = verdict.standings([self.records[k] for k in self.rungs if k in self.records])
        ranked = sorted(found, key=lambda s: s.measured.value, reverse=not self.arms.lower)[:2]
        seconds = sum(self.arms.answer_seconds(s.record.key) for s in ranked)
        if self.records[BASE].status == "succeeded":
            seconds += self.arms.answer_seconds(BASE)
        testing = min(TESTING * budget, len(self.bench.test) * seconds)
        return testing + min(REPORT_SECONDS, 0.1 * budget)

    # --- attempt by attempt -------------------------------------------------------------------------

    def _attempt(self, step: Step) -> None:
        began = now()
        left = self.left - min(self._reserve(), 0.5 * self.left)
        # Nothing can be said without the baseline: it alone may take all the time there is.
        limit = left if step.why == BASELINE else limit_of(step.seconds, left)
        record = self.records[step.key]
        under_way = {"params": dict(step.params), "level": [step.level.share, step.level.held],
                     "seconds": step.seconds, "why": step.why}  # fmt: skip
        trials = {**record.trials, "now": under_way}
        self._put(dataclasses.replace(record, status="running", reason=None, trials=trials))
        settle_threads(str(self.bench.opened.bank.device))
        self.watcher.stage(f"{step.key}: beginning")
        try:
            done = self._measure_base(step) if step.key == BASE else self._try(step, limit)
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
        self._place()
        self._keep_verdict()

    def _newest(self, key: str) -> RungRecord:
        """A rung as the store has it, with what an attempt has noted."""
        return next(r for r in self.store.climbs.rungs(self.record.id) if r.key == key)

    def _try(self, step: Step, limit: float) -> RungRecord:
        rung = self.rungs[step.key]
        trial = Trial(
            self.bench, rung, self.records[step.key], step, self.arms.prediction(step.key, step.level),
            limit, self._name(step.key), self.store, self.watcher, self.record.started,
        )  # fmt: skip
        return trial.run()

    def _failed(self, step: Step, fault: Exception, took: float) -> None:
        """Note an attempt that gave nothing; what an earlier one gave stands."""
        record = self._newest(step.key)
        ended = _ended(fault)
        attempt = Attempt(
            params=dict(step.params), level=step.level, making=took, fault=ended["reason"],
            late=isinstance(fault, OutOfTime),
        )  # fmt: skip
        trials = {"done": [*record.trials.get("done", []), attempt.as_dict()]}
        if isinstance(fault, OutOfTime):
            counted = self.arms.prediction(step.key, step.level)
            self.bench.forecaster.was_late(step.key, counted, took)
        if "validation" in record.metrics:
            ended = {"status": "succeeded", "reason": f"a later attempt ended: {ended['reason']}"}
        self._put(dataclasses.replace(record, trials=trials, **ended))

    def _measure_base(self, step: Step) -> RungRecord:
        """The base as it is, which rungs are held against."""
        bench, record = self.bench, self.records[BASE]
        rows = bench.validation[: step.level.held]
        limit = now() + limit_of(step.seconds, self.left)
        began = now()
        with bench.served(bench.opened, None, BASE) as model:
            answers, measured = bench.answer(bench.opened, model, rows, stopping_at(limit))
            each = (now() - began) / max(len(rows), 1)
            request = bench.time_requests(bench.opened, model)
        cost = Cost(
            wall=now() - began, request_seconds=request.seconds, request_tokens=request.tokens,
            request_low=request.low, request_high=request.high,
        )  # fmt: skip
        bench.forecaster.learn(BASE, BASE, self.arms.prediction(BASE, step.level), 0.0, each)
        attempt = Attempt(params={}, level=step.level, answering=each, measured=measured)
        only = one_answer(answers, bench.task)
        return dataclasses.replace(
            record,
            metrics={"validation": measured.as_dict(), "only": only, "held_of": len(bench.validation)},
            cost=cost.as_dict(self.knobs.requests, self.knobs.price),
            items={"validation": kept_items(answers, measured)},
            trials={"done": [*record.trials.get("done", []), attempt.as_dict()]},
        )

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
        value = trial.repeat(own, own["seed"] + seed)
        known.append({"seed": own["seed"] + seed, "value": value})
        self.working += now() - began
        self._put(dataclasses.replace(record, metrics={**record.metrics, "seeds": known}))

    def _name(self, key: str) -> str:
        return f"{self.record.name}-{key}"[:64]

    # --- the best so far, and the end ---------------------------------------------------------------

    def _standings(self) -> list[Standing]:
        return verdict.standings([r for r in self.records.values() if r.key in self.rungs])

    def _keep_verdict(self, stopped: bool = False) -> None:
        said = self._so_far(stopped)
        if said:
            self.record = self.store.climbs.update(self.record.id, verdict=said)

    def _so_far(self, stopped: bool = False) -> dict[str, Any]:
        """The verdict by what was seen until now, by validation alone."""
        found = self._standings()
        chosen = verdict.choose(found, self.bench.bar, self._baseline(), self.arms.tie)
        if chosen.winner is None:
            return {}
        seen = self._evidence(chosen, {}, stopped)
        return {
            "so_far": True, "says": verdict.says(seen), "winner": chosen.winner.record.key,
            "model": chosen.winner.record.model, "next": advise.advice(seen),
            "curve": advise.curve(chosen.winner),
        }  # fmt: skip

    def _baseline(self) -> str | None:
        return next((k for k, r in self.rungs.items() if r.method.baseline), None)

    def _conclude(self) -> ClimbRecord:
        self._close_untried()
        chosen = verdict.choose(self._standings(), self.bench.bar, self._baseline(), self.arms.tie)
        winner, second = chosen.winner, chosen.second
        if winner is None:
            seen = self._evidence(chosen, {}, False)
            return self._end({"says": verdict.says(seen), "winner": None, "next": advise.advice(seen)})
        test = self._examine(winner, second)
        own = test.get(winner.record.key)
        bar = self.bench.bar
        against = compared(test, winner.record.key)
        seen = self._evidence(chosen, test, False)
        return self._end({
            "says": verdict.says(seen),
            "winner": winner.record.key,
            "model": winner.record.model,
            "runner_up": second.record.key if second else None,
            "cleared": None if bar is None or own is None else bar.cleared(own.value),
            "cleared_on_validation": None if bar is None else bar.cleared(winner.measured.value),
            "test": {key: m.as_dict() for key, m in test.items()},
            "against": {key: c.as_dict() for key, c in against.items()},
            "curve": advise.curve(winner),
            "next": advise.advice(seen),
        })  # fmt: skip

    def _evidence(self, chosen: Any, test: dict[str, Measured], stopped: bool) -> verdict.Evidence:
        return verdict.Evidence(
            bar=self.bench.bar, task=self.bench.task, chosen=chosen, test=test,
            records=list(self.records.values()), baseline=self._baseline(), base=BASE,
            budget=str(self.knobs.budget), seconds=self.knobs.budget.seconds, used=self.used,
            outlook=self.arms.outlook({k: attempts_of(r) for k, r in self.records.items()}),
            stopped=stopped, test_of=len(self.bench.test), best_possible=self.arms.best_possible,
        )  # fmt: skip

    def _close_untried(self) -> None:
        """Rows that were not reached say why."""
        cleared = self._cleared() is not None and not self.knobs.all
        for key, record in list(self.records.items()):
            if record.status in DONE:
                continue
            if cleared:
                continue  # the table says that the bar was cleared below
            lowest = self.arms.lowest(key)
            why = f"no time: a sample would take about {lowest:.0f} s of --budget {self.knobs.budget}"
            self._put(dataclasses.replace(record, status="cancelled", reason=why))

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

    def _end(self, said: dict[str, Any]) -> ClimbRecord:
        self._note_spent()
        self.record = self.store.climbs.update(self.record.id, status="succeeded", verdict=said)
        return self.record


def _ended(fault: Exception) -> dict[str, Any]:
    """How a rung that raised ends: skipped when it does not fit, else failed, with the reason."""
    if out_of_memory(fault):
        return {"status": "failed", "reason": "out of memory: lower --max-tokens or --max-length"}
    said = str(fault) if isinstance(fault, RungError) else f"{type(fault).__name__}: {fault}"
    skipped = isinstance(fault, (MethodMisfit, ConfigError, OutOfTime))
    return {"status": "cancelled" if skipped else "failed", "reason": " ".join(said.split())[:300]}
