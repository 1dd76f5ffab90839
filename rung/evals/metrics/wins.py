"""Metrics of answers that were held against others: how often they win, also at equal length.

`win_rate` counts a win as 1 and a tie as a half. `win_rate_equal_length` controls for length as
AlpacaEval 2 does (arXiv 2404.04475), by a line in place of a logistic curve: wins are regressed on how
much longer the answer is, as a share of both together, and the line is read where both are as long.
`repeats` and a second judge's win rate show what a judge may be pleased by for the wrong reason.
"""

from __future__ import annotations

import numpy as np

from rung.errors import ConfigError
from rung.evals.metrics.base import Case, Metric, Statistics

EQUAL_LENGTH, LONGER, SECOND = "win_rate_equal_length", "longer", "win_rate_second_judge"
REPEATS, OTHER_REPEATS = "repeats", "other_repeats"
MIN_VARIANCE = 1e-9  # of the relative lengths, below which no line is laid


def statistics(case: Case) -> np.ndarray:
    """(n, 2): what each answer won (0, a half or 1), and 1."""
    won = _column(case, "win")
    return np.stack([won, np.ones(len(won))], axis=1)


def beside_length(case: Case) -> np.ndarray:
    """(n, 5): 1, the win w, the relative length d, d * d and w * d."""
    won, apart = _column(case, "win"), _relative(case)
    return np.stack([np.ones(len(won)), won, apart, apart * apart, won * apart], axis=1)


def at_equal_length(sums: np.ndarray) -> np.ndarray:
    """Sums of `beside_length` (..., 5) -> what the line says at relative length 0, (...)."""
    n = np.maximum(sums[..., 0], 1e-12)
    won, apart = sums[..., 1] / n, sums[..., 2] / n
    spread = sums[..., 3] / n - apart**2
    together = sums[..., 4] / n - won * apart
    slope = np.where(spread > MIN_VARIANCE, together / np.maximum(spread, MIN_VARIANCE), 0.0)
    return np.clip(won - slope * apart, 0.0, 1.0)


def longer(case: Case) -> np.ndarray:
    """(n, 2): whether the answer is longer than the other one, a half where they are as long."""
    apart = _relative(case)
    return np.stack([(np.sign(apart) + 1) / 2, np.ones(len(apart))], axis=1)


def beside(name: str) -> Statistics:
    """(n, 2): a figure that the referee noted beside each win, and 1; NaN where it noted none."""

    def statistics(case: Case) -> np.ndarray:
        _column(case, "win")
        found = np.array([s.get(name, np.nan) for s in case.scores or ()], dtype=np.float64)
        return np.stack([found, np.ones(len(found))], axis=1)

    return statistics


def _column(case: Case, name: str) -> np.ndarray:
    if case.scores is None or any(name not in s for s in case.scores):
        raise ConfigError("win_rate holds answers against others: say --judge, by whom they are judged")
    return np.array([s[name] for s in case.scores], dtype=np.float64)


def _relative(case: Case) -> np.ndarray:
    """(n,) of -1 to 1: by how much an answer is longer than the other, as a share of both."""
    own, other = _column(case, "length"), _column(case, "against")
    return (own - other) / np.maximum(own + other, 1.0)


metrics = [
    Metric(
        "win_rate", "how often the answer is judged better than another one (--judge)", statistics,
        kinds=("preference",), reads="wins",
    ),
    Metric(
        EQUAL_LENGTH, "the same where both answers are as long", beside_length,
        at_equal_length, kinds=("preference",), reads="wins",
    ),
    Metric(
        LONGER, "how often the answer is the longer one", longer, kinds=("preference",),
        reads="wins",
    ),
    Metric(
        SECOND, "the same by another judge (--second-judge)", beside("second"),
        kinds=("preference",), reads="wins",
    ),
    Metric(
        REPEATS, "share of an answer's three-word sequences that stand in it before",
        beside(REPEATS), kinds=("preference",), lower=True, reads="wins",
    ),
    Metric(
        OTHER_REPEATS, "the same of the answers that it is held against", beside(OTHER_REPEATS),
        kinds=("preference",), lower=True, reads="wins",
    ),
]  # fmt: skip
