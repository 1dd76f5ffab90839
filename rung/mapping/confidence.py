"""Confidence: scores as probabilities that a candidate is right (Platt scaling), and the threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rung.mapping.rungs.base import Candidates

SEEN = 5  # candidates of each known left record that the calibration is fitted on
RIDGE = 1e-2  # of the calibration's weights
STEPS = 200  # iterations of its optimiser at most


@dataclass(frozen=True)
class Calibration:
    """A logistic regression on a candidate's score and its lead over the best other candidate.

    Neither weight is negative, so that a higher score never means less confidence.

    Attributes:
        weights: of score and lead. bias: of both together. Zero weights everywhere: the score itself,
            cut to 0 to 1, is the confidence.
    """

    weights: tuple[float, float] = (0.0, 0.0)
    bias: float = 0.0
    fitted: bool = False

    def confidence(self, candidates: Candidates) -> np.ndarray:
        """(n, k) in 0 to 1."""
        if not self.fitted:
            return np.clip(candidates.scores.astype(np.float64), 0.0, 1.0)
        logits = features(candidates.scores) @ np.array(self.weights) + self.bias
        return 1.0 / (1.0 + np.exp(-np.clip(logits, -60.0, 60.0)))


def features(scores: np.ndarray) -> np.ndarray:
    """(n, k), best first -> (n, k, 2): the score, and its lead over the best other one of its row."""
    scores = scores.astype(np.float64)
    second = scores[:, 1:2] if scores.shape[1] > 1 else np.zeros_like(scores)
    other = np.broadcast_to(scores[:, :1], scores.shape).copy()
    other[:, :1] = second
    return np.stack([scores, scores - other], axis=-1)


def calibrate(candidates: Candidates, gold: Sequence[frozenset[int]]) -> Calibration:
    """Fit confidences to known left records.

    Args:
        candidates: of these records. gold: places that are right, empty for 'none of these'.
    """
    from scipy.optimize import minimize

    x = features(candidates.scores)[:, :SEEN].reshape(-1, 2)
    y = np.array(
        [
            int(place) in right
            for row, right in zip(candidates.places, gold, strict=True)
            for place in row[:SEEN]
        ],
        dtype=np.float64,
    )
    if not 0 < y.sum() < len(y):
        return Calibration()
    spread = np.maximum(x.std(0), 1e-9)
    z = x / spread

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = z @ parameters[:2] + parameters[2]
        p = 1.0 / (1.0 + np.exp(-np.clip(logits, -60.0, 60.0)))
        value = np.logaddexp(0.0, logits).sum() - (y * logits).sum()
        gradient = np.array([*(z.T @ (p - y)), (p - y).sum()])
        penalty = np.array([*parameters[:2], 0.0])
        return float(value + RIDGE * penalty @ penalty / 2), gradient + RIDGE * penalty

    bounds = [(0.0, None), (0.0, None), (None, None)]
    start = np.array([1.0, 1.0, -1.0])
    found = minimize(
        loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": STEPS}
    )
    a, b = found.x[:2] / spread
    return Calibration((float(a), float(b)), float(found.x[2]), True)


def threshold(confidences: np.ndarray, value: Callable[[float], float], least: float = 0.0) -> float:
    """The confidence below which it is none of these: the best on known records, of equals the middle.

    Args:
        confidences: (n,) of what each known left record becomes. value: the metric at a threshold.
        least: the lowest that may be chosen.
    """
    ordered = np.unique(confidences[confidences > 0])
    between = [least, *((ordered[:-1] + ordered[1:]) / 2)]
    values = {float(t): round(value(float(t)), 12) for t in sorted(between) if t >= least}
    equals = [t for t, worth in values.items() if worth == max(values.values())]
    return equals[(len(equals) - 1) // 2]
