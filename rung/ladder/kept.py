"""What the store keeps of a rung's measurements, and how they are read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rung.evals.measure import Measured
from rung.evals.predict import Answers
from rung.ladder.judge import falls
from rung.store import Store
from rung.train.plan import Plan
from rung.types import Task

SURE = 3  # digits of a kept probability


def better(one: Measured, other: Measured, task: Task) -> bool:
    """Whether a figure is better than another by the task's metric."""
    return one.value < other.value if falls(task) else one.value > other.value


def figure(measured: Measured) -> dict[str, Any]:
    """A measurement as plain data, without its items."""
    return {
        "metric": measured.metric,
        **short_figure(measured),
        "more": dict(measured.more),
        "labels": list(measured.labels),
        "confusion": measured.confusion,
    }


def short_figure(measured: Measured) -> dict[str, Any]:
    """Value, interval and number of items, as model cards show them."""
    return {"value": measured.value, "low": measured.low, "high": measured.high, "n": measured.n}


def kept_items(answers: Answers, measured: Measured) -> dict[str, Any]:
    """What was answered to each row, what that is worth, and how sure the model was of it."""
    return {
        "values": [round(float(v), 6) for v in measured.items],
        "statistics": np.asarray(measured.statistics, dtype=float).round(6).tolist(),
        "texts": list(answers.texts),
        "sure": [_sure(s) for s in answers.scores] if answers.scores else [],
    }


def _sure(scores: Mapping[str, float]) -> float:
    """The probability of the best label among all."""
    top = max(scores.values(), default=0.0)
    return round(1 / sum(math.exp(v - top) for v in scores.values()), SURE) if scores else 0.0


def measured_of(kept: Mapping[str, Any], items: Mapping[str, Any]) -> Measured:
    """A measurement from what `figure` and `kept_items` gave."""
    return Measured(
        kept["metric"], kept["value"], kept["low"], kept["high"], kept["n"],
        np.asarray(items["values"], dtype=float), np.asarray(items["statistics"], dtype=float),
        kept.get("more", {}), tuple(kept.get("labels", ())), kept.get("confusion"),
    )  # fmt: skip


def disk_bytes(store: Store, name: str) -> int:
    """Bytes of a model's folder."""
    folder = Path(store.models.get(name).folder)
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def changed_settings(plan: Plan) -> dict[str, Any]:
    """The settings that differ from the method's defaults, from which a command can be written."""
    plain = Plan.of(plan.name, {"method": plan.method.name, "data": plan.data.data}).settings()
    return {k: v for k, v in plan.settings().items() if v != plain.get(k)}
