"""What training minimises: one file each, found by its name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from rung.errors import ConfigError, nearest
from rung.objectives.base import Objective


@cache
def names() -> list[str]:
    """Every objective there is."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


@cache
def get(name: str) -> Objective:
    """The objective of that name.

    Raises:
        ConfigError: for an unknown name, with the nearest known one.
    """
    if name not in names():
        raise ConfigError(f"unknown objective '{name}'{nearest(name, names())}")
    return importlib.import_module(f"rung.objectives.{name}").Objective(name)
