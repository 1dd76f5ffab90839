"""Waiting room of the queues that answer requests for one model together, in one pass."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rung.engine.request import Completion, DeadlineExceeded, Generation
from rung.engine.served_model import ServedModel
from rung.errors import Busy


@dataclass(frozen=True, eq=False)
class Ticket:
    """Request in a queue, and the model that answers it."""

    generation: Generation
    model: ServedModel


class WaitingRoom:
    """Tickets in the order they came; every method may be called from any thread.

    Args:
        max_waiting: maximum number of requests that wait.
    """

    def __init__(self, max_waiting: int):
        self.max_waiting = max_waiting
        self._lock = threading.Lock()
        self._tickets: deque[Ticket] = deque()

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, batch: list[Ticket], patient: bool = False) -> None:
        """Queue all or none; raises Busy where they do not fit and are not patient."""
        with self._lock:
            if not patient and len(self._tickets) + len(batch) > self.max_waiting:
                raise Busy(f"{len(self._tickets)} requests are waiting: try again later")
            self._tickets.extend(batch)

    def take(self, fits: Callable[[list[Ticket]], int]) -> list[Ticket]:
        """Remove those that wait for the first one's model and go into one pass.

        Those that were cancelled or are overdue are told so, and are not among them.

        Args:
            fits: given all that wait for that model, how many of them to take, at least one.
        """
        with self._lock:
            ended = {t for t in self._tickets if _ended(t.generation)}
            waiting = [t for t in self._tickets if t not in ended]
            mine = [t for t in waiting if t.model is waiting[0].model]
            taken = mine[: fits(mine)] if mine else []
            gone = ended.union(taken)
            self._tickets = deque(t for t in self._tickets if t not in gone)
        for ticket in ended:
            _end_early(ticket.generation)
        return taken

    def slots(self) -> set[int]:
        """Return the slots that somebody waits for."""
        with self._lock:
            return {t.model.slot for t in self._tickets}

    def fail_all(self, fault: Exception) -> None:
        """End every request with `fault`."""
        with self._lock:
            gone, self._tickets = self._tickets, deque()
        for ticket in gone:
            ticket.generation.emit(fault)


def _ended(generation: Generation) -> bool:
    return generation.cancelled or generation.overdue or generation.late


def _end_early(generation: Generation) -> None:
    request = generation.request
    if generation.cancelled:
        generation.emit(Completion("", (), "cancelled", len(request.prompt.ids)))
    elif not generation.overdue:
        generation.emit(generation.waited_too_long())
    else:
        generation.emit(DeadlineExceeded(f"the answer was not finished in {request.deadline:g} s"))
