"""Directions from contrasts: layer by layer, balanced over answer letters, judged on held-out pairs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rung.data.pairs import conversations, pairs
from rung.data.problem import counted
from rung.errors import DataError, MethodMisfit
from rung.forward.adapter import Adapter
from rung.forward.features import Frame, pooled
from rung.forward.steer import SteerOp, last_modules, unit
from rung.methods import base
from rung.methods.steering.curve import curve

if TYPE_CHECKING:
    from rung.types import Pair

LEAST_PAIRS = 4
HELD_SHARE = 5  # where no pairs are held out, every so manieth is
CURVE_PAIRS = 64  # held-out pairs whose preference and perplexity are measured
EXACT = 1e-2  # of the vector's length, by which a layer's output may miss it
_LETTER = re.compile(r"\W*([A-Za-z])\W*")


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """Rendered pairs.

    Attributes:
        sides: (chosen, rejected) token ids.
        letters: what the chosen reply is where both are single letters, else "".
        held: whether the pair is kept from the fit.
    """

    sides: list[tuple[tuple[int, ...], tuple[int, ...]]]
    letters: np.ndarray
    held: np.ndarray


def fit(study: base.Study, config: Any) -> base.Fitted:
    """Find the vectors of the layers, and measure them.

    Raises:
        DataError: for too few pairs. MethodMisfit: where a layer's output does not follow the vector.
    """
    bank = study.bank
    contrasts = _contrasts(study)
    modules = last_modules(bank)
    usable = [n for n in range(bank.layers.count - 1) if n in modules]
    differences = _differences(study, contrasts, usable)
    train = ~contrasts.held
    letters = contrasts.letters[train]
    vectors = {n: direction(d[train], letters, config.direction) for n, d in differences.items()}
    held = {n: _separation(differences[n][contrasts.held], vectors[n]) for n in usable}
    chosen = _layers(config, usable, held)
    ops = {modules[n]: SteerOp(vectors[n] / len(chosen), config.strength) for n in chosen}
    adapter = Adapter(linear=ops)
    _prove(study, contrasts, adapter, chosen[0], modules[chosen[0]])
    metrics: dict[str, Any] = {
        "layers": ", ".join(map(str, chosen)), "pairs": int(train.sum()),
        "held_out_pairs": int(contrasts.held.sum()),
        "separation": float(np.mean([held[n][0] for n in chosen])),
    }  # fmt: skip
    metrics |= _confound(study, contrasts, differences, vectors, chosen)
    places = np.flatnonzero(contrasts.held)[:CURVE_PAIRS]
    rows = curve(study, [contrasts.sides[i] for i in places], adapter, config.strengths)
    for row in rows:
        study.note(row.told)
        metrics[f"preference_at_{row.strength:g}"] = row.preference
        metrics[f"margin_at_{row.strength:g}"] = row.margin
        metrics[f"perplexity_at_{row.strength:g}"] = row.perplexity
    return base.Fitted(adapter.to(bank.device), metrics)


# --- a direction ------------------------------------------------------------------------------------


def direction(differences: Tensor, letters: Sequence[str] | np.ndarray, kind: str) -> Tensor:
    """Find a layer's vector from differences (P, d), chosen less rejected -> (d,).

    It is as long as the balanced mean difference is along it, and points the way of that mean.

    Args:
        letters: what each chosen reply is, "" for text; every letter counts the same in the mean.
        kind: mean, pca or probe.
    """
    mean = _balanced(differences, np.asarray(letters))
    if kind == "mean":
        return mean
    if kind == "pca":
        centred = differences - differences.mean(0)
        axis = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    else:
        axis = _probe(differences)
    axis = unit(axis)
    return axis * (mean @ axis)


def letter_direction(differences: Tensor, letters: np.ndarray) -> Tensor | None:
    """Find what tells answer letters apart: the mean difference of pairs whose better reply is the
    commonest letter, less that of the next; None where there are not two letters."""
    names, counts = np.unique(letters[letters != ""], return_counts=True)
    if len(names) < 2:
        return None
    first, second = names[np.argsort(-counts, kind="stable")[:2]]
    return differences[letters == first].mean(0) - differences[letters == second].mean(0)


def _balanced(differences: Tensor, letters: np.ndarray) -> Tensor:
    return torch.stack([differences[letters == name].mean(0) for name in np.unique(letters)]).mean(0)


def _probe(differences: Tensor) -> Tensor:
    """Weights of a logistic regression without intercept on the differences."""
    from sklearn.linear_model import LogisticRegression

    x = differences.numpy() / max(float(differences.norm(dim=1).mean()), 1e-12)
    fitted = LogisticRegression(fit_intercept=False, max_iter=500)
    both = np.concatenate([x, -x])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that ran out: what they came to is judged
        fitted.fit(both, np.repeat([1, 0], len(x)))
    return torch.from_numpy(fitted.coef_[0]).float()


def _separation(differences: Tensor, vector: Tensor) -> tuple[float, float]:
    """Share of pairs that a vector orders rightly, and the mean gap in standard deviations."""
    along = differences @ unit(vector)
    spread = float(along.std(unbiased=False)) or 1.0
    return float((along > 0).float().mean()), float(along.mean()) / spread


def _layers(config: Any, usable: list[int], held: dict[int, tuple[float, float]]) -> list[int]:
    if config.steered:
        return sorted(set(config.steered))
    third = max(1, round(len(usable) / 3))
    if config.pick_layers == "separation":
        return sorted(sorted(usable, key=lambda n: held[n], reverse=True)[:third])
    start = (len(usable) - third + 1) // 2
    return usable[start : start + third]


# --- what is fitted on ------------------------------------------------------------------------------


def _contrasts(study: base.Study) -> Contrasts:
    """Pairs of training and of validation; without the latter every fifth is held out."""
    sides, letters, held, left = [], [], [], 0
    for part, kept_out in ((study.train, False), (study.validation, True)):
        for pair in _pairs(part):
            try:
                both = [
                    study.template.render(one).ids for one in conversations(pair)
                ]  # fmt: skip
            except DataError:
                both = []
            if not both or max(map(len, both)) > study.bank.context or both[0] == both[1]:
                left += 1
                continue
            sides.append((tuple(both[0]), tuple(both[1])))
            letters.append(_letter(pair))
            held.append(kept_out)
    if left:
        study.note(
            f"{counted(left, 'pair is', 'pairs are')} left out: not rendered, or too "
            "long for the context"
        )
    if len(sides) < LEAST_PAIRS:
        raise DataError(f"steering needs {LEAST_PAIRS} pairs at least, and has {len(sides)}")
    apart = np.array(held)
    if not apart.any():
        apart = np.arange(len(sides)) % HELD_SHARE == HELD_SHARE - 1
        apart[-1] = True
    if apart.all():
        raise DataError("all pairs are held out: give more of them, or a smaller --validation")
    return Contrasts(sides=sides, letters=np.array(letters), held=apart)


def _pairs(examples: Any) -> list[Pair]:
    return pairs(examples)[0] if examples else []


def _letter(pair: Pair) -> str:
    """The letter that the better reply is, "" where one of the two is more than a letter."""
    replies = [_LETTER.fullmatch(side[-1]["content"]) for side in (pair.chosen, pair.rejected)]
    return replies[0].group(1).upper() if replies[0] and replies[1] else ""


def _differences(study: base.Study, contrasts: Contrasts, usable: list[int]) -> dict[int, Tensor]:
    """States of the better less those of the worse side, (P, d) by layer, at the last token that is
    not the same in all texts: what a template puts behind a reply says nothing about it."""
    texts = [side for pair in contrasts.sides for side in pair]
    ends = len(Frame.of(texts).suffix)
    read = [t[: max(1, len(t) - ends)] for t in texts]
    boundaries = [n + 1 for n in usable]
    states = pooled(study.bank, read, boundaries, Frame(), keep=True, stopping=study.stopping)
    both = {n: states[f"{n + 1}.last"].float() for n in usable}
    return {n: s[0::2] - s[1::2] for n, s in both.items()}


def _prove(study: base.Study, contrasts: Contrasts, adapter: Adapter, layer: int, module: str) -> None:
    """Raise MethodMisfit unless the lowest steered layer's output moves by the vector."""
    from rung.forward.trie import Sequence as Row

    bank, op = study.bank, adapter.linear[module]
    assert isinstance(op, SteerOp)
    ids = contrasts.sides[0][0][:32]
    slot = bank.add(Adapter(linear={module: SteerOp(op.vector)}).to(bank.device))
    try:
        with torch.no_grad():
            tries = [bank.trie([Row(ids, slot=s)]) for s in (-1, slot)]
            before, after = (bank.states(t, {layer + 1})[layer + 1].float() for t in tries)
    finally:
        bank.remove(slot)
    missed = (after - before - op.vector.to(before)).abs()
    # Sums in few bits are off by their own size; in float32 by next to nothing.
    rounding = 8 * torch.finfo(bank.dtype).eps * torch.maximum(before.abs(), after.abs())
    bound = EXACT * float(op.vector.norm()) + 1e-3 * float(before.abs().max())
    if not bool((missed <= bound + rounding).all()):
        raise MethodMisfit(
            f"the output of layer {layer} of this base does not follow a vector added to {module}: "
            "use --method lora"
        )


def _confound(
    study: base.Study, contrasts: Contrasts, differences: dict[int, Tensor],
    vectors: dict[int, Tensor], chosen: list[int],
) -> dict[str, Any]:  # fmt: skip
    """Cosine with the letters' direction, and how well pairs of each letter are ordered."""
    train, held = ~contrasts.held, contrasts.held
    letters = contrasts.letters
    found: dict[str, Any] = {}
    cosines = []
    for n in chosen:
        letter = letter_direction(differences[n][train], letters[train])
        if letter is not None:
            cosines.append(abs(float(unit(letter) @ unit(vectors[n]))))
    if not cosines:
        return found
    found["letter_cosine"] = float(np.mean(cosines))
    for name in np.unique(letters[held & (letters != "")]):
        mine = held & (letters == name)
        right = [_separation(differences[n][mine], vectors[n])[0] for n in chosen]
        found[f"separation_{name}"] = float(np.mean(right))
    told = ", ".join(f"{k[-1]} {v:.3f}" for k, v in found.items() if k.startswith("separation_"))
    study.note(
        "pairs are answered by letters: cosine with the letter's direction "
        f"{found['letter_cosine']:.3f}; held-out pairs ordered rightly, by letter: {told or 'none'}"
    )
    return found
