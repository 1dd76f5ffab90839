"""Schema: 1 where the answer is JSON that keeps to a JSON schema.

rung tune forms --data prompts.jsonl --objective grpo --reward schema:invoice.json
"""

from __future__ import annotations

import json
from pathlib import Path

from rung.errors import ConfigError
from rung.evals.metrics.parsing import read_json
from rung.rewards import base

WELL_FORMED = 0.1  # for JSON that breaks the schema, so that there is something to climb


class Reward(base.EachReward):
    summary = "1 where the answer is JSON that keeps to a schema, 0.1 where it is other JSON"
    argument_help = "a file with a JSON schema"
    needs_argument = True

    def prepare(self):
        import jsonschema_rs

        try:
            schema = json.loads(Path(self.argument).read_text(encoding="utf-8"))
            self.validator = jsonschema_rs.validator_for(schema)
        except OSError as fault:
            raise ConfigError(f"cannot read {self.argument}: {fault.strerror}") from None
        except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as fault:
            raise ConfigError(f"{self.argument} is no JSON schema: {fault}") from None

    def score_one(self, answer):
        try:
            value = read_json(answer.text)
        except ValueError:
            return 0.0
        return 1.0 if self.validator.is_valid(value) else WELL_FORMED
