"""Format strings over columns, and conditions on them.

    Format("Who said: {text}").fill(row)
    Format("{input[1][content]}")          # into lists and mappings, by index or key
    Condition.parse("ideal=1").holds(row)

Columns may have any name but one with braces or brackets. There is no attribute access, so a format
string reaches nothing but the row's data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rung.errors import ConfigError, nearest

PATH = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")
MAX_DIGITS = 60  # of a decimal that is written without an exponent
KEY = re.compile(r"\[([^\[\]]+)\]")


class Missing(LookupError):
    """A row lacks what a format string asks for; the message says what and what is there."""


class Nothing(LookupError):
    """A row that can be read and holds nothing to learn; the message says why."""


@dataclass(frozen=True)
class Path:
    """A column, and keys or indexes into its value: `input[1][content]`."""

    text: str
    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Path:
        """Raises ConfigError when it is no path."""
        found = PATH.fullmatch(text.strip())
        if not found:
            raise ConfigError(f"'{text}' is no column; write NAME or NAME[KEY]")
        return cls(text.strip(), (found[1].strip(), *KEY.findall(found[2])))

    def of(self, row: Mapping[str, Any]) -> Any:
        """The value in the row.

        Raises:
            Missing: naming the column or key and the nearest known one.
        """
        value: Any = row
        for i, step in enumerate(self.steps):
            if isinstance(value, Mapping):
                if step not in value:
                    what = "column" if i == 0 else "key"
                    known = [str(k) for k in value]
                    raise Missing(f"no {what} '{step}'{nearest(step, known)}")
                value = value[step]
            elif isinstance(value, (list, tuple)):
                try:
                    value = value[int(step)]
                except (ValueError, IndexError):
                    raise Missing(
                        f"no item [{step}] in '{self.text}', which has {len(value)} items"
                    ) from None
            else:
                raise Missing(f"'{self.text}' asks for [{step}] of a plain value")
        return value


def written(value: Any) -> str:
    """A value as text: strings as they are, numbers, truth and moments plainly, lists and maps as JSON.

    Raises:
        Missing: for bytes that are no UTF-8.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        # Parquet and CSV readers turn a column of whole numbers with gaps into floats.
        return str(int(value))
    if isinstance(value, (bool, int, float, Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return _plain(value)


def _plain(value: Any) -> str:
    """Dates, decimals and spans as they are written; bytes as the text that they are."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise Missing("a column of bytes that are no text") from None
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < MAX_DIGITS:
        return f"{value:f}"
    return str(value)


@dataclass(frozen=True)
class Format:
    """A format string: literal text and `{paths}`; `{{` and `}}` are braces."""

    text: str
    pieces: tuple[str | Path, ...]

    @classmethod
    def parse(cls, text: str, flag: str = "a format string") -> Format:
        """Raises ConfigError naming the flag when braces do not match or a path is malformed."""
        pieces: list[str | Path] = []
        at, literal = 0, ""
        while at < len(text):
            char = text[at]
            if text[at : at + 2] in ("{{", "}}"):
                literal, at = literal + char, at + 2
            elif char == "{":
                end = text.find("}", at)
                if end < 0:
                    raise ConfigError(f"{flag} '{text}' has an open brace; write {{{{ for a brace")
                if literal:
                    pieces.append(literal)
                pieces.append(Path.parse(text[at + 1 : end]))
                literal, at = "", end + 1
            elif char == "}":
                raise ConfigError(f"{flag} '{text}' has a lone }}; write }}}} for a brace")
            else:
                literal, at = literal + char, at + 1
        if literal:
            pieces.append(literal)
        return cls(text, tuple(pieces))

    def fill(self, row: Mapping[str, Any]) -> str:
        """Raises Missing when the row lacks a column."""
        return "".join(p if isinstance(p, str) else written(p.of(row)) for p in self.pieces)

    @property
    def columns(self) -> list[str]:
        return [p.steps[0] for p in self.pieces if isinstance(p, Path)]


@dataclass(frozen=True)
class Condition:
    """`COLUMN=VALUE` or `COLUMN!=VALUE`, compared as text."""

    path: Path
    value: str
    equal: bool

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Raises ConfigError when there is no `=`."""
        left, sign, value = text.partition("=")
        if not sign or not left.strip("! "):
            raise ConfigError(f"--where '{text}' must read COLUMN=VALUE or COLUMN!=VALUE")
        equal = not left.endswith("!")
        return cls(Path.parse(left if equal else left[:-1]), value.strip(), equal)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Raises Missing when the row lacks the column."""
        return (written(self.path.of(row)).strip() == self.value) is self.equal
