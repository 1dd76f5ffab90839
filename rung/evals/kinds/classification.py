"""Classification: few short replies that come again and again, the labels."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rung.data.labels import MAX_LABELS, label_set
from rung.errors import ConfigError
from rung.evals.kinds import base
from rung.types import Task

if TYPE_CHECKING:
    from rung.evals.metrics import Metric

MAX_NAMED = 20  # labels that a prompt names; more would be longer than the text


class Kind(base.Kind):
    metric = "accuracy"
    place = 30
    labelled = True
    chooses = True
    prompts = {
        "label": "Reply with one of these labels only: {labels}.",
        "careful": "You sort texts into fixed classes. Read the whole text, decide which of the "
        "classes {labels} fits best, and reply with the name of that class and nothing else.",
    }
    unnamed = {
        "label": "Classify the text. Reply with its label only.",
        "careful": "You sort texts into fixed classes. Read the whole text, decide which class "
        "fits best, and reply with the name of that class and nothing else.",
    }

    def detect(self, sample: base.Sample) -> Task | None:
        rows, replies = sample.examples, sample.replies
        # In a column of its own a label is one with fewer rows, too.
        own = tuple(sorted(set(replies))) if tuple(e.label for e in rows) == replies else ()
        labels = label_set(replies) or (own if 2 * len(own) <= len(rows) else ())
        return Task(self.name, self.metric, labels) if labels else None

    def of(self, sample: base.Sample) -> Task:
        counts = Counter(sample.replies)
        if not counts:
            raise ConfigError("--task classification needs rows with a label or a reply")
        if len(counts) > MAX_LABELS or 2 * len(counts) > len(sample.replies):
            raise ConfigError(
                f"--task classification: {len(counts):,} different replies in {len(sample.replies):,} "
                f"rows are no labels; give rows whose replies come again, at most {MAX_LABELS:,}"
            )
        return Task(self.name, self.metric, tuple(sorted(counts)))

    def measured_by(self, metric: Metric) -> bool:
        return metric.reads != "likelihood" and self.name in metric.kinds

    def reason(self, sample: base.Sample, task: Task) -> str:
        counts = Counter(sample.replies)
        known = [counts[label] for label in task.labels if counts[label]]
        if not known:
            return "the replies are labels"
        return f"{len(task.labels)} short replies come again, each {min(known)} to {max(known)} times"

    def system_prompts(self, task: Task) -> dict[str, str]:
        return dict(self.prompts if len(task.labels) <= MAX_NAMED else self.unnamed)
