"""Choosing and fitting a linear classifier on features, by scikit-learn.

A candidate is a set of features and a strength. It is judged by predictions on rows that were not
fitted: those of validation, and training rows out of fold. So a small validation part does not decide
alone, and does not look much better than it is for having been chosen by.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rung.data.problem import counted
from rung.errors import Interrupted

FOLDS = 3
FREEDOM = (
    1.5,
    5.0,
    15.0,
    50.0,
)  # C times the number of rows: what suits depends little on their number
MIDDLE = 5.0  # what sets of features are first compared at
FINALISTS = 3  # sets that are tried at every strength
TINY = 1e-6


class Features(Protocol):
    """Named sets of features of the same rows."""

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows of training come first, and how many of validation follow."""
        ...  # fmt: skip

    def rounds(self, best: str | None) -> list[str]:
        """The names to try first (None), or those to try once the best of them is known."""
        ...  # fmt: skip

    def of(self, name: str) -> Tensor:
        """(training rows + validation rows, d)."""
        ...  # fmt: skip


@dataclass
class Chosen:
    """The best candidate.

    Attributes:
        c: scikit-learn's C for all training rows. sharpness: what decisions of a classifier without
            probabilities are multiplied by before the softmax.
        accuracy, loss: on the `n` rows that were predicted without being fitted.
        others: the best accuracy of every name tried.
    """

    name: str
    c: float
    accuracy: float
    loss: float
    n: int
    sharpness: float = 1.0
    others: dict[str, float] = field(default_factory=dict)

    @property
    def told(self) -> str:
        layer, _, pooling = self.name.partition(".")
        what = f"layer {layer}, {pooling} token states" if pooling else self.name
        held = counted(self.n, "row")
        fit = f"accuracy {self.accuracy:.3f} on {held} that it was not fitted on"
        return f"{what}, C {self.c:.2g}: {fit} (validation, and training rows by cross-validation)"


def choose(
    features: Features,
    train: Sequence[str],
    validation: Sequence[str],
    kind: str,
    c: float | None,
    stopping: Callable[[], bool] = lambda: False,
) -> Chosen:
    """The candidate with the best accuracy, and among equals the lowest loss.

    Args:
        train, validation: labels of the rows; those beyond `features.rows` are not looked at.
        kind: "logistic" or "ridge". c: the only strength to try, None for a few.

    Raises:
        Interrupted: when `stopping` says so.
    """
    from threadpoolctl import threadpool_limits

    count, held = features.rows
    codes, labels = _codes(train[:count], validation[:held])
    found: dict[tuple[str, float], Chosen] = {}

    def judge(names: Sequence[str], freedoms: Sequence[float]) -> None:
        for name in names:
            x = features.of(name).float().numpy()
            for freedom in freedoms:
                if stopping():
                    raise Interrupted
                if (name, freedom) not in found:
                    tried = _judge(x, codes, count, len(labels), kind, freedom)
                    found[name, freedom] = Chosen(name, freedom / len(train), *tried)

    usual, every = (MIDDLE, FREEDOM) if c is None else (c * len(train), [c * len(train)])
    # Products this small are faster on one core than on several.
    with threadpool_limits(limits=1):
        judge(features.rounds(None), [usual])
        judge(features.rounds(_ranked(found)[0].name), [usual])
        judge([chosen.name for chosen in _ranked(found)[:FINALISTS]], every)
    ranked = _ranked(found)
    for chosen in reversed(ranked):
        ranked[0].others[chosen.name] = chosen.accuracy
    return ranked[0]


def _ranked(found: dict[tuple[str, float], Chosen]) -> list[Chosen]:
    return sorted(found.values(), key=lambda c: (-c.accuracy, c.loss))


def final(
    x: Tensor, labels: Sequence[str], kind: str, chosen: Chosen
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Fit all training rows.

    Returns:
        the labels, and what `Probe` needs: weight (L, d), bias (L,), mean and scale (d,).
    """
    from threadpoolctl import threadpool_limits

    codes, names = _codes(labels, ())
    rows = x.float().numpy()
    mean, scale = _standard(rows)
    with threadpool_limits(limits=1):  # as in `choose`
        fitted = _fit((rows - mean) / scale, codes, kind, chosen.c * len(labels))
    weight, bias = _linear(fitted, len(names))
    tensors = {
        "weight": weight * chosen.sharpness, "bias": bias * chosen.sharpness,
        "mean": mean, "scale": scale,
    }  # fmt: skip
    return names, {n: torch.from_numpy(np.asarray(t, dtype=np.float32)) for n, t in tensors.items()}


def _codes(train: Sequence[str], validation: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as numbers; -1 for one that training does not have."""
    names = tuple(sorted(set(train)))
    place = {name: i for i, name in enumerate(names)}
    return np.array([place.get(label, -1) for label in (*train, *validation)]), names


def _standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), x.std(0) + TINY


def _judge(x: np.ndarray, codes: np.ndarray, count: int, names: int, kind: str, freedom: float):
    """(accuracy, loss, rows, sharpness) on rows that were not fitted."""
    decided, truth = [], []
    folds = np.random.default_rng(0).permutation(count) % FOLDS
    parts = [(folds != f, np.nonzero(folds == f)[0]) for f in range(FOLDS)]
    if len(codes) > count:
        parts.append((np.ones(count, dtype=bool), np.arange(count, len(codes))))
    for kept, held in parts:
        if len(np.unique(codes[:count][kept])) < 2 or not len(held):
            continue
        rows = x[:count][kept]
        mean, scale = _standard(rows)
        fitted = _fit((rows - mean) / scale, codes[:count][kept], kind, freedom)
        weight, bias = _linear(fitted, names)
        decided.append((x[held] - mean) / scale @ weight.T + bias)
        truth.append(codes[held])
    if not decided:
        return 0.0, float("inf"), 0, 1.0
    scores, true = np.concatenate(decided), np.concatenate(truth)
    sharpness = 1.0 if kind == "logistic" else _sharpness(scores, true)
    accuracy = float((scores.argmax(1) == true).mean())
    return accuracy, _loss(scores * sharpness, true), len(true), sharpness


def _fit(x: np.ndarray, codes: np.ndarray, kind: str, freedom: float) -> Any:
    """Fit standardised features. The freedom is C times the rows: a mean loss against the weights."""
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    c = freedom / len(x)
    if kind == "ridge":
        return RidgeClassifier(alpha=1 / c).fit(x, codes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that ran out: what they came to is judged
        return LogisticRegression(C=c, max_iter=300, tol=1e-3).fit(x, codes)


def _linear(fitted: Any, names: int) -> tuple[np.ndarray, np.ndarray]:
    """(names, d) and (names,), also where the fit knew two labels or not all of them."""
    weight, bias = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full = np.zeros((names, weight.shape[1]), dtype=np.float32)
    low = np.full(names, -1e9, dtype=np.float32)
    full[fitted.classes_], low[fitted.classes_] = weight, bias
    return full, low


def _loss(scores: np.ndarray, true: np.ndarray) -> float:
    """Mean cross-entropy; a label that training does not have counts as a probability of TINY."""
    log = torch.log_softmax(torch.from_numpy(scores.astype(np.float64)), 1).numpy()
    picked = np.where(true >= 0, log[np.arange(len(true)), true], np.log(TINY))
    return float(-np.maximum(picked, np.log(TINY)).mean())


def _sharpness(scores: np.ndarray, true: np.ndarray) -> float:
    """The factor under which decisions make the best probabilities (Platt, without an offset)."""
    tried = np.geomspace(0.1, 100, 61)
    return float(min(tried, key=lambda s: _loss(scores * s, true)))
