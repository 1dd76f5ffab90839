"""Fitting a reward head on states of the frozen base: Bradley-Terry as a logistic regression.

The difference between the states of the chosen and the rejected reply, at the token at which rewards
are read, is a row; the fit has no intercept, so that swapping the two turns the sign. Layer and
strength are chosen by pairs that were not fitted: those of validation, and training pairs out of fold,
where pairs of one prompt stay together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rung.data import pairs
from rung.data.pairs import conversations
from rung.data.problem import counted
from rung.errors import DataError, Interrupted, MethodMisfit
from rung.forward.adapter import Adapter
from rung.forward.features import Frame, pooled
from rung.forward.reward_head import RewardHead
from rung.methods import base
from rung.methods.linear_probe.features import ROOM, SPREAD, spread
from rung.methods.linear_probe.fitting import FINALISTS, FOLDS, FREEDOM, MIDDLE, TINY

if TYPE_CHECKING:
    from rung.types import Example, Pair

SHOWN = 8  # layers whose accuracy is kept with the model


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Pairs as places in a list of texts.

    Attributes:
        texts: each once, as ids that end with the token at which rewards are read.
        places: (P, 2) of the chosen and the rejected text.
        groups: (P,) the same number for pairs of one prompt.
        train: how many pairs come first that are fitted; those of validation follow.
    """

    texts: list[tuple[int, ...]]
    places: np.ndarray
    groups: np.ndarray
    train: int


