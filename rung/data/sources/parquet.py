"""Parquet tables, through the `datasets` library (extra `hub`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rung.data import tables
from rung.data.sources import base


class Source(base.FileKind):
    suffixes = (".parquet",)

    def rows(self, path: Path, faults: list[str], notes: list[str]) -> Iterator[base.Named]:
        load_dataset = tables.loader(path.name)
        try:
            with tables.quiet():
                table = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
            yield from tables.rows(path.name, table)
        except Exception as fault:  # the library raises whatever Arrow and fsspec raise
            faults.append(f"{path.name}: cannot be read as parquet ({fault})")
