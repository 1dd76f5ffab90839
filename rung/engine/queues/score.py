"""Scoring queue: texts as one number each, by models that have a reward head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rung.engine.queues.batched import BatchedQueue, Ticket
from rung.engine.request import Completion, ContextExceeded, Generation, Request, ScoreRequest
from rung.engine.served_model import ServedModel
from rung.errors import ConfigError
from rung.forward.bank import Bank
from rung.forward.rewards import rewards
from rung.types import Prompt

MAX_TOKENS = 2048  # maximum number of tokens in one pass, unless one text has more


class ScoreQueue(BatchedQueue):
    """Requests for rewards, and whatever else reward models are asked, which is refused."""

    work = "scoring"

    def accepts(self, request: Request, model: ServedModel) -> bool:
        return isinstance(request, ScoreRequest) or model.reward is not None

    def prepare(self, generation: Generation, model: ServedModel) -> Ticket:
        request = generation.request
        if model.reward is None:
            raise ConfigError(f"'{model.name}' is no reward model: it has no scores to give")
        if not isinstance(request, ScoreRequest):
            raise ConfigError(
                f"'{model.name}' is a reward model: it scores texts (/v1/score) and writes none"
            )
        ids = request.prompt.ids
        self.registry.check_ids(ids, "the text", model)
        room = self.registry.context - self.registry.hold(model.slot)
        if len(model.reward.closed(ids)) > room:
            raise ContextExceeded(
                f"a text has {len(ids)} tokens, the context of '{model.name}' holds {room} of them"
            )
        return Ticket(generation, model)

    def fits(self, prompts: Sequence[Prompt]) -> int:
        total = 0
        for count, prompt in enumerate(prompts):
            total += len(prompt.ids) + 1
            if count and total > MAX_TOKENS:
                return count
        return len(prompts)

    def compute(self, bank: Bank, model: ServedModel, prompts: Sequence[Prompt]) -> Tensor:
        """Compute rewards: (N, 1)."""
        assert model.reward is not None
        return rewards(bank, model.slot, model.reward, [p.ids for p in prompts])[:, None]

    def finish(self, ticket: Ticket, row: Tensor) -> None:
        """Emit the reward."""
        count = len(ticket.prompt.ids)
        ticket.generation.emit(Completion("", (), "stop", count, reward=float(row)))
