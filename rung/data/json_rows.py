"""JSON to rows, in every layout that tools write.

A list of objects; an object that holds one; columns (`{"text": [...], "label": [...]}`, also by index,
as data frames write them); names and lists of cells (`{"columns": [...], "data": [[...]]}`); objects
one after another, a line each, over several lines, or with commas between them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rung.data.text_files import content

Row = Mapping[str, Any]
Named = tuple[str, Row]  # where the row stands, such as `quotes.json:12`, and the row

HOLDERS = ("data", "rows", "examples", "records", "train")
BETWEEN = re.compile(r"[\s,]*")


def read(path: Path, faults: list[str], notes: list[str]) -> Iterator[Named]:
    """The rows of a .json, .jsonl or .ndjson file."""
    yield from rows_of(path.name, content(path), faults, notes)


def rows_of(name: str, text: str, faults: list[str], notes: list[str]) -> Iterator[Named]:
    """The rows of a text of JSON; whatever is none is told in `faults`, what is left out in `notes`."""
    try:
        whole = loads(text)
    except RecursionError:
        faults.append(f"{name}: nested too deeply")
        return
    except json.JSONDecodeError:
        yield from _sequence(name, text, faults)
        return
    where = ""
    if isinstance(whole, Mapping):
        where, whole = _held(whole, name, notes)
    rows = _table(whole)
    if rows is None:
        faults.append(f'{name}: holds no list of objects; name one "data"')
        return
    lists = [row for row in rows if isinstance(row, list)]
    if lists and len(lists) == len(rows):
        faults.append(f"{name}: {where or 'it'} holds lists without names: give objects")
        return
    for i, row in enumerate(rows, 1):
        yield from _object(f"{name}:{i}", row, faults)


def loads(text: str) -> Any:
    """JSON, where NaN is no value: data frames write it for a cell that is empty."""
    return json.loads(text, parse_constant=_constant)


def _constant(word: str) -> float | None:
    return None if word == "NaN" else float(word)


# -- objects one after another -----------------------------------------------------------------------


def _sequence(name: str, text: str, faults: list[str]) -> Iterator[Named]:
    """Objects one after another. Only "\\n" ends a line: texts may hold U+2028 and its like."""
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if _are_objects(lines[:20]):
        for i, line in lines:
            try:
                row = loads(_bare(line))
            except json.JSONDecodeError as fault:
                faults.append(f"{name}:{i}: not JSON ({fault.msg} at column {fault.colno})")
            except RecursionError:
                faults.append(f"{name}:{i}: nested too deeply")
            else:
                yield from _object(f"{name}:{i}", row, faults)
        return
    found = _values(text)
    if isinstance(found, json.JSONDecodeError):
        faults.append(f"{name}:{found.lineno}: not JSON ({found.msg} at column {found.colno})")
        return
    for line_, row in found:
        yield from _object(f"{name}:{line_}", row, faults)


def _bare(line: str) -> str:
    return line.rstrip().removesuffix(",")


def _are_objects(lines: list[tuple[int, str]]) -> bool:
    """Whether an object stands on each line: on half of these at least, so that a bad one is told."""
    good = 0
    for _, line in lines:
        try:
            good += isinstance(loads(_bare(line)), (dict, str))
        except (json.JSONDecodeError, RecursionError):
            continue
    return 2 * good >= max(1, len(lines))


def _values(text: str) -> list[tuple[int, Any]] | json.JSONDecodeError:
    """(line, value) of values with blanks and commas between them, or the fault that ends them."""
    decoder = json.JSONDecoder(parse_constant=_constant)
    found: list[tuple[int, Any]] = []
    at = line = 0
    while True:
        start = BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", at, start)
        if start == len(text):
            return found
        try:
            value, at = decoder.raw_decode(text, start)
        except json.JSONDecodeError as fault:
            return fault
        except RecursionError:
            return json.JSONDecodeError("nested too deeply", text, start)
        found.append((line + 1, value))
        line += text.count("\n", start, at)


# -- one value that holds all rows -------------------------------------------------------------------


def _held(whole: Mapping[str, Any], name: str, notes: list[str]) -> tuple[str, Any]:
    """What an object holds under a name that says so; else the object itself."""
    # Only under such a name: a lone example may hold a list too (its messages).
    named = [k for k in HOLDERS if isinstance(whole.get(k), (list, Mapping))]
    if not named or "columns" in whole:
        return "", whole
    others = [k for k, v in whole.items() if k != named[0] and k != "schema" and _is_rows(v)]
    if others:
        notes.append(
            f"{name} also holds {', '.join(str(k) for k in others)}, beside the rows of '{named[0]}': "
            "save them as files of their own to read them"
        )
    return f"'{named[0]}'", whole[named[0]]


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _table(whole: Any) -> list[Any] | None:
    """Rows of a value in any layout; None when it has none."""
    if isinstance(whole, list):
        # The datasets server wraps each row.
        if _is_rows(whole) and all({"row", "row_idx"} <= set(v) for v in whole):
            return [v["row"] for v in whole]
        return whole
    if not isinstance(whole, Mapping):
        return None
    columns, data = whole.get("columns"), whole.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        rows = [dict(zip(columns, r, strict=False)) for r in data if isinstance(r, list)]
        if len(rows) == len(data) and all(len(r) == len(columns) for r in data):
            return _with_index(rows, whole.get("index"))
    return _from_columns(whole) or [whole]


def _with_index(rows: list[dict[str, Any]], index: Any) -> list[dict[str, Any]]:
    """An index that counts the rows says nothing; another one is a column."""
    if not isinstance(index, list) or len(index) != len(rows) or index == list(range(len(rows))):
        return rows
    return [{"index": i, **row} for i, row in zip(index, rows, strict=True)]


def _from_columns(whole: Mapping[str, Any]) -> list[Any] | None:
    values = list(whole.values())
    if not values:
        return None
    if all(isinstance(v, list) for v in values):
        sizes = {len(v) for v in values}
        turns = any(isinstance(x, Mapping) and ("role" in x or "from" in x) for v in values for x in v)
        if len(sizes) != 1 or sizes <= {0, 1} or turns:
            return None
        return [dict(zip(whole, cells, strict=True)) for cells in zip(*values, strict=True)]
    if all(isinstance(v, Mapping) for v in values):
        inner = list(values[0])
        if not inner or any(list(v) != inner for v in values):
            return None
        if _counts(inner) and not _counts(list(whole)):
            return [{name: column[key] for name, column in whole.items()} for key in inner]
        if _counts(list(whole)) and not _counts(inner):
            return values
    return None


def _counts(keys: list[str]) -> bool:
    """Whether keys are the numbers of rows."""
    return all(re.fullmatch(r"\d+", str(k)) for k in keys)


def _object(origin: str, row: Any, faults: list[str]) -> Iterator[Named]:
    if isinstance(row, dict):
        yield origin, row
    elif isinstance(row, str):
        yield origin, {"text": row}
    else:
        faults.append(f"{origin}: is no object, but {json.dumps(row, default=str)[:40]}")
