"""A linear probe on pairs: logistic regression on the cheaper rungs' scores and on embeddings.

The features of a pair are each cheaper rung's score, by how much that is below the best of the left
record, and the products of both embeddings, dimension by dimension. Negatives are the highest-scoring
wrong right records of each training record, and some at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rung.mapping.problem import Problem
from rung.mapping.records import Record
from rung.mapping.rungs import base, encoder, registry

HARD, RANDOM = 20, 20  # negatives of a training record: the likeliest, and any
STRENGTHS = (0.01, 0.1, 1.0)  # values of C that are tried on training records held out
FOLDS = 4


class Rung(base.Rung):
    summary = "logistic regression on scores and embeddings of pairs"
    place = 40
    learns = True

    def fit(self, problem: Problem, cheaper: Mapping[str, base.Scorer]) -> base.Scorer:
        assert problem.parts is not None
        inner = {
            name: scorer
            for name, scorer in cheaper.items()
            if isinstance(scorer, base.BlockScorer) and not registry.get(name).learns
        }
        if not any(isinstance(s, encoder.Scorer) for s in inner.values()):
            inner["encoder"] = encoder.scorer_of(problem)
        scorer = Scorer(problem.right, inner)
        scorer.fit(problem)
        return scorer

    def restore(self, right: Sequence[Record], state: base.State, tools: base.Tools) -> base.Scorer:
        inner: Any = {
            str(name): registry.get(name).restore(right, state.inside(name), tools)
            for name in state.settings["inner"]
        }
        scorer = Scorer(right, inner)
        scorer.weights = state.tensors["weights"].astype(np.float64)
        if len(scorer.weights) != scorer.width:
            raise ValueError("the weights are not those of the features")
        return scorer


class Scorer(base.BlockScorer):
    """Log-odds that a pair is one.

    Args:
        inner: scorers whose scores are features, an encoder's among them.
    """

    def __init__(self, right: Sequence[Record], inner: Mapping[str, base.BlockScorer]):
        super().__init__(right)
        self.inner = dict(inner)
        self.encoder = next(s for s in inner.values() if isinstance(s, encoder.Scorer))
        self.width = 2 * len(inner) + self.encoder.matrix.shape[1] + 1  # scores, leads, products, 1
        self.weights = np.zeros(self.width)

    def _scores(self, left: Sequence[Record]) -> list[np.ndarray]:
        """(n, right) of each feature that is no product."""
        found = []
        for scorer in self.inner.values():
            scores = scorer.block(left)
            found += [scores, scores - scores.max(1, keepdims=True)]
        return found

    def block(self, left: Sequence[Record]) -> np.ndarray:
        scores = self._scores(left)
        products = self.weights[len(scores) : -1].astype(np.float32)
        found = (self.encoder.embed(left) * products) @ self.encoder.matrix.T
        for weight, feature in zip(self.weights, scores, strict=False):
            found += np.float32(weight) * feature
        return (found + np.float32(self.weights[-1])).astype(np.float32)

    def fit(self, problem: Problem) -> None:
        """Fit the weights to the training part."""
        assert problem.parts is not None
        rows = problem.parts.train
        gold = problem.gold(rows)
        left = [problem.left[i] for i in rows]
        generator = np.random.default_rng(problem.knobs.seed)
        scores = np.stack(self._scores(left), axis=-1)  # (n, right, features)
        x, y, of = [], [], []
        for i, right in enumerate(gold):
            hardest = np.argsort(-scores[i, :, ::2].mean(-1), kind="stable")[: HARD + len(right)]
            drawn = generator.integers(0, len(self.right), RANDOM)
            negatives = sorted({*hardest.tolist(), *drawn.tolist()} - right)
            places = [*sorted(right), *negatives]
            products = self.encoder.embed(left[i : i + 1]) * self.encoder.matrix[places]
            x.append(np.concatenate([scores[i, places], products], axis=1))
            y += [1] * len(right) + [0] * len(negatives)
            of += [i] * len(places)
        self.weights = _fit(np.concatenate(x), np.array(y), np.array(of), scores.shape[-1])

    def state(self) -> base.State:
        found = base.State({"inner": list(self.inner)}, {"weights": self.weights.astype(np.float32)})
        for name, scorer in self.inner.items():
            found.put(name, scorer.state())
        return found


def _fit(x: np.ndarray, y: np.ndarray, of: np.ndarray, scores: int) -> np.ndarray:
    """Weights and bias of standardised features, with the C whose first candidates are right most often
    on training records held out.

    Args:
        x: (pairs, features), the first `scores` of them scores. of: the record of each pair.
    """
    width = x.shape[1] + 1
    if not 0 < y.sum() < len(y):
        return np.zeros(width)
    spread = np.maximum(x.std(0), 1e-6)
    spread[scores:] *= np.sqrt(width - 1 - scores)  # products together count as much as one score
    z = x / spread
    best, most = STRENGTHS[0], -1.0
    for c in STRENGTHS:
        hits = 0.0
        for fold in range(FOLDS):
            held = of % FOLDS == fold
            if not 0 < y[~held].sum() < (~held).sum():
                continue
            weight, bias = _logistic(z[~held], y[~held], c)
            odds = z[held] @ weight + bias
            for i in np.unique(of[held]):
                own = of[held] == i
                hits += y[held][own][odds[own].argmax()]
        if hits > most:
            best, most = c, hits
    weight, bias = _logistic(z, y, best)
    return np.append(weight / spread, bias)


def _logistic(x: np.ndarray, y: np.ndarray, c: float) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=c, class_weight="balanced", max_iter=500).fit(x, y)
    return fitted.coef_[0].astype(np.float64), float(fitted.intercept_[0])
