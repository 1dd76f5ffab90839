"""Tables as text: commas, tabs and their relatives. Faults name the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rung.data import csv_rows
from rung.data.sources import base


class Source(base.FileKind):
    suffixes = (".csv", ".tsv")

    def rows(self, path: Path, faults: list[str], notes: list[str]) -> Iterator[base.Named]:
        return csv_rows.read(path, faults, notes)
