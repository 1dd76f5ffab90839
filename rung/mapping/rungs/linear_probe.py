"""A linear probe on pairs: the cheaper rungs' scores and the products of embeddings, weighted.

A conditional logit (multinomial logistic regression on the candidates of each left record): the right
one of a record is to outweigh its other candidates, which are the likeliest wrong ones and some at
random. The weights begin at, and a ridge holds them near, what one would say without any pairs: each
dearer rung's score counts twice as much as the one before, and products of embeddings nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rung.mapping.problem import Problem
from rung.mapping.records import Record
from rung.mapping.rungs import base, encoder, registry

HARD, RANDOM = 40, 20  # wrong candidates of a training record: the likeliest, and any
RIDGE = 3.0  # on the weights of scores, and of products
PRODUCT_SCALE = 10.0  # embeddings are of length 1: their products are small numbers
STEPS = 100  # iterations of the optimiser at most


class Rung(base.Rung):
    summary = "cheaper scores and products of embeddings, weighted by known pairs"
    place = 40
    learns = True

    def fit(self, problem: Problem, cheaper: Mapping[str, base.Scorer]) -> base.Scorer:
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
        scorer.spread = state.tensors["spread"].astype(np.float64)
        if len(scorer.weights) != scorer.width or len(scorer.spread) != len(inner):
            raise ValueError("the weights are not those of the features")
        return scorer


class Scorer(base.BlockScorer):
    """Log-odds of a candidate against others, up to a constant.

    Args:
        inner: scorers whose scores are features, an encoder's among them.

    Attributes:
        weights: of scores in units of `spread`, then of products. spread: of each score.
    """

    def __init__(self, right: Sequence[Record], inner: Mapping[str, base.BlockScorer]):
        super().__init__(right)
        self.inner = dict(inner)
        self.encoder = next(s for s in inner.values() if isinstance(s, encoder.Scorer))
        self.width = len(inner) + self.encoder.matrix.shape[1]
        self.weights, self.spread = np.zeros(self.width), np.ones(len(inner))

    def block(self, left: Sequence[Record]) -> np.ndarray:
        count = len(self.inner)
        products = (PRODUCT_SCALE * self.weights[count:]).astype(np.float32)
        found = (self.encoder.embed(left) * products) @ self.encoder.matrix.T
        for weight, scorer in zip(self.weights / self._spread, self.inner.values(), strict=False):
            found += np.float32(weight) * scorer.block(left)
        return found.astype(np.float32)

    @property
    def _spread(self) -> np.ndarray:
        return np.concatenate([self.spread, np.ones(self.width - len(self.spread))])

    def fit(self, problem: Problem) -> None:
        """Fit the weights to the training part."""
        assert problem.parts is not None
        rows = problem.parts.train
        left, gold = [problem.left[i] for i in rows], problem.gold(rows)
        scores = np.stack([s.block(left) for s in self.inner.values()], axis=-1)
        self.spread = np.maximum(scores.std((0, 1)), 1e-6).astype(np.float64)
        scores = scores / self.spread  # (n, right, inner)
        prior = np.zeros(self.width)
        prior[: len(self.inner)] = 0.5 ** np.arange(len(self.inner))[::-1]
        expected = scores @ prior[: len(self.inner)]
        embedded = self.encoder.embed(left)
        generator = np.random.default_rng(problem.knobs.seed)
        groups = []
        for i, right in enumerate(gold):
            hardest = np.argsort(-expected[i], kind="stable")[:HARD]
            drawn = generator.integers(0, len(self.right), RANDOM)
            if not right:  # a record without a partner has no candidate to prefer
                continue
            places = sorted({*hardest.tolist(), *drawn.tolist()} | right)
            products = PRODUCT_SCALE * embedded[i] * self.encoder.matrix[places]
            features = np.concatenate([scores[i, places], products], axis=1).astype(np.float64)
            groups.append(Group(features, np.array([place in right for place in places])))
        self.weights = fit(groups, prior)

    def state(self) -> base.State:
        found = base.State(
            {"inner": list(self.inner)},
            {"weights": self.weights.astype(np.float32), "spread": self.spread.astype(np.float32)},
        )
        for name, scorer in self.inner.items():
            found.put(name, scorer.state())
        return found


@dataclass(frozen=True)
class Group:
    """The candidates of one left record: features (m, width), and which are right (m,)."""

    features: np.ndarray
    right: np.ndarray


def fit(groups: Sequence[Group], prior: np.ndarray) -> np.ndarray:
    """Weights that minimise the mean of -log p(right) with a ridge around the prior."""
    from scipy.optimize import minimize

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        off = weights - prior
        value, gradient = RIDGE * off @ off / 2, RIDGE * off
        for group in groups:
            scores = group.features @ weights
            odds = np.exp(scores - scores.max())
            right = np.where(group.right, odds, 0.0)
            value -= np.log(max(right.sum() / odds.sum(), 1e-300))
            wanted = right / max(right.sum(), 1e-300)
            gradient = gradient + group.features.T @ (odds / odds.sum() - wanted)
        return float(value), gradient

    found = minimize(loss, prior, jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    return np.asarray(found.x)
