"""The figures of a training: what validation chose, and the test rows, looked at once."""

from __future__ import annotations

from typing import Any

from rung.train.loop import Trainer
from rung.train.prepare import Prepared


def figures(trainer: Trainer, prepared: Prepared, test: bool) -> dict[str, Any]:
    """What training gave and, where `test` says so, the figures of base and model on the test rows."""
    state, best = trainer.state, trainer.objective.best[0]
    metrics: dict[str, Any] = {"steps": state.step, "best_step": state.best_step or state.step}
    if state.best_value is not None:
        metrics[f"validation_{best}"] = state.best_value
        if state.first_value is not None:
            metrics[f"validation_{best}_of_base"] = state.first_value
    rows = prepared.rows["test"]
    if test and rows:
        tuned, bare = trainer.evaluate(rows, trainer.slot), trainer.evaluate(rows, trainer.bare)
        tuned |= trainer.objective.figures(tuned, rows, prepared.template)
        metrics |= {f"test_{name}": value for name, value in tuned.items()}
        metrics |= {f"test_{name}_of_base": bare[name] for name in {"loss", best} & bare.keys()}
        metrics["test_rows"] = len(rows)
    return metrics
