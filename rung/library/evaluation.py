"""Evaluation: models answer the same items, are measured, recorded and compared item by item."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.config import as_dict
from rung.data import DataKnobs, Dataset, load, split
from rung.errors import ConfigError, DataError, one_line
from rung.evals import compare as pairwise
from rung.evals import metrics, tasks
from rung.evals.answers import NO_JUDGE, Answers
from rung.evals.compare import Comparison
from rung.evals.judge import JUDGE_KEY, Judge
from rung.evals.measure import Measured, interval, measure
from rung.evals.metrics.reward import statistics_of
from rung.evals.predict import predict
from rung.library.knobs import EvalKnobs, LoadKnobs
from rung.library.own_data import known_rows, require_same
from rung.models import by_base
from rung.models import load as load_models
from rung.rewards import Answer, Context, Reward, make, scored
from rung.rewards.referee import Referee
from rung.rewards.scorers import Scorers
from rung.store import Store
from rung.store.records import RunRecord
from rung.train.estimate import device as device_of
from rung.train.keeping import data_record
from rung.types import BaseInfo, Example, Task

if TYPE_CHECKING:
    from rung.engine import ServedModel
    from rung.forward.bank import Bank

KNOWN = (
    "{count} of {items} items are among the training rows of {name}: its figure says little of new ones"
)


class Progress:
    """What a caller is told while models are measured; this one shows nothing."""

    def loading(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Enter while the base of these models is loaded."""
        return contextlib.nullcontext()

    def counting(self, what: str, total: int) -> AbstractContextManager[Callable[[int, int], None]]:
        """Enter while items are worked through; yields a function of (done, total)."""
        return contextlib.nullcontext(lambda done, total: None)

    def begun(self, task: Task, items: Sequence[Example], dataset: Dataset) -> None:
        """The items are read and their task is known."""

    def note(self, text: str) -> None:
        """Something that the user should know, in one line."""


@dataclass(kw_only=True)
class Row:
    """What one model gave.

    Attributes:
        bare: whether it is the base without an adapter.
        model: whom it is of. strength: at which it was steered; None is its own.
    """

    name: str
    model: str
    strength: float | None = None
    base: BaseInfo
    bare: bool
    answers: Answers
    measured: Measured


@dataclass(kw_only=True)
class Evaluation:
    """Models on the same items.

    Attributes:
        rows: one for each model, in the order of their names.
        comparisons: each further model with the first.
        verdicts: what a judge said, where one was asked: model, against, value, low, high.
    """

    task: Task
    part: str
    rows: list[Row]
    comparisons: list[Comparison]
    verdicts: list[dict[str, Any]]

    def __getitem__(self, name: str) -> Measured:
        """The figures of one model. Raises KeyError."""
        return {row.name: row.measured for row in self.rows}[name]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        models = [
            {
                "name": row.name,
                "strength": row.strength,
                "base": row.base.name,
                **row.measured.as_dict(),
                "items": [None if isnan(v) else v for v in row.measured.items.tolist()],
                "seconds": row.answers.seconds,
                "prompt_tokens": row.answers.prompt_tokens,
                "completion_tokens": row.answers.completion_tokens,
            }
            for row in self.rows
        ]
        compared = [
            {"model": row.name, "against": self.rows[0].name, **asdict(found)}
            for row, found in zip(self.rows[1:], self.comparisons, strict=True)
        ]
        return {
            "task": asdict(self.task), "part": self.part, "models": models, "comparisons": compared,
            "judge": self.verdicts,
        }  # fmt: skip


