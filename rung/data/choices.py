"""The answers that rows offer: read from their column, and held against their replies.

    offered('["a lake", "a hill"]')      # a list, as columns hold it
    offered("A. a lake\\nB. a hill")      # or lines
    settle(examples, "letters")          # replies named by letters become the texts of their choices

A reply may be a choice's text, its letter or its place. Which of them is decided by all rows together,
never row by row: the text of one choice may look like the place of another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_uppercase

from rung.data.format_strings import Missing, written
from rung.data.problem import Problem
from rung.errors import DataError
from rung.types import Example

MIN_CHOICES = 2
FEW_ROWS = 8  # rows, too few to tell places that begin at 0 from those that begin at 1

Read = Callable[[str, Sequence[str]], str | None]


def offered(text: str) -> tuple[str, ...]:
    """The choices of a row.

    Raises:
        Missing: when there are fewer than two, or two that are equal.
    """
    found = tuple(c for part in _parts(text) if (c := part.strip()))
    if len(found) < MIN_CHOICES:
        raise Missing(f"--choices gives {len(found)} answers to choose from, and needs {MIN_CHOICES}")
    if len(set(found)) < len(found):
        raise Missing("--choices gives the same answer twice")
    return found


def _parts(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    # Only these end a line: a choice may hold U+2028 and its like.
    return [written(v) for v in value] if isinstance(value, list) else re.split(r"\r?\n", text)


def _by_text(said: str, choices: Sequence[str]) -> str | None:
    return said if said in choices else None


def _by_letter(said: str, choices: Sequence[str]) -> str | None:
    found = re.fullmatch(r"\(?([A-Za-z])[).:]?", said)
    at = ascii_uppercase.index(found[1].upper()) if found else len(choices)
    return choices[at] if at < len(choices) else None


def _by_place(first: int) -> Read:
    def read(said: str, choices: Sequence[str]) -> str | None:
        at = int(said) - first if re.fullmatch(r"[0-9]{1,4}", said) else -1
        return choices[at] if 0 <= at < len(choices) else None

    return read


# In the order in which few rows are read where several fit.
READINGS: dict[str, Read] = {
    "text": _by_text,
    "letters": _by_letter,
    "places-from-0": _by_place(0),
    "places-from-1": _by_place(1),
}


def settle(
    examples: Sequence[Example], way: str | None = None
) -> tuple[list[Example], dict[str, list[str]], list[Problem]]:
    """Every reply as the text of one of its choices.

    Args:
        examples: with their choices.
        way: what replies are, a key of READINGS; found from all of them by default.

    Returns:
        The examples, origins by what is wrong with them, and problems.

    Raises:
        DataError: when replies can be read in two ways that differ.
    """
    said = [_said(e).strip() for e in examples]
    read = {
        name: [reading(s, e.choices) for s, e in zip(said, examples, strict=True)]
        for name, reading in READINGS.items()
        if way in (None, name)
    }
    whole = [name for name, found in read.items() if None not in found]
    problems = []
    if not whole:
        best = max(read, key=lambda name: sum(r is not None for r in read[name]))
    else:
        best = whole[0]
        others = [name for name in whole[1:] if read[name] != read[best]]
        if others and len(examples) >= FEW_ROWS:
            raise DataError(_ambiguous(best, others, said, examples))
        if others:
            told = f"replies are read as {best}, and could be {' or '.join(others)}: say --answers-are"
            problems.append(Problem("warning", told))
    kept: list[Example] = []
    faults: dict[str, list[str]] = {}
    for example, right, text in zip(examples, read[best], said, strict=True):
        if right is None:
            words = f"the reply '{text[:40]}' is none of its choices"
            faults.setdefault(words, []).append(example.origin)
        else:
            kept.append(_with(example, right))
    return kept, faults, problems


def _ambiguous(best: str, others: Sequence[str], said: Sequence[str], rows: Sequence[Example]) -> str:
    ways = [best, *others]
    at = next(i for i, e in enumerate(rows) if len({READINGS[w](said[i], e.choices) for w in ways}) > 1)
    meant = ", ".join(f"'{READINGS[w](said[at], rows[at].choices)}' by {w}" for w in ways)
    return (
        f"the replies fit their choices in several ways: '{said[at]}' of {rows[at].origin} means "
        f"{meant}; say which: --answers-are {' or '.join(ways)}"
    )


def _said(example: Example) -> str:
    return example.messages[-1]["content"] if example.messages else example.label or ""


def _with(example: Example, right: str) -> Example:
    label = right if example.label is not None else None
    if not example.messages:
        return replace(example, label=label)
    turns = (*example.messages[:-1], {**example.messages[-1], "content": right})
    return replace(example, messages=turns, label=label)  # type: ignore[arg-type]
