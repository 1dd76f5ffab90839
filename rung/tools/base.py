"""What every source of tools promises: functions with schemas, and calls that end in one text."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SECONDS = 10.0  # of one call
MEGABYTES = 2048  # of a tool's process, address space
CHARACTERS = 4000  # of a result

# Control characters, and blanks that no tokenizer was trained on; lines and tabs stay.
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")


@dataclass(frozen=True)
class Limits:
    """What a tool may take.

    Attributes:
        seconds: of one call. megabytes: of its process. characters: of a result.
    """

    seconds: float = SECONDS
    megabytes: int = MEGABYTES
    characters: int = CHARACTERS


@dataclass(frozen=True)
class Result:
    """What a call gave: a text, or one line that says why there is none."""

    text: str
    failed: bool = False

    @classmethod
    def of(cls, text: str, most: int) -> Result:
        """A result of at most `most` characters, without what is no text."""
        if len(text) > most:
            text = f"{text[:most]} [cut: {len(text)} characters in all]"
        return cls(_NO_TEXT.sub(" ", text))

    @classmethod
    def fault(cls, why: str) -> Result:
        """A call that gave nothing, in one line that the model is told."""
        return cls(f"error: {_NO_TEXT.sub(' ', ' '.join(why.split()))[:300]}", failed=True)


class Source(ABC):
    """Functions from one place. `functions` may be read once `open` has been called."""

    functions: list[dict[str, Any]]

    @abstractmethod
    def open(self) -> None:
        """Start what runs the functions and read their schemas. Raises ConfigError saying why not."""

    @abstractmethod
    def call(self, name: str, arguments: Mapping[str, Any]) -> Result:
        """Call a function; whatever goes wrong is a result that says so."""

    @abstractmethod
    def close(self) -> None:
        """End what runs the functions."""
