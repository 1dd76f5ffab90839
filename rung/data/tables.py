"""Tables of Arrow, in files or from the `datasets` library: read quietly, their cells as plain values.

Classes are given by name in place of their numbers, and a cell that is NaN is empty.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rung.data.sources.base import Named, Row
from rung.errors import DataError


def library(source: str) -> Any:
    """The `datasets` library.

    Args:
        source: what is to be read with it, for the message.

    Raises:
        DataError: when the library is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(f"reading {source} needs datasets: pip install 'rung[hub]'") from None
    return datasets


def of_parquet(path: Path, faults: list[str]) -> Iterator[Named]:
    """Rows of a .parquet file; what cannot be read is told in `faults`."""
    arrow = _pyarrow(path.name)
    try:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            yield from _arrow_rows(path.name, file.schema_arrow, file.iter_batches(), faults)
    except (arrow.ArrowException, OSError, ValueError) as fault:
        faults.append(f"{path.name}: cannot be read as parquet ({fault})")


def of_arrow(path: Path, faults: list[str]) -> Iterator[Named]:
    """Rows of a file in Arrow's own format, a file's or a stream's; faults are told in `faults`."""
    arrow = _pyarrow(path.name)
    try:
        with arrow.memory_map(str(path)) as raw:
            try:
                file = arrow.ipc.open_file(raw)
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
            except arrow.ArrowInvalid:
                raw.seek(0)
                file = batches = arrow.ipc.open_stream(raw)
            yield from _arrow_rows(path.name, file.schema, batches, faults)
    except (arrow.ArrowException, OSError, ValueError) as fault:
        faults.append(f"{path.name}: cannot be read as Arrow ({fault})")


def _pyarrow(source: str) -> Any:
    """Raises DataError when the library is not installed."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise DataError(f"reading {source} needs pyarrow: pip install 'rung[hub]'") from None
    return pyarrow


def _arrow_rows(name: str, schema: Any, batches: Iterable[Any], faults: list[str]) -> Iterator[Named]:
    if double := sorted(c for c, n in Counter(schema.names).items() if n > 1):
        faults.append(f"{name}: several columns named {', '.join(double)}")
        return
    decode = decoder(_features(schema))
    narrow = [f.name for f in schema if str(f.type) in ("halffloat", "float")]
    number = count(1)
    for batch in batches:
        for row in batch.to_pylist():
            for column in narrow:
                row[column] = _shortest(row[column])
            yield f"{name}:{next(number)}", decode(row)


def _features(schema: Any) -> dict[str, Any]:
    """What the `datasets` library noted of the columns: the names of classes."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        noted = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: _feature(told) for name, told in noted.items()}
    return {}


def _feature(told: Any) -> Any:
    if isinstance(told, list):
        return [_feature(one) for one in told]
    if not isinstance(told, Mapping):
        return None
    return SimpleNamespace(names=told.get("names"), feature=_feature(told.get("feature")))


def _shortest(value: float | None) -> float | None:
    """A number of 32 or 16 bits as it is written: 0.1, and not 0.10000000149."""
    import numpy as np

    return None if value is None else float(str(np.float32(value)))


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
