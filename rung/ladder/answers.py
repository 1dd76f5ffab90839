"""What the store keeps of answers, and what they say of the model at a glance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rung.evals import kinds, metrics
from rung.evals.answers import Answers
from rung.evals.measure import Measured
from rung.types import Task

DIGITS = 3  # of a kept probability
ALIKE_ROWS = 20  # from which one answer to all rows is no chance


def kept_items(answers: Answers, measured: Measured) -> dict[str, Any]:
    """What was answered to each row, what that is worth, and how sure the model was of it."""
    return {
        **measured.items_dict(),
        "texts": list(answers.texts),
        "sure": [_sure(s) for s in answers.scores] if answers.scores else [],
    }


def one_answer(answers: Answers, task: Task) -> str | None:
    """The answer that is given to every row, where one is; such a model has learned nothing.

    Of multiple choice, whose rows offer answers of their own, nothing can be said.
    """
    if metrics.by_likelihood(task):
        return None
    kind = kinds.of(task)
    if (kind.chooses and not kind.labelled) or len(answers.texts) < ALIKE_ROWS:
        return None
    found = set(answers.texts) - ({""} if answers.unanswered else set())
    return found.pop() if len(found) == 1 else None


def _sure(scores: Mapping[str, float]) -> float:
    """The probability of the best label among all."""
    top = max(scores.values(), default=0.0)
    return round(1 / sum(math.exp(v - top) for v in scores.values()), DIGITS) if scores else 0.0
