"""CSV and TSV to rows: what ends a line, what parts the cells, and what spreadsheets leave behind.

The number in a row's name is the line that it begins at.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rung.data.text_files import content

Row = Mapping[str, Any]
Named = tuple[str, Row]

SEPARATORS = ",;\t|"
NONE = "\x1f"  # parts nothing: for a file of one column
SAMPLE = 50  # records that tell how cells are parted
# Names that hold no content: a first record with one of them is a header.
KNOWN = {
    "text", "label", "labels", "class", "category", "prompt", "completion", "question", "answer",
    "input", "output", "instruction", "response", "context", "system", "user", "assistant", "messages",
    "id", "index", "idx", "sentence", "target", "source", "title", "name", "chosen", "rejected",
}  # fmt: skip
MAX_NAME_CHARACTERS = 80  # characters of a column's name
SENTENCE = (".", "!", "。")
# Cells hold whole texts: the standard limit of 128 KiB is too small for some.
LARGEST_CELL = 1 << 24  # characters


@dataclass(frozen=True)
class Dialect:
    """What parts cells, and whether quotation marks keep them together."""

    separator: str
    quoted: bool = True

    def records(self, text: str, kept: str) -> Iterator[tuple[int, list[str]]]:
        """(line it begins at, cells) of each record that is no blank line.

        Args:
            kept: stands for a carriage return that ends no line.

        Raises:
            csv.Error: for a cell that never ends, or is too long.
        """
        reader = csv.reader(
            (line + "\n" for line in text.split("\n")),
            delimiter=self.separator,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
        )
        begins = 1
        try:
            for cells in reader:
                line, begins = begins, reader.line_num + 1
                if cells:
                    yield line, [c.replace(kept, "\r") for c in cells] if kept in text else cells
        except csv.Error as fault:
            raise csv.Error(f"the cells from line {begins} on: {fault}") from None


def read(path: Path, faults: list[str], notes: list[str]) -> Iterator[Named]:
    """The rows of a .csv or .tsv file."""
    csv.field_size_limit(LARGEST_CELL)
    text, kept = _lines(content(path))
    told = re.match(r"\s*sep=(.)[ \t]*\n", text)  # what spreadsheets write for each other
    first = 0
    if told:
        text, first = text[told.end() :], 1
        dialect = Dialect(told[1])
    else:
        dialect = _dialect(text, kept, "\t" if path.suffix.lower() == ".tsv" else ",")
    records = dialect.records(text, kept)
    try:
        yield from _rows(path.name, records, first, faults, notes)
    except csv.Error as fault:
        faults.append(f"{path.name}: {fault}")


def _lines(text: str) -> tuple[str, str]:
    """The text with "\\n" alone at the end of lines, and what stands for other carriage returns.

    Neither U+2028 nor a form feed ends a line, nor does a carriage return where "\\n" does.
    """
    kept = next(chr(c) for c in range(0xE000, 0xF8FF) if chr(c) not in text)
    if "\n" not in text:
        return text.replace("\r", "\n"), kept
    return text.replace("\r\n", "\n").replace("\r", kept), kept


def _dialect(text: str, kept: str, usual: str) -> Dialect:
    """The separator by which most records have as many cells as the header."""
    best, most = Dialect(NONE), (0.0, 0, 0)
    for separator in (usual, *SEPARATORS.replace(usual, "")):
        dialect = Dialect(separator)
        widths = _widths(dialect, text, kept)
        if not widths or widths[0] < 2:
            continue
        even = sum(w == widths[0] for w in widths) / len(widths)
        score = (even, int(separator == usual), widths[0])
        if score > most:
            best, most = dialect, score
    if best.separator == "\t" and '"' in text:
        best = _unquoted(best, text, kept)
    return best


def _unquoted(dialect: Dialect, text: str, kept: str) -> Dialect:
    """Tabs often part texts that were never quoted: then a quotation mark is one."""
    plain = Dialect(dialect.separator, quoted=False)
    width, lone = 0, False
    for _, cells in plain.records(text, kept):
        if not width and all(len(c) > 1 and c[0] == c[-1] == '"' for c in cells):
            return dialect  # whoever quotes the names of columns quotes cells
        width = width or len(cells)
        if len(cells) != width:
            return dialect  # a quoted cell holds a line's end, or a tab
        lone = lone or any(c.startswith('"') and not (c.endswith('"') and len(c) > 1) for c in cells)
    return plain if lone else dialect


def _widths(dialect: Dialect, text: str, kept: str) -> list[int]:
    """How many cells each of the first records has, those at the end that are empty not counted."""
    try:
        found = [cells for _, cells in islice(dialect.records(text, kept), SAMPLE)]
    except csv.Error:
        return []
    width = len(found[0]) if found else 0
    return [
        width if i and len(cells) > width and not any(c.strip() for c in cells[width:]) else len(cells)
        for i, cells in enumerate(found)
    ]


def _rows(
    name: str, records: Iterator[tuple[int, list[str]]], skipped: int, faults: list[str],
    notes: list[str],
) -> Iterator[Named]:  # fmt: skip
    head = list(islice(records, SAMPLE))
    # A row without anything in it is what a spreadsheet leaves below its table.
    head = [(line, cells) for line, cells in head if any(c.strip() for c in cells)]
    if not head:
        return
    columns = [c.strip() for c in head[0][1]]
    if _is_header(columns, [cells for _, cells in head[1:]]):
        head.pop(0)
    else:
        columns = [f"column {i}" for i in range(1, len(columns) + 1)]
        notes.append(f"{name} has no header: its columns are called {', '.join(columns)}")
    while columns and not columns[-1] and not _holds(head, len(columns) - 1):
        columns.pop()
    columns = [c or f"column {i}" for i, c in enumerate(columns, 1)]
    if double := sorted(c for c, n in Counter(columns).items() if n > 1):
        faults.append(f"{name}:{1 + skipped}: several columns named {', '.join(double)}")
        return
    for line, cells in (*head, *records):
        if not any(c.strip() for c in cells):
            continue
        beyond = [c for c in cells[len(columns) :] if c.strip()]
        if len(cells) < len(columns) or beyond:
            faults.append(f"{name}:{line + skipped}: {len(cells)} cells, the header has {len(columns)}")
        else:
            yield f"{name}:{line + skipped}", dict(zip(columns, cells, strict=False))


def _holds(records: list[tuple[int, list[str]]], at: int) -> bool:
    return any(len(cells) > at and cells[at].strip() for _, cells in records)


def _is_header(first: list[str], rows: list[list[str]]) -> bool:
    """Whether the first record names the columns.

    It is a row like the others when one of its cells stands below itself again and again, as a label
    does, or is a whole sentence, and no cell is a name that data sets use.
    """
    if not rows or any(c.casefold() in KNOWN for c in first):
        return True
    if len(set(first)) < len(first):
        return True  # told as two columns of one name
    if any(len(c) > MAX_NAME_CHARACTERS or c.endswith(SENTENCE) for c in first):
        return False
    for at, cell in enumerate(first):
        below = [cells[at].strip() for cells in rows if len(cells) > at]
        if cell and len(below) >= 3 and below.count(cell) >= max(2, len(below) // 10):
            return False
    return True
