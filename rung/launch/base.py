"""What a launch must say. Its own methods are those of one process that trains alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Launch:
    """The processes that make one training.

    Attributes:
        rank: of this process, from 0. size: how many there are.
    """

    summary: ClassVar[str] = ""
    rank: int = 0
    size: int = 1

    def __init__(self, name: str):
        self.name = name

    @property
    def main(self) -> bool:
        """Whether this process writes what is kept: checkpoints, log, store."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's part of a step's rows; the parts of all make the step."""
        return rows

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""

    def agree(self, flag: bool) -> bool:
        """Whether any process says so; every process gets the same answer."""
        return flag

    def shard(self, model: Any) -> Any:
        """The base as this process holds it: whole, or its part."""
        return model
