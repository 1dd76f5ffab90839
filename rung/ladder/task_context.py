"""One task, opened once: data, splits, rows and base that all rungs of a climb share.

The test rows are kept apart from what rungs see: `opened` has none, and `answer_test` counts who asked.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from rung import bases
from rung.config import bare, declared, resolve
from rung.data import Dataset, Splits
from rung.data.knobs import DataKnobs
from rung.data.split import place, split
from rung.engine import Engine, GenerationRequest, ServedModel
from rung.engine.request import ContextExceeded, ScoreRequest
from rung.errors import ConfigError
from rung.evals import metrics, tasks
from rung.evals.answers import NO_JUDGE, Answers
from rung.evals.by_name import by_name
from rung.evals.judge import JUDGE_KEY
from rung.evals.measure import Measured, measure
from rung.evals.predict import predict_without_base
from rung.evals.predict_fitting import predict_fitting
from rung.forward.adapter import Adapter
from rung.ladder import forecast
from rung.ladder.bar import Bar
from rung.ladder.forecast import Forecaster
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.machine import Machine, settle_threads
from rung.ladder.meter import now
from rung.ladder.rungs import Rung, own_settings
from rung.rewards.referee import Referee
from rung.store.records import DatasetRecord
from rung.train import estimate
from rung.train.keeping import data_record
from rung.train.knobs import RunKnobs, TrainKnobs
from rung.train.plan import Plan
from rung.train.prepare import Prepared, find_base, open_base, read
from rung.types import BaseInfo, Example, Modality, Prompt, Task

# Validation rows that a climb has at least where they are a fifth of all rows at most, unless the user
# says: of a dozen rungs on 40 rows several have the same figure, and the best is so by chance.
SELECTING_ROWS, MOST_SELECTING = 100, 0.2
MAX_TOKENS = 2048  # of a micro-batch, so that every rung's memory is measured alike
TIMED = 7  # single requests that are timed, after a first one that warms up
MAX_TIMED_SECONDS = 2.0  # what all of them may take


Ask = Callable[[Example], tuple[float, int]]  # seconds and tokens of a request


@dataclass(frozen=True)
class Served:
    """What one request takes, alone, as served: the median, and the middle half of what was timed."""

    seconds: float
    tokens: float
    low: float = 0.0
    high: float = 0.0


@dataclass
class TaskContext:
    """What the rungs of one climb share.

    Attributes:
        given: the user's settings by knob, climb's own left out.
        knobs: of the climb. task: with its metric. reason: why the data is such a task.
        bar: None climbs to the best.
        dataset, splits: what rungs see: training rows, and validation rows to choose by.
        test: the rows that nobody has seen yet.
        run, info: the base as the user asked for it; `opened` loads it when it is first needed.
        referee: says what answers win, where the task is measured so.
        finding: seconds in which the base was found; the first time it is fetched and converted too.
        tries: whether rungs will be tried, not planned alone.
        touched: who was measured on the test rows.
    """

    given: dict[str, Any]
    knobs: ClimbKnobs
    task: Task
    bar: Bar | None
    dataset: Dataset
    splits: Splits
    test: tuple[Example, ...]
    run: RunKnobs
    info: BaseInfo
    stage: Callable[[str], None]
    reason: str = ""
    referee: Referee | None = None
    finding: float = 0.0
    tries: bool = True
    touched: list[str] = field(default_factory=list)
    _others: dict[tuple, Prepared] = field(default_factory=dict)
    _parts: dict[tuple, Prepared] = field(default_factory=dict)

    @classmethod
    def open(
        cls, given: Mapping[str, Any], knobs: ClimbKnobs, stage: Callable[[str], None]
    ) -> TaskContext:
        """Read the data, settle what the task is, find the base, and refuse what cannot be judged.

        Raises:
            RungError: for data, bar or base that a climb cannot stand on.
        """
        bar = None if knobs.bar is None else Bar.parse(knobs.bar)
        run, data, _ = resolve([RunKnobs, DataKnobs, TrainKnobs], shared_settings(given))
        dataset, splits = read_for(data, knobs, stage)
        share = _selecting_share(given, data, knobs, dataset)
        if share > data.validation:
            given = {**given, "validation": share}
            splits = split(dataset, dataclasses.replace(data, validation=share))
        task = judged_by(tasks.detect(splits.train), splits.train, knobs, bar)
        tasks.check(task, splits)
        referee = _referee(task, knobs, splits.train, data.data)
        device = estimate.device(run.device)
        run = dataclasses.replace(run, device=device, dtype=estimate.dtype(run.dtype, device))
        # What cannot be measured was told of with the data.
        test, _ = tasks.measurable(task, splits.test)
        held = selecting(task, splits, knobs)
        kept = Splits(splits.train, held, problems=splits.problems)
        began = now()
        info = find_base(run, kept)
        finding = now() - began
        settled = {**given, "device": run.device, "dtype": run.dtype}
        settled.setdefault("max_tokens", MAX_TOKENS)
        why = tasks.reason(task, splits.train) if knobs.task is None else "as --task says"
        return cls(
            given=settled, knobs=knobs, task=task, bar=bar, dataset=dataset, splits=kept,
            test=tuple(test), run=run, info=info, stage=stage, reason=why, referee=referee,
            finding=finding,
        )  # fmt: skip

    @cached_property
    def opened(self) -> Prepared:
        """The plain base over training and validation rows."""
        settle_threads(self.run.device)  # a base that is new here is looked into by computing
        return open_base(self.run, self.dataset, self.splits, self.stage, self.info, decodes=self.tries)

    @cached_property
    def forecaster(self) -> Forecaster:
        """What rungs will take here; measures the machine's speed where it is not known."""
        self.stage("measuring the machine's speed")
        return Forecaster.of(self, Machine.of(self.opened.bank))

    @property
    def judged_by_itself(self) -> bool:
        """Whether a reward that rungs pick answers by is the judge of them too."""
        picked = self.given.get("reward") or []
        return self.referee is not None and self.referee.judge in picked

    @property
    def reads(self) -> Modality:
        """What the base reads."""
        return bases.reads(Path(self.info.path))

    @property
    def data(self) -> DatasetRecord:
        return data_record(self.dataset)

    @property
    def validation(self) -> tuple[Example, ...]:
        return self.splits.validation

    def plan(self, name: str, rung: Rung, **settings: Any) -> Plan:
        """A rung's configuration: its own settings over the user's, `settings` over both.

        The steps of a training have as many rows as the machine is fast with, unless the user says.
        """
        own = own_settings(rung.method, [RunKnobs, DataKnobs, TrainKnobs], self.given)
        plan = Plan.of(name, own, rung.settings, settings, {"method": rung.method.name})
        every = {**own, **rung.settings, **settings}
        said = {bare(key) for key, value in every.items() if value is not None}
        if rung.method.trained and not rung.method.own_base and not said & {"batch_size", "steps"}:
            plan.train.batch_size = self.forecaster.batch_size(plan)
        return plan

    def opened_for(self, plan: Plan) -> Prepared:
        """Data and base of a plan's settings: the plain ones, or a base loaded in another way."""
        key = _way(plan.run)
        if key == _way(self.run):
            return self.opened
        if key not in self._others:
            self._others = {key: open_base(plan.run, self.dataset, self.splits, self.stage)}
        return self._others[key]

    def part(self, plan: Plan, rows: int, held: int) -> Prepared:
        """Data and base of a plan over some of the training rows and some of validation.

        Smaller parts lie within larger ones, and a part is rendered once.
        """
        whole = self.opened_for(plan)
        if rows >= len(whole.splits.train) and held >= len(whole.splits.validation):
            return whole
        key = (_way(plan.run), rows, held)
        if key not in self._parts:
            kept = set(map(id, ranked(whole.splits.train, rows, 2)))
            train = tuple(e for e in whole.splits.train if id(e) in kept)
            self._parts[key] = whole.over(Splits(train, whole.splits.validation[:held]))
        return self._parts[key]

    def close_others(self) -> None:
        """Forget bases that only one rung needed, and parts of the data."""
        self._others, self._parts = {}, {}

    # --- asking -------------------------------------------------------------------------------

    @contextmanager
    def served(self, opened: Prepared, adapter: Adapter | None, name: str) -> Iterator[ServedModel]:
        """An adapter (or the bare base) as a model that can be asked, for as long as it is needed."""
        slot = opened.bank.add(adapter) if adapter is not None else -1
        try:
            model = ServedModel.of(name, slot, opened.template, adapter)
            yield by_name(opened.bank, model, self.task)
        finally:
            opened.bank.remove(slot)

    def answer(
        self,
        opened: Prepared,
        model: ServedModel,
        examples: Sequence[Example],
        stopping: Callable[[], bool] | None = None,
    ) -> tuple[Answers, Measured]:
        """What a model answers, and what that is worth; rows that do not fit its context count as
        wrong."""
        if self.referee is not None:
            self.referee.seat(self.opened.bank, self.opened.template)
        answers = predict_fitting(
            opened.bank, model, examples, self.task, stopping=stopping, referee=self.referee
        )
        return answers, measure(answers, examples, self.task)

    def answer_test(
        self,
        opened: Prepared,
        model: ServedModel,
        rows: int,
        stopping: Callable[[], bool] | None = None,
    ) -> tuple[Answers, Measured]:
        """The same on so many of the test rows; who asked is kept."""
        self.touched.append(model.name)
        return self.answer(opened, model, ranked(self.test, rows), stopping)

    def time_requests(self, opened: Prepared, model: ServedModel) -> Served:
        """Seconds (median) and tokens (mean) of single requests, one after another, as a server that
        has answered others before would take for them."""
        return self._timed(lambda: self._asker(opened, model))

    def time_without_base(self, adapter: Adapter) -> Served:
        """The same of an adapter that does without the base; nothing is laid out for it."""

        def ask(example: Example) -> tuple[float, int]:
            began = now()
            predict_without_base(adapter, [example], self.task)
            return now() - began, 0

        return self._timed(lambda: ask)

    def _timed(self, asker: Callable[[], Ask]) -> Served:
        conversations = [e for e in self.validation if e.messages]
        if not conversations:
            return Served(0.0, 0.0)
        ask = asker()
        found, began = [], now()
        for example in conversations:
            try:
                found.append(ask(example))
            except ContextExceeded:  # it has no answer, and so takes no time
                continue
            # The first pays for what is arranged once.
            if len(found) > TIMED or (len(found) > 1 and now() - began > MAX_TIMED_SECONDS):
                break
        found = found[1:] or found or [(0.0, 0)]
        tokens = sum(t for _, t in found) / len(found)
        seconds = sorted(s for s, _ in found)
        quarter = len(seconds) // 4
        return Served(median(seconds), tokens, seconds[quarter], seconds[-1 - quarter])

    def _asker(self, opened: Prepared, model: ServedModel) -> Ask:
        """Ask one engine, which arranges an adapter and reads a shared beginning once."""
        engine = Engine(opened.bank, {model.name: model}, max_batch=1, memory=1 << 28)
        own = model.conversation.max_tokens if model.conversation else None

        def score(example: Example) -> tuple[float, int]:
            began = now()
            whole = Prompt(tuple(opened.template.render(example).ids))
            done = engine.generate([ScoreRequest(model.name, whole)], remember=True)[0]
            return now() - began, done.prompt_tokens

        if model.reward is not None:
            return score

        def ask(example: Example) -> tuple[float, int]:
            reply = opened.template.encoder.encode(example.messages[-1]["content"])[0]
            most = own or min(forecast.REPLY_TOKENS, len(reply) + 1)
            decoding = dataclasses.replace(model.decoding, max_tokens=most)
            began = now()
            prompt = model.prompt(example.asked)
            done = engine.generate([GenerationRequest(model.name, prompt, decoding)], remember=True)[0]
            return now() - began, done.prompt_tokens + done.completion_tokens

        return ask


