"""Model: what a stored model says of the answer: a reward model's score, or a classifier's label.

rung tune polite --data prompts.txt --objective ppo --reward model:judge

A classifier gives the log-probability of one of its labels: `model:NAME/LABEL`.
"""

from __future__ import annotations

from rung.errors import ConfigError
from rung.rewards import base


class Reward(base.Reward):
    summary = "the score of a reward model, or the log-probability of a classifier's label"
    argument_help = "NAME of a model, or NAME/LABEL of a classifier"
    needs_argument = True

    def prepare(self):
        if self.context.model is None:
            raise ConfigError(f"model:{self.argument} cannot be used here: no model can be loaded")
        self.scorer = self.context.model(self.argument)

    def score(self, answers):
        return self.scorer([answer.conversation for answer in answers])
