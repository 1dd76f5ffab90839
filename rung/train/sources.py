"""Row sources: which rows make which optimiser step.

A source is a function of the seed and the step (and of the weights, where rows are drawn from them), so
that a resumed run sees the rows that one without a pause would have seen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rung.objectives import Row, RowSource

R = TypeVar("R")


class Given:
    """What a source says whose rows are all there from the beginning."""

    def measured(self, rows: Sequence[Row], slot: int) -> Sequence[Row]:
        return rows

    def state(self, step: int) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        return

    def close(self) -> None:
        return


@dataclass(frozen=True)
class Shuffled(Given, Generic[R]):
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
        shuffled = _permutation(self.seed, epoch, len(self.every))
        return shuffled[at * self.batch_size : (at + 1) * self.batch_size].tolist()


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """An epoch's order of rows; kept, since every step of the epoch asks for a part of it."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


@dataclass(frozen=True)
class Batches(Given, Generic[R]):
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


def digest(source: RowSource) -> str:
    """SHA-256 of an epoch's rows in their order; empty for a source that draws them anew."""
    if not source.fixed:
        return ""
    total = hashlib.sha256()
    for step in range(source.per_epoch):
        for row in source.rows(step):
            total.update(_content(row))
    return total.hexdigest()


def _content(row: Row) -> bytes:
    parts = [f"{row.weight}:{len(row.sequences)}".encode()]
    for s in row.sequences:
        supervised = b"" if s.supervised is None else np.packbits(s.supervised).tobytes()
        parts += [len(s).to_bytes(4, "big"), s.key, supervised]
    return b"".join(parts)
