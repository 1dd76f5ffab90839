"""Protocol of the engine's queues: each computes one kind of answer."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from rung.engine.request import Generation, Request
from rung.engine.served_model import ServedModel
from rung.errors import RungError
from rung.forward.bank import Bank

T = TypeVar("T")


class Queue(Protocol[T]):
    """Requests of one kind of answer. T is what the queue holds of a request.

    `step` is called on one thread at a time, everything else from any thread. The engine asks its
    queues in their order; the first that accepts a request gets it.
    """

    def accepts(self, request: Request, model: ServedModel) -> bool:
        """Whether this queue answers such requests to such a model."""
        ...

    def prepare(self, generation: Generation, model: ServedModel) -> T:
        """Check a request before anything is queued. Raises RungError as `Engine.submit`."""
        ...

    def add(self, batch: list[T], patient: bool = False) -> None:
        """Queue all of a batch or none.

        Args:
            patient: let the queue grow beyond its limit.

        Raises:
            Busy: when they do not fit.
        """
        ...

    def step(self, bank: Bank) -> bool:
        """Do a bounded piece of work -> whether there is more to do here."""
        ...

    def slots(self) -> set[int]:
        """Return the adapters that queued requests need."""
        ...

    def fail_all(self, fault: RungError) -> None:
        """End every request with `fault`, because the engine stops."""
        ...

    def __len__(self) -> int:
        """Count the requests that have not ended."""
        ...


AnyQueue = Queue[Any]
