"""From answers to a figure with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.data.problem import counted
from rung.errors import ConfigError, DataError
from rung.evals import kinds, metrics
from rung.evals.intervals import resampled, wilson
from rung.evals.metrics.base import Case, Metric, mean
from rung.evals.metrics.labels import confusion
from rung.evals.tasks import calls_of, reply
from rung.types import Example, Task

if TYPE_CHECKING:
    from rung.evals.answers import Answers


@dataclass(frozen=True)
class Measured:
    """A figure, how sure it is, and what each item gave.

    Attributes:
        metric, value: what was measured. low, high: its 95% interval.
        n: items. items: (n,) a figure per item.
        statistics: (n, k), what each item adds up to; see `metric.Metric`.
        more: other metrics of the same answers.
        labels, confusion: of a classification, how often each label (row) was answered as each
            (column); the last column is none of them.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    items: np.ndarray
    statistics: np.ndarray
    more: dict[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    confusion: list[list[int]] | None = None
    unanswered: int = 0

    @property
    def lower(self) -> bool:
        """Whether less of it is better."""
        return metrics.get(self.metric).lower

    @property
    def worst(self) -> float:
        """The worse end of the interval."""
        return self.high if self.lower else self.low

    @property
    def proportion(self) -> bool:
        """Whether it counts items that are right or wrong."""
        metric = metrics.get(self.metric)
        return metric.finish is mean and bool(np.isin(self.items, (0.0, 1.0)).all())

    @property
    def figure(self) -> dict[str, Any]:
        """Value, interval and number of items, as model cards and tables show them."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without what each item gave."""
        return {
            "metric": self.metric, **self.figure, "more": dict(self.more),
            "labels": list(self.labels), "confusion": self.confusion,
            "unanswered": self.unanswered,
        }  # fmt: skip

    def items_dict(self) -> dict[str, Any]:
        """What each item gave, as plain data."""
        return {
            "values": [round(float(v), 6) for v in self.items],
            "statistics": np.asarray(self.statistics, dtype=float).round(6).tolist(),
        }

    @classmethod
    def of(cls, kept: Mapping[str, Any], items: Mapping[str, Any]) -> Measured:
        """From what `as_dict` and `items_dict` gave."""
        return cls(
            kept["metric"], kept["value"], kept["low"], kept["high"], kept["n"],
            np.asarray(items["values"], dtype=float), np.asarray(items["statistics"], dtype=float),
            kept.get("more", {}), tuple(kept.get("labels", ())), kept.get("confusion"),
            kept.get("unanswered", 0),
        )  # fmt: skip

    def first(self, count: int) -> Measured:
        """The same on the first items alone, for comparing with what was measured on fewer."""
        if count >= self.n:
            return self
        metric = metrics.get(self.metric)
        statistics, items = self.statistics[:count], self.items[:count]
        value = float(metric.finish(statistics.sum(0)))
        low, high = interval(metric, statistics, items)
        return Measured(self.metric, value, low, high, count, items, statistics)

    def better(self, other: Measured) -> bool:
        """Whether the figure is better than another, each as it is."""
        return self.value < other.value if self.lower else self.value > other.value


def measure(answers: Answers, examples: Sequence[Example], task: Task) -> Measured:
    """How good answers are by the task's metric.

    Raises:
        ConfigError: when there is no such metric, or it does not fit the answers.
        DataError: when there is nothing to measure by.
    """
    if len(answers.texts) != len(examples):
        raise ValueError("answers and examples differ in number")
    if not examples:
        raise DataError("there are no items to measure by: give more rows")
    metric = metrics.get(task.metric)
    if metric.reads == "calls" and answers.calls is None:
        raise ConfigError(f"{metric.name} is of models that call tools: name some with --tools")
    case = case_of(answers, examples, task)
    statistics = metric.statistics(case)
    items = metric.items(statistics)
    value = float(metric.finish(statistics.sum(0)))
    if math.isnan(value):
        raise ConfigError(f"{metric.name} cannot be told of these answers: {metric.summary}")
    low, high = interval(metric, statistics, items)
    shown = confusion(case) if kinds.of(task).labelled else ((), None)
    return Measured(
        task.metric, value, low, high, len(items), items, statistics, _more(case, task),
        tuple(shown[0]), shown[1], answers.unanswered,
    )  # fmt: skip


def interval(metric: Metric, statistics: np.ndarray, items: np.ndarray) -> tuple[float, float]:
    """The 95% interval: Wilson's where items are right or wrong, else by `resampled`."""
    if metric.finish is mean and np.isin(items, (0.0, 1.0)).all():
        return wilson(float(items.sum()), len(items))
    # An item that adds nothing, such as a row without calls, is none that the figure is of.
    counted = int(statistics.any(1).sum()) or len(statistics)
    return resampled(statistics, metric.finish, counted, metric.bounds)


def case_of(answers: Answers, examples: Sequence[Example], task: Task) -> Case:
    """Answers beside their references.

    Raises:
        DataError: naming rows without a reply to compare with.
    """
    references = [reply(e) for e in examples]
    missing = [e.origin or "a row" for e, r in zip(examples, references, strict=True) if r is None]
    if missing and not metrics.by_likelihood(task):
        raise DataError(
            f"{counted(missing, 'row has', 'rows have')} no reply to compare with, {missing[0]} "
            "among them"
        )
    wanted = [calls_of(e) for e in examples] if answers.calls is not None else []
    return Case(
        answers.texts, [r or "" for r in references], answers.scores, task, answers.calls, wanted
    )  # fmt: skip


def _more(case: Case, task: Task) -> dict[str, float]:
    """What else the answers say, by the metrics that suit the task."""
    if metrics.by_likelihood(task):
        return {}
    readable = {"answers"} | ({"label scores"} if case.scores is not None else set())
    if metrics.by_wins(task):
        readable = {"wins"}
    found, names = {}, metrics.suited(task)
    if case.calls is not None:
        readable, names = readable | {"calls"}, [*names, *metrics.of_calls()]
    for name in names:
        metric = metrics.get(name)
        if name == task.metric or metric.reads not in readable:
            continue
        figure = float(metric.finish(metric.statistics(case).sum(0)))
        if not math.isnan(figure):  # the metric has nothing to say of such answers
            found[name] = figure
    return found
