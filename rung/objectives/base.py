"""What an objective must say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from rung.types import Rendered

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.bank import Bank
    from rung.forward.loss import Loss
    from rung.forward.trie import Sequence, Trie


class Objective(ABC):
    """Turns rows into sequences, and hidden states into a loss. Instances hold no state."""

    summary: ClassVar[str]
    edges_only: ClassVar[bool] = False  # whether `loss` reads hidden states only where edges start

    def __init__(self, name: str):
        self.name = name

    @abstractmethod
    def sequences(self, row: Rendered, slot: int) -> list[Sequence]:
        """The sequences of one row. They are never split between micro-batches."""

    @abstractmethod
    def weight(self, row: Rendered) -> float:
        """What the row counts in the mean of a batch."""

    @abstractmethod
    def loss(self, bank: Bank, trie: Trie, hidden: Tensor, slot: int, accuracy: bool = False) -> Loss:
        """The sum over the trie, hidden (T, d); the loop divides by the weights of the batch."""
