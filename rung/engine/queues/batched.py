"""Batched queue: requests that one pass answers whole, many for one model together."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rung.engine.registry import Registry
from rung.engine.request import Completion, DeadlineExceeded, EngineFault, Generation
from rung.engine.served_model import ServedModel
from rung.errors import Busy, RungError
from rung.forward.bank import Bank
from rung.types import Prompt

log = logging.getLogger("rung.engine")


@dataclass(frozen=True, eq=False)
class Ticket:
    """Request in a queue, and the model that answers it."""

    generation: Generation
    model: ServedModel

    @property
    def prompt(self) -> Prompt:
        """What the model is asked with."""
        return self.generation.request.prompt


class BatchedQueue(ABC):
    """Requests in the order they came, answered by passes for one model each; see `queues.base.Queue`.

    A subclass says which requests it accepts, how many one pass takes, and what it computes.

    Args:
        in_use: the slots of requests that run, whose adapters stay in the bank.
        max_waiting: maximum number of requests that wait.

    Attributes:
        work: what it does, for messages: `embedding`.
    """

    work: ClassVar[str]

    def __init__(self, registry: Registry, in_use: Callable[[], Collection[int]], max_waiting: int):
        self.registry, self.max_waiting = registry, max_waiting
        self._in_use = in_use
        self._lock = threading.Lock()
        self._tickets: deque[Ticket] = deque()

    def __len__(self) -> int:
        return len(self._tickets)

    # --- what a kind of answer is -----------------------------------------------------------------

    @abstractmethod
    def fits(self, prompts: Sequence[Prompt]) -> int:
        """Count the first prompts of a model that one pass takes, at least one."""

    @abstractmethod
    def compute(self, bank: Bank, model: ServedModel, prompts: Sequence[Prompt]) -> Tensor:
        """Answer prompts in one pass: (N, k)."""

    @abstractmethod
    def finish(self, ticket: Ticket, row: Tensor) -> None:
        """Emit the answer of a request from its finite row (k,)."""

    # --- what is the same for all -----------------------------------------------------------------

    def add(self, batch: list[Ticket], patient: bool = False) -> None:
        """Queue all or none; raises Busy where they do not fit and are not patient."""
        with self._lock:
            if not patient and len(self._tickets) + len(batch) > self.max_waiting:
                raise Busy(f"{len(self._tickets)} requests are waiting: try again later")
            self._tickets.extend(batch)

    def step(self, bank: Bank) -> bool:
        """Answer some of those who wait for the model that is asked first."""
        if tickets := self._take():
            try:
                self.registry.make_resident(tickets[0].model.slot, self._in_use())
            except RungError as fault:
                for ticket in tickets:
                    ticket.generation.emit(fault)
            else:
                self._answer(bank, tickets)
        return bool(len(self))

    def _take(self) -> list[Ticket]:
        """Remove what one pass takes of those that wait for the first one's model.

        Those that were cancelled or are overdue are told so, and are not among them.
        """
        with self._lock:
            ended = {t for t in self._tickets if _ended(t.generation)}
            waiting = [t for t in self._tickets if t not in ended]
            mine = [t for t in waiting if t.model is waiting[0].model]
            taken = mine[: self.fits([t.prompt for t in mine])] if mine else []
            gone = ended.union(taken)
            self._tickets = deque(t for t in self._tickets if t not in gone)
        for ticket in ended:
            _end_early(ticket.generation)
        return taken

    def _answer(self, bank: Bank, tickets: Sequence[Ticket]) -> None:
        """Answer in one pass, and each again alone where that went wrong for it."""
        model = tickets[0].model
        try:
            rows = self.compute(bank, model, [t.prompt for t in tickets])
        except Exception as fault:
            log.exception("%s with '%s' failed", self.work, model.name)
            self._fail(bank, tickets, len(tickets), f"{self.work} with '{model.name}' failed ({fault})")
            return
        said = f"the model '{model.name}' computed values that are not finite"
        for ticket, row in zip(tickets, rows, strict=True):
            if bool(row.isfinite().all()):
                self.finish(ticket, row)
            else:  # a neighbour in the trie may have spoiled it
                self._fail(bank, [ticket], len(tickets), said)

    def _fail(self, bank: Bank, tickets: Sequence[Ticket], together: int, said: str) -> None:
        """Answer each again alone where several went together, so that who is at fault fails alone."""
        for ticket in tickets:
            if together > 1:
                self._answer(bank, [ticket])
            else:
                ticket.generation.emit(EngineFault(said))

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
