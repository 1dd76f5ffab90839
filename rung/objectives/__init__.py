"""What training minimises: one file each, found by its name, or an entry point of `rung.objectives`."""

from __future__ import annotations

from rung.objectives.base import Objective, Row, RowSource, Setting
from rung.registry import Registry

__all__ = ["Objective", "Row", "RowSource", "Setting", "get", "names", "registry"]

registry: Registry[Objective] = Registry("rung.objectives", "Objective", "objective")
names, get = registry.names, registry.get
