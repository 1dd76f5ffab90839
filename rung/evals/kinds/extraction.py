"""Extraction: replies that are structures, as JSON or as trees in brackets."""

from __future__ import annotations

import json
import re

from rung.evals.kinds import base
from rung.types import Task

_TREE = re.compile(r"\(\s*[A-Z][\w$.-]*\s+[\s\S]*\)")


class Kind(base.Kind):
    metric = "label_f1"
    place = 50
    prompts = {
        "exact": "Extract what is asked for. Use the words of the text and add nothing.",
        "format": "You turn texts into data. Give every item that the text states, in the format asked "
        "for, and no item that it does not state. Write no explanation.",
    }

    def detect(self, sample: base.Sample) -> Task | None:
        if base.mostly(bool(_TREE.fullmatch(said.strip())) for said in sample.replies):
            return Task(self.name, "bracket_f1")
        if base.mostly(_is_json(said) for said in sample.replies):
            return Task(self.name, self.metric)
        return None

    def reason(self, sample: base.Sample, task: Task) -> str:
        return "the replies are structures"


def _is_json(text: str) -> bool:
    """Whether it is a JSON object or list."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
