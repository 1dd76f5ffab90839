"""The contract of a source of data: from what the user wrote to rows, each with the place it stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

Row = Mapping[str, Any]
Named = tuple[str, Row]  # where the row stands, such as `quotes.json:12`, and the row


@dataclass
class Rows:
    """Rows to iterate once.

    Faults met on the way are in `faults`, so that all are reported; what is worth knowing of how they
    were read, or is left out, is in `notes`.
    """

    name: str
    rows: Iterator[Named]
    licence: str = "unknown"
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Source(ABC):
    """One place that data comes from, named as `scheme:...`. Instances hold no state.

    Attributes:
        scheme: begins what the user writes, such as `hf`. also: others that mean the same.
        form: the whole of it, for messages, such as `hf:NAME[:SPLIT]`.
    """

    scheme: ClassVar[str]
    also: ClassVar[tuple[str, ...]] = ()
    form: ClassVar[str]

    def __init__(self, name: str):
        self.name = name

    @abstractmethod
    def read(self, source: str, limit: int | None) -> Rows:
        """The rows of a source; nothing is read before they are iterated, where that can be.

        Args:
            source: as the user wrote it, the scheme included.
            limit: how many rows will be wanted at most, for sources that can stream.

        Raises:
            DataError: when it is not of this form, or cannot be found.
        """


class FileKind(ABC):
    """One kind of file. Instances hold no state.

    Attributes:
        suffixes: how the names of such files end, in lower case.
        folders: whether it also reads folders, which are no files of one kind; those that no other
            kind claims.
        packed: whether a file holds another one, compressed.
    """

    suffixes: ClassVar[tuple[str, ...]]
    folders: ClassVar[bool] = False
    packed: ClassVar[bool] = False

    def __init__(self, name: str):
        self.name = name

    def claims(self, folder: Path) -> bool:
        """Whether a folder is laid out in this kind's own way, which no other would read."""
        return False

    def licence(self, path: Path) -> str:
        """What the file says of its licence."""
        return "unknown"

    @abstractmethod
    def rows(self, path: Path, faults: list[str], notes: list[str]) -> Iterator[Named]:
        """Yield every row.

        Args:
            faults: takes what is wrong, each with its place; the rest of the file is read on.
            notes: takes what is worth knowing of how the file was read.
        """
