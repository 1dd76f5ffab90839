"""What a rung will take, from a trial of two steps and the counts of tokens.

A trained rung takes one step to warm up, one on the batch with the most tokens and the same one
again: where the frozen part is kept from the first time, the second tells what later epochs cost. A
method that finds its adapter without training does so on a few rows, twice or thrice, and is scaled up.
Peak memory is that of the trial, whose batch is the largest there will be.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung import objectives
from rung.data import Splits
from rung.errors import MethodMisfit
from rung.forward.adapter import Adapter
from rung.ladder.cost import Cost
from rung.ladder.meter import Meter, now
from rung.ladder.rungs import Rung
from rung.ladder.workbench import Workbench
from rung.methods.base import Study
from rung.train.loop import Silent, Work, train
from rung.train.order import Order
from rung.train.plan import Plan
from rung.train.prepare import Opened, Prepared, adapter_of, prepare
from rung.types import Rendered

KEPT = 0.6  # of the first time's seconds: below it the frozen part was kept from the first time
FEW, MORE = 8, 24  # rows of a small fit
PATIENT = 4.0  # seconds: a small fit that takes longer is not repeated on more rows


@dataclass(frozen=True)
class Prediction:
    """Of one rung. `cost.seconds` are for all `steps`, without an early stop."""

    cost: Cost
    steps: int = 0
    tokens: int = 0  # that are computed in training, shared beginnings once
    parameters: int = 0

    @property
    def per_step(self) -> float:
        return self.cost.seconds / max(self.steps, 1)


def misfit(bench: Workbench, rung: Rung, plan: Plan, opened: Opened) -> str | None:
    """Why a rung cannot be tried here, or None."""
    unsuited = rung.method.unsuited(bench.task, plan.config)
    return unsuited or rung.method.misfit(opened.bank, plan.config)


def predict_rung(bench: Workbench, rung: Rung) -> Prediction:
    """Try a rung for some seconds and say what all of it will take.

    Raises:
        MethodMisfit: when it fits neither the task nor the base.
    """
    plan = bench.plan("trial", rung)
    opened = bench.opened_for(plan)
    why = misfit(bench, rung, plan, opened)
    if why:
        raise MethodMisfit(why)
    with Meter() as meter:
        if rung.method.trained:
            adapter, found = _trained(plan, opened)
        else:
            adapter, found = _fitted(bench, plan, opened)
        peak = meter.peak()
        with bench.served(opened, adapter, rung.key) as model:
            request = bench.time_requests(opened, model)
    cost = dataclasses.replace(
        found.cost, request_seconds=request.seconds, request_tokens=request.tokens,
        bytes=peak, disk=4 * adapter.size + _tokenizer_bytes(opened),
    )  # fmt: skip
    return dataclasses.replace(found, cost=cost, parameters=adapter.size)


# --- trained ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chosen:
    """The trial's batches, in the place of the shuffled order."""

    batches: list[list[int]]

    @property
    def per_epoch(self) -> int:
        return len(self.batches)

    def batch(self, step: int) -> list[int]:
        return self.batches[step]

    def steps(self, epochs: float, most: int | None) -> int:
        return len(self.batches)


