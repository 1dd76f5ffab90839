"""Retrieval: which share of queries has what belongs to it among the k nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rung.evals.intervals import wilson

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Recall:
    """Recall at k of n queries, with its 95% interval (Wilson) and what chance would give."""

    k: int
    value: float
    low: float
    high: float
    chance: float
    n: int


def recall(queries: Tensor, found: Tensor, alike: Tensor, ks: Sequence[int] = (1, 5)) -> list[Recall]:
    """Recall at each of `ks`.

    Args:
        queries: (n, d), found: (m, d), compared by their products.
        alike: (n, m), above 0 where they belong together.

    Raises:
        ValueError: for no queries.
    """
    n, m = alike.shape
    order = (queries @ found.T).sort(dim=1, descending=True, stable=True).indices
    right = alike.gather(1, order) > 0
    results = []
    for k in ks:
        hits = int(right[:, :k].any(1).sum())
        low, high = wilson(hits, n)
        results.append(Recall(k, hits / n, low, high, _chance(alike, k, m), n))
    return results


def _chance(alike: Tensor, k: int, m: int) -> float:
    """The mean chance that k of m drawn without replacement hold one that belongs."""
    total = 0.0
    for good in (alike > 0).sum(1).tolist():
        missed = 1.0
        for i in range(min(k, m)):
            missed *= max(0, m - good - i) / (m - i)
        total += 1 - missed
    return total / len(alike)
