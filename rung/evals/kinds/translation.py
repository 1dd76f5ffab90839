"""Translation: rows that ask for one."""

from __future__ import annotations

from rung.evals.kinds import base
from rung.types import Task


class Kind(base.Kind):
    metric = "chrf"
    place = 40
    free_text = True
    prompts = {
        "plain": "Translate the text. Reply with the translation only.",
        "careful": "You are a professional translator. Keep meaning, tone, names and numbers as they "
        "are, write what a native speaker would write, and reply with the translation only.",
    }

    def detect(self, sample: base.Sample) -> Task | None:
        found = base.mostly("translat" in text.casefold() for text in sample.asked)
        return Task(self.name, self.metric) if found else None

    def reason(self, sample: base.Sample, task: Task) -> str:
        return "the rows ask for a translation"
