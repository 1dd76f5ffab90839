"""Plain text: paragraphs where blank lines separate them, else lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rung.data import text_files
from rung.data.sources import base


class Source(base.FileKind):
    suffixes = (".txt",)

    def rows(self, path: Path, faults: list[str], notes: list[str]) -> Iterator[base.Named]:
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
