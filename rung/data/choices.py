"""The answers that a row offers: read from its column, and held against its reply.

offer(example, '["a lake", "a hill"]')      # a list, as columns hold it
offer(example, "A. a lake\\nB. a hill")      # or lines
"""

from __future__ import annotations

import json
from dataclasses import replace
from string import ascii_uppercase

from rung.data.format_strings import Missing, written
from rung.types import Example

LEAST = 2


def offer(example: Example, text: str) -> Example:
    """The example with its choices; its reply is one of them.

    Data sets often hold a letter (A is the first) or a number (0 is the first) in place of the right
    choice; the reply then becomes the choice's text.

    Raises:
        Missing: when there are fewer than two choices, two that are equal, or the reply is none.
    """
    found = tuple(c for part in _parts(text) if (c := part.strip()))
    if len(found) < LEAST:
        raise Missing(f"--choices gives {len(found)} answers to choose from, and needs {LEAST}")
    if len(set(found)) < len(found):
        raise Missing("--choices gives the same answer twice")
    said = example.messages[-1]["content"] if example.messages else example.label or ""
    right = _chosen(said.strip(), found)
    label = right if example.label is not None else None
    if not example.messages:
        return replace(example, label=label, choices=found)
    turns = (*example.messages[:-1], {**example.messages[-1], "content": right})
    return replace(example, messages=turns, label=label, choices=found)  # type: ignore[arg-type]


def _parts(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return [written(v) for v in value] if isinstance(value, list) else text.splitlines()


def _chosen(said: str, choices: tuple[str, ...]) -> str:
    if said in choices:
        return said
    letters = ascii_uppercase[: len(choices)]
    if len(said) == 1 and said.upper() in letters:
        return choices[letters.index(said.upper())]
    if said.isdecimal() and int(said) < len(choices):
        return choices[int(said)]
    raise Missing(f"the reply '{said[:40]}' is none of its choices")
