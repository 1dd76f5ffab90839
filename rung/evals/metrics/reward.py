"""The mean of a reward over the answers that it scored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rung.errors import ConfigError
from rung.evals.metrics.base import Case, Metric, mean


def statistics_of(scores: Sequence[float | None]) -> np.ndarray:
    """(n, 2): each answer's reward and 1, or 0 and 0 where it was not scored."""
    found = [(0.0, 0.0) if s is None else (s, 1.0) for s in scores]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def items(statistics: np.ndarray) -> np.ndarray:
    """(n, 2) -> (n,); NaN where an answer was not scored."""
    return np.where(statistics[:, 1] > 0, statistics[:, 0], np.nan)


def _asked_for(case: Case) -> np.ndarray:
    raise ConfigError("the metric reward needs to know which: ask with --reward SPEC")


metrics = [
    Metric(
        "reward", "mean of what --reward scores", _asked_for, mean, kinds=("rewarded",),
        bounds=(-math.inf, math.inf), item=items, reads="answers",
    ),
]  # fmt: skip