def shared_settings(
    given: Mapping[str, Any], classes: Sequence[type] = (RunKnobs, DataKnobs, TrainKnobs)
) -> dict[str, Any]:
    """What of the user's settings is a knob of some classes: by default, what is no method's own."""
    return declared(classes, given)


def _selecting_share(
    given: Mapping[str, Any], data: DataKnobs, knobs: ClimbKnobs, dataset: Dataset
) -> float:
    """The share of rows that small data needs to tell rungs apart; 0 where the user says how many."""
    said = {bare(key) for key in declared([DataKnobs], given)}
    if "validation" in said or dataset.validation is not None:
        return 0.0
    rows = min(SELECTING_ROWS, knobs.validation_rows)
    share = math.ceil(100 * rows / max(len(dataset.examples), 1)) / 100
    return min(MOST_SELECTING, (1 - data.test) / 4, share)


def _referee(task: Task, knobs: ClimbKnobs, train: Sequence[Example], data: str) -> Referee | None:
    """Who judges the answers of a task that is measured by what they win.

    Raises:
        ConfigError: where nobody does, or nobody could, or a judge is named and nothing is to judge.
    """
    if not metrics.by_wins(task):
        if knobs.judge is not None or knobs.second_judge is not None:
            raise ConfigError("--judge is for win_rate: say --metric win_rate, or --bar win_rate=0.65")
        return None
    if knobs.judge is None:
        raise ConfigError(NO_JUDGE.format(data=data))
    return Referee(
        judge=knobs.judge, model=knobs.judge_model, key=os.environ.get(JUDGE_KEY),
        against=knobs.against, like=forecast.spread(train, forecast.SAMPLED),
        second=knobs.second_judge,
    )  # fmt: skip


