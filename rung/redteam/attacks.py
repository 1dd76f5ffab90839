"""Attack sets: prompts and their categories, from files and packages, read at run time."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.data import sources
from rung.errors import DataError, one_line

PACKAGE = "package:"  # of an installed one
WHEEL = "wheel:"  # of one that pip fetches
# Columns that hold a prompt, a category and a helpful reply; the first that is there is read.
PROMPTS = ("prompt", "objective", "goal", "behavior", "behaviour", "Behavior", "Goal", "question",
           "text", "instruction", "input", "value")  # fmt: skip
CATEGORIES = ("category", "harm_category", "SemanticCategory", "categories", "intents", "probe",
              "risk_area", "topic", "label")  # fmt: skip
REPLIES = ("completion", "reply", "response", "answer", "assistant_response", "output", "chosen")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One prompt to attack with.

    Attributes:
        turns: what the user says, in order; more than one only where the set itself has several.
        reply: a helpful answer, where the row gives one.
    """

    turns: tuple[str, ...]
    category: str
    origin: str
    reply: str | None = None

    @property
    def goal(self) -> str:
        """What is asked for in the end."""
        return self.turns[-1]


def read(places: Iterable[str], limit: int | None = None) -> list[Attack]:
    """Read attack sets, each prompt once.

    Raises:
        DataError: for a source that cannot be read, or rows without a prompt, all named at once.
    """
    found: dict[tuple[str, ...], Attack] = {}
    for place in places:
        for name, row in rows(place):
            attack = _attack(name, row, _stem(place))
            found.setdefault(attack.turns, attack)
    if not found:
        raise DataError("no attacks: name a set with --attacks SOURCE")
    return _spread(list(found.values()), limit)


def rows(place: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Read the rows of a source, with the place of each. Raises DataError."""
    if place.startswith(PACKAGE):
        read_rows = sources.read_file(local(place), place)
    else:
        read_rows = sources.read(place)
    found = list(read_rows.rows)
    if read_rows.faults:
        raise DataError(one_line(read_rows.faults))
    return found


def column(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The value of the first of these columns that is there and not empty; None for none."""
    return next((row[n] for n in names if row.get(n) not in (None, "", [])), None)


def _attack(origin: str, row: Mapping[str, Any], stem: str) -> Attack:
    turns = _turns(column(row, PROMPTS))
    if not turns:
        raise DataError(f"{origin} has no prompt: name the column {', '.join(PROMPTS[:4])} or text")
    category = column(row, CATEGORIES)
    if isinstance(category, list):
        category = category[0]
    reply = column(row, REPLIES)
    return Attack(
        turns=turns, category=str(category or stem), origin=origin,
        reply=reply if isinstance(reply, str) else None,
    )  # fmt: skip


def _turns(value: Any) -> tuple[str, ...]:
    """The user's turns of a text, of a list of messages, or of a conversation in garak's hit log."""
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, Mapping):
        value = value.get("turns")
    if not isinstance(value, list):
        return ()
    said = []
    for turn in value:
        content = turn.get("content") if isinstance(turn, Mapping) else None
        text = content.get("text") if isinstance(content, Mapping) else content
        if isinstance(text, str) and turn.get("role", "user") == "user" and text.strip():
            said.append(text.strip())
    return tuple(said)


def _spread(attacks: list[Attack], limit: int | None) -> list[Attack]:
    """At most so many, every category in its turn, so that a limit leaves none out."""
    if limit is None or len(attacks) <= limit:
        return attacks
    groups: dict[str, list[Attack]] = {}
    for one in attacks:
        groups.setdefault(one.category, []).append(one)
    longest = max(map(len, groups.values()))
    turned = [group[i] for i in range(longest) for group in groups.values() if i < len(group)]
    return turned[:limit]


def local(place: str) -> Path:
    """The file of a path, `package:NAME/MEMBER` or `wheel:PACKAGE/MEMBER`. Raises DataError."""
    if place.startswith(WHEEL):
        from rung.bases import wheel

        package, _, member = place.removeprefix(WHEEL).partition("/")
        return wheel.member(package, member)
    if not place.startswith(PACKAGE):
        return Path(place).expanduser()
    name, slash, member = place.removeprefix(PACKAGE).partition("/")
    if not slash or ".." in Path(member).parts:
        raise DataError(f"'{place}' must read package:NAME/MEMBER")
    try:
        return Path(str(importlib.metadata.distribution(name).locate_file(member)))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise DataError(
            f"package '{name}' is not installed here: pip install it, or write wheel:{name}/{member}"
        ) from None


def _stem(place: str) -> str:
    return Path(place.rpartition("/")[2]).stem or place
