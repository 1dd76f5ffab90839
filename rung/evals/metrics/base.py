"""What a metric is: what each item adds up to, and what figure the sums make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from rung.evals.answers import Calls
    from rung.types import Task

Scores = dict[str, float]


@dataclass(frozen=True)
class Case:
    """What was answered and what would have been right, item by item.

    Attributes:
        texts, references: (n,) each.
        scores: per item, log-probabilities by label; see `answers.Answers`.
        calls: (n,) of tools on the way to each answer; None of a model that has none.
        wanted: (n,) the calls that the rows themselves hold, empty for rows without.
    """

    texts: Sequence[str]
    references: Sequence[str]
    scores: Sequence[Scores] | None
    task: Task
    calls: Sequence[Calls] | None = None
    wanted: Sequence[str] = ()


Statistics = Callable[[Case], np.ndarray]


def mean(sums: np.ndarray) -> np.ndarray:
    """(..., 2) of total and count -> (...)."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1e-12)


@dataclass(frozen=True)
class Metric:
    """A figure of quality.

    A figure of the whole is always `finish` of the sum of its items' statistics, so that any resample
    of the items is a product of matrices away.

    Attributes:
        name: its name on the command line. summary: one line for help.
        statistics: case -> (n, k), what each item adds up to.
        finish: sums (..., k) -> figures (...).
        kinds: the task kinds that it suits; empty means all with replies.
        lower: whether less is better. bounds: the least and the greatest figure there can be.
        item: statistics (n, k) -> (n,), one figure per item; `finish` of each unless given.
        reads: what of a model it reads: its answers, the log-probabilities of labels, the
            log-likelihood of the texts, for which the model answers nothing, what its answers win
            against others, or the calls on the way to them.
    """

    name: str
    summary: str
    statistics: Statistics
    finish: Callable[[np.ndarray], np.ndarray] = mean
    kinds: tuple[str, ...] = ()
    lower: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)
    item: Callable[[np.ndarray], np.ndarray] | None = None
    reads: Literal["answers", "label scores", "likelihood", "wins", "calls"] = "answers"

    def items(self, statistics: np.ndarray) -> np.ndarray:
        """(n, k) -> (n,)."""
        return (self.item or self.finish)(statistics)


def of_pairs(judge: Callable[[str, str], float]) -> Statistics:
    """Statistics of a metric that is the mean of a figure per (answer, reference)."""

    def statistics(case: Case) -> np.ndarray:
        found = [judge(t, r) for t, r in zip(case.texts, case.references, strict=True)]
        return np.array([[value, 1.0] for value in found], dtype=np.float64).reshape(-1, 2)

    return statistics
