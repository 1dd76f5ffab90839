"""Asking a model what fits its context: a row that does not has no answer, which counts as wrong.

For whoever compares models over the same rows and cannot leave some out for one of them alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rung.engine import ServedModel
from rung.engine.request import ContextExceeded
from rung.evals import kinds, metrics
from rung.evals.answers import Answers, Scores
from rung.evals.predict import predict
from rung.evals.tasks import question
from rung.forward.bank import Bank
from rung.types import Example, Task

MARKERS = 8  # tokens that end a reply, at most


def predict_fitting(
    bank: Bank, model: ServedModel, examples: Sequence[Example], task: Task, **more: Any
) -> Answers:
    """Ask a model all examples that fit its context; `unanswered` of the answers counts the others.

    Args:
        more: as `predict` takes it.

    Raises:
        ContextExceeded: where none fits, or where an answer that is missing cannot count as wrong.
        Else as `predict`.
    """
    try:
        return predict(bank, model, examples, task, **more)
    except ContextExceeded:
        fitting = [] if _compares(task) else _fitting(bank, model, examples, task)
        if not fitting or len(fitting) == len(examples):
            raise
    found = predict(bank, model, [examples[i] for i in fitting], task, **more)
    texts, scores, calls = [""] * len(examples), None, None
    if found.scores is not None:
        scores = [_undecided(task.labels or e.choices) for e in examples]
    if found.calls is not None:
        calls = [replace(found.calls[0], text="", steps=0, count=0) for _ in examples]
    for at, i in enumerate(fitting):
        texts[i] = found.texts[at]
        if scores is not None and found.scores is not None:
            scores[i] = found.scores[at]
        if calls is not None and found.calls is not None:
            calls[i] = found.calls[at]
    unanswered = len(examples) - len(fitting)
    return replace(found, texts=texts, scores=scores, calls=calls, unanswered=unanswered)


def _compares(task: Task) -> bool:
    """Whether rows are measured by what a model makes of texts that are there."""
    return metrics.by_wins(task) or metrics.by_likelihood(task) or kinds.of(task).compares


def _fitting(bank: Bank, model: ServedModel, examples: Sequence[Example], task: Task) -> list[int]:
    """Places of the examples whose prompt leaves room for an answer."""
    room, encode = bank.context - bank.positions(model.slot), model.template.encoder.encode
    sizes: dict[str, int] = {}

    def longest(labels: Sequence[str]) -> int:
        for label in labels:
            if label not in sizes:
                sizes[label] = len(encode(label)[0]) + MARKERS
        return max((sizes[label] for label in labels), default=1)

    return [
        i
        for i, e in enumerate(examples)
        if len(model.prompt(question(e)).ids) + longest(task.labels or e.choices) <= room
    ]


def _undecided(labels: Sequence[str]) -> Scores:
    return {label: -math.log(len(labels)) for label in labels}
