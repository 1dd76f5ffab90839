"""What makes two rows the same: their words and pictures, or only what they ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rung.types import Example, plain

# A question that more of the rows ask is no question, but how all of them begin.
GENERIC_SHARE = 0.1
GENERIC_ROWS = 10  # at least, unless no other question is asked


def grouping(examples: Sequence[Example]) -> Callable[[Example], str]:
    """What keeps rows together: their question, or their content where too many ask the same."""
    counts = Counter(e.question_key for e in examples)
    most = max(GENERIC_ROWS, GENERIC_SHARE * len(examples)) if len(counts) > 1 else 1
    generic = {key for key, n in counts.items() if n > most}

    def key(example: Example) -> str:
        asked = example.question_key
        return example.content_key if asked in generic and example.group is None else asked

    return key


def several_answers(examples: Iterable[Example]) -> list[list[Example]]:
    """Rows that ask the same and answer differently, in groups."""
    rows = list(examples)
    key = grouping(rows)
    groups: dict[str, dict[str, Example]] = {}
    for example in rows:
        if example.group is None and len(example.messages) > 1 and not example.rejected:
            said = plain(example.messages[-1]["content"])
            groups.setdefault(key(example), {}).setdefault(said, example)
    return [list(group.values()) for group in groups.values() if len(group) > 1]
