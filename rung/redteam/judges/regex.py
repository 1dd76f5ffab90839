"""Regex: an answer in which a pattern is found is a hit."""

from __future__ import annotations

import re

from rung.errors import ConfigError
from rung.redteam.judges import base


class Judge(base.Judge):
    summary = "an answer in which a pattern is found is a hit"
    argument_help = "a regular expression"

    def prepare(self):
        try:
            self.pattern = re.compile(self.argument)
        except re.error as fault:
            raise ConfigError(f"--judge {self.spec}: no regular expression ({fault})") from None

    def scores(self, answers):
        return [float(self.pattern.search(one.text) is not None) for one in answers]

    def triggers(self, answer):
        return sorted({found.group() for found in self.pattern.finditer(answer.text)})
