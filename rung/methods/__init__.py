"""The ways to adapt a base: one file each, found by its name.

A file `NAME.py` here, or an entry point NAME in the group `rung.methods`, holds a class `Method`
whose `Config` is a dataclass of knobs. The file's name is the method's name everywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from rung.errors import ConfigError, nearest
from rung.methods.base import Method

_CONTRACT = {"base", "artefact", "layers", "choice", "hosted", "probe_features"}


@cache
def names() -> list[str]:
    """Every method there is, the built-in ones and those of installed packages."""
    own = {m.name for m in pkgutil.iter_modules(__path__)} - _CONTRACT
    return sorted(own | {e.name for e in entry_points(group="rung.methods")})


@cache
def get(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: for an unknown name, with the nearest known one.
    """
    if name not in names():
        raise ConfigError(f"unknown method '{name}'{nearest(name, names())}")
    return _module(name).Method(name)


def of_peft_type(peft_type: str) -> Method | None:
    """The method whose artefacts PEFT calls by this type, or None."""
    return next((m for m in map(get, names()) if m.peft_type == peft_type), None)


def _module(name: str) -> ModuleType:
    for entry in entry_points(group="rung.methods"):
        if entry.name == name:
            return entry.load()
    return importlib.import_module(f"rung.methods.{name}")
