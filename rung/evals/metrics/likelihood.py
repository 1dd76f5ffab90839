"""Metrics of how likely a model finds texts, without asking it anything."""

from __future__ import annotations

import math

import numpy as np

from rung.errors import ConfigError
from rung.evals.metrics.base import Case, Metric

MAX_EXPONENT = 700.0  # nats per token, beyond which exp overflows a float64


def statistics(case: Case) -> np.ndarray:
    """(n, 2): negative log-likelihood of an item in nats, and its tokens."""
    if case.scores is None or any("log_likelihood" not in s for s in case.scores):
        raise ConfigError("perplexity needs the texts scored: ask with --metric perplexity")
    return np.array([[-s["log_likelihood"], s["tokens"]] for s in case.scores]).reshape(-1, 2)


def perplexity(sums: np.ndarray) -> np.ndarray:
    """Sums of `statistics` (..., 2) -> (...)."""
    return np.exp(np.minimum(sums[..., 0] / np.maximum(sums[..., 1], 1.0), MAX_EXPONENT))


metrics = [
    Metric(
        "perplexity", "per token of what is to be predicted", statistics, perplexity,
        kinds=("language_modelling",), lower=True, bounds=(1.0, math.inf), reads="likelihood",
    ),
]  # fmt: skip
