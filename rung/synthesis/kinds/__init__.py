"""Kinds of rows: one file each, found by its name, or an entry point of `rung.synthesis.kinds`."""

from __future__ import annotations

from rung.registry import Registry
from rung.synthesis.kinds.base import Kind

registry: Registry[Kind] = Registry("rung.synthesis.kinds", "Kind", "kind of rows")
names, get = registry.names, registry.get


def usual(documents: bool) -> str:
    """Name the kind that is written where none is asked for."""
    return "questions" if documents else "replies"
