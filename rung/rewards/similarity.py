"""Similarity: how near the answer's words are to the one that the data gives, from 0 to 1.

rung tune echo --data pairs.jsonl --objective grpo --reward similarity:rouge_l
"""

from __future__ import annotations

from rung.errors import ConfigError, nearest
from rung.rewards import base
from rung.rewards.overlap import MEASURES, measured


class Reward(base.Reward):
    summary = "how near the answer is to the data's, 0 to 1"
    argument_help = f"one of {', '.join(MEASURES)}; token_f1 by default"
    needs_gold = True

    def prepare(self):
        self.measure = self.argument or "token_f1"
        if self.measure not in MEASURES:
            raise ConfigError(f"unknown similarity '{self.measure}'{nearest(self.measure, MEASURES)}")

    def score(self, answers):
        known = [a for a in answers if a.gold is not None]
        found = iter(measured(self.measure, [a.text for a in known], [a.gold for a in known]))
        return [None if a.gold is None else next(found) for a in answers]
