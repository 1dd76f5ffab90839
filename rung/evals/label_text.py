"""Labels as texts: told apart as replies, and read out of what a model or a judge writes."""

from __future__ import annotations

import re
from collections.abc import Sequence


def told_apart(replies: Sequence[tuple[int, ...]], stop: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Strip the end of turn, unless one reply begins another: then only it tells them apart."""
    bare = [_without_end(ids, stop) for ids in replies]
    nested = any(
        a != b and one == other[: len(one)]
        for a, one in enumerate(bare)
        for b, other in enumerate(bare)
    )
    return tuple(replies if nested or not all(bare) else bare)


def _without_end(ids: tuple[int, ...], stop: Sequence[int]) -> tuple[int, ...]:
    return ids[:-1] if ids and ids[-1] in stop else ids


def as_label(text: str, labels: Sequence[str]) -> str:
    """Find the label that a text gives, in its own spelling; the text itself where it gives none."""
    told = plain(text)
    for label in labels:
        if plain(label) == told:
            return label
    named = [label for label in labels if re.search(rf"(?<!\w){re.escape(plain(label))}(?!\w)", told)]
    # "not sarcastic" names "sarcastic" too: the longest that holds the others is meant.
    whole = [a for a in named if all(plain(b) in plain(a) for b in named)]
    return whole[0] if whole else text.strip()


def verdict_of(text: str, words: Sequence[str]) -> str | None:
    """Find the one of a judge's words that a text gives; None where it gives none or several.

    Words that stand on lines of their own are the verdict, whatever the reasons beside them name:
    "Answer 1 is better than answer 2" says of neither word that it is meant.
    """
    either = "|".join(map(re.escape, words))
    alone = re.findall(rf"^[^\w\n]*({either})[^\w\n]*$", text, re.IGNORECASE | re.MULTILINE)
    found = {w.casefold() for w in alone or re.findall(rf"\b({either})\b", text, re.IGNORECASE)}
    return found.pop() if len(found) == 1 else None


def plain(text: str) -> str:
    """A text without case, marks around it, and blanks that come twice."""
    return " ".join(text.casefold().split()).strip(" .!:\"'`*")
