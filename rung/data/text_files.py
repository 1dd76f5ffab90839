"""Bytes of a file to text: UTF-8, or UTF-16 and UTF-32 as spreadsheets save them."""

from __future__ import annotations

import codecs
from pathlib import Path

from rung.errors import DataError

# The longer marks first: UTF-32's begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def content(path: Path) -> str:
    """A file's text, without a byte order mark; its line ends are as they were written.

    Raises:
        DataError: when it cannot be read, or naming the line that is no text.
    """
    try:
        raw = path.read_bytes()
    except OSError as fault:
        raise DataError(f"cannot read {path.name}: {fault.strerror}") from None
    encoding = next((name for mark, name in MARKS if raw.startswith(mark)), None) or _unmarked(raw)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as fault:
        line = raw[: fault.start].count(b"\n") + 1
        raise DataError(f"{path.name}:{line}: not UTF-8; save the file as UTF-8") from None


def _unmarked(raw: bytes) -> str:
    """UTF-16 without its mark shows by the zero bytes of its first letters."""
    head = raw[:4096]
    zeros = head[0::2].count(0), head[1::2].count(0)
    if 8 * sum(zeros) < len(head):
        return "utf-8"
    return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
