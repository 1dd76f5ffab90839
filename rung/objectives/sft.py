"""Supervised fine-tuning: the mean cross-entropy of the supervised tokens of a batch.

rung tune coach --data quotes.jsonl --objective sft
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rung.objectives import base

if TYPE_CHECKING:
    from rung.objectives.base import Row
    from rung.types import Rendered


class Objective(base.Objective):
    summary = "predict the replies of the data"

    def rungs(self, method):
        return [{}]

    def rows(self, examples, template, limit):
        """Conversations that fit, and plain texts in windows so that nothing of them is lost."""
        rendered, problems = template.render_all(examples, limit)
        return [_row(r) for r in rendered], problems

    def row(self, item, template):
        return _row(template.render(item))

    def loss(self, policy, rows):
        from rung.forward.policy import Loss

        total, correct = policy.cross_entropy(accuracy=True)
        return Loss(total, sum(r.weight for r in rows), {"token_accuracy": correct})

    def figures(self, found, rows, template):
        """Bits per byte of the replies: unlike the loss, comparable between tokenizers."""
        nats = found["loss"] * sum(r.weight for r in rows)
        texts = (template.decode(s.ids[s.supervised].tolist()) for r in rows for s in r.sequences)
        size = sum(len(text.encode()) for text in texts)
        return {"bits_per_byte": nats / math.log(2) / max(1, size)}


def _row(rendered: Rendered) -> Row:
    from rung.forward.trie import Sequence

    sequence = Sequence(rendered.ids, rendered.supervised)
    return base.Row(
        sequences=(sequence,), weight=float(sum(rendered.supervised)), origin=rendered.origin
    )
