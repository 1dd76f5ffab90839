"""What rungs are judged by: the task with its metric, and whether a bar on it can be measured."""

from __future__ import annotations

import math
import typing
from dataclasses import replace

from rung.errors import ConfigError, nearest
from rung.evals import metrics
from rung.ladder.bar import Bar
from rung.ladder.knobs import ClimbKnobs
from rung.types import Task, TaskKind

BOUNDS = {"perplexity": (1.0, math.inf), "bleu": (0.0, 100.0), "chrf": (0.0, 100.0)}


def settle_task(found: Task, knobs: ClimbKnobs, bar: Bar | None) -> Task:
    """The task as it was found, or as the user says it is, with the metric that counts.

    Raises:
        ConfigError: for a kind or metric that is none, or a bar that nothing could be measured by.
    """
    kind = found.kind if knobs.task is None else _kind(knobs.task)
    labels = found.labels if kind == "classification" else ()
    if kind == "classification" and not labels:
        raise ConfigError(
            "--task classification: the replies are no labels, since too few of them come again; "
            "leave --task out, or give rows with few, short replies"
        )
    task = replace(found, kind=kind, labels=labels)
    if kind != found.kind:
        task = replace(task, metric=metrics.suited(replace(task, metric=""))[1])
    chosen = knobs.metric if knobs.metric is not None else (bar.metric if bar else None)
    if chosen is not None:
        task = replace(task, metric=_metric(chosen.replace("-", "_"), task, knobs.metric is not None))
    if bar is not None:
        _check_bar(bar, task.metric)
    return task


def falls(task: Task) -> bool:
    """Whether less of the task's metric is better."""
    return metrics.get(task.metric).lower


def _kind(name: str) -> TaskKind:
    kinds = typing.get_args(TaskKind)
    if name not in kinds:
        raise ConfigError(f"--task is '{name}'{nearest(name, kinds)}")
    return name  # type: ignore[return-value]


def _metric(name: str, task: Task, asked: bool) -> str:
    """A metric that the task has."""
    flag = "--metric" if asked else "--bar"
    fitting = [m for m in metrics.names() if _fits(m, task)]
    if name not in fitting:
        what = f"a task of {task.kind.replace('_', ' ')} is not measured by"
        why = what if name in metrics.names() else "there is no"
        raise ConfigError(f"{flag}: {why} {name}{nearest(name, fitting)}")
    return name


def _fits(name: str, task: Task) -> bool:
    if task.kind == "language_modelling":
        return name == "perplexity"
    if name == "perplexity":
        return task.kind != "classification"
    kinds = metrics.get(name).kinds
    return task.kind in kinds or (not kinds and task.kind != "classification")


def _check_bar(bar: Bar, metric: str) -> None:
    if bar.metric != metric:
        raise ConfigError(f"--bar is about {bar.metric} and --metric about {metric}: give one of them")
    lower = metrics.get(metric).lower
    if bar.lower != lower:
        raise ConfigError(
            f"--bar {bar}: of {metric}, {'less' if lower else 'more'} is better; write "
            f"{metric}{'<=' if lower else '='}{bar.value:g}"
        )
    low, high = BOUNDS.get(metric, (0.0, 1.0))
    if not low <= bar.value <= high:
        hint = f"; did you mean {bar.value / 100:g}?" if high == 1 and 2 <= bar.value <= 100 else ""
        most = "" if math.isinf(high) else f" and at most {high:g}"
        raise ConfigError(f"--bar {bar} cannot be measured: {metric} is at least {low:g}{most}{hint}")
