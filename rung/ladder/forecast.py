"""What a rung will take, from a trial of two steps and the counts of tokens.

A trained rung warms up on the batch with the most tokens, which shows the peak of memory, and then
takes two steps of usual size, which show the time. What stands before the first step (states of the
frozen part) and a validation are timed beside them. A method that finds its adapter without training
does so on two small numbers of rows, whose difference is what a row takes; what measuring it takes is
told from some answers. Nothing of a trial is kept on disk, and nothing that was kept before makes it
faster.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.errors import MethodMisfit
from rung.forward import feature_cache
from rung.forward.adapter import Adapter
from rung.ladder.cost import Cost
from rung.ladder.meter import Meter, now
from rung.ladder.rungs import Rung
from rung.ladder.task_context import TaskContext
from rung.methods.base import Method, Study
from rung.train.loop import Trainer
from rung.train.observers import Observer, Step, Stop, Validation
from rung.train.plan import Plan
from rung.train.prepare import Prepared, adapter_of, prepare
from rung.train.sources import Batches, Shuffled
from rung.types import Rendered

FEW, MORE = 4, 48  # rows of a small fit, and of the next one at most
LARGER = 3  # times as many at least, so that the difference tells what a row takes
PATIENT = 6.0  # seconds that a fit may take to be repeated, and the next one where more rows are tried


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


def misfit(bench: TaskContext, rung: Rung, plan: Plan, opened: Prepared) -> str | None:
    """Why a rung cannot be tried here, or None."""
    unsuited = rung.method.unsuited(bench.task, plan.config)
    return unsuited or rung.method.misfit(opened.bank, plan.config)


def predict_rung(bench: TaskContext, rung: Rung) -> Prediction:
    """Try a rung for some seconds and say what all of it will take.

    Raises:
        MethodMisfit: when it fits neither the task nor the base.
    """
    plan = bench.plan("trial", rung)
    opened = bench.opened_for(plan)
    why = misfit(bench, rung, plan, opened)
    if why:
        raise MethodMisfit(why)
    with Meter() as meter, feature_cache.unused():
        if rung.method.trained:
            adapter, found, more = _trained(plan, opened)
        else:
            adapter, found, more = _fitted(bench, rung.method, plan, opened)
        peak = meter.peak() + more
        with bench.served(opened, adapter, rung.key) as model:
            request = bench.time_requests(opened, model)
            answering = 0.0 if rung.method.trained else bench.time_answers(opened, model)
    cost = dataclasses.replace(
        found.cost, wall=found.cost.wall + answering,
        request_seconds=request.seconds, request_tokens=request.tokens,
        bytes=peak, disk=4 * adapter.size + _tokenizer_bytes(opened),
    )  # fmt: skip
    return dataclasses.replace(found, cost=cost, parameters=adapter.size)


# --- trained ----------------------------------------------------------------------------------


class _Stopwatch(Observer):
    """Keeps what each step took, and when the first began and the last was validated."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = self.stepped = self.ended = now()

    def begin(self, steps: int, at: int) -> None:
        self.began = now()

    def step(self, event: Step) -> None:
        self.seconds.append(event.seconds)
        self.stepped = now()

    def validated(self, event: Validation) -> Stop | None:
        self.ended = now()
        return None


