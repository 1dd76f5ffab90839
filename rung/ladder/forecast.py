"""What a rung will take, from arithmetic: counts of tokens times the speed of this machine.

Nothing is trained or asked for it. What an earlier attempt of the same rung really took, in this climb
or in one before on the same machine and base, corrects what is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rung.data import Template
from rung.errors import DataError, MethodMisfit
from rung.evals import kinds, metrics
from rung.evals.tasks import calls_of, question, reply
from rung.forward.bank import Bank
from rung.ladder.cost import Cost
from rung.ladder.machine import Machine
from rung.ladder.rungs import Rung
from rung.methods.base import Method, Schedule
from rung.methods.workload import PASS_TOKENS, Shape, Workload, scoring
from rung.tools.agent import Agent
from rung.train import estimate
from rung.train.plan import Plan
from rung.train.sources import Shuffled
from rung.types import Example, Task

SAMPLED = 200  # rows whose tokens are counted
FIXED_SECONDS = 0.3  # of every attempt: rows rendered, files written
MAX_SLOWER = 8.0  # times: beyond that it is an accident, no measure
READING = 0.25  # of a step at most, that reading the weights and calling the modules may take
MAX_BATCH, MIN_STEPS = 64, 100  # rows of a step that is made larger; steps that are left of a training
REQUEST_SECONDS = 1e-3  # of any request beside what it computes: template, queue, answer
REPLY_TOKENS = 64  # of a timed answer at most, where replies of the data are longer


@dataclass(frozen=True)
class Prediction:
    """Of one rung, all of it or a share.

    Attributes:
        cost: `seconds` for making it, `wall` with measuring it on `held` rows.
        answer_seconds: of one row, many side by side.
        steps, tokens: of a training, the tokens computed in it. parameters: of the adapter.
        held: rows of validation it is measured on.
    """

    cost: Cost
    answer_seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    parameters: int = 0
    held: int = 0


def shape_of(template: Template, bank: Bank, task: Task, train: Sequence[Example], held: int) -> Shape:
    """Count tokens of some rows, and the base's sizes."""
    rows = spread(train, SAMPLED)
    agent = Agent.of(task.tools) if task.tools else None
    prompts, replies, letters = [], [], []
    told: list[_Told] = []
    for example in rows:
        asked = question(example)
        try:
            prompts.append(tuple(template.prompt(asked)))
            told += [_told(template, agent, example)] if agent else []
        except DataError:
            continue
        replies.append(len(template.encoder.encode(reply(example) or "")[0]) + 1)
        letters.append(len(next((m["content"] for m in reversed(asked) if m["role"] == "user"), "")))
    count = max(len(prompts), 1)
    shared = _common(prompts)
    schemas = max(0, _common([t.prompt for t in told]) - shared)
    mean = sum(map(len, prompts)) / count
    config: Any = bank.config
    table = bank.table_size
    every = sum(p.numel() for p in bank.model.parameters())
    layers = max(1, every - table)
    return Shape(
        rows=len(train), held=held, prompt=max(1.0, mean - shared), shared=shared,
        reply=sum(replies) / count, choices=_choices(template, task, rows),
        letters=sum(letters) / count, labels=len(task.labels), layers=config.num_hidden_layers,
        width=config.hidden_size, weights=layers, head=table / layers, schemas=schemas,
        calls=sum(t.calls for t in told) / count, results=sum(t.results for t in told) / count,
        system=any(m["role"] in ("system", "developer") for e in rows for m in question(e)[:1]),
    )  # fmt: skip


class _Told(NamedTuple):
    """A row as a model that may call tools is asked it; tokens of its calls, and of what they gave."""

    prompt: tuple[int, ...]
    calls: int
    results: int


def _told(template: Template, agent: Agent, example: Example) -> _Told:
    prompt = tuple(template.prompt(agent.messages(question(example))))
    called = calls_of(example)
    if not called:
        return _Told(prompt, 0, 0)
    whole = template.prompt(agent.messages(example.messages[:-1]))
    calls = len(template.encoder.encode(called)[0]) + 1
    return _Told(prompt, calls, max(0, len(whole) - len(prompt) - calls))


