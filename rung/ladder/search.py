"""Search over a rung's settings by successive halving, its trials kept with the rung in the store.

Trials run one after the other. The first takes the defaults; each further one differs from the best so
far in as few knobs as possible. At its 1st, 2nd, 4th, 8th, ... validation a trial goes on only while it
is in the better half of all trials that came so far: asynchronous successive halving with a factor of
two (arXiv 1810.05934), without its parallel workers and without a shortest training of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any


class Search:
    """The search on one rung.

    Args:
        space: knob -> values, the default first.
        falls: whether a smaller value of `tell` is better.
        kept: the property `kept` of an earlier search, whose trials count as done.
    """

    def __init__(self, space: Mapping[str, tuple[Any, ...]], falls: bool, kept: Mapping[str, Any]):
        self.space, self.falls = space, falls
        self.done: list[dict[str, Any]] = list(kept.get("done", []))
        self._grid = [dict(zip(space, v, strict=True)) for v in itertools.product(*space.values())]
        self._validations = 0  # of the trial that is under way

    @property
    def left(self) -> int:
        """How many settings were not tried yet."""
        return len(self._untried())

    @property
    def kept(self) -> dict[str, Any]:
        """What a store holds of it."""
        return {"done": self.done}

    def ask(self, begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Choose the next settings; where all were tried, the defaults again.

        Args:
            begun: settings of a trial that was interrupted; they come first unless they were tried.
        """
        self._validations = 0
        untried = self._untried()
        if begun is not None:
            untried = [p for p in untried if all(begun.get(n) == v for n, v in p.items())] or untried
        best = self._best()
        return min(untried, key=lambda p: sum(p[n] != best[n] for n in p), default=self._grid[0])

    def report(self, step: int, loss: float) -> bool:
        """Note a validation of the trial under way; return whether it is better given up."""
        self._validations += 1
        if self._validations & (self._validations - 1):
            return False  # halving only at powers of two
        by_then = [[at for at in t["curve"] if at[0] <= step] for t in self.done]
        others = [curve[-1][1] for curve in by_then if curve]
        ahead = sum(not loss < other for other in others)  # a loss that is NaN is behind all
        return bool(others) and ahead >= max(1, (len(others) + 1) // 2)

    def tell(
        self, params: Mapping[str, Any], value: float | None, curve: list[tuple[int, float]], run: str
    ) -> None:
        """Keep how a trial ended; `value` is None where it was given up."""
        self.done.append({"params": dict(params), "value": value, "curve": curve, "run": run})

    def _untried(self) -> list[dict[str, Any]]:
        tried = {_id(t["params"]) for t in self.done}
        return [p for p in self._grid if _id(p) not in tried]

    def _best(self) -> dict[str, Any]:
        """The settings whose value is best so far; the defaults before there is one."""
        ended = [
            t for t in self.done if t["value"] is not None and t["params"].keys() == self.space.keys()
        ]
        ended.sort(key=lambda t: t["value"], reverse=not self.falls)
        return ended[0]["params"] if ended else self._grid[0]


def _id(params: Mapping[str, Any]) -> tuple:
    return tuple(sorted((k, str(v)) for k, v in params.items()))
