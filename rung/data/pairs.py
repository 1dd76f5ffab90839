"""Pairs of a better and a worse reply, for objectives that learn from preferences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rung.data.problem import Problem, places
from rung.errors import DataError
from rung.types import Example, Message, Pair


def pairs(examples: Sequence[Example], least_gap: float = 0.0) -> tuple[list[Pair], list[Problem]]:
    """Pairs of the examples, in their order, and what could not be one.

    Rated replies to the same prompt make pairs: each better one with each worse one.

    Args:
        least_gap: two ratings must differ by more than this.

    Raises:
        DataError: when there is no pair at all.
    """
    found: list[Pair] = []
    same: list[str] = []
    rated: dict[str, list[Example]] = {}
    for example in examples:
        if example.rejected:
            pair = _pair(example, example.rejected, example.margin)
            found.append(pair) if pair else same.append(example.origin)
        elif example.rating is not None and example.messages:
            rated.setdefault(repr(example.messages[:-1]), []).append(example)
    alone = []
    for group in rated.values():
        ordered = sorted(group, key=lambda e: -(e.rating or 0.0))
        made = [
            _pair(a, b.messages, gap)
            for a, b in combinations(ordered, 2)
            if (gap := (a.rating or 0.0) - (b.rating or 0.0)) > least_gap
        ]
        found += [pair for pair in made if pair]
        if not made:
            alone += [e.origin for e in group]
    problems = []
    if same:
        told = f"{len(same)} rows have two equal replies ({places(same)}): they are left out"
        problems.append(Problem("warning", told, tuple(same)))
    if alone:
        told = (
            f"{len(alone)} rated replies have no better or worse one to the same prompt "
            f"({places(alone)}): they make no pair"
        )
        problems.append(Problem("warning", told, tuple(alone)))
    if not found:
        raise DataError(
            "the data holds no pair of a better and a worse reply: give rows with prompt, chosen and "
            "rejected, or several rated replies to each prompt"
        )
    return found, problems


def _pair(example: Example, worse: tuple[Message, ...], margin: float | None) -> Pair | None:
    """The two conversations cut where they part; None where they do not."""
    better = example.messages
    if [_key(m) for m in better] == [_key(m) for m in worse]:
        return None
    shared = 0
    for a, b in zip(better[:-1], worse[:-1], strict=False):
        if _key(a) != _key(b):
            break
        shared += 1
    return Pair(
        prompt=better[:shared], chosen=better[shared:], rejected=worse[shared:],
        margin=margin, origin=example.origin,
    )  # fmt: skip


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
    prompt = tuple({**m, "weight": 0} if m["role"] == "assistant" else m for m in pair.prompt)
    chosen, rejected = (
        Example(messages=(*prompt, *side), origin=pair.origin) for side in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def _key(message: Message) -> tuple[str, str, str]:
    return message["role"], message["content"], message.get("reasoning_content", "")
