"""Read a label off what a model wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence


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


def plain(text: str) -> str:
    """A text without case, marks around it, and blanks that come twice."""
    return " ".join(text.casefold().split()).strip(" .!:\"'`*")
