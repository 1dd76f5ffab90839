"""One-hot labels: columns of 0 and 1, of which exactly one is 1 in each row; its name is the label.

Rows with several 1 have several labels, and rows without one have none: Rung learns one class of each
row, so both are refused with what can be learnt of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rung.data.format_strings import Format, Missing, written
from rung.data.problem import counted
from rung.errors import nearest

BITS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
PLAIN_NAME = re.compile(r"[^,{}\[\]]+")  # of a column that a flag can name
MAX_LIST_CHARACTERS = 10_000  # of a label that is looked at as a list

Row = Mapping[str, Any]


@dataclass(frozen=True)
class OneHot:
    """The label of a row as the one of these columns that holds 1; filled as a format string is."""

    columns: list[str]

    @property
    def text(self) -> str:
        return "/".join(self.columns)

    def fill(self, row: Row) -> str:
        """Raises Missing where a column is not there or holds something else, or not exactly one 1."""
        ones = []
        for name in self.columns:
            if name not in row:
                raise Missing(f"no column '{name}'{nearest(name, [str(c) for c in row])}")
            found = bit(row[name])
            if found is None:
                raise Missing(f"'{name}' holds neither 0 nor 1, and --label-columns names it")
            ones += [name] * found
        if len(ones) != 1:
            shown = f"{'several' if ones else 'none'} of the columns {', '.join(self.columns)} hold 1"
            raise Missing(
                f"{shown}, and Rung learns one class of each row: leave such rows out of the file, or "
                f"learn a single column with --label '{{{self.columns[0]}}}'"
            )
        return ones[0]


def bit(value: Any) -> int | None:
    """0 or 1 as files write them; None for anything else."""
    if isinstance(value, (str, bool, int, float)):
        return BITS.get(written(value).strip().casefold())
    return None


def bit_columns(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """The columns that hold 0 or 1 in every row, where there are two at least that a flag can name."""
    found = [c for c in columns if all(bit(row.get(c)) is not None for row in rows)]
    return found if len(found) > 1 and all(PLAIN_NAME.fullmatch(c) for c in found) else []


def is_one_hot(rows: Sequence[Row], columns: Sequence[str]) -> bool:
    """Whether exactly one of the columns is 1 in each row, and not the same one in all."""
    ones = [[c for c in columns if bit(row.get(c))] for row in rows]
    return all(len(one) == 1 for one in ones) and len({one[0] for one in ones}) > 1


def told(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """In words, how many rows have not exactly one 1 in these columns; empty where none has."""
    counts = [sum(bool(bit(row.get(c))) for c in columns) for row in rows]
    several = [i for i, n in enumerate(counts, 1) if n > 1]
    none = counts.count(0)
    parts = (
        [f"{counted(several, 'row has', 'rows have')} several 1 (the first is row {several[0]})"]
        if several
        else []
    )
    parts += [f"{counted(none, 'row has', 'rows have')} none"] if none else []
    shown = f"The columns {', '.join(columns)} hold 0 and 1: {', '.join(parts)}"
    return f"{shown}, and Rung learns one class of each row" if parts else ""


def one_class(form: Format | OneHot, row: Row) -> None:
    """Raises Missing for a label that is a list: Rung learns one class of each row."""
    if isinstance(form, Format) and len(form.pieces) == 1 and not isinstance(form.pieces[0], str):
        value = form.pieces[0].of(row)
        if isinstance(value, str) and value.strip()[:1] == "[":  # as a cell of CSV holds it
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                value = ast.literal_eval(value.strip()[:MAX_LIST_CHARACTERS])
        if isinstance(value, (list, tuple, Mapping)):
            ones = [v for v in value if v in (0, 1)] if isinstance(value, (list, tuple)) else []
            what = "an object" if isinstance(value, Mapping) else "a list"
            if ones and len(ones) == len(value) and sum(ones) == 1:
                what = "one-hot"
            name = form.pieces[0].text
            raise Missing(
                f"the label '{name}' is {what}, and Rung learns one class of each row: write its name "
                f"into '{name}', or learn the list as text with --user and --assistant '{{{name}}}'"
            )
