"""Python: what a function of yours returns, run in a process of its own with limits.

    rung tune solver --data sums.jsonl --objective grpo --reward python:scoring.py:polite

`python:MODULE:FUNCTION` or `python:FILE.py:FUNCTION`. The function gets the answer's text and, by name
and where it takes them, `gold`, `question`, `messages`, `tokens`, `truncated` and the row's columns; it
returns a number, or None for 'not scored'. An answer has 5 seconds, the process 2 GB of memory.
"""

from __future__ import annotations

from pathlib import Path

from rung.errors import ConfigError
from rung.rewards import base
from rung.rewards.sandbox import Sandbox


class Reward(base.Reward):
    summary = "what a function returns, run in its own process with limits of time and memory"
    argument_help = "MODULE:FUNCTION or FILE.py:FUNCTION"
    needs_argument = True

    def prepare(self):
        place, colon, function = self.argument.rpartition(":")
        if not colon or not place or not function.isidentifier():
            raise ConfigError(f"python:{self.argument} must be python:MODULE:FUNCTION")
        if place.endswith(".py"):
            path = Path(place).expanduser().absolute()
            if not path.is_file():
                raise ConfigError(f"no file '{place}' for reward python:{self.argument}")
            setup = {"file": str(path), "function": function}
        else:
            setup = {"module": place, "function": function}
        self.sandbox = Sandbox(setup, note=self.context.note)
        self.sandbox.start()  # what cannot be loaded is told before anything else is

    def score(self, answers):
        return self.sandbox.score([_call(answer) for answer in answers])

    def close(self):
        self.sandbox.close()


def _call(answer: base.Answer) -> dict:
    named = {
        **answer.columns, "gold": answer.gold, "question": answer.question,
        "messages": list(answer.prompt), "tokens": answer.tokens, "truncated": answer.truncated,
    }  # fmt: skip
    return {"plain": [answer.text], "named": named}
