"""Format: 1 where the whole answer has a form, by default thoughts and then an answer.

rung tune solver --data sums.jsonl --objective grpo --reward number --reward format
"""

from __future__ import annotations

from rung.rewards import base
from rung.rewards.pattern import compiled

DEFAULT = r"<think>.+?</think>\s*<answer>.+?</answer>"


class Reward(base.EachReward):
    summary = "1 where the whole answer has a form, by default <think>..</think><answer>..</answer>"
    argument_help = "a pattern that the whole answer must match"

    def prepare(self):
        self.pattern = compiled(self.argument or DEFAULT)

    def score_one(self, answer):
        return float(self.pattern.fullmatch(answer.text.strip()) is not None)
