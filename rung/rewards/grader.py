"""Grader: a JSON file with a grader of the OpenAI API.

rung tune solver --data sums.jsonl --objective grpo --reward grader:grader.json
"""

from __future__ import annotations

import json
from pathlib import Path

from rung.errors import ConfigError
from rung.rewards import base
from rung.rewards.graders import Grading, check


class Reward(base.Reward):
    summary = "a grader of the OpenAI API: string_check, text_similarity, python, score_model, multi"
    argument_help = "a JSON file with a grader"
    needs_argument = True

    def prepare(self):
        try:
            grader = json.loads(Path(self.argument).read_text(encoding="utf-8"))
        except OSError as fault:
            raise ConfigError(f"cannot read {self.argument}: {fault.strerror}") from None
        except ValueError as fault:
            raise ConfigError(f"{self.argument} is no JSON: {fault}") from None
        self.grading = Grading(check(grader), self.context.ask, self.context.note)

    def score(self, answers):
        items = [_item(answer) for answer in answers]
        return [one.reward for one in self.grading.grade([a.text for a in answers], items)]

    def close(self):
        self.grading.close()


def _item(answer: base.Answer) -> dict:
    """A row as templates see it: its columns, its messages, and the answer that the data gives."""
    given = {} if answer.gold is None else {"answer": answer.gold, "reference": answer.gold}
    return {"messages": [dict(m) for m in answer.prompt], **given, **answer.columns}
