"""Gradient-boosted trees over counted words (Friedman 2001): labels that hang on what stands together.

A linear classifier such as tfidf adds up what each n-gram says; a tree asks one after another, so it
tells "moved the key" after "entered the hall" from the same words elsewhere. The base is not asked; it
only lends the model its name and its template.

    rung tune NAME --method boosted_trees --data ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.data.problem import counted
from rung.errors import Interrupted, MethodMisfit
from rung.evals import kinds
from rung.evals.tasks import question, reply
from rung.methods import base, layers
from rung.methods.workload import Shape, Workload
from rung.types import Example, Task, last_question

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

FIRST_STAGE, GROWTH = 10, 1.5  # rounds of the first stage, and how many times as many each further one
PATIENCE = 10  # rounds without a gain on validation rows, after which it ends
ALONE = 30  # rounds where there are no rows to choose by
USUAL, USUAL_OF_TWO = 33, 100  # rounds that are grown of most data, for costs; of two labels
LEAF_ROWS = 10  # at least, of a leaf
# Operations as `Workload.fitted` counts them, fitted to measured times: of a tree for each count of a
# row and each term, and of a row's n-grams for each character.
VISIT, HISTOGRAM, COUNTING = 50, 15_000, 2000


@dataclass
class Knobs:
    group: ClassVar[str] = "boosted_trees"
    terms: int = knob(500, "How many n-grams are counted, the most frequent ones.", least=1)
    rounds: int = knob(200, "Trees of each label at most; fewer where validation says so.", least=1)
    shrinkage: float = knob(0.2, "How much of a tree is added.", above=0, most=1.0)


class Method(base.Method):
    summary = "gradient-boosted trees over counted words, without the base"
    paper = "doi:10.1214/aos/1013203451"
    Config = Knobs
    trained = False
    classifies = True

    def unsuited(self, task: Task, config: Knobs) -> str | None:
        if not kinds.of(task).labelled:
            return "trees over counted words tell labels apart, and this data has none"
        return None

    def holds(self, bank: Bank, config: Knobs, rows: int, tokens: int) -> int:
        # Counts as bytes, as float64 while they are binned, and the bins.
        return rows * config.terms * 10

    def making(self, config: Knobs, shape: Shape, schedule: base.Schedule) -> Workload:
        trees = _usual_trees(config, shape.labels)
        each = (VISIT * shape.rows + HISTOGRAM) * config.terms
        return Workload(fitted=trees * each + shape.rows * shape.letters * COUNTING)

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        trees = _usual_trees(config, shape.labels)
        return Workload(fitted=shape.letters * COUNTING + trees * 100)

    def fit(self, study: base.Study, config: Knobs) -> base.Fitted:
        import torch

        from rung.forward.adapter import Adapter
        from rung.methods.tree_models import CountedNgrams, TreesClassifier, nodes_of

        if refused := self.unsuited(study.task, config):
            raise MethodMisfit(f"{self.name} does not suit this data: {refused}")
        texts, labels = _pairs(study.train)
        if len(set(labels)) < 2:
            raise MethodMisfit(f"{self.name} needs rows of two labels at least")
        counts = CountedNgrams.of(texts, config.terms)
        if not counts.terms:
            raise MethodMisfit(
                f"{self.name} found no n-gram that stands in three rows: give it more rows"
            )
        held = _pairs(study.validation)
        names, grown, chosen = _grown(counts, (texts, labels), held, config, study)
        trees = nodes_of(grown, chosen.rounds, len(names))
        study.note(chosen.told)
        adapter = Adapter(
            classifier=TreesClassifier(
                names, counts, {k: torch.from_numpy(v) for k, v in trees.items()}
            )
        )
        metrics: dict[str, Any] = {"rounds": chosen.rounds, "features": len(counts.terms)}
        if chosen.n:
            metrics |= {"validation_accuracy": chosen.accuracy, "validation_loss": chosen.loss}
        return base.Fitted(adapter, metrics)

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        from rung.methods.tree_models import TreesClassifier

        classifier = adapter.classifier
        assert isinstance(classifier, TreesClassifier)
        settings = {"labels": list(classifier.labels), **classifier.counts.settings()}
        return settings, classifier.parameters()

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.methods.tree_models import CountedNgrams, TreesClassifier

        labels, counts = layers.labels(settings), CountedNgrams.from_settings(settings)
        return Adapter(classifier=TreesClassifier.checked(labels, counts, tensors))

    def merged(self, adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
        raise MethodMisfit(
            f"{self.name} has no part in the base's weights, so it cannot be merged: serve it"
        )


@dataclass(frozen=True)
class Chosen:
    """The rounds that are kept, and what they gave on the `n` validation rows."""

    rounds: int
    n: int
    loss: float = float("nan")
    accuracy: float = float("nan")

    @property
    def told(self) -> str:
        if not self.n:
            return (
                f"grew {counted(self.rounds, 'round')} of trees, without validation rows to choose by"
            )
        found = f"accuracy {self.accuracy:.3f} on {counted(self.n, 'row')}"
        if not self.rounds:
            return (
                f"chose the most frequent label, {found}: no tree does better than the labels' shares"
            )
        return f"chose {counted(self.rounds, 'round')} of trees: {found}"


def _usual_trees(config: Knobs, labels: int) -> int:
    """How many trees are grown of most data: one for each label, one in all of two."""
    if labels <= 2:
        return min(USUAL_OF_TWO, config.rounds)
    return labels * min(USUAL, config.rounds)


def _pairs(examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    """What was asked, and the labels, of rows that have one."""
    rows = [e for e in examples if reply(e) is not None]
    return [last_question(question(e)) for e in rows], [reply(e) or "" for e in rows]


Pairs = tuple[Sequence[str], Sequence[str]]


def _grown(
    counts: Any, train: Pairs, held: Pairs, config: Knobs, study: base.Study
) -> tuple[list[str], Any, Chosen]:
    """The labels, a fitted `HistGradientBoostingClassifier`, and how many of its rounds to keep.

    Rounds are grown by stages, so that it can be stopped in between, until the likelihood of the
    validation rows' labels no longer rises. Stages grow, since each bins all rows anew.

    Raises:
        Interrupted: when the study says so.
    """
    import numpy as np
    import torch
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    names, codes = np.unique(np.asarray(train[1], dtype=object).astype(str), return_inverse=True)
    x, seen = counts.vectors(train[0]), counts.vectors(held[0])
    place = {name: i for i, name in enumerate(names)}
    true = np.array([place.get(label, -1) for label in held[1]], dtype=int)
    model = HistGradientBoostingClassifier(
        learning_rate=config.shrinkage, min_samples_leaf=LEAF_ROWS, l2_regularization=1.0, max_iter=1,
        early_stopping=False, warm_start=True, random_state=0,
    )  # fmt: skip
    shares = np.bincount(codes) / len(codes)
    best = _judged(0, np.broadcast_to(shares, (len(true), len(names))), true)
    for rounds in _stages(config.rounds if len(true) else min(config.rounds, ALONE)):
        if study.stopping():
            raise Interrupted
        model.max_iter = rounds
        with threadpool_limits(torch.get_num_threads(), user_api="openmp"):
            model.fit(x, codes)
        if not len(true):
            best = Chosen(rounds, 0)
            continue
        for at, found in enumerate(model.staged_predict_proba(seen), 1):
            if at > best.rounds and (now := _judged(at, found, true)).loss < best.loss:
                best = now
        if rounds - best.rounds >= PATIENCE:
            break
    return [str(name) for name in names], model, best


def _stages(rounds: int) -> list[int]:
    """The rounds after each stage; at most `rounds`, which the last one has."""
    found, stage = [], float(FIRST_STAGE)
    while stage < rounds:
        found.append(int(stage))
        stage *= GROWTH
    return [*found, rounds]


def _judged(rounds: int, probabilities: np.ndarray, true: np.ndarray) -> Chosen:
    """Log loss and accuracy of (N, L) probabilities; a label that training did not have costs as one
    of a millionth."""
    import numpy as np

    if not len(true):
        return Chosen(rounds, 0)
    known = np.where(true >= 0, probabilities[np.arange(len(true)), true], 0.0)
    loss = float(-np.log(np.maximum(known, 1e-6)).mean())
    accuracy = float((probabilities.argmax(1) == true).mean())
    return Chosen(rounds, len(true), loss, accuracy)
