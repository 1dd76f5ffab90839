"""Exact: 1 where the answer equals the one that the data gives, but for case, blanks and full stops.

rung tune solver --data sums.jsonl --objective grpo --reward exact
"""

from __future__ import annotations

from rung.rewards import base
from rung.rewards.extraction import final_answer


class Reward(base.EachReward):
    summary = "1 where the final answer is the data's, but for case, blanks and full stops"
    needs_gold = True

    def score_one(self, answer):
        if answer.gold is None:
            return None
        return float(_plain(final_answer(answer.text)) == _plain(final_answer(answer.gold)))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).lstrip("\"'` ").rstrip("\"'` .!")
