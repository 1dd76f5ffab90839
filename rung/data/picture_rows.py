"""Rows with a picture: which column holds it, which the label or the caption, and how it is read.

A cell is a path (beside the table, unless it is absolute), the bytes of a file, or a mapping with
`bytes` and `path` as the Hub's data sets have it. Each one is checked once, and becomes a reference.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rung.data.format_strings import Format, Missing
from rung.data.knobs import DataKnobs
from rung.data.one_hot import OneHot, bit_columns, is_one_hot
from rung.errors import DataError
from rung.pictures import reading
from rung.types import Example, Message, Picture

PLACE = "picture"  # the column of a source that gives pictures itself
COLUMNS = (
    PLACE, "image", "img", "photo", "image_path", "picture_path", "file_name", "filename", "file",
    "path",
)  # fmt: skip
LABELS = ("label", "labels", "class", "category", "target")
CAPTIONS = ("caption", "description", "text", "title", "name")
SAMPLED = 20  # rows that tell which column holds pictures
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PictureRows:
    """How rows with a picture become examples.

    Attributes:
        column: that holds the picture. user: the text beside it; None for none.
        reply: what answers it. labelled: whether that is a label.
        folder: which paths are relative to. notes: on how pictures were read, filled by `read`.
    """

    column: str
    user: Format | None
    reply: Format | OneHot
    labelled: bool
    folder: Path
    notes: list[str] = field(default_factory=list)

    @property
    def how(self) -> str:
        """Where each part comes from, in words."""
        what = "label" if self.labelled else "caption"
        return f"pictures from {self.column}, {what} from {self.reply.text}"

    def read(self, row: Row, origin: str) -> list[Example]:
        """One example. Raises Missing for a picture that cannot be read, saying why."""
        reply = self.reply.fill(row)
        asked: Message = {
            "role": "user", "content": self.user.fill(row) if self.user else "",
            "pictures": (self._picture(row.get(self.column), origin),),
        }  # fmt: skip
        answer: Message = {"role": "assistant", "content": reply}
        return [Example((asked, answer), label=reply if self.labelled else None, origin=origin)]

    def _picture(self, cell: Any, origin: str) -> Picture:
        place = self._place(cell)
        name = place if isinstance(place, str) else origin
        try:
            found, notes = reading.picture(place, name)
        except DataError as fault:
            raise Missing(str(fault).removeprefix(f"{name}: ")) from None
        self.notes.extend(f"{origin}: {note.removeprefix(f'{name}: ')}" for note in notes)
        return found

    def _place(self, cell: Any) -> str | bytes:
        """Where the picture of a cell is. Raises Missing for a cell that holds none."""
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes | bytearray):
            return bytes(cell)
        if not isinstance(cell, str) or not cell.strip():
            raise Missing(f"no picture in '{self.column}'")
        if cell.lower().startswith(("http://", "https://", "data:")):
            raise Missing(
                f"'{self.column}' holds an address, and nothing is fetched: give a file's path"
            )
        return str(self.folder / Path(cell.strip()).expanduser())


def detect(rows: Sequence[Row], knobs: DataKnobs) -> PictureRows | None:
    """How rows with a picture are read; None where there is no column of pictures.

    Raises:
        DataError: when a column holds pictures and none says what they show.
    """
    sample = rows[:SAMPLED]
    if not sample or knobs.text is not None:
        return None
    column = next((c for c in COLUMNS if _most(sample, c, _is_picture)), None)
    if column is None:
        return None
    label, caption = (_named(sample, names) for names in (LABELS, CAPTIONS))
    named = knobs.label is not None or bool(knobs.label_columns)
    labelled = knobs.assistant is None and (named or label is not None)
    told = knobs.assistant or knobs.label or next((f"{{{c}}}" for c in (label, caption) if c), None)
    if told is None and not knobs.label_columns:
        raise DataError(_untold(rows, column))
    reply: Format | OneHot = (
        OneHot(knobs.label_columns)
        if knobs.label_columns and knobs.assistant is None
        else Format.parse(told or "", "--assistant" if knobs.assistant else "--label")
    )
    user = Format.parse(knobs.user, "--user") if knobs.user is not None else None
    source = Path(knobs.data).expanduser()
    folder = source.parent if source.is_file() else Path()
    return PictureRows(column, user, reply, labelled, folder)


def _untold(rows: Sequence[Row], column: str) -> str:
    """What to say of pictures of which no column says what they show."""
    names = [str(c) for c in rows[0]]
    bits = bit_columns(rows, names)
    if bits and is_one_hot(rows, bits):
        flag = f"if {', '.join(bits)} are labels, --label-columns {shlex.quote(','.join(bits))}"
    else:
        flag = "name it with --label or --assistant"
    return (
        f"'{column}' holds pictures, and no column says what they show: {flag}; there are "
        f"{', '.join(names)}"
    )


def _most(rows: Sequence[Row], column: str, holds: Callable[[Any], bool]) -> bool:
    return sum(holds(row.get(column)) for row in rows) > len(rows) / 2


def _is_picture(cell: Any) -> bool:
    if isinstance(cell, Mapping):
        return set(cell) <= {"bytes", "path"} and any(cell.values())
    if isinstance(cell, bytes | bytearray):
        return bytes(cell).startswith(MAGIC)
    return isinstance(cell, str) and PurePosixPath(cell.strip()).suffix.lower() in reading.SUFFIXES


def _named(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    return next((n for n in names if _most(rows, n, lambda cell: cell not in (None, ""))), None)


def unread(found: PictureRows, row: Row) -> set[str]:
    """The columns of a row that are not read."""
    read = {found.column, *(c for form in (found.user, found.reply) if form for c in form.columns)}
    return {str(c) for c in row} - read
