"""Metrics of preferences: how often the better of two replies is found to be better."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rung.errors import ConfigError
from rung.evals.metrics.base import Case, Metric

CLOSE = 1e-9  # scores that differ by less are equal


def share(better: str, worse: str) -> Callable[[Case], np.ndarray]:
    """Statistics (n, 2) of how often one score of an item is above another; equal ones count half."""

    def statistics(case: Case) -> np.ndarray:
        if case.scores is None or any(better not in s for s in case.scores):
            raise ConfigError("preferences need rows with a better and a worse reply")
        gaps = np.array([s[better] - s[worse] for s in case.scores])
        right = np.where(np.abs(gaps) <= CLOSE, 0.5, (gaps > 0).astype(float))
        return np.stack([right, np.ones(len(right))], axis=1)

    return statistics


def likelier(case: Case) -> np.ndarray:
    """The same by the model's own log-likelihoods; NaN for reward models, which have none."""
    if case.scores is not None and all("chosen_likelihood" in s for s in case.scores):
        return share("chosen_likelihood", "rejected_likelihood")(case)
    return np.full((len(case.texts), 2), np.nan)


metrics = [
    Metric(
        "preference_accuracy", "how often the better of two replies has the higher reward",
        share("chosen", "rejected"), kinds=("preference",), reads="label scores",
    ),
    Metric(
        "chosen_likelier", "how often the better of two replies is likelier as it stands", likelier,
        kinds=("preference",), reads="label scores",
    ),
]  # fmt: skip