def fit(study: base.Study, config: Any) -> base.Fitted:
    """Find the reward head of the best layer.

    Raises:
        MethodMisfit: for knobs that belong to classifiers. DataError: where there is no pair.
    """
    _refuse(config)
    bank, token = study.bank, study.template.stop_ids[0]
    head = RewardHead.fresh(bank.width, token)
    compared = _compared(study, head)
    depth = bank.layers.count
    most = max(2, ROOM // (max(1, len(compared.texts)) * bank.width * 3 * 4))
    layers = [config.layer] if config.layer is not None else spread(depth, min(SPREAD + 2, most))
    states = pooled(bank, compared.texts, layers, Frame(), keep=True, stopping=study.stopping)
    rows = {n: states[f"{n}.last"].float().numpy() for n in layers}
    layer, c, found, others = _choose(rows, compared, config, study.stopping)
    x = _differences(rows[layer], compared)[: compared.train]
    weight = _fit(x, c)
    bias = -float(rows[layer][np.unique(compared.places[: compared.train])].mean(0) @ weight)
    head = RewardHead(
        weight=torch.from_numpy(weight.astype(np.float32)), token=token, bias=bias, boundary=layer
    )
    study.note(
        f"chose layer {layer}: {found:.3f} of {len(compared.places)} pairs that it was not fitted on "
        "are right (validation, and training pairs by cross-validation)"
    )
    return base.Fitted(Adapter(reward=head), _metrics(head, rows[layer], compared, found, c, others))


def _refuse(config: Any) -> None:
    if config.encoder or config.pooling not in ("auto", "last") or config.classifier != "logistic":
        raise MethodMisfit(
            "a reward is read at the last token of the base's states: leave out --encoder, --pooling "
            "and --classifier"
        )


def _compared(study: base.Study, head: RewardHead) -> Compared:
    """The pairs of training and validation; those that do not fit the context are told."""
    places: dict[tuple[int, ...], int] = {}
    found, groups, long = [], [], 0
    prompts: dict[str, int] = {}
    train = 0
    for part in (study.train, study.validation):
        for pair in _pairs(part, study):
            try:
                sides = [study.template.render(one).ids for one in conversations(pair)]
            except DataError as fault:
                study.note(f"{fault}: left out")
                continue
            closed = [head.closed(ids) for ids in sides]
            if max(map(len, closed)) > study.bank.context:
                long += 1
                continue
            found.append([places.setdefault(ids, len(places)) for ids in closed])
            groups.append(prompts.setdefault(repr(pair.prompt), len(prompts)))
        train = train or len(found)
    if long:
        study.note(f"{counted(long, 'pair is', 'pairs are')} left out: too long for the context")
    if not train:
        raise DataError("no pair is left to fit: all are too long, or cannot be rendered")
    return Compared(texts=list(places), places=np.array(found), groups=np.array(groups), train=train)


def _pairs(examples: Sequence[Example], study: base.Study) -> list[Pair]:
    if not examples:
        return []
    found, problems = pairs(examples)
    for problem in problems:
        study.note(problem.message)
    return found


def _differences(states: np.ndarray, compared: Compared) -> np.ndarray:
    """States of texts (N, d) -> chosen less rejected (P, d)."""
    return states[compared.places[:, 0]] - states[compared.places[:, 1]]


def _choose(
    rows: dict[int, np.ndarray], compared: Compared, config: Any, stopping: Any
) -> tuple[int, float, float, dict[int, float]]:
    """Choose layer and C: -> those, the accuracy on pairs not fitted, and that of every layer."""
    from threadpoolctl import threadpool_limits

    tried: dict[tuple[int, float], tuple[float, float]] = {}

    def judge(layers: Sequence[int], freedoms: Sequence[float]) -> None:
        for layer in layers:
            x = _differences(rows[layer], compared)
            for freedom in freedoms:
                if stopping():
                    raise Interrupted
                if (layer, freedom) not in tried:
                    tried[layer, freedom] = _judge(x, compared, freedom)

    def ranked() -> list[tuple[int, float]]:
        return sorted(tried, key=lambda key: (-tried[key][0], tried[key][1]))

    count = compared.train
    usual, every = (MIDDLE, FREEDOM) if config.c is None else (config.c * count, [config.c * count])
    with threadpool_limits(limits=1):  # products this small are faster on one core
        judge(list(rows), [usual])
        judge([layer for layer, _ in ranked()[:FINALISTS]], every)
    best = ranked()[0]
    others = {layer: max(v[0] for (n, _), v in tried.items() if n == layer) for layer in rows}
    return best[0], best[1] / count, tried[best][0], others


def _judge(x: np.ndarray, compared: Compared, freedom: float) -> tuple[float, float]:
    """Accuracy and mean loss on pairs that were not fitted."""
    count = compared.train
    groups = np.unique(compared.groups[:count])
    fold_of = dict(zip(groups, np.random.default_rng(0).permutation(len(groups)) % FOLDS, strict=True))
    folds = np.array([fold_of[g] for g in compared.groups[:count]])
    gaps = []
    for fold in range(FOLDS):
        kept = np.flatnonzero(folds != fold)
        if len(kept) and (folds == fold).any():
            gaps.append(x[:count][folds == fold] @ _fit(x[kept], freedom / len(kept)))
    if len(x) > count:
        gaps.append(x[count:] @ _fit(x[:count], freedom / count))
    if not gaps:
        return 0.0, float("inf")
    found = np.concatenate(gaps)
    right = float(((found > 0) + 0.5 * (found == 0)).mean())
    return right, float(np.logaddexp(0, -found).mean())


def _fit(x: np.ndarray, c: float) -> np.ndarray:
    """Weight (d,) of the logistic regression of differences (P, d), each also turned round."""
    from sklearn.linear_model import LogisticRegression

    scale = x.std(0) + TINY
    both, signs = np.concatenate([x, -x]) / scale, np.repeat([1, 0], len(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that ran out: what they came to is judged
        fitted = LogisticRegression(C=c / 2, fit_intercept=False, max_iter=300, tol=1e-3)
        return fitted.fit(both, signs).coef_[0] / scale


def _metrics(
    head: RewardHead, states: np.ndarray, compared: Compared, found: float, c: float,
    others: dict[int, float],
) -> dict[str, Any]:  # fmt: skip
    best = sorted(others.items(), key=lambda item: -item[1])[:SHOWN]
    metrics: dict[str, Any] = {
        "choice": f"layer {head.boundary}", "c": c, "held_out_rows": len(compared.places),
        "held_out_accuracy": found,
        "choices": ", ".join(f"layer {layer} {value:.3f}" for layer, value in best),
    }  # fmt: skip
    if held := len(compared.places) - compared.train:
        gaps = _differences(states, compared)[compared.train :] @ head.weight.numpy()
        metrics |= {"validation_reward_accuracy": float((gaps > 0).mean()), "validation_rows": held}
    return metrics
