"""Number: 1 where the answer states the number that the data gives.

rung tune solver --data sums.jsonl --objective grpo --reward number

The answer is extracted first (`rewards/extraction.py`), so that numbers on the way to it do not count.
`number:0.01` allows a relative difference of one per cent.
"""

from __future__ import annotations

import math

from rung.errors import ConfigError
from rung.rewards import base
from rung.rewards.extraction import number

EXACT = 1e-6  # relative difference that rounding may leave


class Reward(base.EachReward):
    summary = "1 where the answer's number is the data's; commas, units, fractions, boxes are read"
    argument_help = "the relative difference that is allowed"
    needs_gold = True

    def prepare(self):
        try:
            self.tolerance = float(self.argument or EXACT)
        except ValueError:
            raise ConfigError(f"number:{self.argument} must be a number, such as number:0.01") from None
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"number:{self.argument} must be at least 0 and below 1")

    def score_one(self, answer):
        right = None if answer.gold is None else number(answer.gold)
        if right is None:
            return None
        told = number(answer.text)
        near = told is not None and math.isclose(told, right, rel_tol=self.tolerance, abs_tol=1e-9)
        return float(near)