def _choices(template: Template, task: Task, rows: Sequence[Example]) -> float:
    """Tokens of what a row is scored against; what a text itself has, where it is scored."""
    if metrics.by_likelihood(task):
        return (
            sum(len(template.encoder.encode(reply(e) or "")[0]) for e in rows) / max(len(rows), 1)
            or 1.0
        )
    if kinds.of(task).compares and metrics.get(task.metric).reads == "label scores":
        sides = [m[-1]["content"] for e in rows for m in (e.messages, e.rejected) if m]
        return sum(len(template.encoder.encode(s)[0]) for s in sides) / max(len(rows), 1) or 1.0
    if not kinds.of(task).chooses:
        return 0.0
    offered = [task.labels or e.choices for e in rows[:1]] if task.labels else [e.choices for e in rows]
    lengths = [sum(len(template.encoder.encode(c)[0]) for c in choices) for choices in offered]
    return sum(lengths) / max(len(lengths), 1)


def spread(rows: Sequence[Example], most: int) -> list[Example]:
    """At most so many rows, evenly through all."""
    step = max(1, len(rows) // most)
    return list(rows[::step])[:most]


def _common(prompts: Sequence[tuple[int, ...]]) -> int:
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)


# --- one rung -------------------------------------------------------------------------------------


@dataclass
class Forecaster:
    """Predicts rungs of one task on one base and machine."""

    machine: Machine
    shape: Shape
    bank: Bank
    task: Task
    tokenizer_bytes: int
    resident: int
    misfits: dict[str, str | None] = field(default_factory=dict)  # by rung, asked once
    sizes: dict[str, int] = field(default_factory=dict)  # parameters by rung, counted once
    slower: dict[str, float] = field(default_factory=dict)  # times that rungs are slower than counted

    @classmethod
    def of(cls, bench: Any, machine: Machine) -> Forecaster:
        """For the task of a `TaskContext`."""
        import psutil

        opened = bench.opened
        shape = shape_of(
            opened.template, opened.bank, bench.task, opened.splits.train, len(bench.validation)
        )
        path = Path(opened.base.path) / "tokenizer.json"
        size = path.stat().st_size if path.exists() else 0
        # The base is measured before any rung: what it was laid out as stays, and the memory of a pass,
        # which holds a layer's values and, for keys and values, one of a state's width for each layer.
        passing = PASS_TOKENS * estimate.token_bytes(opened.bank, recomputes=True)
        resident = psutil.Process().memory_info().rss + opened.bank.preparing_bytes + passing
        return cls(machine, shape, opened.bank, bench.task, size, resident)

    def misfit(self, rung: Rung, plan: Plan) -> str | None:
        """Why a rung cannot be tried here, or None."""
        if rung.key not in self.misfits:
            method = rung.method
            self.misfits[rung.key] = (
                method.misread(self.task)
                or method.unsuited(self.task, plan.config)
                or method.refusal(self.bank, plan.config)
            )
        return self.misfits[rung.key]

    def base(self, held: int) -> Prediction:
        """What the base as it is takes to be measured."""
        each = self._answering("base", scoring(self.shape))
        seconds, tokens = self._request("base", scoring(self.shape))
        cost = Cost(wall=FIXED_SECONDS + held * each, request_seconds=seconds, request_tokens=tokens)
        return Prediction(cost, each, held=held)

    def of_rung(
        self, rung: Rung, plan: Plan, share: float = 1.0, held: int | None = None
    ) -> Prediction:
        """A share of a rung: of its training's steps, or of the rows that it is fitted on.

        Raises:
            MethodMisfit: when it fits neither the task nor the base.
        """
        why = self.misfit(rung, plan)
        if why:
            raise MethodMisfit(why)
        held = self.shape.held if held is None else held
        method, config = rung.method, plan.config
        counted = self._shape(method)
        if rung.key not in self.sizes:
            self.sizes[rung.key] = method.size(self.bank, config, counted)
        size = self.sizes[rung.key]
        shape = counted.part(
            self.shape.rows if method.trained else max(1, round(share * self.shape.rows)), held
        )
        steps, schedule = 0, Schedule(0, 0, 0)
        if method.trained:
            schedule = self.schedule(plan, share)
            steps = schedule.steps
        work = method.making(config, shape, schedule) + Workload(updated=float(size * steps))
        making = (
            self.slower.get(rung.key, 1.0)
            * self.machine.seconds(work)
            * self.machine.factor(f"making {rung.key}", f"making any {method.name}")
        )
        answering = method.answering(config, shape)
        each = self._answering(rung.key, answering, method.name)
        seconds, tokens = self._request(rung.key, answering, method.name)
        cost = Cost(
            seconds=making, wall=FIXED_SECONDS + making + held * each, request_seconds=seconds,
            request_tokens=tokens, bytes=self._bytes(rung, plan, shape, size),
            disk=4 * size + self.tokenizer_bytes,
        )  # fmt: skip
        tokens_trained = round(steps * schedule.batch * (shape.prompt + shape.reply))
        return Prediction(cost, each, steps, tokens_trained, size, held)

    def _shape(self, method: Method) -> Shape:
        """The data as a method reads it: training learns calls that rows show."""
        calls = method.calls_tools or (method.trained and self.shape.calls > 0)
        return self.shape.with_tools() if calls else self.shape

    def batch_size(self, plan: Plan) -> int:
        """Rows of a step: more than the plan's where a step of so short rows mostly reads weights."""
        rows, knobs = self.shape.rows, plan.train
        shape = self._shape(plan.method)
        tokens = (shape.prompt + shape.reply) * self.machine.token
        batch = knobs.batch_size
        while (
            self.machine.call > READING * (self.machine.call + batch * tokens)
            and 2 * batch <= MAX_BATCH
            and knobs.epochs * rows / (2 * batch) >= MIN_STEPS
        ):
            batch *= 2
        return batch

    def schedule(self, plan: Plan, share: float) -> Schedule:
        """Steps, rows of a step and validations of a share of a training."""
        train = plan.train
        source = Shuffled(range(max(1, self.shape.rows)), train.batch_size, train.seed)
        steps = max(1, round(share * source.steps(train.epochs, train.steps)))
        every = train.eval_every or max(1, source.per_epoch // 2)
        return Schedule(steps, train.batch_size, 1 + steps // every + (1 if steps % every else 0))

    def learn(
        self,
        key: str,
        method: str,
        counted: Prediction,
        making: float,
        answer: float,
        request: float = 0.0,
    ) -> None:
        """Correct by what an attempt really took.

        Args:
            request: seconds of a request by itself; 0 where none was timed.
        """
        took = {"making": (counted.cost.seconds, making), "answering": (counted.answer_seconds, answer)}
        for what, (expected, seconds) in took.items():
            plain = expected / self.machine.factor(f"{what} {key}", f"{what} any {method}")
            plain /= self.slower.get(key, 1.0)
            for name in (key, f"any {method}"):  # what no rung of the method has shown by itself
                self.machine.learn(f"{what} {name}", plain, seconds)
        asked = counted.cost.request_seconds / self._asking(key, method, counted.cost.request_tokens)
        for name in (key, f"any {method}"):
            self.machine.learn(f"asking {name}", asked, request)
        self.machine.keep()

    def was_late(self, key: str, counted: Prediction, took: float) -> None:
        """Expect a rung to take as much more, in this climb, as it took before its time was over."""
        expected = max(counted.cost.wall, FIXED_SECONDS)
        self.slower[key] = self.slower.get(key, 1.0) * min(MAX_SLOWER, max(1.5, took / expected))

    def _answering(self, key: str, work: Workload, method: str = "") -> float:
        return (
            self.machine.seconds(work)
            * self.machine.factor(f"answering {key}", f"answering any {method or key}")
            * self.slower.get(key, 1.0)
        )

    def _request(self, key: str, work: Workload, method: str = "") -> tuple[float, float]:
        """(seconds, tokens) of one request by itself."""
        encoded = replace(work, read=0.0, passes=0.0, written=0.0)
        written = min(work.written, REPLY_TOKENS)
        seconds = self.machine.alone(work.read, written) + self.machine.seconds(encoded)
        tokens = work.read + written + (self.shape.shared if work.read else 0)
        return (REQUEST_SECONDS + seconds) * self._asking(key, method or key, tokens), tokens

    def _asking(self, key: str, method: str, tokens: float) -> float:
        """What a counted request is multiplied by: as seen of the rung, else of the base it asks."""
        base = ("asking base",) if tokens else ()
        return self.machine.factor(f"asking {key}", f"asking any {method}", *base)

    def _bytes(self, rung: Rung, plan: Plan, shape: Shape, size: int) -> int:
        """The process's memory at its peak."""
        bank = self.bank
        rows = shape.rows + shape.held
        tokens = round(rows * (shape.prompt + shape.reply))
        more = rung.method.holds(bank, plan.config, rows, tokens)
        if rung.method.trained:
            batch = plan.train.batch_size * (shape.prompt + shape.reply) + shape.shared
            micro = min(plan.train.max_tokens or estimate.most_tokens(bank), batch)
            trained = estimate.trained_bytes(plan.train) * size
            more += round(trained + micro * estimate.token_bytes(bank))
        return self.resident + more
