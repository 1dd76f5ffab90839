"""Which rows make which step: a pure function of the seed and the epoch, so a resumed run agrees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """Shuffled batches of `rows` rows."""

    rows: int
    batch_size: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch; the last one may be smaller."""
        return math.ceil(self.rows / self.batch_size)

    def batch(self, step: int) -> list[int]:
        """The rows of a step, counted from 0 over all epochs."""
        epoch, at = divmod(step, self.per_epoch)
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        return shuffled[at * self.batch_size : (at + 1) * self.batch_size].tolist()

    def steps(self, epochs: float, most: int | None) -> int:
        """How many steps a training has."""
        total = max(1, round(epochs * self.per_epoch))
        return min(total, most) if most else total


@dataclass(frozen=True)
class GivenOrder(Order):
    """Batches that somebody else chose, each once."""

    batches: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, batches: Iterable[Sequence[int]]) -> GivenOrder:
        chosen = tuple(map(tuple, batches))
        return cls(sum(map(len, chosen)), max(map(len, chosen), default=0), 0, chosen)

    @property
    def per_epoch(self) -> int:
        return len(self.batches)

    def batch(self, step: int) -> list[int]:
        return list(self.batches[step])

    def steps(self, epochs: float, most: int | None) -> int:
        return len(self.batches)
