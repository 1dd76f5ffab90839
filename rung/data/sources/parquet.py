"""Parquet tables, through pyarrow (extra `hub`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rung.data import tables
from rung.data.sources import base


class Source(base.FileKind):
    suffixes = (".parquet",)

    def rows(self, path: Path, faults: list[str], notes: list[str]) -> Iterator[base.Named]:
        yield from tables.of_parquet(path, faults)
