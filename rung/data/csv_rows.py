"""CSV and TSV to rows: what ends a line, what parts the cells, and what spreadsheets leave behind.

The number in a row's name is the line that it begins at.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rung.data.problem import places
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


END = "\ue0ff\ue0fe"  # stands behind the last record; a cell that is never closed swallows it
MAX_TITLES = 5  # lines above a table


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What parts cells, and what keeps them together.

    Attributes:
        blanks: whether a blank behind a separator belongs to no cell.
        mark: what cells are quoted in; None where nothing quotes.
        escaped: whether a mark within a cell is written behind a backslash, and not twice.
    """

    separator: str
    blanks: bool = False
    mark: str | None = '"'
    escaped: bool = False

    def records(self, text: str, kept: str) -> Iterator[tuple[int, list[str]]]:
        """(line it begins at, cells) of each record that is no blank line.

        Args:
            kept: stands for a carriage return that ends no line.

        Raises:
            csv.Error: for a cell that never ends, or is too long.
        """
        reader = csv.reader(
            (line + "\n" for line in (*text.split("\n"), END)),
            delimiter=self.separator,
            skipinitialspace=self.blanks,
            quotechar=self.mark,
            quoting=csv.QUOTE_MINIMAL if self.mark else csv.QUOTE_NONE,
            doublequote=not self.escaped,
            escapechar="\\" if self.escaped else None,
        )
        begins = 1
        try:
            for cells in reader:
                line, begins = begins, reader.line_num + 1
                if cells == [END]:
                    return
                if cells and cells[-1].rstrip("\n").endswith(END):
                    told = f"the quotation mark that opens in the record of line {line} is never closed"
                    raise csv.Error(told)
                if cells:
                    yield line, [c.replace(kept, "\r") for c in cells] if kept in text else cells
        except csv.Error as fault:
            told = str(fault)
            if "never closed" not in told:
                told = f"the cells from line {begins} on: {fault}"
            raise csv.Error(told) from None


def read(path: Path, faults: list[str], notes: list[str]) -> Iterator[Named]:
    """The rows of a .csv or .tsv file."""
    csv.field_size_limit(LARGEST_CELL)
    text, kept = _lines(content(path))
    # What spreadsheets write for each other.
    told = re.match(r"\s*(\"?)sep=(.)\1[ \t,;]*\n", text, re.IGNORECASE)
    first = 0
    if told:
        text, first = text[told.end() :], told[0].count("\n")
        dialect = Dialect(separator=told[2])
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
    best, most = Dialect(separator=NONE), (0.0, 0, 0)
    for titled in (False, True):
        for separator in (usual, *SEPARATORS.replace(usual, "")):
            dialect = Dialect(separator=separator)
            even, width = _evenness(dialect, text, kept, titled)
            score = (even, int(separator == usual), width)
            if score > most:
                best, most = dialect, score
        if best.separator != NONE:
            break
    if best.separator != NONE and most[0] < 1:
        best = _rarer(best, most[0], text, kept)
    if best.separator == "\t" and best.mark and '"' in text:
        best = _unquoted(best, text, kept)
    elif best.separator != NONE and re.search(rf"[{re.escape(best.separator)}] ", text):
        best = _without_blanks(best, text, kept)
    return best


def _evenness(dialect: Dialect, text: str, kept: str, titled: bool = False) -> tuple[float, int]:
    """The share of records that have as many cells as the header, and how many these are.

    Args:
        titled: whether lines above the table may stand in front of the header.
    """
    widths = _widths(dialect, text, kept, titled)
    if not widths or widths[0] < 2:
        return 0.0, 0
    return sum(w == widths[0] for w in widths) / len(widths), widths[0]


def _rarer(usual: Dialect, even: float, text: str, kept: str) -> Dialect:
    """The way of quoting that makes every record even, where the usual one does not."""
    parted = re.escape(usual.separator)
    ways = []
    for mark in "\"'":
        # Only where cells are quoted so: else the mark is one of the text.
        quoted = rf"(?:^|{parted}) ?{mark}[^\n]*{mark}[ ]?(?={parted}|$)"
        if re.search(quoted, text, re.MULTILINE):
            ways += [replace(usual, mark=mark, blanks=blanks) for blanks in (False, True)]
            if f"\\{mark}" in text:
                ways.append(replace(usual, mark=mark, escaped=True, blanks=True))
    for way in ways:
        if way != usual and even < _evenness(way, text, kept)[0] == 1:
            return way
    return usual


