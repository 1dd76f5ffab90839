"""The contract of a rung of a mapping: it learns, and gives a scorer of pairs of records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from rung.mapping.problem import Chooser, Problem
from rung.mapping.records import Record
from rung.mapping.vectors import Vectors

BLOCK_CELLS = 1 << 21  # pairs that are scored at once: 8 MiB for each matrix of float32


@dataclass(frozen=True)
class Candidates:
    """The best right records of each left one.

    Attributes:
        places: (n, k) into the right records, best first. scores: (n, k) float32.
    """

    places: np.ndarray
    scores: np.ndarray


class Scorer(ABC):
    """Scores pairs of any left record and the right records that it was made for.

    Args:
        right: in the order of their places.

    Attributes:
        asks: whether it asks a language model. chooser: that model, set by whoever has it.
    """

    asks: ClassVar[bool] = False
    chooser: Chooser | None = None

    def __init__(self, right: Sequence[Record]):
        self.right = tuple(right)

    @abstractmethod
    def top(self, left: Sequence[Record], count: int) -> Candidates:
        """Find the best `count` right records of each left one, or all where there are fewer."""

    def state(self) -> State:
        """What it takes to make this scorer again beside the right records."""
        return State()


class BlockScorer(Scorer):
    """A scorer that scores some left records with all right ones at once."""

    @abstractmethod
    def block(self, left: Sequence[Record]) -> np.ndarray:
        """Score left records with all right ones: (n, right) float32, higher is better."""

    def top(self, left: Sequence[Record], count: int) -> Candidates:
        """Find the best of each left record; BLOCK_CELLS pairs are held at once."""
        count = min(count, len(self.right))
        rows = max(1, BLOCK_CELLS // max(1, len(self.right)))
        found = [best(self.block(left[i : i + rows]), count) for i in range(0, len(left), rows)]
        if not found:
            return Candidates(np.zeros((0, count), np.int64), np.zeros((0, count), np.float32))
        return Candidates(
            np.concatenate([f.places for f in found]), np.concatenate([f.scores for f in found])
        )


@dataclass
class State:
    """What a scorer is kept as. `tensors` are float32."""

    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def inside(self, prefix: str) -> State:
        """The state of a scorer inside this one."""
        return State(
            dict(self.settings.get(prefix, {})),
            {
                name.removeprefix(f"{prefix}."): tensor
                for name, tensor in self.tensors.items()
                if name.startswith(f"{prefix}.")
            },
        )

    def put(self, prefix: str, inner: State) -> None:
        """Take the state of a scorer into this one."""
        self.settings[prefix] = inner.settings
        self.tensors |= {f"{prefix}.{name}": tensor for name, tensor in inner.tensors.items()}


@dataclass(frozen=True)
class Tools:
    """What a scorer that is read back may ask."""

    vectors: Vectors
    chooser: Chooser | None = None


class Rung(ABC):
    """One way to score pairs. Instances hold no state.

    Attributes:
        summary: one line for tables and help.
        place: among the rungs, cheaper ones lower.
        learns: whether it fits known pairs, so that its scores on them say nothing.
        asks: whether it asks a language model, which then has to be given.
    """

    summary: ClassVar[str]
    place: ClassVar[int]
    learns: ClassVar[bool] = False
    asks: ClassVar[bool] = False

    def __init__(self, name: str):
        self.name = name

    def refusal(self, problem: Problem) -> str | None:
        """Why this rung cannot be tried on this problem, or None."""
        if self.learns and problem.parts is None:
            return "it learns from known pairs: give some with --pairs"
        if self.asks and problem.chooser is None:
            return "it asks a language model: name one with --reranker"
        return None

    @abstractmethod
    def fit(self, problem: Problem, cheaper: Mapping[str, Scorer]) -> Scorer:
        """Make the scorer of a problem.

        Args:
            cheaper: scorers of the rungs that were tried before, in their order.
        """

    @abstractmethod
    def restore(self, right: Sequence[Record], state: State, tools: Tools) -> Scorer:
        """Make the scorer again. Raises KeyError, TypeError or ValueError for a damaged state."""


def best(scores: np.ndarray, count: int) -> Candidates:
    """The highest scores of each row, ties in the order of columns: (n, m) -> (n, count)."""
    if count < scores.shape[1]:
        kept = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
    else:
        kept = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    found = np.take_along_axis(scores, kept, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return Candidates(
        np.take_along_axis(kept, order, axis=1).astype(np.int64),
        np.take_along_axis(found, order, axis=1).astype(np.float32),
    )
