"""Cells of Arrow tables as plain values: class names for their numbers, nothing for NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]


def decoder(features: Any) -> Callable[[Row], Row]:
    """What turns a row of a table with these features into plain values.

    Args:
        features: of a `datasets` table; None where it does not tell them.
    """
    special = {name: change for name, f in (features or {}).items() if (change := _change(f))}

    def decode(row: Row) -> Row:
        return {name: special.get(name, _value)(value) for name, value in row.items()}

    return decode


def _change(feature: Any) -> Callable[[Any], Any] | None:
    """How a class's number becomes its name, also in lists of them."""
    names = getattr(feature, "names", None)
    if isinstance(names, list):
        return lambda value: _name(names, value)
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    change = _change(inner) if inner is not None else None
    if change is None:
        return None
    return lambda values: [change(v) for v in values] if isinstance(values, list) else values


def _name(names: list[str], value: Any) -> Any:
    """-1 says that a row has no class."""
    if isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None
    return value


def _value(value: Any) -> Any:
    # NaN is the one value that differs from itself: a cell that is empty.
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124
