"""The metrics by name; one family or one metric per file, or an entry point of `rung.evals.metrics`.

A file here assigns `metrics`, a list of `Metric`: nothing else has to know of them.
"""

from __future__ import annotations

from functools import cache

from rung.errors import ConfigError, nearest
from rung.evals.metrics.base import Case, Metric
from rung.registry import Registry
from rung.types import Task

__all__ = ["Case", "Metric", "by_likelihood", "by_wins", "get", "names", "registry", "suited"]

registry: Registry[list[Metric]] = Registry("rung.evals.metrics", "metrics", "family of metrics")


@cache
def _all() -> dict[str, Metric]:
    """Every metric by name. Raises ConfigError where two families claim one."""
    found: dict[str, tuple[str, Metric]] = {}
    for family in registry.names():
        for metric in registry.get(family):
            if metric.name in found:
                raise ConfigError(
                    f"the metric '{metric.name}' is defined by {found[metric.name][0]} and by {family}"
                )
            found[metric.name] = family, metric
    return {name: metric for name, (_, metric) in found.items()}


def get(name: str) -> Metric:
    """The metric of that name. Raises ConfigError naming the nearest."""
    if name not in _all():
        raise ConfigError(f"no metric '{name}'{nearest(name, names())}")
    return _all()[name]


def names() -> list[str]:
    """All metrics."""
    return list(_all())


def suited(task: Task) -> list[str]:
    """The metrics that are shown for a kind of task, its own first."""
    found = [name for name, metric in _all().items() if task.kind in metric.kinds]
    return list(dict.fromkeys([task.metric, *found]))


def of_calls() -> list[str]:
    """The metrics of calls on the way to an answer, which every task of a model with tools has."""
    return [name for name, metric in _all().items() if metric.reads == "calls"]


def by_wins(task: Task) -> bool:
    """Whether a task is measured by what answers win against others, which a referee says."""
    return get(task.metric).reads == "wins"


def by_likelihood(task: Task) -> bool:
    """Whether a task is measured by how likely its texts are, so that models answer nothing."""
    return get(task.metric).reads == "likelihood"
