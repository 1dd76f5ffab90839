"""Diversity of a data set: distinct n-grams, nearest neighbours, and coverage of the plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rung.evals.ngrams import Ngrams

MAX_ROWS = 5000  # rows of which nearest neighbours are looked for


@dataclass(frozen=True)
class Diversity:
    """How different rows are.

    Attributes:
        distinct: share of n-grams of words that are different, for n = 1, 2, 3 (distinct-n, Li et al.
            2016, arXiv 1510.03055).
        nearest_mean, nearest_max: cosine similarity of TF-IDF vectors to the row most alike.
        covered: topics that have a row, of `topics`.
        evenness: entropy of rows over topics, divided by the largest possible; 1 is even.
    """

    distinct: tuple[float, float, float]
    nearest_mean: float
    nearest_max: float
    covered: int
    topics: int
    evenness: float

    def __str__(self) -> str:
        grams = " ".join(f"{share:.2f}" for share in self.distinct)
        return (
            f"distinct 1-, 2-, 3-grams {grams}; nearest row {self.nearest_mean:.2f} in the mean, "
            f"{self.nearest_max:.2f} at most; {self.covered} of {self.topics} topics, "
            f"evenness {self.evenness:.2f}"
        )


def measure(texts: Sequence[str], topics: Sequence[str], planned: int) -> Diversity:
    """Measure rows.

    Args:
        texts: (n,) what rows say. topics: (n,) the topic of each. planned: how many there are.
    """
    counts = Counter(topics)
    shares = np.array(list(counts.values())) / max(1, len(topics))
    entropy = float(-(shares * np.log(shares)).sum())
    nearest = _nearest(texts[:MAX_ROWS])
    one, two, three = (_distinct(texts, n) for n in (1, 2, 3))
    return Diversity(
        distinct=(one, two, three),
        nearest_mean=float(nearest.mean()) if len(nearest) else 0.0,
        nearest_max=float(nearest.max()) if len(nearest) else 0.0,
        covered=len(counts),
        topics=planned,
        evenness=entropy / math.log(planned) if planned > 1 else 1.0,
    )


def _distinct(texts: Sequence[str], n: int) -> float:
    grams = [
        tuple(words[i : i + n])
        for words in (text.casefold().split() for text in texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def _nearest(texts: Sequence[str]) -> np.ndarray:
    """(n,) similarity of each text to the other one most alike; vectors of both kinds count half."""
    if len(texts) < 2:
        return np.zeros(0)
    vectors = Ngrams.of(texts).vectors(texts)
    length = np.sqrt(vectors.multiply(vectors).sum(1)).A1.clip(1e-9)
    found = np.empty(len(texts))
    for at in range(0, len(texts), 500):  # rows at once; similarities are dense
        rows = slice(at, at + 500)
        block = (vectors[rows] @ vectors.T).toarray() / length[None, :] / length[rows, None]
        block[np.arange(len(block)), np.arange(at, at + len(block))] = -1
        found[rows] = block.max(1)
    return found
