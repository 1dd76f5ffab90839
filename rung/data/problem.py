"""A problem with data or template, found before training."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """What is wrong and how to mend it, in one line. Training refuses to start on an error.

    `rows` holds the origins of the rows it is about, all of them.
    """

    severity: Literal["error", "warning"]
    message: str
    rows: tuple[str, ...] = ()


def places(rows: Sequence[str], most: int = 5) -> str:
    """The first few rows by name, and how many more there are."""
    shown = ", ".join(row or "unnamed row" for row in rows[:most])
    rest = len(rows) - most
    return f"{shown} and {rest} more" if rest > 0 else shown


def counted(what: int | Sized, one: str, more: str | None = None) -> str:
    """How many there are, and the words that follow: `more`, or `one` with an s, unless it is one."""
    count = what if isinstance(what, int) else len(what)
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"
