"""Row sources: which rows make which optimiser step.

A source is a function of the seed and the step (and of the weights, where rows are drawn from them), so
that a resumed run sees the rows that one without a pause would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

R = TypeVar("R")


@dataclass(frozen=True)
class Shuffled(Generic[R]):
    """Rows in an order that is drawn anew for every epoch, in batches of one size."""

    every: Sequence[R]
    batch_size: int
    seed: int
    fixed: bool = True

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch; the last one may be smaller."""
        return math.ceil(len(self.every) / self.batch_size)

    def steps(self, epochs: float, most: int | None) -> int:
        """How many steps a training has."""
        total = max(1, round(epochs * self.per_epoch))
        return min(total, most) if most else total

    def rows(self, step: int) -> list[R]:
        """The rows of a step, counted from 0 over all epochs."""
        return [self.every[i] for i in self.places(step)]

    def places(self, step: int) -> list[int]:
        """Where the rows of a step stand among all rows."""
        epoch, at = divmod(step, self.per_epoch)
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.every))
        return shuffled[at * self.batch_size : (at + 1) * self.batch_size].tolist()


@dataclass(frozen=True)
class Batches(Generic[R]):
    """Batches that somebody chose, each once; they are all there is to an epoch."""

    batches: Sequence[Sequence[R]]
    fixed: bool = True

    @property
    def per_epoch(self) -> int:
        return len(self.batches)

    def steps(self, epochs: float, most: int | None) -> int:
        return len(self.batches)

    def rows(self, step: int) -> list[R]:
        return list(self.batches[step])
