"""Parts of messages that tables hold as text: `[{"type": "text", "text": "..."}]` in a cell of CSV.

Whether a text is such parts is decided by the column, for the contents of messages by the column and
the role: only where every cell that holds something is a list of parts. A conversation that quotes
parts, among others that do not, stays as it was written. What requests send is never read so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rung.data.contents import PICTURES, THOUGHTS, content_of
from rung.data.format_strings import Missing
from rung.data.tool_calls import RESULT, USE
from rung.data.turns import content_field, listed, role_of, unquoted

Row = Mapping[str, Any]

TEXTS = ("text", "input_text", "output_text")
TYPES = {*TEXTS, "refusal", USE, RESULT, *PICTURES, *THOUGHTS}  # of parts


def parts_of(text: str) -> list[dict[str, Any]] | None:
    """The parts that a text is, as JSON or as Python writes a list; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    found = unquoted(text)
    if not isinstance(found, list) or not found:
        return None
    return found if all(map(is_part, found)) else None


def is_part(value: Any) -> bool:
    """Whether this is a part of a message's content."""
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        return False
    kind = value["type"]
    return isinstance(value.get("text"), str) if kind in TEXTS else kind in TYPES


def read(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The rows with parts where cells, or contents of messages, hold them as text, and notes on it.

    Parts that are text alone become that text, which every format reads; others become lists of parts.
    """
    found: list[dict[str, Any]] = [dict(row) for row in rows]
    notes = []
    for column in {name: None for row in rows for name in row}:
        if _all_parts(row.get(column) for row in rows):
            for row in found:
                if column in row:
                    row[column] = _decoded(row[column])
            notes.append(f"'{column}' holds parts of messages as text: they are read as parts")
            continue
        cells = [listed(row.get(column)) for row in rows]
        roles = _roles_of_parts(cells)
        if not roles:
            continue
        for row, cell in zip(found, cells, strict=True):
            if _is_talk(cell):
                row[column] = [_with_parts(message, roles) for message in cell]
        said = ", ".join(sorted(roles))
        notes.append(
            f"'{column}' holds the contents of {said} messages as text of parts: they are read as parts"
        )
    return (list(found), notes) if notes else (list(rows), [])


def _all_parts(cells: Iterator[Any]) -> bool:
    """Whether all cells that hold something are parts as text, and there is one."""
    some = False
    for cell in cells:
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            continue
        if not isinstance(cell, str) or parts_of(cell) is None:
            return False
        some = True
    return some


def _decoded(cell: Any) -> Any:
    parts = parts_of(cell) if isinstance(cell, str) else None
    if parts is None:
        return cell
    if all(part["type"] in TEXTS for part in parts):
        with suppress(Missing):
            return content_of(parts)
    return parts


def _is_talk(cell: Any) -> bool:
    return isinstance(cell, (list, tuple)) and bool(cell) and all(
        isinstance(m, Mapping) and ("role" in m or "from" in m) for m in cell
    )  # fmt: skip


def _roles_of_parts(cells: Sequence[Any]) -> set[str]:
    """The roles of which every message's content is parts as text."""
    parted: set[str] = set()
    other: set[str] = set()
    for message in (m for cell in cells if _is_talk(cell) for m in cell):
        role, content = role_of(message), message.get(content_field(message))
        if role in other or content is None or content == "":
            continue
        holds = isinstance(content, str) and parts_of(content) is not None
        (parted if holds else other).add(role)
    return parted - other


def _with_parts(message: Mapping[str, Any], roles: set[str]) -> dict[str, Any]:
    key = content_field(message)
    if key not in message or role_of(message) not in roles:
        return dict(message)
    return {**message, key: _decoded(message[key])}
