"""Embedding queue: texts as vectors, the mean of their final hidden states, many in one pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from rung.engine.embeddings import batches, pooled
from rung.engine.queues.waiting import Ticket, WaitingRoom
from rung.engine.registry import Registry
from rung.engine.request import (
    Completion,
    ContextExceeded,
    EmbeddingRequest,
    EngineFault,
    Generation,
    Request,
)
from rung.engine.served_model import ServedModel
from rung.errors import ConfigError, RungError
from rung.forward.bank import Bank

log = logging.getLogger("rung.engine")


class EmbedQueue(WaitingRoom):
    """Requests for embeddings; see `queues.base.Queue`.

    Args:
        in_use: the slots of requests that run, whose adapters stay in the bank.
        max_waiting: maximum number of requests that wait.
    """

    def __init__(self, registry: Registry, in_use: Callable[[], Collection[int]], max_waiting: int):
        super().__init__(max_waiting)
        self._registry, self._in_use = registry, in_use

    def accepts(self, request: Request, model: ServedModel) -> bool:
        return isinstance(request, EmbeddingRequest)

    def prepare(self, generation: Generation, model: ServedModel) -> Ticket:
        ids = generation.request.prompt.ids
        if model.remote is not None:
            raise ConfigError(
                f"'{model.name}' is behind an API, which gives no vectors here: ask a base"
            )
        self._registry.check_ids(ids, "the prompt")
        room = self._registry.context - self._registry.hold(model.slot)
        if len(ids) > room:
            raise ContextExceeded(
                f"a text has {len(ids)} tokens, the context of '{model.name}' holds {room} of them"
            )
        return Ticket(generation, model)

    def step(self, bank: Bank) -> bool:
        """Embed some of the texts that wait for the model that is asked first."""
        tickets = self.take(_one_pass)
        if tickets:
            try:
                self._registry.make_resident(tickets[0].model.slot, self._in_use())
            except RungError as fault:
                for ticket in tickets:
                    ticket.generation.emit(fault)
            else:
                self._answer(bank, tickets)
        return bool(len(self))

    def _answer(self, bank: Bank, tickets: Sequence[Ticket]) -> None:
        """Embed texts in one pass, and each again alone where that went wrong for it."""
        model, alone = tickets[0].model, len(tickets) == 1
        try:
            vectors = pooled(bank, model.slot, [t.generation.request.prompt.ids for t in tickets])
        except Exception as fault:
            log.exception("embedding with '%s' failed", model.name)
            if alone:
                said = f"embedding with '{model.name}' failed ({fault})"
                tickets[0].generation.emit(EngineFault(said))
            else:
                for ticket in tickets:
                    self._answer(bank, [ticket])
            return
        for ticket, vector in zip(tickets, vectors, strict=True):
            if bool(vector.isfinite().all()):
                count = len(ticket.generation.request.prompt.ids)
                ticket.generation.emit(Completion("", (), "stop", count, embedding=vector))
            elif alone:
                said = f"the model '{model.name}' computed values that are not finite"
                ticket.generation.emit(EngineFault(said))
            else:  # a neighbour in the trie may have spoiled it
                self._answer(bank, [ticket])


def _one_pass(tickets: list[Ticket]) -> int:
    """Count the texts that one pass takes."""
    return len(next(batches([t.generation.request.prompt.ids for t in tickets])))
