"""Preference: rows of two replies, of which one is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rung.data.pairs import unlike
from rung.evals.kinds import base
from rung.types import Example, Task

if TYPE_CHECKING:
    from rung.data.problem import Problem
    from rung.evals.metrics import Metric


class Kind(base.Kind):
    metric = "preference_accuracy"
    place = 5
    compares = True
    wants = "pairs"
    free_text = True
    prompts = {
        "plain": "Reply as a helpful, honest and harmless assistant would.",
        "careful": "You are an assistant whose replies people prefer: correct, to the point, polite, "
        "and refusing only what would do harm. Say nothing false, and nothing that was not asked for.",
    }

    def detect(self, sample: base.Sample) -> Task | None:
        compared = base.mostly(bool(e.rejected) or e.rating is not None for e in sample.examples)
        return Task(self.name, self.metric) if compared else None

    def items(self, examples: Sequence[Example]) -> tuple[list[Example], list[Problem]]:
        return unlike(examples)

    def measured_by(self, metric: Metric) -> bool:
        return self.name in metric.kinds

    def reason(self, sample: base.Sample, task: Task) -> str:
        return "rows say which of two replies is better"
