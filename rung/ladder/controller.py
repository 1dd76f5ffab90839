"""The climb: rungs in the order of what they cost, from the cheapest up, to the bar.

Validation selects. The test rows are touched once, in the end, by the winner, the runner-up and the
base as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.artefacts import folders
from rung.errors import ConfigError, Interrupted, MethodMisfit, RungError, StoreError
from rung.evals.compare import compare
from rung.evals.measure import Measured
from rung.forward.adapter import Adapter
from rung.ladder import learning_curve, verdict
from rung.ladder.budget import LAST, shares, short_of_time
from rung.ladder.cost import Cost
from rung.ladder.forecast import Prediction, predict_rung
from rung.ladder.judge import falls
from rung.ladder.kept import figure, kept_items, measured_of
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.meter import now
from rung.ladder.observer import ClimbObserver
from rung.ladder.rungs import Rung
from rung.ladder.task_context import TaskContext
from rung.ladder.trials import Trial
from rung.ladder.verdict import Standing
from rung.methods import artefact
from rung.store import Store
from rung.store.climbs import ClimbRecord, RungRecord
from rung.train.gradient import out_of_memory
from rung.train.prepare import Prepared

BASE = "base"  # the key of the base as it is
DONE = ("succeeded", "failed", "cancelled")
LEAST_SHARE = 0.1  # of a training's steps: a rung with time for less is not tried
CHEAP = 60.0  # seconds: what a curve may take where no time is left


@dataclass
class ClimbController:
    """One climb under way."""

    bench: TaskContext
    store: Store
    record: ClimbRecord
    rungs: dict[str, Rung]
    watcher: ClimbObserver
    predictions: dict[str, Prediction] = field(default_factory=dict)
    records: dict[str, RungRecord] = field(default_factory=dict)
    spent: float = 0.0

    @property
    def knobs(self) -> ClimbKnobs:
        return self.bench.knobs

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return max(0.0, self.knobs.seconds - self.spent)

    def run(self) -> ClimbRecord:
        """Measure the base, predict rungs, try them, judge."""
        with self._spending():
            self._measure_base()
            self._list()
        while key := self._next():
            with self._spending():
                self._attempt(key)
        return self._conclude()

    @contextlib.contextmanager
    def _spending(self) -> Iterator[None]:
        began = now()
        try:
            yield
        finally:
            self.spent += now() - began
            settings = {**self.record.settings, "spent": self.spent}
            self.record = self.store.climbs.update(self.record.id, settings=settings)

    def _put(self, record: RungRecord) -> None:
        self.records[record.key] = self.store.climbs.put(record)
        self.watcher.table(list(self.records.values()))

    # --- before the first rung ------------------------------------------------------------------

    def _measure_base(self) -> None:
        """The base as it is, which every rung is held against."""
        if BASE in self.records:
            return
        bench = self.bench
        self.watcher.stage("measuring the base as it is")
        with bench.served(bench.opened, None, BASE) as model:
            answers, measured = bench.answer(bench.opened, model, bench.validation)
            request = bench.time_requests(bench.opened, model)
        cost = Cost(request_seconds=request.seconds, request_tokens=request.tokens)
        self._put(
            RungRecord(
                self.record.id, BASE, "", place=-1, status="succeeded",
                metrics={"validation": figure(measured)},
                cost=cost.as_dict(self.knobs.requests, self.knobs.price),
                items={"validation": kept_items(answers, measured)},
            )
        )  # fmt: skip

    def _list(self) -> None:
        """A row for every rung, with what an interrupted climb had predicted of it."""
        for key, rung in self.rungs.items():
            known = self.records.get(key)
            if known is None:
                self._put(
                    RungRecord(self.record.id, key, rung.method.name, settings=dict(rung.settings))
                )
            elif known.predicted:
                self.predictions[key] = _prediction(known.predicted)

    def _next(self) -> str | None:
        """The rung that is expected to cost least of those that are left; None after the last.

        With a bar, rungs that may never be reached are not tried out before they must be: one that
        generates its answers cannot cost less than the base's own answers do, so a classifier that
        costs less goes first.
        """
        if not self.knobs.all and any(self._cleared(key) for key in self.rungs):
            return None
        waiting = [k for k in self._order() if self.records[k].status not in DONE]
        unknown = [k for k in waiting if k not in self.predictions]
        if self.bench.bar is not None and not self.knobs.all:
            least = self.records[BASE].cost["serving_seconds"]
            known = [k for k in waiting if k in self.predictions]
            first = [k for k in unknown if self.rungs[k].method.classifies]
            cheap = known and self.predictions[known[0]].cost.total(self.knobs.requests) < least
            unknown = first or ([] if cheap else unknown)
        if not unknown:
            return waiting[0] if waiting else None
        with self._spending():
            for key in unknown:
                self._predict(key)
            self._place()
        return self._next()

    def _predict(self, key: str) -> None:
        """A trial of a rung; one that does not fit says why."""
        self.watcher.stage(f"{key}: a trial of two steps")
        try:
            found = predict_rung(self.bench, self.rungs[key])
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as fault:
            self._put(dataclasses.replace(self.records[key], place=len(self.rungs), **_ended(fault)))
            return
        self.predictions[key] = found
        kept = found.cost.as_dict(self.knobs.requests, self.knobs.price)
        about = {"steps": found.steps, "tokens": found.tokens, "parameters": found.parameters}
        self._put(dataclasses.replace(self.records[key], predicted={**kept, **about}))

    def _place(self) -> None:
        for place, key in enumerate(self._order()):
            if self.records[key].place != place:
                self._put(dataclasses.replace(self.records[key], place=place))

    def _order(self) -> list[str]:
        """Rungs by what they will cost in all; those that give up the base are the top ones."""

        def total(key: str) -> tuple:
            predicted, method = self.records[key].predicted, self.rungs[key].method
            return (not predicted, method.own_base, predicted.get("total_seconds", 0.0), key)

        return sorted((k for k in self.records if k in self.rungs), key=total)

    # --- rung by rung -----------------------------------------------------------------------------

    def _attempt(self, key: str) -> None:
        rung, record, found = self.rungs[key], self.records[key], self.predictions[key]
        allotted = self._allotted(key)
        why = self._too_long(rung, found, allotted)
        if why:
            self._put(dataclasses.replace(record, status="cancelled", reason=why))
            return
        self.watcher.stage(f"{key}: beginning")
        attempt = Trial(
            self.bench, rung, record, found, allotted, self._name(key), self.store, self.watcher,
            self.record.started,
        )  # fmt: skip
        try:
            attempt.run()
            self._put(attempt.close())
        except (Interrupted, KeyboardInterrupt):
            self._put(dataclasses.replace(attempt.record, status="interrupted"))
            raise
        except Exception as fault:
            if attempt.best is None:
                self._put(dataclasses.replace(attempt.record, **_ended(fault)))
            else:  # what an earlier trial gave stands
                reason = f"a later trial failed: {_ended(fault)['reason']}"
                self._put(dataclasses.replace(attempt.close(), reason=reason))
        finally:
            self.bench.close_others()

    def _allotted(self, key: str) -> float:
        """Seconds for a rung, so that those behind it have their part; some are kept for the end."""
        wanted = {
            k: found.cost.wall
            for k, found in self.predictions.items()
            if self.records[k].status not in DONE
        }
        return shares(wanted, self.left - LAST * self.knobs.seconds)[key]

    def _too_long(self, rung: Rung, found: Prediction, allotted: float) -> str | None:
        """Why there is no time for a rung; a training may be cut short, though not to nothing."""
        needed = found.cost.wall * (LEAST_SHARE if rung.method.trained else 1.0)
        room = allotted if rung.method.trained else max(allotted, 0.5 * self.left)
        if needed <= room:
            return None
        return (
            f"no time: it would take about {found.cost.wall:.0f} s, and {self.left:.0f} s of "
            f"--budget {self.knobs.budget} are left"
        )

    def _name(self, key: str) -> str:
        return f"{self.record.name}-{key}"[:64]

    def _cleared(self, key: str) -> bool:
        bar, record = self.bench.bar, self.records[key]
        kept = record.metrics.get("validation")
        if bar is None or kept is None or record.status != "succeeded":
            return False
        return bar.cleared(kept["value"])

    # --- the end ------------------------------------------------------------------------------------

    def _conclude(self) -> ClimbRecord:
        rungs = [self.records[k] for k in self._order()]
        found = verdict.standings(rungs)
        winner, second = verdict.choose(found, self.bench.bar, falls(self.bench.task))
        if winner is None:
            said = "No rung could be tried: the table says why."
            return self._end({"says": said, "winner": None})
        with self._spending():
            test = {key: self._test(key) for key in self._to_test(winner, second)}
            points, notes = self._learn(winner)
        own = test[winner.record.key]
        against = {k: compare(m, own) for k, m in test.items() if k != winner.record.key}
        bar = self.bench.bar
        cut = short_of_time(rungs, self.spent, self.knobs.budget)
        said = verdict.says(bar, winner, own, against)
        return self._end({
            "says": said,
            "winner": winner.record.key,
            "model": winner.record.model,
            "runner_up": second.record.key if second else None,
            "cleared": None if bar is None else bar.cleared(own.value),
            "cleared_on_validation": None if bar is None else bar.cleared(winner.measured.value),
            "test": {key: figure(m) for key, m in test.items()},
            "against": {key: verdict.plain(c) for key, c in against.items()},
            "curve": learning_curve.plain(points),
            "next": [
                *learning_curve.advice(points, self.bench.task, self._higher(winner, found), cut),
                *notes,
            ],
        })  # fmt: skip

    def _end(self, said: dict[str, Any]) -> ClimbRecord:
        self.record = self.store.climbs.update(self.record.id, status="succeeded", verdict=said)
        return self.record

    def _to_test(self, winner: Standing, second: Standing | None) -> list[str]:
        return [winner.record.key, *([second.record.key] if second else []), BASE]

    def _test(self, key: str) -> Measured:
        """A rung's figure on the test rows, read from the store where they were touched already."""
        record, bench = self.records[key], self.bench
        if "test" in record.metrics:
            return measured_of(record.metrics["test"], record.items["test"])
        self.watcher.stage(f"{key}: measuring on the test rows")
        opened, adapter = self._loaded(record)
        with bench.served(opened, adapter, key) as model:
            answers, measured = bench.answer_test(opened, model)
        metrics = {**record.metrics, "test": figure(measured)}
        items = {**record.items, "test": kept_items(answers, measured)}
        self._put(dataclasses.replace(record, metrics=metrics, items=items))
        if record.model:
            self.store.evaluations.add(
                metric=f"test_{measured.metric}", value=measured.value, model=record.model,
                dataset=bench.data, low=measured.low, high=measured.high, n=measured.n,
            )  # fmt: skip
        return measured

    def _loaded(self, record: RungRecord) -> tuple[Prepared, Adapter | None]:
        """A rung's model as the store has it, on its base."""
        if record.key == BASE:
            return self.bench.opened, None
        rung, folder = self.rungs[record.key], folders.model_folder(str(record.model))
        plan = self.bench.plan(self._name(record.key), rung)
        if rung.method.own_base:
            plan.run.base = str(folder)
            return self.bench.opened_for(plan), None
        opened = self.bench.opened_for(plan)
        if self.store.models.get(str(record.model)).run != record.run:
            raise StoreError(
                f"the model '{record.model}' was replaced since it was measured: climb anew"
            )
        return opened, artefact.load(folder, opened.bank)[0]

    def _higher(self, winner: Standing, found: Sequence[Standing]) -> bool | None:
        """Whether a dearer rung is better than the winner as far as validation can tell."""
        above = [s for s in found if s.total > winner.total]
        if not above:
            return None
        lower = falls(self.bench.task)
        for standing in above:
            seen = compare(winner.measured, standing.measured)
            if seen.certain and (seen.difference < 0) == lower:
                return True
        return False

    def _learn(self, winner: Standing) -> tuple[list[learning_curve.Point], list[str]]:
        """The learning curve of the winner, where there is time for it; known points are kept."""
        known = {p["share"]: p for p in self.record.settings.get("points", [])}
        missing = [share for share in learning_curve.SHARES if share not in known]
        took = winner.record.cost.get("wall", 0.0) * sum(missing)
        if took > max(self.left, CHEAP):
            return [], [f"A curve over less data was left out: it would take {took:.0f} s more."]
        rung = self.rungs[winner.record.key]
        for share in missing:
            try:
                known[share] = learning_curve.learn(
                    self.bench, winner, rung, share, self.store, self.watcher
                )
            except RungError as fault:
                return [], [f"A curve over less data could not be had: {fault}"]
            settings = {**self.record.settings, "points": list(known.values())}
            self.record = self.store.climbs.update(self.record.id, settings=settings)
        points = [learning_curve.point_of(known[share]) for share in learning_curve.SHARES]
        whole = learning_curve.Point(1.0, len(self.bench.opened.splits.train), winner.measured)
        return [*points, whole], []


def _prediction(kept: Mapping[str, Any]) -> Prediction:
    return Prediction(Cost.of(kept), kept["steps"], kept["tokens"], kept["parameters"])


def _ended(fault: Exception) -> dict[str, Any]:
    """How a rung that raised ends: skipped when it does not fit, else failed, with the reason."""
    if out_of_memory(fault):
        return {"status": "failed", "reason": "out of memory: lower --max-tokens or --max-length"}
    said = str(fault) if isinstance(fault, RungError) else f"{type(fault).__name__}: {fault}"
    fits = not isinstance(fault, (MethodMisfit, ConfigError))
    return {"status": "failed" if fits else "cancelled", "reason": " ".join(said.split())[:300]}