def _without_blanks(dialect: Dialect, text: str, kept: str) -> Dialect:
    """The dialect without blanks in front of cells, where all names but the first have one."""
    first = next((cells for _, cells in dialect.records(text, kept)), [])
    if len(first) > 1 and all(c.startswith(" ") for c in first[1:]):
        return replace(dialect, blanks=True)
    return dialect


def _unquoted(dialect: Dialect, text: str, kept: str) -> Dialect:
    """Tabs often part texts that were never quoted: then a quotation mark is one."""
    plain = replace(dialect, mark=None)
    width, lone = 0, False
    for _, cells in plain.records(text, kept):
        if not width and all(len(c) > 1 and c[0] == c[-1] == '"' for c in cells):
            return dialect  # whoever quotes the names of columns quotes cells
        width = width or len(cells)
        if len(cells) != width:
            return dialect  # a quoted cell holds a line's end, or a tab
        lone = lone or any(c.startswith('"') and not (c.endswith('"') and len(c) > 1) for c in cells)
    return plain if lone else dialect


def _widths(dialect: Dialect, text: str, kept: str, titled: bool) -> list[int]:
    """How many cells each of the first records has, those at the end that are empty not counted."""
    try:
        found = [cells for _, cells in islice(dialect.records(text, kept), SAMPLE)]
    except csv.Error:
        return []
    found = found[_titles(found) if titled else 0 :]
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
    for line, cells in head[: _titles([cells for _, cells in head])]:
        title = next(c.strip() for c in cells if c.strip())
        notes.append(f"{name}:{line + skipped}: '{title[:40]}' stands above the table and is not read")
        head.pop(0)
    if not head:
        return
    columns = [c.strip() for c in head[0][1]]
    again = None
    if _is_header(columns, [cells for _, cells in head[1:]]):
        first = head.pop(0)[1]
        again = first if len(columns) > 1 else None
    else:
        columns = [f"column {i}" for i in range(1, len(columns) + 1)]
        notes.append(f"{name} has no header: its columns are called {', '.join(columns)}")
    while columns and not columns[-1] and not _holds(head, len(columns) - 1):
        columns.pop()
    columns = [c or f"column {i}" for i, c in enumerate(columns, 1)]
    if double := sorted(c for c, n in Counter(columns).items() if n > 1):
        faults.append(f"{name}:{1 + skipped}: several columns named {', '.join(double)}")
        return
    repeated: list[str] = []
    uneven: dict[int, list[str]] = {}
    try:
        for line, cells in chain(head, records):
            place = f"{name}:{line + skipped}"
            if not any(c.strip() for c in cells):
                continue
            beyond = [c for c in cells[len(columns) :] if c.strip()]
            if cells == again:
                repeated.append(place)
            elif len(cells) < len(columns) or beyond:
                uneven.setdefault(len(cells), []).append(place)
            else:
                yield place, dict(zip(columns, cells, strict=False))
    finally:
        if repeated:
            notes.append(f"the header stands again in {places(repeated)}, which is not read as a row")
        for count, lines in uneven.items():
            faults.append(f"{places(lines)}: {count} cells, the header has {len(columns)}")


def _titles(records: list[list[str]]) -> int:
    """How many records at the head are lines above a table: one cell each, where nearly all have more.

    The single cell is the first, and no name of a column.
    """
    filled = [sum(bool(c.strip()) for c in cells) for cells in records]
    above = next((i for i, n in enumerate(filled) if n > 1), 0)
    first = [cells[0].strip().casefold() for cells in records[:above]]
    below = filled[above:]
    if above > MAX_TITLES or not all(first) or {*first} & KNOWN or len(below) < 3:
        return 0
    return above if sum(n > 1 for n in below) >= 0.9 * len(below) else 0


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
