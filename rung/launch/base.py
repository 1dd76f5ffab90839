"""What a launch must say. Its own methods are those of one process that trains alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rung.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from rung.objectives import Row

T = TypeVar("T")


class Launch:
    """The processes that make one training.

    Attributes:
        starts: whether it can start processes, so that their number may be said.
        rank: of this process, from 0. size: how many there are. neighbours: of them on this machine.
        here: whether the environment says that this process is one of those of this launch.
        watched: whether `start` waits for this process, and tells the user where one is lost.
        sharded: set by `shard`: each process holds a part of the base, so all make the same passes.
    """

    summary: ClassVar[str] = ""
    starts: ClassVar[bool] = False
    rank: int = 0
    size: int = 1
    neighbours: int = 1
    here: bool = False
    watched: bool = False
    sharded: bool = False

    def __init__(self, name: str):
        self.name = name

    @property
    def main(self) -> bool:
        """Whether this process writes what is kept: checkpoints, log, store."""
        return self.rank == 0

    def start(self, arguments: Sequence[str], processes: int | None = None) -> int | None:
        """Run `rung ARGUMENTS` in the processes that train together, and wait for their end.

        Returns:
            the exit code; None where this process is one of them and does the work itself.

        Raises:
            ProcessLost: when one of them was killed; the others have ended then.
        """
        return None

    def join(self, device: str) -> None:
        """Meet the other processes, before anything is computed on a device of this type."""

    def share(self, rows: Sequence[Row]) -> Sequence[Row]:
        """This process's part of a step's rows; the parts of all make the step."""
        return rows

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""

    def agree(self, flag: bool) -> bool:
        """Whether any process says so; every process gets the same answer."""
        return flag

    def most(self, count: int) -> int:
        """The largest count that any process names."""
        return count

    def barrier(self) -> None:
        """Wait until all are here or gone: one that leaves first could break another's last sum."""

    def same(self, make: Callable[[], T]) -> T:
        """What the process of rank 0 makes, on every process; what it raises is raised on all."""
        return make()

    def shard(self, model: Any, dtype: str, device: str) -> None:
        """Put a base's weights, mapped as its files have them, on a device: this process's part.

        Raises:
            ConfigError: where the launch is of one process.
        """
        raise ConfigError("--shard is for a launch of several processes: add --launch torchrun")
