"""The test rows: touched once, in the end, by those whom the verdict speaks of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rung.artefacts import folders
from rung.errors import OutOfTime, RungError, StoreError
from rung.evals.compare import Comparison, compare
from rung.evals.measure import Measured
from rung.forward.adapter import Adapter
from rung.ladder.answers import kept_items
from rung.ladder.attempts import stopping_at
from rung.ladder.bar import BASE
from rung.ladder.meter import now
from rung.ladder.rungs import Rung
from rung.ladder.task_context import TaskContext
from rung.methods import artefact
from rung.store import Store
from rung.store.climbs import RungRecord
from rung.train.prepare import Prepared, with_tokens

MIN_TEST_ROWS = 20  # fewer say nothing
CAUTION = 0.8  # of the time that is left: rows are chosen to take so much


@dataclass
class Examination:
    """Models of a climb on its test rows.

    Attributes:
        records: the climb's rows by key. name: of the climb, which begins its models' names.
        put: keeps a changed row. stage: told what is measured. note: told what could not be.
    """

    bench: TaskContext
    store: Store
    rungs: Mapping[str, Rung]
    records: Mapping[str, RungRecord]
    name: str
    put: Callable[[RungRecord], None]
    stage: Callable[[str], None]
    note: Callable[[str], None]

    def run(self, each: Mapping[str, float], room: float) -> dict[str, Measured]:
        """Figures by rung, the first of them on as many rows as fit; who had no time is left out.

        Args:
            each: seconds that a row is expected to take, by key, the winner first.
            room: seconds in all.
        """
        until = now() + room
        found: dict[str, Measured] = {}
        for key, seconds in each.items():
            fits = int(CAUTION * (until - now()) / max(seconds, 1e-9))
            if found and fits < MIN_TEST_ROWS:
                continue
            rows = min(len(self.bench.test), max(MIN_TEST_ROWS, fits))
            try:
                found[key] = self._measure(key, rows, until)
            except OutOfTime:
                continue
            except RungError as fault:  # one model's trouble with one row is not the climb's
                self.note(f"{key} could not be measured on the test rows: {fault}")
        return found

    def _measure(self, key: str, rows: int, until: float) -> Measured:
        """A rung's figure on the test rows, read from the store where they were touched already."""
        record, bench = self.records[key], self.bench
        if "test" in record.metrics:
            return Measured.of(record.metrics["test"], record.items["test"])
        self.stage(f"{key}: measuring on {min(rows, len(bench.test))} test rows")
        opened, adapter = self._loaded(record)
        with bench.served(opened, adapter, key) as model:
            answers, measured = bench.answer_test(opened, model, rows, stopping_at(until))
        metrics = {**record.metrics, "test": measured.as_dict()}
        items = {**record.items, "test": kept_items(answers, measured)}
        self.put(dataclasses.replace(record, metrics=metrics, items=items))
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
        plan = self.bench.plan(f"{self.name}-{record.key}"[:64], rung)
        if rung.method.own_base:
            plan.run.base = str(folder)
            return self.bench.opened_for(plan), None
        opened = self.bench.opened_for(plan)
        if self.store.models.get(str(record.model)).run != record.run:
            raise StoreError(
                f"the model '{record.model}' was replaced since it was measured: climb anew"
            )
        return with_tokens(plan, opened)[0], artefact.load(folder, opened.bank)[0]


def compared(test: Mapping[str, Measured], winner: str) -> dict[str, Comparison]:
    """What the winner has over each of the others on the test rows that both were asked."""
    if winner not in test:
        return {}
    found = {}
    for key, other in test.items():
        if key != winner:
            count = min(other.n, test[winner].n)
            found[key] = compare(other.first(count), test[winner].first(count))
    return found
