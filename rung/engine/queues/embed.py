"""Embedding queue: texts as vectors, the mean of their final hidden states."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rung.engine.embeddings import batches, pooled
from rung.engine.queues.batched import BatchedQueue, Ticket
from rung.engine.request import Completion, ContextExceeded, EmbeddingRequest, Generation, Request
from rung.engine.served_model import ServedModel
from rung.errors import ConfigError
from rung.forward.bank import Bank
from rung.types import Prompt


class EmbedQueue(BatchedQueue):
    """Requests for embeddings."""

    work = "embedding"

    def accepts(self, request: Request, model: ServedModel) -> bool:
        return isinstance(request, EmbeddingRequest)

    def prepare(self, generation: Generation, model: ServedModel) -> Ticket:
        ids = generation.request.prompt.ids
        if model.remote is not None:
            raise ConfigError(
                f"'{model.name}' is behind an API, which gives no vectors here: ask a base"
            )
        self.registry.check_ids(ids, "the prompt")
        room = self.registry.context - self.registry.hold(model.slot)
        if len(ids) > room:
            raise ContextExceeded(
                f"a text has {len(ids)} tokens, the context of '{model.name}' holds {room} of them"
            )
        return Ticket(generation, model)

    def fits(self, prompts: Sequence[Prompt]) -> int:
        return len(next(batches([p.ids for p in prompts])))

    def compute(self, bank: Bank, model: ServedModel, prompts: Sequence[Prompt]) -> Tensor:
        """Compute vectors of length 1: (N, d)."""
        return pooled(bank, model.slot, [p.ids for p in prompts])

    def finish(self, ticket: Ticket, row: Tensor) -> None:
        """Emit the vector."""
        count = len(ticket.prompt.ids)
        ticket.generation.emit(Completion("", (), "stop", count, embedding=row))
