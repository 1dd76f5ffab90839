"""The levels at which a rung is tried: from a sample of its rows, or of its training's steps, to all.

Each has four times the rows of the one below (Jamieson and Talwalkar 2016), and where answers are slow
fewer validation rows to measure by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FACTOR = 4  # rows of a level over those of the level below
MIN_ROWS, MIN_STEPS, MIN_HELD = 64, 6, 24  # of the lowest level
FRESH_STEPS = 100  # the same for weights that begin at random: they have learnt nothing before


@dataclass(frozen=True)
class Level:
    """A share of the training rows or steps, and how many validation rows measure what comes of it."""

    share: float
    held: int


def levels(
    rows: int, held: int, steps: int | None, answer_seconds: float, left: float, fresh: bool = False
) -> tuple[Level, ...]:
    """The levels of an arm.

    Args:
        rows: that it learns from; 0 where it learns from none. steps: of its training, if it has one.
        answer_seconds: of a validation row. left: seconds of the whole climb.
        fresh: whether its weights begin at random.
    """
    shares, least = [1.0], FRESH_STEPS if fresh else MIN_STEPS
    while _large_enough(shares[0] / FACTOR, rows, steps, least):
        shares.insert(0, shares[0] / FACTOR)
    if rows == 0:
        shares = [1.0]
    slow = held * answer_seconds > left / 40
    if not slow:
        return tuple(Level(share, held) for share in shares)
    counts = [max(min(held, MIN_HELD), round(held / FACTOR**k)) for k in (2, 1, 0)]
    if len(shares) == 1:
        return tuple(dict.fromkeys(Level(1.0, n) for n in counts))
    shares = shares[-3:]
    return tuple(Level(s, n) for s, n in zip(shares, counts[-len(shares) :], strict=True))


def _large_enough(share: float, rows: int, steps: int | None, least: int) -> bool:
    if steps is not None:
        return share * steps >= least
    return share * rows >= MIN_ROWS


def shares(wanted: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Time by key: what each wants where that is little, and even parts of the rest for the others.

    Where there is more than all want together, what is over is shared evenly.

    Args:
        wanted: seconds that each would like to have.
    """
    found: dict[str, float] = {}
    left = max(0.0, seconds)
    ranked = sorted(wanted, key=lambda key: (wanted[key], key))
    for place, key in enumerate(ranked):
        found[key] = min(wanted[key], left / (len(ranked) - place))
        left -= found[key]
    return {key: value + left / max(len(ranked), 1) for key, value in found.items()}
