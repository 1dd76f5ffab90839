"""Generation: all else that has replies."""

from __future__ import annotations

from rung.evals.kinds import base
from rung.types import Task


class Kind(base.Kind):
    metric = "rouge_l"
    place = 1000  # behind all others
    free_text = True

    def detect(self, sample: base.Sample) -> Task | None:
        return Task(self.name, self.metric)
