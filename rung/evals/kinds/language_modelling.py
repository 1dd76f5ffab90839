"""Language modelling: plain texts, measured by how likely a model finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.evals.kinds import base
from rung.types import Task

if TYPE_CHECKING:
    from rung.evals.metrics import Metric


class Kind(base.Kind):
    metric = "perplexity"
    place = 10
    replies = False

    def detect(self, sample: base.Sample) -> Task | None:
        whole = len(sample.replies) == len(sample.examples) > 0
        return None if whole else Task(self.name, self.metric)

    def measured_by(self, metric: Metric) -> bool:
        return metric.reads == "likelihood"

    def reason(self, sample: base.Sample, task: Task) -> str:
        return "rows hold text without a reply"