def _trained(plan: Plan, opened: Prepared) -> tuple[Adapter, Prediction, int]:
    """Seconds from two steps and one validation; and bytes of frozen states not held yet."""
    prepared = prepare(plan, lambda _: None, opened)
    adapter = adapter_of(plan, prepared)
    rows, held = prepared.rows["train"], prepared.rows["validation"]
    source = Shuffled(rows, plan.train.batch_size, plan.train.seed)
    batches = [source.rows(s) for s in range(source.per_epoch)]
    sizes = [computed(batch) for batch in batches]
    ranked = sorted(range(len(sizes)), key=sizes.__getitem__)
    tried = [ranked[-1], ranked[len(ranked) // 3], ranked[2 * len(ranked) // 3]]
    sample = _sample(held, plan.train.max_tokens or sum(sizes))
    watch = _Stopwatch()
    began = now()
    with _trainer(plan, prepared, adapter, [batches[i] for i in tried], sample, watch) as trainer:
        trainer.run()
    per_token = sum(watch.seconds[1:]) / sum(sizes[i] for i in tried[1:])
    checking = (watch.ended - watch.stepped) / max(computed(sample), 1)
    before, kept = 0.0, 0
    if trainer.gradients.boundary is not None:
        # Before the first step stand the states of the frozen part and one validation.
        seen = [*sample, *(row for t in set(tried) for row in batches[t])]
        fresh = watch.began - began - checking * computed(sample)
        part, whole = computed(seen), computed([*rows, *held])
        before = max(0.0, fresh) / part * whole
        kept = (whole - part) * opened.bank.config.hidden_size * opened.bank.dtype.itemsize
    steps = source.steps(plan.train.epochs, plan.train.steps)
    tokens = sum(sizes[s % len(sizes)] for s in range(steps))
    every = plan.train.eval_every or max(1, source.per_epoch // 2)
    checks = steps // every + (1 if steps % every else 0)
    check = checking * computed(held)
    seconds = before + tokens * per_token + checks * check
    return adapter, Prediction(Cost(seconds, seconds + 3 * check), steps, tokens), max(0, kept)


def _trainer(
    plan: Plan, prepared: Prepared, adapter: Adapter, batches: list[list[Rendered]],
    sample: list[Rendered], watch: Observer,
) -> Trainer:  # fmt: skip
    """A training of a few given steps that is validated once, on a sample."""
    knobs = dataclasses.replace(plan.train, steps=None, eval_every=len(batches), patience=0)
    short = dataclasses.replace(plan, train=knobs)
    few = dataclasses.replace(prepared, rows={**prepared.rows, "validation": sample})
    return Trainer(few, short, adapter, Batches(batches), watch)


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


def _fitted(
    bench: TaskContext, method: Method, plan: Plan, opened: Prepared
) -> tuple[Adapter, Prediction, int]:
    """Seconds as a + b (rows read), from fits on a few and on some more; and bytes not held yet."""
    config = plan.config
    whole = opened.splits
    reads = method.reads(config, len(whole.train), len(whole.validation))
    small = _Small(bench, method, plan, opened, reads)
    adapter, few = small.fit(FEW)
    if few <= PATIENT:
        adapter, few = small.fit(FEW)  # the first fit of all also paid for what is made once
    began, least = small.rows(FEW), few
    most = max(LARGER * FEW, min(MORE, int(FEW * PATIENT / max(few, 1e-9))))
    if few <= LARGER * PATIENT and small.rows(most) > began:
        adapter, more = small.fit(most)
        if more <= PATIENT:
            # The first one also meets memory that was never used before; a whole fit does so in part.
            adapter, again = small.fit(most)
            more = (more + again) / 2
        per_row = max(0.0, more - few) / (small.rows(most) - began)
        began, least = small.rows(most), more
    else:
        per_row = few / max(began, 1)
    seconds = least + per_row * max(0, sum(reads) - began)
    rendered = prepare(plan, lambda _: None, opened).rows
    rows = [*rendered["train"], *rendered["validation"]]
    tokens = computed(rows) / max(len(rows), 1)
    whole_bytes, tried_bytes = (
        method.holds(opened.bank, config, n, round(n * tokens)) for n in (sum(reads), began)
    )
    more_bytes = max(0, whole_bytes - tried_bytes)
    return adapter, Prediction(Cost(seconds, seconds)), more_bytes


@dataclass
class _Small:
    """Fits on a few rows of each part that is read; of the others all."""

    bench: TaskContext
    method: Method
    plan: Plan
    opened: Prepared
    reads: tuple[int, int]

    def rows(self, count: int) -> int:
        """How many are read when each part has so many at most."""
        return sum(min(count, n) for n in self.reads)

    def fit(self, count: int) -> tuple[Adapter, float]:
        splits = self.opened.splits
        parts = [
            _mixed(part, count) if n else part
            for part, n in zip((splits.train, splits.validation), self.reads, strict=True)
        ]
        with tempfile.TemporaryDirectory(prefix="rung-trial-") as folder:
            study = Study(
                self.opened.bank, self.opened.template, self.bench.task, list(parts[0]),
                list(parts[1]), self.plan.train.seed, Path(folder), lambda _: None,
            )  # fmt: skip
            began = now()
            fitted = self.method.fit(study, self.plan.config)
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


def _tokenizer_bytes(opened: Prepared) -> int:
    path = Path(opened.base.path) / "tokenizer.json"
    return path.stat().st_size if path.exists() else 0
