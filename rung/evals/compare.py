"""Two models on the same items: how much they differ, and whether that can be more than chance."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.evals import metrics
from rung.evals.intervals import LEVEL, RESAMPLES, bootstrap, percentile

if TYPE_CHECKING:
    from rung.evals.measure import Measured


@dataclass(frozen=True)
class Comparison:
    """What `b` has over `a`.

    Attributes:
        difference: value of b less value of a. low, high: its 95% interval, by paired bootstrap.
        p: how likely so large a difference is by chance; McNemar's exact test where items are right or
            wrong, else the paired bootstrap, see `paired`.
        n: items.
        says: all of that in words.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    says: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @property
    def certain(self) -> bool:
        """Whether a difference can be shown."""
        return self.p < 1 - LEVEL


def compare(a: Measured, b: Measured) -> Comparison:
    """Hold two models against each other, item by item.

    Raises:
        ValueError: when they were measured by other metrics or on other numbers of items.
    """
    if a.metric != b.metric or a.n != b.n:
        raise ValueError("only figures of one metric on the same items can be compared")
    finish = metrics.get(a.metric).finish
    drawn = bootstrap(b.statistics, finish) - bootstrap(a.statistics, finish)  # the same resamples
    low, high = percentile(drawn)
    difference = b.value - a.value
    if a.proportion and b.proportion:
        p = mcnemar(a.items, b.items)
    else:
        p = paired(drawn, a.statistics, b.statistics)
    return Comparison(difference, low, high, p, a.n, _says(a, difference, low, high, p))


def paired(drawn: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """The two-sided p of resampled differences (resamples,), whose items add up to `a` and `b` (n, k).

    Resamples of a few items that are all better hold no doubt. So p is at least what a sign test gives
    where all items that differ do so in one direction.
    """
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    apart = int((a != b).any(1).sum())
    return min(1.0, max(2 * (float(tail) + 1) / (RESAMPLES + 1), 2.0 ** (1 - apart)))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The exact two-sided test on items where one is right and the other wrong (McNemar 1947)."""
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    apart = only_a + only_b
    tail = sum(comb(apart, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**apart)


def _says(a: Measured, difference: float, low: float, high: float, p: float) -> str:
    if p >= 1 - LEVEL:
        return f"no difference can be shown with {a.n} items (p = {p:.2g})"
    better = (difference < 0) if a.lower else (difference > 0)
    word = "better" if better else "worse"
    figures = sorted((abs(low), abs(high))) if low * high > 0 else None
    within = f", between {figures[0]:.3g} and {figures[1]:.3g}" if figures else ""
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return f"{word} by {abs(difference):.3g} {a.metric}{within} ({chance}, {a.n} items)"
