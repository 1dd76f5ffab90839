"""Length: 1 up to a length, falling to 0 at twice that; answers that were cut off get 0.

    rung tune brief --data prompts.txt --objective grpo --reward number --reward length:200

`length:200` counts characters, `length:50t` tokens; `length:50-200` is 1 between the two.
"""

from __future__ import annotations

import re

from rung.errors import ConfigError
from rung.rewards import base


class Reward(base.EachReward):
    summary = "1 up to a length, falling to 0 at twice that; 0 where the answer was cut off"
    argument_help = "characters, or tokens as 50t, or a range as 50-200"
    needs_argument = True

    def prepare(self):
        found = re.fullmatch(r"(?:(\d{1,9})-)?(\d{1,9})(t?)", self.argument)
        if not found or int(found[1] or 0) > int(found[2]) or not int(found[2]):
            raise ConfigError(f"length:{self.argument} must be as length:200, :50t or :50-200")
        self.least, self.most = int(found[1] or 0), int(found[2])
        self.in_tokens = bool(found[3])

    def score_one(self, answer):
        if self.in_tokens and not answer.tokens and answer.text:
            return None
        if answer.truncated:
            return 0.0
        size = answer.tokens if self.in_tokens else len(answer.text)
        if size < self.least:
            return size / self.least
        return min(1.0, max(0.0, 2.0 - size / self.most))
