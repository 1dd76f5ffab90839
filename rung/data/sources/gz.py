"""Compressed files: unpacked into a temporary folder, and read by what is left of their names."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rung.data.sources import base

OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
PIECE_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 1 << 33  # 8 GB: what unpacks to more is no data set but a bomb


class Source(base.FileKind):
    suffixes = tuple(OPEN)
    packed = True

    def rows(self, path: Path, faults: list[str], notes: list[str]) -> Iterator[base.Named]:
        from rung.data.sources import suffixes

        kind = suffixes().get(Path(path.stem).suffix.lower())
        if kind is None or kind is self:
            faults.append(f"{path.name}: what is compressed in it is of no known kind: {path.stem}")
            return
        with tempfile.TemporaryDirectory() as folder:
            unpacked = Path(folder) / path.stem
            try:
                _unpack(path, unpacked)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as fault:
                faults.append(f"{path.name}: cannot be unpacked ({fault})")
                return
            yield from kind.rows(unpacked, faults, notes)


def _unpack(path: Path, target: Path) -> None:
    """Raises OSError for what is not whole, or unpacks to more than MAX_UNPACKED_BYTES."""
    seen = 0
    with OPEN[path.suffix.lower()](path, "rb") as source, target.open("wb") as out:
        while piece := source.read(PIECE_BYTES):
            seen += len(piece)
            if seen > MAX_UNPACKED_BYTES:
                raise OSError(f"it holds more than {MAX_UNPACKED_BYTES >> 30} GB")
            out.write(piece)