def _way(run: RunKnobs) -> tuple:
    """What makes one loaded base differ from another."""
    about = {"method", "objective", "parent", "track", "push_to_hub"}
    fields = dataclasses.asdict(run)
    return tuple(sorted((k, str(v)) for k, v in fields.items() if k not in about))


def timing_seconds(request: float) -> float:
    """What timing single requests takes, of which one takes so many seconds."""
    return min(MAX_TIMED_SECONDS, (TIMED + 1) * request)


def read_for(
    data: DataKnobs, knobs: ClimbKnobs, stage: Callable[[str], None]
) -> tuple[Dataset, Splits]:
    """Read the data as what a climb's task wants of its rows.

    Raises:
        DataError: for what cannot be read or has errors.
    """
    return read(data, stage, tasks.wanted(data, knobs.task))


def selecting(task: Task, splits: Splits, knobs: ClimbKnobs) -> tuple[Example, ...]:
    """The validation rows that rungs are selected by, in the order in which they are answered."""
    return ranked(tasks.measurable(task, splits.validation)[0], knobs.validation_rows)


def ranked(examples: Sequence[Example], most: int, seed: int = 1) -> tuple[Example, ...]:
    """At most so many in an order by content, so that fewer of them are the first of more."""
    return tuple(sorted(examples, key=lambda e: place(e, seed))[:most])


def judged_by(found: Task, examples: Sequence[Example], knobs: ClimbKnobs, bar: Bar | None) -> Task:
    """The task as it was found or as the user says, with the metric that counts.

    Raises:
        ConfigError: for a kind or metric that is none, or a bar that nothing could be measured by.
    """
    metric = knobs.metric if knobs.metric is not None else (bar.metric if bar else None)
    flag = "--metric" if knobs.metric is not None else "--bar"
    task = tasks.settle_task(found, examples, knobs.task, metric, flag)
    if bar is not None:
        bar.check(task.metric)
    return task
