"""Rung adapts a foundation model to a task, one rung of the ladder at a time.

    import rung

    rung.tune("coach", data="quotes.jsonl", method="prompt_tuning")
    print(rung.load("coach").ask("Coach me."))

Importing it is quick: each name is imported from its own part when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rung.version import __version__

if TYPE_CHECKING:
    from rung.engine import Engine
    from rung.errors import RungError
    from rung.library import (
        climb,
        compare,
        evaluate,
        export,
        load,
        map_records,
        plan,
        red_team,
        tune,
    )
    from rung.library.model import Model
    from rung.store import Store

_PARTS = {
    **dict.fromkeys(
        ("climb", "compare", "evaluate", "export", "load", "map_records", "plan", "red_team", "tune"),
        "rung.library",
    ),
    "Engine": "rung.engine",
    "Model": "rung.library.model",
    "RungError": "rung.errors",
    "Store": "rung.store",
}

__all__ = [
    "Engine",
    "Model",
    "RungError",
    "Store",
    "__version__",
    "climb",
    "compare",
    "evaluate",
    "export",
    "load",
    "map_records",
    "plan",
    "red_team",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Import a name of the library when it is first used."""
    if name not in _PARTS:
        raise AttributeError(f"module 'rung' has no attribute '{name}'")
    return getattr(import_module(_PARTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
