"""Regex: 1 where a pattern is found in the answer.

rung tune polite --data prompts.txt --objective grpo --reward 'regex:(?i)thank you'
"""

from __future__ import annotations

from rung.rewards import base
from rung.rewards.pattern import compiled


class Reward(base.EachReward):
    summary = "1 where a pattern is found in the answer"
    argument_help = "a pattern of Python's re"
    needs_argument = True

    def prepare(self):
        self.pattern = compiled(self.argument)

    def score_one(self, answer):
        return float(self.pattern.search(answer.text) is not None)