def evaluate(
    names: Sequence[str],
    data: DataKnobs,
    knobs: EvalKnobs,
    loading: LoadKnobs,
    progress: Progress | None = None,
    run: RunRecord | None = None,
) -> Evaluation:
    """Measure models on the same items, base by base, and record every figure in the store.

    Args:
        run: whose data it is, where nobody named any; it is checked to be the same still.

    Raises:
        DataError: when the data cannot be read, or has no such rows.
        ConfigError: for a task or metric that does not fit the data.
        ModelNotFound: for a name that is neither a model nor a base.
    """
    progress = progress or Progress()
    if knobs.reward and knobs.metric:
        raise ConfigError("--reward and --metric exclude each other: ask twice")
    dataset, items, task = _read(data, knobs, progress.note)
    judge, referee = _judges(data, knobs, task, items)
    reward = _reward(knobs, loading, progress)
    if run is not None:
        require_same(run, dataset)
    progress.begun(task, items, dataset)
    for name, count in known_rows(names, items, data, knobs.part):
        progress.note(KNOWN.format(count=count, items=len(items), name=name))
    try:
        asked = _Asked(items=items, task=task, reward=reward, referee=referee, progress=progress)
        rows = _measured(names, asked, knobs.strengths, dataset, loading)
    finally:
        if reward is not None:
            reward.close()
    return Evaluation(
        task=task,
        part=knobs.part,
        rows=rows,
        comparisons=[pairwise.compare(rows[0].measured, row.measured) for row in rows[1:]],
        verdicts=_verdicts(rows, items, judge, progress) if judge else [],
    )


def _read(
    data: DataKnobs, knobs: EvalKnobs, note: Callable[[str], None]
) -> tuple[Dataset, list[Example], Task]:
    """Read the items, the same ones every time, and settle their task."""
    dataset = load(data, tasks.wanted(data, knobs.task))
    parts = split(dataset, data)
    splits = dict(parts)
    every = [e for rows in splits.values() for e in rows]
    if knobs.reward:  # whatever is answered is scored, also where rows all have one answer or none
        task, found = Task("generation", "reward"), []
    else:
        task = tasks.settle_task(tasks.detect(every), every, knobs.task, knobs.metric)
        found = tasks.faults(every, task)
    if found:
        raise DataError(one_line(found))
    rows = every if knobs.part == "all" else list(splits[knobs.part])
    items, problems = tasks.measurable(task, rows)
    measured = {e.origin for e in rows} if knobs.part != "all" else set()
    for problem in (*problems, *(p for p in parts.problems if measured.intersection(p.rows))):
        note(problem.message)
    if not items:
        raise DataError(f"the {knobs.part} part has no rows: give more rows, or another --part")
    return dataset, items[: knobs.items], task


def _judges(
    data: DataKnobs, knobs: EvalKnobs, task: Task, items: Sequence[Example]
) -> tuple[Judge | None, Referee | None]:
    """Who compares models' answers with each other, and who judges what answers win.

    Raises:
        ConfigError: where a judge is needed and there is none, or it is no address that could compare.
    """
    key = os.environ.get(JUDGE_KEY)
    if metrics.by_wins(task):
        if knobs.judge is None:
            raise ConfigError(NO_JUDGE.format(data=data.data))
        referee = Referee(
            judge=knobs.judge,
            model=knobs.judge_model,
            key=key,
            against=knobs.against,
            like=items,
            second=knobs.second_judge,
        )
        return None, referee
    return (Judge.at(knobs.judge, knobs.judge_model, key) if knobs.judge else None), None


def _reward(knobs: EvalKnobs, loading: LoadKnobs, progress: Progress) -> Reward | None:
    """The reward that is asked for, checked before anything is loaded."""
    if not knobs.reward:
        return None
    load_model = Scorers(None, device_of(loading.device), "float32")
    return make(knobs.reward, Context(model=load_model, ask=load_model.ask, note=progress.note))


