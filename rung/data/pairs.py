"""Pairs of a better and a worse reply, for objectives that learn from preferences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from rung.data.problem import Problem, counted, places
from rung.errors import DataError
from rung.types import Example, Message, Pair

if TYPE_CHECKING:
    from rung.data.template import Template


def paired(examples: Sequence[Example], least_gap: float = 0.0) -> tuple[list[Example], list[Problem]]:
    """Examples of a better and a worse reply each, and what made none.

    Rated replies to the same prompt make pairs, each better one with each worse one; their margin is
    the gap of their ratings.

    Args:
        least_gap: what ratings must differ by, or more; pairs whose margin is known to be less go too.
    """
    found: list[Example] = []
    near: list[str] = []
    rated: dict[str, list[Example]] = {}
    for example in examples:
        if example.rejected:
            close = example.margin is not None and example.margin < least_gap
            near.append(example.origin) if close else found.append(example)
        elif example.rating is not None and example.messages:
            rated.setdefault(repr(example.messages[:-1]), []).append(example)
    alone = []
    for group in rated.values():
        ordered = sorted(group, key=lambda e: -(e.rating or 0.0))
        made = [
            Example(a.messages, origin=a.origin, rejected=b.messages, margin=gap, group=a.group)
            for a, b in combinations(ordered, 2)
            if (gap := (a.rating or 0.0) - (b.rating or 0.0)) > 0 and gap >= least_gap
        ]
        found += made
        if not made:
            alone += [e.origin for e in group]
    problems = []
    if near:
        told = (
            f"{counted(near, 'pair has', 'pairs have')} a margin below --least-gap ({places(near)}): "
            "they are left out"
        )
        problems.append(Problem("warning", told, tuple(near)))
    if alone:
        told = (
            f"{len(alone)} rated replies have no better or worse one to the same prompt "
            f"({places(alone)}): they make no pair"
        )
        problems.append(Problem("warning", told, tuple(alone)))
    return found, problems


def unlike(examples: Sequence[Example]) -> tuple[list[Example], list[Problem]]:
    """Examples of a better and a worse reply that differ, rated replies paired, and what made none."""
    whole, problems = paired(examples)
    found = [e for e in whole if not _alike(e.messages, e.rejected)]
    same = tuple(e.origin for e in whole if _alike(e.messages, e.rejected))
    if same:
        told = (
            f"{counted(same, 'row has', 'rows have')} two equal replies ({places(same)}): "
            "they are left out"
        )
        problems.insert(0, Problem("warning", told, same))
    return found, problems


def pairs(examples: Sequence[Example]) -> tuple[list[Pair], list[Problem]]:
    """Pairs of the examples, in their order, and what could not be one.

    Raises:
        DataError: when there is no pair at all.
    """
    whole, problems = unlike(examples)
    if not whole:
        raise DataError(
            "the data holds no pair of a better and a worse reply: give rows with prompt, chosen and "
            "rejected, or several rated replies to each prompt"
        )
    return [_pair(one) for one in whole], problems


def _alike(one: Sequence[Message], other: Sequence[Message]) -> bool:
    return [_key(m) for m in one] == [_key(m) for m in other]


def _pair(example: Example) -> Pair:
    """The two conversations cut where they part."""
    better, worse = example.messages, example.rejected
    shared = 0
    for a, b in zip(better[:-1], worse[:-1], strict=False):
        if _key(a) != _key(b):
            break
        shared += 1
    return Pair(
        prompt=better[:shared], chosen=better[shared:], rejected=worse[shared:],
        margin=example.margin, origin=example.origin,
    )  # fmt: skip


def too_long(found: Sequence[Pair], template: Template, limit: int) -> list[Problem]:
    """Which pairs have a side above `limit` tokens, and which of them by their prompt alone."""
    long: list[str] = []
    prompts: list[str] = []
    for pair in found:
        try:
            sides = [template.render(one).ids for one in conversations(pair)]
            before = len(template.prompt(pair.prompt))
        except DataError:
            continue  # told where rows are rendered
        if max(map(len, sides)) > limit:
            (prompts if before >= limit else long).append(pair.origin)
    problems = []
    for origins, what in ((long, "a reply that does not fit"), (prompts, "a prompt that alone fills")):
        if origins:
            told = (
                f"{counted(origins, 'pair has', 'pairs have')} {what} --max-length {limit} "
                f"({places(origins)})"
            )
            problems.append(Problem("warning", f"{told}: they are left out whole", tuple(origins)))
    return problems


def ratings(examples: Sequence[Example]) -> list[Example]:
    """Rated replies of the examples, in their order; a pair is one wanted (1) and one unwanted (0)."""
    found: list[Example] = []
    for example in examples:
        if example.rejected:
            sides = ((example.messages, 1.0), (example.rejected, 0.0))
            found += [Example(m, origin=example.origin, rating=r) for m, r in sides]
        elif example.rating is not None and example.messages:
            found.append(example)
    return found


def conversations(pair: Pair) -> tuple[Example, Example]:
    """Give the chosen and the rejected conversation; only what follows the prompt is to be learnt."""
    prompt: tuple[Message, ...] = tuple(
        {**m, "weight": 0} if m["role"] == "assistant" else m  # type: ignore[misc]
        for m in pair.prompt
    )
    chosen, rejected = (
        Example(messages=(*prompt, *side), origin=pair.origin) for side in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def _key(message: Message) -> tuple[str, str, str]:
    return message["role"], message["content"], message.get("reasoning_content", "")
