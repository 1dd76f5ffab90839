"""Editing of written rows: the texts of a row by their names, and rows with other texts.

A row that somebody has changed says so in its provenance; it keeps its teacher, seed and licence, since
what was written from a teacher's words stays under the teacher's terms.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rung.data.encoding import clean
from rung.data.provenance import COLUMN
from rung.errors import DataError

EDITED = "edited"  # in a row's provenance
BY_HAND = "by hand"
TURNS = "messages"


def read(text: str) -> list[dict[str, Any]]:
    """Read rows from JSON lines.

    Raises:
        DataError: naming the line that is no row, and where there is none.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(f"line {number} is no JSON object: only JSON lines are edited here")
        rows.append(row)
    if not rows:
        raise DataError("the file holds no rows")
    return rows


def write(rows: list[dict[str, Any]]) -> str:
    """Write rows as JSON lines; those with half of a surrogate pair, which no file takes, in ASCII."""
    return "".join(_line(row) + "\n" for row in rows)


def _line(row: Mapping[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    return line if clean(line) == line else json.dumps(row)


def texts_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a row that can be edited: of its messages by role, else its columns of text.

    Of several messages of a role, those after the first are numbered: `user`, `user 2`.
    """
    turns = row.get(TURNS)
    if isinstance(turns, list):
        return {n: t["content"] for n, t in zip(_names(turns), turns, strict=True) if n is not None}
    return {name: value for name, value in row.items() if isinstance(value, str) and name != COLUMN}


def edited(row: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """The row with these texts, and a word on it in its provenance; as it was where none differs.

    Args:
        texts: by the names that `texts_of` gives; those left out stay.

    Raises:
        DataError: for a text that is empty.
    """
    before, made = texts_of(row), dict(row)
    changed = {name: text for name, text in texts.items() if before.get(name, text) != text}
    if not changed:
        return made
    for name, text in changed.items():
        if not text.strip():
            raise DataError(f"'{name}' is empty: remove the row, or write something")
    turns = row.get(TURNS)
    if isinstance(turns, list):
        made[TURNS] = [
            {**turn, "content": changed[name]} if name in changed else turn
            for name, turn in zip(_names(turns), turns, strict=True)
        ]
    else:
        made |= changed
    about = row.get(COLUMN)
    told = dict(about) if isinstance(about, Mapping) else {} if about is None else {"source": about}
    return {**made, COLUMN: {**told, EDITED: BY_HAND}}


def _names(turns: Sequence[Any]) -> list[str | None]:
    """What each message is called; None for one without a text."""
    counts: Counter[str] = Counter()
    names: list[str | None] = []
    for turn in turns:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            names.append(None)
            continue
        role = str(turn.get("role", "message"))
        name = role
        while name in names:  # a role may itself be called "user 2"
            counts[role] += 1
            name = f"{role} {counts[role] + 1}"
        names.append(name)
    return names
