"""JSON and JSON lines. Faults name the line, and rows may differ in shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rung.data import json_rows
from rung.data.sources import base


class Source(base.FileKind):
    suffixes = (".json", ".jsonl", ".ndjson")

    def rows(self, path: Path, faults: list[str], notes: list[str]) -> Iterator[base.Named]:
        return json_rows.read(path, faults, notes)
