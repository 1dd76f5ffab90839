"""The figures of a training: what validation chose, and the test rows, looked at once."""

from __future__ import annotations

import math
from typing import Any

from rung.train.loop import Trainer
from rung.train.prepare import Prepared


def figures(trainer: Trainer, prepared: Prepared, test: bool) -> dict[str, Any]:
    """What training gave and, where `test` says so, the loss of base and model on the test rows."""
    state = trainer.state
    metrics: dict[str, Any] = {"steps": state.step, "best_step": state.best_step or state.step}
    if state.best_loss is not None:
        metrics["validation_loss"] = state.best_loss
        metrics["validation_loss_of_base"] = state.first_loss
    rows = prepared.rows["test"]
    if test and rows:
        tuned = trainer.evaluate(rows, trainer.slot)
        bare = trainer.evaluate(rows, -1)
        metrics["test_loss"], metrics["test_loss_of_base"] = tuned["loss"], bare["loss"]
        metrics["test_token_accuracy"] = tuned["token_accuracy"]
        metrics["test_bits_per_byte"] = bits_per_byte(tuned["loss"], prepared, trainer)
        metrics["test_rows"] = len(rows)
    return metrics


def bits_per_byte(loss: float, prepared: Prepared, trainer: Trainer) -> float:
    """What a byte of the test replies costs in bits at a loss in nats per token.

    Unlike the loss, it can be compared between bases with other tokenizers.
    """
    rows = prepared.rows["test"]
    tokens = sum(trainer.objective.weight(r) for r in rows)
    texts = [[i for i, s in zip(r.ids, r.supervised, strict=True) if s] for r in rows]
    size = sum(len(prepared.template.decode(ids).encode()) for ids in texts)
    return loss * tokens / math.log(2) / max(1, size)
