"""JSON to rows, in every layout that tools write.

A list of objects; an object that holds one; columns (`{"text": [...], "label": [...]}`, also by index,
as data frames write them); names and lists of cells (`{"columns": [...], "data": [[...]]}`); objects
one after another, a line each, over several lines, or with commas between them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rung.data.csv_rows import KNOWN
from rung.data.text_files import content

Row = Mapping[str, Any]
Named = tuple[str, Row]  # where the row stands, such as `quotes.json:12`, and the row

HOLDERS = ("data", "rows", "examples", "records", "items", "results", "train")
PARTS = ("train", "training", "validation", "valid", "val", "dev", "test", "eval")  # of a data set
MAX_HOLDERS = 4  # objects that hold one another
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
    except ValueError:
        yield from _sequence(name, text, faults, notes)
        return
    where = ""
    for _ in range(MAX_HOLDERS):
        if isinstance(whole, Mapping):
            where, whole = _held(whole, name, notes)
    if isinstance(whole, Mapping) and (
        parts := [k for k in whole if k in PARTS and _is_rows(whole[k])]
    ):
        told = f"{name} holds rows under {' and '.join(parts)}: save each as a file of its own"
        faults.append(f"{told}, and name them with --data, --validation-data and --test-data")
        return
    rows = _table(whole)
    if rows is None:
        faults.append(f'{name}: holds no list of objects; name one "data"')
        return
    if isinstance(whole, Mapping) and rows == [whole] and (told := _uneven(whole)):
        faults.append(f"{name}: {told}")
        return
    for i, row in enumerate(_unwrapped(_named(rows, name, notes)), 1):
        yield from _object(f"{name}:{i}", row, faults)


def loads(text: str) -> Any:
    """JSON, where NaN is no value: data frames write it for a cell that is empty.

    Raises:
        json.JSONDecodeError: for what is no JSON.
        ValueError: for a key that stands twice.
    """
    return _decoder().decode(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, none of whose values is dropped for another one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [k for k, _ in pairs]
        raise ValueError(f"the key '{next(k for k in keys if keys.count(k) > 1)[:40]}' stands twice")
    return found


@cache
def _decoder() -> json.JSONDecoder:
    """One for all lines: making it takes as long as reading a short one."""
    return json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_once)


def _told(fault: ValueError) -> str:
    """A fault of JSON in words, and where in its line."""
    if isinstance(fault, json.JSONDecodeError):
        return f"not JSON ({fault.msg} at column {fault.colno})"
    return "a number has too many digits" if "int_max_str" in str(fault) else str(fault)


def _constant(word: str) -> float | None:
    return None if word == "NaN" else float(word)


# -- objects one after another -----------------------------------------------------------------------


def _sequence(name: str, text: str, faults: list[str], notes: list[str]) -> Iterator[Named]:
    """Objects one after another. Only "\\n" ends a line: texts may hold U+2028 and its like."""
    if text.lstrip().startswith("[") and (found := _open_list(name, text, faults)) is not None:
        yield from _named_by_line(name, found, faults, notes)
        return
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if _are_objects(lines[:20]):
        rows = _parsed(name, lines, faults)
        if all(line.lstrip().startswith("[") for _, line in lines[:20]):
            yield from _named_by_line(name, list(rows), faults, notes)
            return
        for i, row in rows:
            yield from _object(f"{name}:{i}", _unwrapped([row])[0], faults)
        return
    values = _values(text)
    if isinstance(values, ValueError):
        line = getattr(values, "lineno", 0)
        faults.append(f"{name}:{line}: {_told(values)}" if line else f"{name}: {_told(values)}")
        return
    yield from _named_by_line(name, values, faults, notes)


def _parsed(name: str, lines: list[tuple[int, str]], faults: list[str]) -> Iterator[tuple[int, Any]]:
    for i, line in lines:
        try:
            row = loads(_bare(line))
        except ValueError as fault:
            faults.append(f"{name}:{i}: {_told(fault)}")
        except RecursionError:
            faults.append(f"{name}:{i}: nested too deeply")
        else:
            yield i, row


def _named_by_line(
    name: str, rows: list[tuple[int, Any]], faults: list[str], notes: list[str]
) -> Iterator[Named]:
    values = _named([row for _, row in rows], name, notes)
    lines = [line for line, _ in rows][len(rows) - len(values) :]  # without a header
    for line, row in zip(lines, _unwrapped(values), strict=True):
        yield from _object(f"{name}:{line}", row, faults)


def _open_list(name: str, text: str, faults: list[str]) -> list[tuple[int, Any]] | None:
    """(line, value) of a list that ends with a comma, as many programs write it; None for any other.

    One that never ends is a fault.
    """
    head, tail = text.index("["), text.rstrip()
    closed = re.search(r",\s*\]$", tail)
    if not closed and tail.endswith("]"):
        return None
    found = _values(f"{text[:head]} {tail[head + 1 : -1 if closed else None]}")
    if isinstance(found, ValueError) or not found:
        return None
    if not closed:
        faults.append(f"{name}: the list is never closed: the file is not whole, or lacks its ]")
        return []
    return found


def _bare(line: str) -> str:
    return line.rstrip().removesuffix(",")


def _are_objects(lines: list[tuple[int, str]]) -> bool:
    """Whether an object stands on each line: on half of these at least, so that a bad one is told."""
    good = 0
    for _, line in lines:
        try:
            good += isinstance(json.loads(_bare(line)), (dict, str, list))
        except RecursionError:
            continue
        except ValueError as fault:
            # Too long a number is a fault of this line, and no other layout's.
            good += not isinstance(fault, json.JSONDecodeError)
    return 2 * good >= max(1, len(lines))


def _values(text: str) -> list[tuple[int, Any]] | ValueError:
    """(line, value) of values with blanks and commas between them, or the fault that ends them."""
    decoder = _decoder()
    found: list[tuple[int, Any]] = []
    at = line = 0
    while True:
        start = BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", at, start)
        if start == len(text):
            return found
        try:
            value, at = decoder.raw_decode(text, start)
        except ValueError as fault:
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


def _unwrapped(rows: list[Any]) -> list[Any]:
    """Rows without what the datasets server puts around each of them."""
    if all(isinstance(v, Mapping) and "row" in v and "row_idx" in v for v in rows):
        return [v["row"] for v in rows]
    return rows


def _named(rows: list[Any], name: str, notes: list[str]) -> list[Any]:
    """Rows that are lists of cells, with the names of a first row that holds names, or with numbers.

    Lists of messages are conversations.
    """
    if rows and all(isinstance(r, list) and r and _are_messages(r) for r in rows):
        return [{"messages": row} for row in rows]
    width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    plain = (str, int, float, type(None))
    if not width or not all(
        isinstance(r, list) and len(r) == width and all(isinstance(c, plain) for c in r) for r in rows
    ):
        return rows
    first = [str(c).strip() for c in rows[0]]
    if any(c.casefold() in KNOWN for c in first) and len(set(first)) == width:
        return [dict(zip(first, row, strict=True)) for row in rows[1:]]
    columns = [f"column {i}" for i in range(1, width + 1)]
    notes.append(f"{name} holds lists without names: their columns are called {', '.join(columns)}")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _are_messages(row: list[Any]) -> bool:
    return all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in row)


def _uneven(whole: Mapping[str, Any]) -> str:
    """What to say of columns of several lengths; "" for an object that is none of columns."""
    sizes = {k: len(v) for k, v in whole.items() if isinstance(v, list)}
    if len(sizes) < max(2, len(whole)) or any(_is_rows(v) for v in whole.values()):
        return ""
    if min(sizes.values()) < 2 or len(set(sizes.values())) == 1:
        return ""
    told = ", ".join(f"'{k}' {n}" for k, n in list(sizes.items())[:10])
    return f"the columns have several lengths ({told}): give each a cell for every row"


def _table(whole: Any) -> list[Any] | None:
    """Rows of a value in any layout; None when it has none."""
    if isinstance(whole, list):
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
    if all(isinstance(v, Mapping) and v for v in values):
        # In the order in which they first come; a cell that a column leaves out is empty.
        inner = list(dict.fromkeys(key for v in values for key in v))
        if _counts(inner) and not _counts(list(whole)):
            return [{name: column.get(key) for name, column in whole.items()} for key in inner]
        if _counts(list(whole)) and not _counts(inner):
            return values
        # Rows under names of their own.
        if len(values) > 1 and all(any(str(k).casefold() in KNOWN for k in v) for v in values):
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
