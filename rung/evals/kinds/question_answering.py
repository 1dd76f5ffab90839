"""Question answering: questions with short replies, or with numbers."""

from __future__ import annotations

import re

from rung.evals.kinds import base
from rung.evals.words import words
from rung.types import Task

MAX_SHORT_ANSWER_WORDS = 12  # words, of half the replies to questions
ASKS = ("?", "?\nAnswer:", "\uff1f", "\u061f", "\u037e")  # in any script
_NUMBER = re.compile(r"[\s\S]*####\s*\S+|\s*[$€£]?-?[\d,.]+%?\s*")


class Kind(base.Kind):
    metric = "token_f1"
    place = 60
    prompts = {
        "short": "Answer the question in as few words as possible.",
        "careful": "You answer questions precisely. If a text is given, rely on it alone. Reply with "
        "the answer itself: no full sentence, no explanation.",
    }

    def detect(self, sample: base.Sample) -> Task | None:
        if not base.mostly(text.rstrip().endswith(ASKS) for text in sample.asked):
            return None
        if base.mostly(bool(_NUMBER.fullmatch(said)) for said in sample.replies):
            return Task(self.name, "number_match")
        sizes = sorted(len(words(said)) for said in sample.replies)
        short = sizes[len(sizes) // 2] <= MAX_SHORT_ANSWER_WORDS
        return Task(self.name, self.metric) if short else None

    def reason(self, sample: base.Sample, task: Task) -> str:
        return "questions with short replies"
