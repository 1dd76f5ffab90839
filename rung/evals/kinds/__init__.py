"""Kinds of task: one file each, found by its name, or an entry point of `rung.evals.kinds`.

A file `NAME.py` here holds a class `Kind`: which rows are such a task, what its answers are, by which
metric they are measured, and which system prompts suit it.
"""

from __future__ import annotations

from rung.evals.kinds.base import Kind, Sample
from rung.registry import Registry
from rung.types import Task

__all__ = ["Kind", "Sample", "detect", "get", "names", "of", "registry"]

registry: Registry[Kind] = Registry("rung.evals.kinds", "Kind", "kind of task")
names, get = registry.names, registry.get


def of(task: Task) -> Kind:
    """The kind of a task."""
    return get(task.kind)


def detect(sample: Sample) -> Task:
    """The task of the first kind, in the order of their places, that finds itself in the rows."""
    for kind in sorted(registry.all(), key=lambda kind: kind.place):
        if task := kind.detect(sample):
            return task
    raise LookupError("no kind of task takes all rows")  # generation does
