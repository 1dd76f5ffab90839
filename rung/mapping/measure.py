"""What a mapping is worth on known left records: accuracy, F1, precision, recall, coverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rung.errors import ConfigError, nearest
from rung.evals.compare import Comparison, mcnemar, paired
from rung.evals.intervals import LEVEL, bootstrap, percentile, resampled

# What each known left record adds up to.
RIGHT, MAPPED, PARTNERED, AGREES, ONE = range(5)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where nothing is below."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": lambda s: _ratio(s[..., AGREES], s[..., ONE]),
    "f1": lambda s: _ratio(2 * s[..., RIGHT], s[..., MAPPED] + s[..., PARTNERED]),
    "precision": lambda s: _ratio(s[..., RIGHT], s[..., MAPPED]),
    "recall": lambda s: _ratio(s[..., RIGHT], s[..., PARTNERED]),
    "coverage": lambda s: _ratio(s[..., MAPPED], s[..., ONE]),
}
# Which columns say that a metric is of a record.
COUNTED_BY: dict[str, list[int]] = {
    "accuracy": [ONE], "f1": [MAPPED, PARTNERED], "precision": [MAPPED], "recall": [PARTNERED],
    "coverage": [ONE],
}  # fmt: skip
SAID = {
    "accuracy": "share of left records with a right answer, 'none of these' among them",
    "f1": "harmonic mean of precision and recall",
    "precision": "share of the mapped that are right",
    "recall": "share of those with a partner that got it",
    "coverage": "share that are mapped at all",
}


def check_metric(name: str) -> None:
    """Raise ConfigError for a metric that mappings are not measured by."""
    if name not in METRICS:
        raise ConfigError(f"a mapping has no metric '{name}'{nearest(name, METRICS)}")


@dataclass(frozen=True)
class Figures:
    """Figures on known left records.

    Attributes:
        statistics: (n, 5), what each record adds up to.
    """

    statistics: np.ndarray

    @classmethod
    def of(cls, answers: np.ndarray, gold: Sequence[frozenset[int]]) -> Figures:
        """Measure answers.

        Args:
            answers: (n,) places of right records, negative for none of these.
            gold: places that are right, empty for none of these.
        """
        mapped = answers >= 0
        right = np.array([int(a) in g for a, g in zip(answers, gold, strict=True)], dtype=bool)
        partnered = np.array([bool(g) for g in gold], dtype=bool)
        agrees = np.where(partnered, right, ~mapped)
        ones = np.ones(len(answers))
        return cls(np.stack([right, mapped, partnered, agrees, ones], axis=1).astype(np.float64))

    @classmethod
    def pooled(cls, several: Sequence[Figures]) -> Figures:
        """Figures on the records of several together."""
        return cls(np.concatenate([one.statistics for one in several]))

    @property
    def n(self) -> int:
        return len(self.statistics)

    def value(self, metric: str) -> float:
        return float(METRICS[metric](self.statistics.sum(0)))

    def interval(self, metric: str) -> tuple[float, float]:
        """The 95% interval by the bootstrap over left records, or Wilson's where all are alike."""
        counted = int(self.statistics[:, COUNTED_BY[metric]].any(1).sum())
        return resampled(self.statistics, METRICS[metric], counted)

    def as_dict(self) -> dict[str, Any]:
        """Every metric with its interval, for cards and JSON."""
        found = {}
        for name in METRICS:
            low, high = self.interval(name)
            found[name] = {"value": self.value(name), "low": low, "high": high, "n": self.n}
        return found


def compare(a: Figures, b: Figures, metric: str) -> Comparison:
    """What `b` has over `a` on the same left records: McNemar's exact test for accuracy, else the
    paired bootstrap.

    Raises:
        ValueError: when they were measured on other numbers of records.
    """
    if a.n != b.n:
        raise ValueError("only figures on the same records can be compared")
    finish = METRICS[metric]
    drawn = bootstrap(b.statistics, finish) - bootstrap(a.statistics, finish)  # the same resamples
    low, high = percentile(drawn)
    difference = b.value(metric) - a.value(metric)
    if metric == "accuracy":
        p = mcnemar(a.statistics[:, AGREES], b.statistics[:, AGREES])
    else:
        p = paired(drawn, a.statistics, b.statistics)
    return Comparison(difference, low, high, p, a.n, _says(difference, low, high, p, metric, a.n))


def _says(difference: float, low: float, high: float, p: float, metric: str, n: int) -> str:
    if p >= 1 - LEVEL:
        return f"no difference can be shown with {n} records (p = {p:.2g})"
    word = "better" if difference > 0 else "worse"
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return f"{word} by {abs(difference):.3f} {metric} [{low:+.3f}, {high:+.3f}] ({chance}, {n} records)"
