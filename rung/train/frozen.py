"""Compute what frozen layers pass on, for the rows of some steps at a time.

Not for all rows at once: a training that its time ends has learnt from what was computed until then,
and one of more steps over the same rows, as a climb's next attempt, finds what the one before it
computed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rung.forward.features import MAX_PASS_TOKENS, Boundary
from rung.forward.packing import common_prefix, trie_tokens
from rung.objectives.base import Row, RowSource

WINDOW_TOKENS = 16 * MAX_PASS_TOKENS  # beyond what all rows begin with: seconds on a laptop
WINDOW_BEGINNINGS = 32  # so many times what all rows begin with, which each window computes again
ALIKE = 0.8  # of what a token takes in the first window, below which all rows together take much less


class Frozen:
    """The states that enter the first layer that changes, for steps of the first epoch in turn.

    Steps are computed in windows that follow from the rows alone, so that another training of the same
    rows finds them. Each window computes again what its rows begin with like those of others: where
    that is much, all steps behind the first window are one, if more of them then fit into the time.

    Args:
        source: `fixed`. steps: of the training, counted within the first epoch.
        stopping: asked between passes. left: seconds of the training that are left, or infinity.
    """

    def __init__(
        self,
        boundary: Boundary,
        source: RowSource,
        steps: int,
        note: Callable[[str], None],
        stopping: Callable[[], bool],
        left: Callable[[], float] = lambda: math.inf,
    ):
        self.boundary, self._note, self._stopping, self._left = boundary, note, stopping, left
        self._windows = Windows.of(source, min(steps, source.per_epoch))
        self._at: int | None = 0  # the first step that is not computed yet; None: there is no more room
        self._trained, self._training = 0, 0.0  # steps since the first, and seconds beside computing
        self._returned: float | None = None

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
        if self._returned is not None:
            self._trained += 1
            self._training += time.perf_counter() - self._returned
        while self._at is not None and self._at <= step and self._at < self._windows.steps:
            window = self._window(self._at)
            self._at = window.end if self._add(window.rows) else None
        self._returned = time.perf_counter()

    def _window(self, first: int) -> Window:
        """What is computed together from a step on."""
        if first == 0:
            return self._windows.first
        return self._windows.take(first, whole=self._windows.alike and self._more_at_once())

    def _more_at_once(self) -> bool:
        """Whether more steps fit into the time where the rest is computed before the next one.

        Of u seconds to compute a step by windows and t to train it, left / (u + t) steps fit; computing
        all in F seconds, (left - F) / t.
        """
        left = self._left()
        if math.isinf(left):
            return True
        first = self._windows.first
        each = self.boundary.seconds_of(first.computed) / first.end
        training = self._training / max(self._trained, 1)
        whole = self.boundary.seconds_of(self._windows.rest.computed)
        return math.isfinite(whole) and whole * (each + training) < left * each

    def _add(self, rows: Sequence[Row]) -> bool:
        sequences = [s for row in rows for s in row.sequences]
        return self.boundary.add(sequences, self._note, self._stopping)


@dataclass(frozen=True)
class Window:
    """Rows that are computed together, in the order of their tokens.

    Attributes:
        end: the step behind the last of theirs. tokens: of them, beyond what all rows begin with.
    """

    rows: list[Row]
    end: int
    tokens: int

    @cached_property
    def computed(self) -> int:
        """Tokens of their trie."""
        return trie_tokens([s.ids for row in self.rows for s in row.sequences])


@dataclass(frozen=True)
class Windows:
    """The windows of a training's steps within the first epoch.

    Attributes:
        shared: tokens that all rows begin with. room: tokens of a window beyond them.
    """

    source: RowSource
    steps: int
    shared: int
    room: int

    @classmethod
    def of(cls, source: RowSource, steps: int) -> Windows:
        every = [row for step in range(source.per_epoch) for row in source.rows(step)]
        begun = [s for row in every for s in row.sequences]
        least, most = min(begun, key=lambda s: s.key), max(begun, key=lambda s: s.key)
        shared = common_prefix(least.ids, most.ids)
        return cls(source, steps, shared, max(WINDOW_TOKENS, WINDOW_BEGINNINGS * shared))

    def take(self, first: int, whole: bool = False) -> Window:
        """Steps from a first one on until their window is full, or all that there are."""
        used: dict[int, Row] = {}
        tokens, end = 0, first
        while end < self.steps and (whole or tokens < self.room):
            rows = self.source.rows(end)
            used |= {id(row): row for row in rows}
            tokens += sum(max(0, row.tokens - self.shared) for row in rows)
            end += 1
        return Window(sorted(used.values(), key=lambda row: row.key), end, tokens)

    @cached_property
    def first(self) -> Window:
        """The first window."""
        return self.take(0)

    @cached_property
    def rest(self) -> Window:
        """All steps behind it."""
        return self.take(self.first.end, whole=True)

    @cached_property
    def alike(self) -> bool:
        """Whether rows begin so much alike that all together take much less than window by window."""
        first, rest = self.first, self.rest
        return rest.computed * first.tokens < ALIKE * first.computed * rest.tokens
