"""Multiple choice: every row offers answers of its own, the reply among them."""

from __future__ import annotations

from rung.errors import ConfigError
from rung.evals.kinds import base
from rung.types import Task


class Kind(base.Kind):
    metric = "accuracy"
    place = 20
    chooses = True

    def detect(self, sample: base.Sample) -> Task | None:
        return Task(self.name, self.metric) if all(e.choices for e in sample.examples) else None

    def of(self, sample: base.Sample) -> Task:
        if not all(e.choices for e in sample.examples):
            raise ConfigError("--task multiple_choice needs --choices, the answers that a row offers")
        return Task(self.name, self.metric)

    def reason(self, sample: base.Sample, task: Task) -> str:
        return "every row offers its own answers"
