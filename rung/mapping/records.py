"""Records of two systems and the pairs known of them, read from tables."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.data import sources
from rung.errors import DataError, nearest, one_line

MAX_RECORDS = 200_000  # of one side; above, candidates are to be made outside
MAX_TEXT_CHARACTERS = 2000  # characters of a record that are looked at
# Letters keep their digits where they are few: S3, EC2, v1.
PARTS = re.compile(r"(?<![^\W\d_])[^\W\d_]{1,3}\d+|[^\W\d_]+|\d+")


@dataclass(frozen=True)
class Record:
    """A thing of one system.

    Attributes:
        id: names it, unique on its side.
        name: what it is called, as `customerName` or `AWS::S3::Bucket`.
        text: whatever else its row says, such as a description.
    """

    id: str
    name: str
    text: str = ""

    @property
    def words(self) -> str:
        """The words of its name in lower case: `AWS::S3::BucketPolicy` is `aws s3 bucket policy`."""
        return words(self.name)

    @property
    def sentence(self) -> str:
        """The words of its name, and what else is known of it."""
        return f"{self.words}: {self.text}" if self.text else self.words


def words(name: str) -> str:
    """Split a name where case, digits and marks part it; `name` itself where nothing is left."""
    return " ".join(PARTS.findall(_spaced(name))).lower() or name.lower()


def _spaced(name: str) -> str:
    """Put a space before each capital that begins a word: `HTTPServerName` is `HTTP Server Name`."""
    found = name[:1]
    for before, letter, after in zip(name, name[1:], [*name[2:], ""], strict=False):
        begins = before.islower() or (before.isupper() and after.islower())
        found += f" {letter}" if letter.isupper() and begins else letter
    return found


@dataclass(frozen=True)
class Table:
    """One side.

    Attributes:
        source: what the user named. records: in the order of its rows.
        groups: by id, what must not be parted between training and test; empty where nobody said.
    """

    source: str
    records: tuple[Record, ...]
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the records, whatever the order of their rows."""
        rows = sorted([r.id, r.name, r.text] for r in self.records)
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read_table(source: str, id_column: str | None, name_column: str | None, group: str | None) -> Table:
    """Read one side.

    Args:
        source: a file or whatever else data is read from.
        id_column: by default `id`, else the first. name_column: by default `name`, else the id's.
        group: the column of groups; None: none.

    Raises:
        DataError: for a file without rows, a column that is not there, ids that are empty or double.
    """
    rows = _rows(source)
    columns = list(dict.fromkeys(c for _, row in rows for c in row))
    id_column = _column(source, columns, id_column, "id", columns[0])
    name_column = _column(source, columns, name_column, "name", id_column)
    if group is not None:
        _column(source, columns, group, group, group)
    others = [c for c in columns if c not in (id_column, name_column)]
    records, groups, places, faults = [], {}, dict[str, str](), list[str]()
    for place, row in rows:
        key = _cell(row, id_column)
        if not key:
            faults.append(f"{place}: the column '{id_column}' is empty")
        elif key in places:
            faults.append(f"{place}: the id '{key}' stands at {places[key]} already")
        else:
            places[key] = place
            text = "; ".join(cell for c in others if (cell := _cell(row, c)))
            name = _cell(row, name_column) or key
            records.append(Record(key, name, text[:MAX_TEXT_CHARACTERS]))
            if group is not None:
                groups[key] = _cell(row, group)
    if faults:
        raise DataError(f"{one_line(faults, 5)}: ids must be unique (--left-id, --right-id name them)")
    if len(records) > MAX_RECORDS:
        raise DataError(f"{source} has {len(records):,} records, at most {MAX_RECORDS:,} are mapped")
    return Table(source, tuple(records), groups)


def read_pairs(files: Sequence[str], left: Table, right: Table) -> dict[str, frozenset[str]]:
    """Read known pairs: by left id the right ids that are right; none of them where it has no partner.

    Args:
        files: tables with the columns `left` and `right`; what a later one says of a left record takes
            the place of what an earlier one says.

    Raises:
        DataError: for a missing column, no rows, or ids that are not among the records.
    """
    known: dict[str, frozenset[str]] = {}
    sides = {"left": {r.id for r in left.records}, "right": {r.id for r in right.records}}
    for source in files:
        rows = _rows(source)
        columns = list(dict.fromkeys(c for _, row in rows for c in row))
        for side in sides:
            _column(source, columns, side, side, side)
        faults = []
        said: dict[str, set[str]] = {}
        for place, row in rows:
            cells = {side: _cell(row, side) for side in sides}
            lost = [
                f"{place}: no {side} record '{cell}'{nearest(cell, _few(cell, sides[side]))}"
                for side, cell in cells.items()
                if cell not in sides[side] and (cell or side == "left")
            ]
            faults += lost
            if not lost:
                said.setdefault(cells["left"], set()).update({cells["right"]} - {""})
        if faults:
            raise DataError(f"pairs name records that are not there: {one_line(faults, 3)}")
        known.update({key: frozenset(found) for key, found in said.items()})
    return known


def _few(name: str, known: set[str]) -> list[str]:
    """Names that may have been meant; of very many only those that begin alike are compared."""
    if len(known) <= 2000:
        return sorted(known)
    return sorted(k for k in known if k[:2].lower() == name[:2].lower())[:2000] or sorted(known)[:3]


def _rows(source: str) -> list[tuple[str, Mapping[str, Any]]]:
    """All rows with their places. Raises DataError for faults, and for none at all."""
    read = sources.read(source)
    rows = list(read.rows)
    if read.faults:
        raise DataError(one_line(read.faults, 5))
    if not rows:
        raise DataError(f"{source} has no rows: give a table with a header and a row for each record")
    return rows


def _column(source: str, columns: Sequence[str], asked: str | None, usual: str, other: str) -> str:
    """The column that was asked for, or the usual one where it is there."""
    if asked is None:
        return usual if usual in columns else other
    if asked not in columns:
        raise DataError(f"{source} has no column '{asked}'{nearest(asked, columns)}")
    return asked


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else " ".join(str(value).split())
