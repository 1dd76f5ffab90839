"""Tables of the `datasets` library: loaded quietly, their cells as plain values.

Classes are given by name in place of their numbers, and a cell that is NaN is empty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from rung.data.sources.base import Named, Row
from rung.errors import DataError


def loader(source: str) -> Callable[..., Any]:
    """`datasets.load_dataset`.

    Args:
        source: what is to be read with it, for the message.

    Raises:
        DataError: when the library is not installed.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"reading {source} needs datasets: pip install 'rung[hub]'") from None
    return load_dataset


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own lines about each retry: one line is what a fault may take."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def rows(name: str, table: Any) -> Iterator[Named]:
    """Rows of a table; silent only while a row is read, since others work between two of them."""
    for column, feature in (table.features or {}).items():
        if type(feature).__name__ == "Image":  # its bytes as they are, which are read safely elsewhere
            table = table.cast_column(column, type(feature)(decode=False))
    decode = decoder(table.features)
    left = iter(table)
    for i in count(1):
        with quiet():
            row = next(left, None)
        if row is None:
            return
        yield f"{name}:{i}", decode(row)


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
