"""Data sets of the Hugging Face Hub, through the `datasets` library (extra `hub`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rung.data import licence, tables
from rung.data.sources import base
from rung.errors import DataError, one_line


class Source(base.Source):
    scheme = "hf"
    form = "hf:NAME"

    def read(self, source: str, limit: int | None) -> base.Rows:
        name, *rest = source.removeprefix("hf:").split(":")
        if not name or len(rest) > 2 or not all(rest):
            raise DataError(f"'{source}' must read hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT")
        config = rest[0] if len(rest) == 2 else None
        part = rest[-1] if rest else "train"
        load_dataset = tables.library(source).load_dataset
        try:
            # With a limit only the beginning is fetched; without, all of it is, and kept.
            with tables.quiet():
                table = load_dataset(name, config, split=part, streaming=limit is not None)
        except Exception as fault:  # the library raises many kinds, none of them its own
            raise DataError(
                f"cannot load '{source}' ({_first_line(fault)}): check the name, the split and the "
                "network"
            ) from None
        faults: list[str] = []
        rows = _rows(f"{name}:{part}", table, faults)
        return base.Rows(name, rows, licence.of_hub(name, table), faults)


def _rows(name: str, table: Any, faults: list[str]) -> Iterator[base.Named]:
    try:
        yield from tables.rows(name, table)
    except Exception as fault:  # a connection lost in mid-stream
        faults.append(f"{name}: {_first_line(fault)}")


def _first_line(fault: Exception) -> str:
    text = str(fault).strip() or type(fault).__name__
    return one_line(text.splitlines()[:2])