class _Stopwatch(Silent):
    """Keeps what each step took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def step(self, entry: dict[str, Any]) -> None:
        self.seconds.append(entry["seconds"])


def _trained(plan: Plan, opened: Opened) -> tuple[Adapter, Prediction]:
    prepared = prepare(plan, lambda _: None, opened)
    adapter = adapter_of(plan, prepared)
    rows = prepared.rows["train"]
    order = Order(len(rows), plan.train.batch_size, plan.train.seed)
    sizes = [computed(rows[i] for i in order.batch(s)) for s in range(order.per_epoch)]
    ranked = sorted(range(len(sizes)), key=sizes.__getitem__)
    middle, largest = ranked[len(ranked) // 2], ranked[-1]
    sample = _sample(prepared.rows["validation"], plan.train.max_tokens or sum(sizes))
    watch = _Stopwatch()
    work = _work(plan, prepared, adapter, [middle, largest, largest], order, sample, watch)
    try:
        state = train(work)
    finally:
        opened.bank.remove(work.slot)
    _, first, again = watch.seconds
    checking = (state.seconds - sum(watch.seconds)) / max(computed(sample), 1)
    if again > KEPT * first:
        first = again = (first + again) / 2
    steps = order.steps(plan.train.epochs, plan.train.steps)
    counted = [sizes[s % len(sizes)] for s in range(steps)]
    fresh = sum(counted[: len(sizes)]) * first / sizes[largest]
    later = sum(counted[len(sizes) :]) * again / sizes[largest]
    held = computed(prepared.rows["validation"]) * checking
    every = plan.train.eval_every or max(1, order.per_epoch // 2)
    checks = steps // every + (1 if steps % every else 0)
    seconds = fresh + later + checks * held
    return adapter, Prediction(Cost(seconds, seconds + 3 * held), steps, sum(counted))


def _work(
    plan: Plan, prepared: Prepared, adapter: Adapter, steps: list[int], order: Order,
    sample: list[Rendered], watch: Silent,
) -> Work:  # fmt: skip
    knobs = dataclasses.replace(plan.train, steps=None, eval_every=len(steps), patience=0)
    bank = prepared.bank
    return Work(
        bank, adapter, bank.add(adapter), objectives.get(plan.run.objective), prepared.rows["train"],
        sample, knobs, plan.train.max_tokens or 1 << 30,
        _Chosen([order.batch(s) for s in steps]),  # type: ignore[arg-type]
        None, watch,
    )  # fmt: skip


def computed(rows: Any) -> int:
    """Tokens that a batch of rows computes, what they share at the beginning once."""
    total = 0
    previous: tuple[int, ...] = ()
    for ids in sorted(row.ids for row in rows):
        same = next((i for i, (a, b) in enumerate(zip(previous, ids, strict=False)) if a != b), None)
        shared = min(len(previous), len(ids)) if same is None else same
        total, previous = total + len(ids) - shared, ids
    return total


def _sample(rows: Sequence[Rendered], tokens: int) -> list[Rendered]:
    """Rows of about so many tokens, as one micro-batch of a validation holds."""
    kept: list[Rendered] = []
    for row in sorted(rows, key=lambda r: r.ids):
        if kept and computed([*kept, row]) > tokens:
            break
        kept.append(row)
    return kept


# --- found without training -------------------------------------------------------------------


def _fitted(bench: Workbench, plan: Plan, opened: Opened) -> tuple[Adapter, Prediction]:
    """Seconds as a + b (training rows) + c (validation rows), from fits on a few of each."""
    train, held = len(opened.splits.train), len(opened.splits.validation)
    few = _Small(bench, plan, opened)
    few.fit(FEW, FEW)  # the first fit of all also pays for what is made once
    adapter, base = few.fit(FEW, FEW)
    if base > PATIENT:
        seconds = base * max(1.0, held / FEW)
        return adapter, Prediction(Cost(seconds, seconds))
    _, wide = few.fit(MORE, FEW)
    _, long = few.fit(FEW, MORE)
    per_row = max(0.0, wide - base) / (MORE - FEW), max(0.0, long - base) / (MORE - FEW)
    seconds = base + per_row[0] * max(0, train - FEW) + per_row[1] * max(0, held - FEW)
    return adapter, Prediction(Cost(seconds, seconds + per_row[1] * held))


@dataclass
class _Small:
    """Fits on a few rows."""

    bench: Workbench
    plan: Plan
    opened: Opened

    def fit(self, train: int, held: int) -> tuple[Adapter, float]:
        splits = self.opened.splits
        few = Splits(_mixed(splits.train, train), _mixed(splits.validation, held))
        with tempfile.TemporaryDirectory(prefix="rung-trial-") as folder:
            study = Study(
                self.opened.bank, self.opened.template, self.bench.task, list(few.train),
                list(few.validation), self.plan.train.seed, Path(folder), lambda _: None,
            )  # fmt: skip
            began = now()
            fitted = self.plan.method.fit(study, self.plan.config)
            return fitted.adapter, now() - began


def _mixed(examples: Sequence[Any], count: int) -> tuple[Any, ...]:
    """So many rows with every answer among them where there is room: answers take turns."""
    from rung.evals.tasks import reply

    groups: dict[str | None, list[Any]] = {}
    for example in examples:
        groups.setdefault(reply(example), []).append(example)
    taken: list[Any] = []
    depth = 0
    while len(taken) < min(count, len(examples)):
        taken += [group[depth] for group in groups.values() if depth < len(group)]
        depth += 1
    return tuple(taken[:count])


def _tokenizer_bytes(opened: Opened) -> int:
    path = Path(opened.base.path) / "tokenizer.json"
    return path.stat().st_size if path.exists() else 0
