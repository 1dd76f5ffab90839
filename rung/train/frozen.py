"""Compute what frozen layers pass on, for the rows of some steps at a time.

Not for all rows at once: a training that its time ends has learnt from what was computed until then,
and one of more steps over the same rows, as a climb's next attempt, finds what the one before it
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rung.forward.features import MAX_PASS_TOKENS, Boundary
from rung.forward.packing import common_prefix
from rung.objectives.base import Row, RowSource

WINDOW_TOKENS = 16 * MAX_PASS_TOKENS  # beyond what all rows begin with: seconds on a laptop
WINDOW_BEGINNINGS = 32  # so many times what all rows begin with, which each window computes again


class Frozen:
    """The states that enter the first layer that changes, for steps of the first epoch in turn.

    Which steps are computed together follows from the rows alone, so that another training of the same
    rows finds them.

    Args:
        source: `fixed`. steps: of the training, counted within the first epoch.
        stopping: asked between passes.
    """

    def __init__(
        self,
        boundary: Boundary,
        source: RowSource,
        steps: int,
        note: Callable[[str], None],
        stopping: Callable[[], bool],
    ):
        self.boundary, self._note, self._stopping = boundary, note, stopping
        self._windows = _windows(source, min(steps, source.per_epoch))
        self._next = next(self._windows, None)

    def hold(self, rows: Sequence[Row]) -> bool:
        """Compute the states of rows that are measured; False where there is no room for them.

        Raises:
            Interrupted: when asked to stop.
        """
        return not rows or self._add(rows)

    def reach(self, step: int) -> None:
        """Compute the states of a step's rows, with those of all steps before it.

        Where there is no more room, the rest goes through the whole base.

        Raises:
            Interrupted: when asked to stop.
        """
        while self._next is not None and self._next[0] <= step:
            more = self._add(self._next[1])
            self._next = next(self._windows, None) if more else None

    def _add(self, rows: Sequence[Row]) -> bool:
        sequences = [s for row in rows for s in row.sequences]
        return self.boundary.add(sequences, self._note, self._stopping)


def _windows(source: RowSource, steps: int) -> Iterator[tuple[int, list[Row]]]:
    """(first step, rows) of windows of steps, the rows in the order of their tokens."""
    every = [row for step in range(source.per_epoch) for row in source.rows(step)]
    begun = [s for row in every for s in row.sequences]
    least, most = min(begun, key=lambda s: s.key), max(begun, key=lambda s: s.key)
    shared = common_prefix(least.ids, most.ids)
    used: dict[int, Row] = {}
    first = tokens = 0
    for step in range(steps):
        rows = source.rows(step)
        used |= {id(row): row for row in rows}
        tokens += sum(max(0, row.tokens - shared) for row in rows)
        full = tokens >= max(WINDOW_TOKENS, WINDOW_BEGINNINGS * shared)
        if full or step == steps - 1:
            yield first, sorted(used.values(), key=lambda row: row.key)
            first, tokens, used = step + 1, 0, {}
