"""TF-IDF over words and characters, by scikit-learn: features of texts that need no model.

Words of one letter count, and n-grams of characters stand beside words, so that texts in a script
without blanks have features too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from rung.errors import Interrupted

WORDS, CHARACTERS = "words", "characters"
ANALYZERS: dict[str, dict[str, Any]] = {
    WORDS: {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    CHARACTERS: {"analyzer": "char_wb", "ngram_range": (2, 4)},
}
MAX_FEATURES = 40_000  # n-grams of each kind
RARE_FROM = 2000  # rows from which an n-gram must occur in two of them
FREEDOM = (2.0, 10.0, 50.0)  # values of C that are tried
MAX_CHOOSE_ROWS = 2000  # training rows that C is chosen on
FALLBACK_C = 10.0  # where there are no rows to choose by
Stopping = Callable[[], bool]
Row = TypeVar("Row")


def part_of(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows in their order, drawn alike every time: the first ones alone would be of one
    label where the source is sorted."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i] for i in np.sort(np.random.default_rng(0).permutation(len(rows))[:most])]


@dataclass
class Ngrams:
    """Vectorizers of words and of characters, their vectors side by side.

    Attributes:
        parts: by kind, (n-grams in the order of their columns, idf of each).
    """

    parts: dict[str, tuple[list[str], np.ndarray]]

    def __post_init__(self) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizers = []
        for kind, (terms, idf) in self.parts.items():
            if not terms:
                continue
            vectorizer = TfidfVectorizer(
                sublinear_tf=True, dtype=np.float32, vocabulary={t: i for i, t in enumerate(terms)},
                **ANALYZERS[kind],
            )  # fmt: skip
            vectorizer.idf_ = np.asarray(idf, dtype=np.float32)
            self._vectorizers.append(vectorizer)

    @classmethod
    def of(cls, texts: Sequence[str]) -> Ngrams:
        """Learn the n-grams of texts, the most frequent where there are more than fit."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        parts: dict[str, tuple[list[str], np.ndarray]] = {}
        for kind, how in ANALYZERS.items():
            vectorizer = TfidfVectorizer(
                max_features=MAX_FEATURES, min_df=2 if len(texts) >= RARE_FROM else 1, **how
            )
            try:
                vectorizer.fit(texts)
            except ValueError:  # no text holds such an n-gram
                parts[kind] = ([], np.zeros(0, dtype=np.float32))
                continue
            terms = vectorizer.get_feature_names_out().tolist()
            parts[kind] = (terms, vectorizer.idf_.astype(np.float32))
        return cls(parts)

    @property
    def width(self) -> int:
        """Columns of a vector."""
        return sum(len(terms) for terms, _ in self.parts.values())

    def vectors(self, texts: Sequence[str]) -> Any:
        """(N,) texts -> a sparse matrix (N, width), the rows of each kind of length 1."""
        from scipy.sparse import csr_matrix, hstack

        found = [vectorizer.transform(texts) for vectorizer in self._vectorizers]
        if not found:
            return csr_matrix((len(texts), 0), dtype=np.float32)
        return hstack(found, format="csr")


@dataclass(frozen=True)
class Fit:
    """A linear classifier on n-grams, or the most frequent label where that does better.

    Attributes:
        weight (L, width), bias (L,): of one logistic regression for each label against the others.
        c: scikit-learn's C; 0 where the most frequent label won.
        accuracy: of the choice on the `n` rows it was chosen by; NaN without any.
        majority: the share of the most frequent label on the same rows.
    """

    labels: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    c: float
    accuracy: float
    majority: float
    n: int


def fit_labels(
    ngrams: Ngrams,
    texts: Sequence[str],
    labels: Sequence[str],
    held_texts: Sequence[str],
    held_labels: Sequence[str],
    stopping: Stopping = lambda: False,
) -> Fit:
    """Fit labels, with the C that is best on held-out rows.

    Raises:
        Interrupted: when `stopping` says so.
    """
    names, codes = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    x, held = ngrams.vectors(texts), ngrams.vectors(held_texts)
    place = {name: i for i, name in enumerate(names)}
    true = np.array([place.get(label, -1) for label in held_labels], dtype=int)
    counts = np.bincount(codes, minlength=len(names))
    majority = float((true == counts.argmax()).mean()) if len(true) else 0.0
    c, accuracy = FALLBACK_C, float("nan")
    if len(true):
        few = part_of(range(len(codes)), MAX_CHOOSE_ROWS)
        seen: dict[float, float] = {}
        for tried in FREEDOM:
            weight, bias = _one_against_rest(x[few], codes[few], len(names), tried, stopping)
            seen[tried] = float(((held @ weight.T + bias).argmax(1) == true).mean())
        c = max(seen, key=lambda value: seen[value])
    weight, bias = _one_against_rest(x, codes, len(names), c, stopping)
    if len(true):
        accuracy = float(((held @ weight.T + bias).argmax(1) == true).mean())
        if accuracy < majority:
            log = np.log(counts / counts.sum()).astype(np.float32)
            return Fit(tuple(names), np.zeros_like(weight), log, 0.0, majority, majority, len(true))
    return Fit(tuple(names), weight, bias, c, accuracy, majority, len(true))


def _one_against_rest(
    x: Any, codes: np.ndarray, count: int, c: float, stopping: Stopping
) -> tuple[np.ndarray, np.ndarray]:
    """(labels, width) and (labels,); a label that the rows do not have is never chosen."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weight = np.zeros((count, x.shape[1]), dtype=np.float32)
    bias = np.full(count, -50.0, dtype=np.float32)
    present = np.unique(codes)
    if len(present) < 2:  # there is nothing to tell apart
        bias[present] = 0.0
        return weight, bias
    for label in present if len(present) > 2 else present[-1:]:
        if stopping():
            raise Interrupted
        # The dual form of liblinear: its time grows with the entries of x, not with the columns.
        fitted = LogisticRegression(C=c, solver="liblinear", dual=True, tol=1e-2, random_state=0)
        with warnings.catch_warnings():  # what it came to is judged by held-out rows
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.fit(x, codes == label)
        weight[label], bias[label] = fitted.coef_[0], fitted.intercept_[0]
    if len(present) == 2:
        first, last = present
        weight[first], bias[first] = -weight[last], -bias[last]
    return weight, bias


def probabilities(decisions: np.ndarray) -> np.ndarray:
    """Decisions (N, L) of one label against the others -> (N, L), each row summing to 1."""
    odds = 1.0 / (1.0 + np.exp(-np.clip(decisions.astype(np.float64), -60.0, 60.0)))
    return odds / odds.sum(1, keepdims=True)
