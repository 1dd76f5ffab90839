"""An arm of a climb: a rung with settings, what was seen of it, and what it may still come to.

Everything here follows from costs and figures alone: nothing is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rung.ladder.levels import FACTOR, Level

# Of what is missing to the best possible figure, what a level more may bring: without a training, and
# by one, which shows nothing at first and then rises fast.
GAIN, TRAINED_GAIN = 0.25, 0.35
Params = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Outcome:
    """A figure, its sign turned so that more is better; None where the attempt gave none.

    `late` says that its time was over first, after `took` seconds, so that a smaller sample may still
    give one, or the smallest one in more time. `cut` is a figure of a training that time ended.
    """

    level: Level
    value: float | None = None
    high: float = 0.0
    late: bool = False
    cut: bool = False
    took: float = 0.0


@dataclass
class Arm:
    """A rung with settings.

    Attributes:
        levels: from the lowest to the whole. cost: seconds of an attempt at a level.
        total: what making it whole and serving it is expected to cost.
        default: whether it has the rung's own settings; others wait until these have a figure.
        baseline: goes before everything else. reference: what rungs are held against, before them.
        before: key of the rung that it waits for, which takes less and is about as good.
        trained: whether it is a training. fresh: whether that begins at random weights.
    """

    key: str
    params: Params
    levels: tuple[Level, ...]
    cost: Callable[[Level], float]
    total: float = 0.0
    default: bool = True
    baseline: bool = False
    reference: bool = False
    before: str | None = None
    trained: bool = False
    fresh: bool = False
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def figures(self) -> list[Outcome]:
        """Those that gave a figure, by level; one that time cut only where it is above the others."""
        known = [(o.value, o) for o in self.outcomes if o.value is not None]
        found = [(value, o) for value, o in known if not o.cut]
        found.sort(key=lambda pair: (pair[1].level.share, pair[1].level.held))
        cut = max((pair for pair in known if pair[1].cut), key=lambda pair: pair[0], default=None)
        if cut is not None and (not found or cut[0] > found[-1][0]):
            found.append(cut)
        return [o for _, o in found]

    @property
    def top(self) -> Outcome | None:
        """At the highest level that was tried."""
        return self.figures[-1] if self.figures else None

    @property
    def failed(self) -> bool:
        """Whether nothing will come of it: an attempt failed, or even the smallest sample was late."""
        if self.figures:
            return False
        return any(o.value is None and not o.late for o in self.outcomes) or (
            bool(self.outcomes) and not self.begins
        )

    @property
    def begins(self) -> list[Level]:
        """The levels at which it may begin, those below any that was late."""
        late = [(o.level.share, o.level.held) for o in self.outcomes if o.late]
        return [v for v in self.levels if not late or (v.share, v.held) < min(late)]

    @property
    def whole(self) -> bool:
        """Whether it was tried at the highest level."""
        top = self.top
        full = (1.0, self.levels[-1].held)
        return top is not None and not top.cut and (top.level.share, top.level.held) >= full

    def above(self) -> list[Level]:
        """The levels above the highest with a figure that were not tried in vain."""
        top = self.top
        tried = [o.level for o in self.outcomes]
        least = (top.level.share, top.level.held) if top else (0.0, 0)
        return [v for v in self.levels if (v.share, v.held) > least and v not in tried]

    def potential(self, best_possible: float | None) -> float:
        """The figure that it might come to with all rows, on the hopeful side; see `hope`."""
        return self.hope(self.levels[-1], best_possible)

    def hope(self, level: Level, best_possible: float | None) -> float:
        """The figure that it might come to at a level, on the hopeful side; its last one below that.

        Args:
            best_possible: of the metric, its sign turned; None where there is no bound.
        """
        seen = self.figures
        if not seen:
            return math.inf
        top = seen[-1]
        assert top.value is not None
        if (level.share, level.held) <= (top.level.share, top.level.held):
            return top.value
        steps = math.log(max(level.share / top.level.share, 1.0), FACTOR)
        gain = (TRAINED_GAIN if self.trained else GAIN) * missing(top.value, best_possible)
        if len(seen) > 1 and seen[-2].value is not None and seen[-2].level.share < top.level.share:
            apart = math.log(top.level.share / seen[-2].level.share, FACTOR)
            gain = min(gain, max(0.0, top.value - seen[-2].value) / apart)
        return top.value + max(0.0, top.high - top.value) / 2 + gain * steps


def missing(value: float, best_possible: float | None) -> float:
    """What a figure lacks to the best possible one; as much as it is, where there is no bound."""
    return abs(value) if best_possible is None else best_possible - value
