"""Embedding queue: texts as vectors, the mean of their final hidden states; or what towers give."""

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

MAX_FOR_TOWERS = 32  # maximum number of pictures and texts in one pass of towers


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
        self.registry.check_ids(ids, "the prompt", model)
        room = self.registry.context - self.registry.hold(model.slot)
        if len(ids) > room:
            raise ContextExceeded(
                f"a text has {len(ids)} tokens, the context of '{model.name}' holds {room} of them"
            )
        return Ticket(generation, model)

    def fits(self, prompts: Sequence[Prompt]) -> int:
        if all(p.messages for p in prompts):  # pictures and texts for towers
            return min(len(prompts), MAX_FOR_TOWERS)
        return len(next(batches([p.ids for p in prompts])))

    def compute(self, bank: Bank, model: ServedModel, prompts: Sequence[Prompt]) -> Tensor:
        """Compute vectors of length 1: (N, d)."""
        if model.towers is not None:
            return model.towers.of_prompts(prompts)
        return pooled(bank, model.slot, [p.ids for p in prompts])

    def finish(self, ticket: Ticket, row: Tensor) -> None:
        """Emit the vector."""
        count = len(ticket.prompt.ids)
        ticket.generation.emit(Completion("", (), "stop", count, embedding=row))
