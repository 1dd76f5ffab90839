"""What next: the winner again on a quarter and a half of the data, and what the curve says.

More data helps where the last doubling did. A higher rung helps where higher ones were better, or
were not tried. Where more data does not help and the best rung is the highest that was tried, what is
left is a larger base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rung.data import Splits
from rung.data.split import place
from rung.evals.compare import compare
from rung.evals.measure import Measured
from rung.ladder.judge import falls
from rung.ladder.kept import figure, kept_items, measured_of
from rung.ladder.rungs import Rung
from rung.ladder.task_context import TaskContext
from rung.ladder.verdict import Standing
from rung.store import Store
from rung.train import job
from rung.train.observers import Observer
from rung.train.plan import Plan
from rung.types import Task

SHARES = (0.25, 0.5)


@dataclass(frozen=True)
class Point:
    """The figure that a share of the training rows gives."""

    share: float
    rows: int
    measured: Measured


def part(splits: Splits, share: float) -> Splits:
    """A share of the training rows by a hash of their content; smaller ones lie within larger ones."""
    ranked = sorted(splits.train, key=lambda e: place(e, 2))
    kept = {id(e) for e in ranked[: max(1, round(share * len(ranked)))]}
    return replace(splits, train=tuple(e for e in splits.train if id(e) in kept))


def learn(
    bench: TaskContext, standing: Standing, rung: Rung, share: float, store: Store, watcher: Observer
) -> dict[str, Any]:
    """The rung with the settings that won, on a share of the data; as plain data for a store."""
    record = standing.record
    plan = Plan.of(f"{record.model}-part"[:64], store.runs.get(record.run or "").config)
    opened = bench.opened_for(plan)
    fewer = opened.over(part(opened.splits, share))
    if plan.train.steps:
        plan.train.steps = max(1, round(share * plan.train.steps))
    watcher.stage(f"{rung.key} on {share:.0%} of the data")
    made = job.make(plan, watcher, store, opened=fewer)
    with job.under_way(made.run, store, made.observers):
        with bench.served(fewer, made.adapter, rung.key) as model:
            answers, measured = bench.answer(fewer, model, bench.validation)
        job.drop(made, store)
    items = kept_items(answers, measured)
    return {
        "share": share, "rows": len(fewer.splits.train), "figure": figure(measured), "items": items,
    }  # fmt: skip


def point_of(kept: Mapping[str, Any]) -> Point:
    """A point from what `learn` gave."""
    return Point(kept["share"], kept["rows"], measured_of(kept["figure"], kept["items"]))


def advice(
    points: Sequence[Point], task: Task, higher: bool | None, cut: str | None = None
) -> list[str]:
    """What is likely to help, in words.

    Args:
        higher: whether a rung of higher cost was better (True), was not (False), or none was tried.
        cut: that trainings ended for want of time, which leaves open what they would give.
    """
    lines = []
    lower = falls(task)
    gained = None
    if len(points) > 1:
        half, whole = points[-2], points[-1]
        seen = compare(half.measured, whole.measured)
        gain = -seen.difference if lower else seen.difference
        gained = seen.certain and gain > 0
        shown = ", ".join(f"{p.measured.value:.3f} with {p.rows:,} rows" for p in points)
        lines.append(f"{task.metric} {shown}.")
        if gained:
            lines.append(
                f"More data is likely to help: the last doubling of the rows gave {gain:+.3f}."
            )
        elif gain > 0:
            lines.append(
                f"More data may help a little: the last doubling gave {gain:+.3f}, which so many "
                "validation rows cannot tell from chance."
            )
        else:
            lines.append("More data of this kind is unlikely to help: the last doubling gave nothing.")
    if higher is None:
        lines.append("Higher rungs were not tried: --all, or a higher bar, would show what they give.")
    elif points and points[-1].measured.value == (0.0 if lower else 1.0):
        lines.append("No validation row is missed: harder or more validation rows would tell more.")
    elif higher:
        lines.append("A higher rung is better, at the cost that the table shows.")
    else:
        lines.append(
            "Higher rungs were no better"
            + ("; a larger base is what is left to try." if not gained and not cut else ".")
        )
    if cut:
        lines.append(cut)
    return lines


def plain(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Points as plain data."""
    return [
        {
            "share": p.share, "rows": p.rows, "value": p.measured.value,
            "low": p.measured.low, "high": p.measured.high,
        }
        for p in points
    ]  # fmt: skip
