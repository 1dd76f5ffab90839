"""Asking a model what fits its context: a row that does not has no answer, which counts as wrong.

For whoever compares models over the same rows and cannot leave some out for one of them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rung.engine import ServedModel
from rung.engine.request import ContextExceeded
from rung.evals import kinds, metrics
from rung.evals.answers import Answers, Scores
from rung.evals.predict import predict, room_of
from rung.evals.tasks import question
from rung.forward.bank import Bank
from rung.types import Example, Task


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
    except ContextExceeded as fault:
        if _compares(task):
            raise
        long = fault.places or _too_long(bank, model, examples)
        fitting = [i for i in range(len(examples)) if i not in long]
        if not fitting or not long:
            raise
    found = predict(bank, model, [examples[i] for i in fitting], task, **more)
    texts, calls = [""] * len(examples), None
    scores: list[Scores] | None = None
    if found.scores is not None:
        scores = [{} for _ in examples]  # no label is likelier than another
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
    """Whether rows are measured by what a model makes of texts that are there, or by its calls: no
    answer is none of the wrong ones then."""
    compared = metrics.by_wins(task) or metrics.by_likelihood(task) or kinds.of(task).compares
    return compared or metrics.get(task.metric).reads == "calls"


def _too_long(bank: Bank, model: ServedModel, examples: Sequence[Example]) -> frozenset[int]:
    """Places of the examples whose prompt leaves no room for a token."""
    room = room_of(bank, model)
    prompts = (model.prompt(question(e)).ids for e in examples)
    return frozenset(i for i, ids in enumerate(prompts) if len(ids) >= room)
