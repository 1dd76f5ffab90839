"""Rows whose pictures look alike although their files differ, as in another size, format or quality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from rung.data.problem import Problem, counted, places
from rung.types import Example, Picture, plain


def groups(examples: Sequence[Example]) -> list[list[Example]]:
    """Rows that ask the same words of one picture each, whose pictures look alike; by other files.

    Rows that the user has put into groups are of none.
    """
    asked: dict[str, list[tuple[Example, Picture]]] = defaultdict(list)
    for example in examples:
        found = _asked(example)
        if found is not None:
            asked[found[0]].append((example, found[1]))
    if not asked:
        return []
    from rung.pictures import perceptual_hash

    alike = []
    for rows in asked.values():
        found_here = perceptual_hash.groups([picture.perceptual_hash for _, picture in rows])
        alike += [
            [rows[i][0] for i in group]
            for group in found_here
            if len({str(rows[i][1]) for i in group}) > 1
        ]
    return alike


def together(examples: Sequence[Example], key: Callable[[Example], str]) -> Callable[[Example], str]:
    """A key that is one for rows that look alike, the first of theirs, and `key` elsewhere."""
    first: dict[int, str] = {}
    for group in groups(examples):
        least = min(map(key, group))
        first |= {id(example): least for example in group}

    def placed(example: Example) -> str:
        return first.get(id(example)) or key(example)

    return placed


def problems(examples: Sequence[Example]) -> list[Problem]:
    """What there is to say of a data set's own: how many, which, and whether their labels agree."""
    found = groups(examples)
    if not found:
        return []
    told = [origin for group in found for origin in _origins(group)[1:]]
    torn = sum(len({e.label for e in group}) > 1 for group in found)
    first = " ~ ".join(_origins(found[0])[:4])
    message = (
        f"{counted(told, 'picture looks', 'pictures look')} like another one ({first}); "
        "all stay, and fall into the same split"
    )
    message += f"; {torn} of {len(found)} groups carry different labels" if torn else ""
    return [Problem("warning", message, tuple(told))]


def across(train: Sequence[Example], name: str, held: Sequence[Example]) -> list[Problem]:
    """Pictures of a held-out set that look like pictures of training."""
    inside = {e.origin for e in train}
    pairs = []
    for group in groups([*train, *held]):
        first = next((e.origin for e in group if e.origin in inside), None)
        pairs += [(e.origin, first) for e in group if first and e.origin not in inside]
    if not pairs:
        return []
    shown = places([f"{a} ~ {b}" for a, b in pairs])
    told = f"{len(pairs)} of {len(held)} {name} pictures look like pictures of training ({shown})"
    return [Problem("warning", told, tuple(a for a, _ in pairs))]


def _asked(example: Example) -> tuple[str, Picture] | None:
    """The words that a row asks, and its only picture; None for rows of another kind."""
    if example.group is not None or len(example.messages) < 2:
        return None
    turns = example.messages[:-1]
    pictures = [p for m in turns for p in m.get("pictures", ())]
    if len(pictures) != 1 or not pictures[0].perceptual_hash:
        return None
    return "\0".join(plain(m["content"]) for m in turns), pictures[0]


def _origins(group: Iterable[Example]) -> list[str]:
    return list(dict.fromkeys(e.origin for e in group))
