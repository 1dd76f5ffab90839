"""Metrics of answers that are one of a set of labels."""

from __future__ import annotations

import numpy as np

from rung.errors import ConfigError
from rung.evals.metrics.base import Case, Metric, of_pairs


def _same(text: str, reference: str) -> float:
    return float(plain(text) == plain(reference))


def plain(text: str) -> str:
    """A label without what does not set labels apart."""
    return " ".join(text.split())


accuracy = of_pairs(_same)


def accuracy_norm(case: Case) -> np.ndarray:
    """As lm-evaluation-harness's acc_norm: the label of the highest log-probability per character."""
    if case.scores is None:
        raise ConfigError("accuracy_norm needs the labels scored, and this model generates its answers")
    texts = [max(s, key=lambda label: s[label] / max(1, len(label)), default="") for s in case.scores]
    return accuracy(Case(texts, case.references, None, case.task))


def counts(case: Case) -> np.ndarray:
    """(n, 3 L): per label whether the item was it and found as it, was found as it, was it."""
    at = {plain(label): i for i, label in enumerate(labels_of(case))}
    found = np.zeros((len(case.texts), 3, len(at)))
    for i, (text, reference) in enumerate(zip(case.texts, case.references, strict=True)):
        told, right = at.get(plain(text)), at[plain(reference)]
        found[i, 2, right] = 1
        if told is not None:
            found[i, 1, told] = 1
            found[i, 0, right] = told == right
    return found.reshape(len(found), -1)


def labels_of(case: Case) -> list[str]:
    """The task's labels, and the references where they hold others."""
    return list(dict.fromkeys(plain(t) for t in (*case.task.labels, *sorted(set(case.references)))))


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Sums of `counts` (..., 3 L) -> (...). Labels that neither occur nor are given do not count."""
    hit, told, right = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    both = told + right
    return np.sum(2 * hit / np.maximum(both, 1e-12), -1) / np.maximum((both > 0).sum(-1), 1)


def hits(statistics: np.ndarray) -> np.ndarray:
    """Of single items: whether they were right."""
    return statistics.reshape(len(statistics), 3, -1)[:, 0].sum(-1)


def confusion(case: Case) -> tuple[list[str], list[list[int]]]:
    """Labels, and how often each (row) was answered as each (column); the last is none of them."""
    labels = labels_of(case)
    at = {label: i for i, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels) + 1), dtype=int)
    for text, reference in zip(case.texts, case.references, strict=True):
        table[at[plain(reference)], at.get(plain(text), len(labels))] += 1
    return labels, table.tolist()


CHOOSING = ("classification", "multiple_choice")

metrics = [
    Metric("accuracy", "share of right labels", accuracy, kinds=CHOOSING),
    Metric("accuracy_norm", "accuracy by log-probability per character of the label", accuracy_norm,
           kinds=CHOOSING, reads="label scores"),
    Metric("macro_f1", "F1 of each label, averaged", counts, macro_f1, kinds=("classification",),
           item=hits),
]  # fmt: skip
