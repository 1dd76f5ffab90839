"""Rungs of a mapping: one file each, found by its name, or an entry point of `rung.mapping.rungs`."""

from __future__ import annotations

from rung.mapping.rungs.base import Rung
from rung.registry import Registry

registry: Registry[Rung] = Registry("rung.mapping.rungs", "Rung", "rung of a mapping")
names, get = registry.names, registry.get


def ordered() -> list[Rung]:
    """All rungs, the cheapest first."""
    return sorted(registry.all(), key=lambda rung: (rung.place, rung.name))
