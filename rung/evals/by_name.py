"""Labels by their names: what a bare encoder with a text tower can answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rung.engine import ServedModel
from rung.errors import MethodMisfit
from rung.evals import kinds
from rung.forward.picture_classifier import Nearest, OfTowers
from rung.types import Task


def by_name(bank: Any, model: ServedModel, task: Task) -> ServedModel:
    """Make a classifier of a bare encoder of pictures, or of towers; any other model stays as it is.

    Raises:
        MethodMisfit: for an encoder without a text tower, or a task without labels.
    """
    if model.labels or model.template.writes:
        return model
    if not kinds.of(task).labelled:
        raise MethodMisfit(f"'{model.name}' reads pictures and writes no text: use a task with labels")
    if (towers := model.towers) is not None:
        return replace(model, classifier=OfTowers(towers, task.labels))
    return replace(model, classifier=Nearest.by_name(bank.encoder, task.labels))
