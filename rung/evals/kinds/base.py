"""The contract of a kind of task."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rung.types import Example, RowKind, Task

if TYPE_CHECKING:
    from rung.data.problem import Problem
    from rung.evals.metrics import Metric

MIN_SHARE = 0.8  # share of rows that decides


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The rows of a data set.

    Attributes:
        replies: of the rows that have one. asked: the text in front of each row's reply.
    """

    examples: tuple[Example, ...]
    replies: tuple[str, ...]
    asked: tuple[str, ...]


def mostly(found: Iterable[bool]) -> bool:
    """Whether nearly all of some rows are so; False for none."""
    rows = list(found)
    return bool(rows) and sum(rows) >= MIN_SHARE * len(rows)


class Kind(ABC):
    """One kind of task. Instances hold no state.

    Attributes:
        metric: what its answers are measured by, unless the user or the rows say otherwise.
        place: in the order in which kinds look at the rows; the first that takes them has them.
        labelled: every row offers the same answers, the task's labels.
        chooses: its answers are one of those offered, and are scored rather than generated.
        free_text: its answers are texts, of which hardly two are equal.
        calls: its answers are calls of tools, which are measured as they are written and not made.
        compares: its rows say which of two replies is better.
        replies: its rows have replies; else they are texts to continue.
        wants: what its rows hold, as objectives that teach it want them.
        prompts: system prompts to choose from, the shortest first, by a short name.
    """

    metric: ClassVar[str]
    place: ClassVar[int] = 50
    labelled: ClassVar[bool] = False
    chooses: ClassVar[bool] = False
    free_text: ClassVar[bool] = False
    calls: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    replies: ClassVar[bool] = True
    wants: ClassVar[RowKind] = "replies"
    prompts: ClassVar[dict[str, str]] = {
        "plain": "Do what is asked, briefly and directly.",
        "careful": "You are a careful assistant. Follow the request to the letter, keep to its form "
        "and length, and write nothing before or after the answer itself.",
    }

    def __init__(self, name: str):
        self.name = name

    def detect(self, sample: Sample) -> Task | None:
        """The task, where these rows are of this kind; by default never, unless the user says so."""
        return None

    def of(self, sample: Sample) -> Task:
        """The task, where the user says that these rows are of this kind.

        Raises:
            ConfigError: when they cannot be.
        """
        return Task(self.name, self.metric)

    def items(self, examples: Sequence[Example]) -> tuple[list[Example], list[Problem]]:
        """What of some rows can be measured, and what is to be said of the others."""
        return list(examples), []

    def measured_by(self, metric: Metric) -> bool:
        """Whether its answers can be measured so."""
        return metric.reads == "likelihood" or not metric.kinds or self.name in metric.kinds

    def reason(self, sample: Sample, task: Task) -> str:
        """Why rows were taken for such a task, in a few words."""
        return f"{len(set(sample.replies)):,} different replies in {len(sample.replies):,} rows"

    def system_prompts(self, task: Task) -> dict[str, str]:
        """System prompts to choose from; `{labels}` in them stands for the labels."""
        return dict(self.prompts)
