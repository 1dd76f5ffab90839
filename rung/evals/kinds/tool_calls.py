"""Tool calls: replies that call functions, which are measured as they are written."""

from __future__ import annotations

from rung.errors import ConfigError
from rung.evals.kinds import base
from rung.types import Task


class Kind(base.Kind):
    metric = "exact_call"
    place = 7
    calls = True
    prompts = {
        "call": "Answer with a call of one of the functions and nothing else.",
        "careful": "You answer by calling functions. Choose the one that fits what is asked, take its "
        "arguments from the words of the request, leave out what the request does not say, and write "
        "the call and nothing else.",
    }

    def detect(self, sample: base.Sample) -> Task | None:
        return Task(self.name, self.metric) if base.mostly(map(_calls, sample.replies)) else None

    def of(self, sample: base.Sample) -> Task:
        if not any(map(_calls, sample.replies)):
            raise ConfigError("--task tool_calls needs rows whose last message has tool_calls")
        return Task(self.name, self.metric)

    def reason(self, sample: base.Sample, task: Task) -> str:
        return "the replies are calls of tools"


def _calls(text: str) -> bool:
    from rung.data.tool_calls import OPEN

    return OPEN in text