def rewarded(
    answers: Answers, items: Sequence[Example], reward: Reward, note: Callable[[str], None]
) -> Measured:
    """The mean reward of answers, with its interval over those that were scored.

    Raises:
        DataError: when none of them was.
    """
    asked = [
        Answer(prompt=tasks.question(e), text=text, gold=tasks.reply(e))
        for e, text in zip(items, answers.texts, strict=True)
    ]
    scores = scored(reward, asked)
    left = sum(s is None for s in scores)
    if left == len(scores):
        raise DataError(f"reward {reward.name} scored none of {len(scores)} answers")
    if left:
        note(f"{left} of {len(scores)} answers were not scored: they are left out of the mean")
    metric = metrics.get("reward")
    statistics = statistics_of(scores)
    each = metric.items(statistics)
    low, high = interval(metric, statistics, each)
    value = float(metric.finish(statistics.sum(0)))
    return Measured("reward", value, low, high, len(scores), each, statistics)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What every model is asked, and how its answers are judged."""

    items: list[Example]
    task: Task
    reward: Reward | None
    referee: Referee | None
    progress: Progress

    def measure(self, bank: Bank, model: ServedModel, what: str) -> tuple[Answers, Measured]:
        """What a model answers, and what that is worth."""
        with self.progress.counting(what, len(self.items)) as told:
            answers = predict(
                bank, model, self.items, self.task, progress=told, referee=self.referee
            )  # fmt: skip
        if self.reward is not None:
            return answers, rewarded(answers, self.items, self.reward, self.progress.note)
        return answers, measure(answers, self.items, self.task)

    def perplexity(self, bank: Bank, model: ServedModel) -> float:
        """Of the replies of the items, per token."""
        reading = Task("language_modelling", "perplexity")
        return measure(predict(bank, model, self.items, reading), self.items, reading).value


def _measured(
    names: Sequence[str],
    asked: _Asked,
    strengths: Sequence[float],
    dataset: Dataset,
    loading: LoadKnobs,
) -> list[Row]:
    """Every model's answers, base by base, at each strength; each figure is recorded at once.

    Raises:
        ConfigError: for strengths of a model that is not steered.
    """
    found: dict[str, list[Row]] = {}
    for group in by_base(names):
        with asked.progress.loading(group):
            loaded = load_models(
                group, tools=asked.items[0].tools if asked.items else (), **as_dict(loading)
            )  # fmt: skip
        registry, bank = loaded.engine.registry, loaded.engine.bank
        if asked.referee is not None:
            asked.referee.seat(bank, loaded.engine.model(group[0]).template)
        if strengths and (plain := [n for n in group if registry.strength(n) is None]):
            raise ConfigError(f"--strengths is for steered models, and '{plain[0]}' is none")
        for name in group:
            found[name] = []
            wanted: list[float | None] = [*sorted(set(strengths))] or [None]
            for strength in wanted:
                model = registry.steered(name, strength)
                registry.make_resident(model.slot, ())
                label = name if strength is None else f"{name} at {strength:g}"
                answers, measured = asked.measure(bank, model, label)
                if strength is not None and measured.metric != "perplexity":
                    more = {**measured.more, "perplexity": asked.perplexity(bank, model)}
                    measured = dataclasses.replace(measured, more=more)
                row = Row(
                    name=label, model=name, strength=strength, base=loaded.base,
                    bare=model.slot == -1, answers=answers, measured=measured,
                )  # fmt: skip
                _record(row, dataset)
                found[name].append(row)
        del loaded, registry, bank
    return [row for name in dict.fromkeys(names) for row in found[name]]


def _record(row: Row, dataset: Dataset) -> None:
    """Write a row into the store. What measures nothing (an overflow) is not recorded."""
    m = row.measured
    if not isfinite(m.value):
        return
    subject: dict[str, Any] = {"base": row.base} if row.bare else {"model": row.model}
    with Store.open() as store:
        store.evaluations.add(
            metric=m.metric if row.strength is None else f"{m.metric}_at_{row.strength:g}",
            value=m.value, low=m.low, high=m.high, n=m.n, dataset=data_record(dataset), **subject,
        )  # fmt: skip


def _verdicts(
    rows: list[Row], items: list[Example], judge: Judge, progress: Progress
) -> list[dict[str, Any]]:
    """How often each model's answers beat the first's, or, of one model alone, the references."""
    questions = [tasks.question(e) for e in items]
    first = rows[0]
    if len(rows) == 1:
        references = [tasks.reply(e) or "" for e in items]
        pairs = [(first.name, first.answers.texts, "the references", references)]
    else:
        pairs = [(r.name, r.answers.texts, first.name, first.answers.texts) for r in rows[1:]]
    found = []
    for name, texts, against, others in pairs:
        with progress.counting(f"judging {name}", len(items)) as told:
            wins = judge.compare(questions, texts, others, told)
        won = np.array(wins)
        low, high = interval(metrics.get("win_rate"), np.stack([won, np.ones(len(won))], 1), won)
        value = float(won.mean())
        found.append({"model": name, "against": against, "value": value, "low": low, "high": high})
    return found
