"""Classification queue: models that answer with a label."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from rung.engine.queues.batched import BatchedQueue, Ticket
from rung.engine.request import Completion, Generation, GenerationRequest, Request, Token
from rung.engine.request_state import check_request
from rung.engine.served_model import ServedModel
from rung.forward.bank import Bank
from rung.types import Prompt

MAX_PROMPTS = 32  # maximum number of prompts in one pass
MIN_PROBABILITY = 1e-30  # what rounds to 0 still has a log-probability


class ClassifyQueue(BatchedQueue):
    """Requests to classifiers."""

    work = "classifying"

    def accepts(self, request: Request, model: ServedModel) -> bool:
        return isinstance(request, GenerationRequest) and model.classifier is not None

    def prepare(self, generation: Generation, model: ServedModel) -> Ticket:
        assert isinstance(generation.request, GenerationRequest)
        check_request(generation.request, model, self.registry)
        return Ticket(generation, model)

    def fits(self, prompts: Sequence[Prompt]) -> int:
        return MAX_PROMPTS

    def compute(self, bank: Bank, model: ServedModel, prompts: Sequence[Prompt]) -> Tensor:
        """Compute the probabilities of labels: (N, labels)."""
        assert model.classifier is not None
        return model.classifier.probabilities(bank, model.slot, prompts)

    def finish(self, ticket: Ticket, row: Tensor) -> None:
        """Emit the likeliest label, and the log-probabilities of all."""
        model, request = ticket.model, ticket.generation.request
        assert isinstance(request, GenerationRequest)
        order = ranked(model.labels, row.tolist())
        best, logprob = order[0]
        ids = tuple(model.template.encoder.encode(best)[0])
        token = Token(ids[0] if ids else 0, best, logprob if request.logprobs is not None else None)
        ticket.generation.emit(token)
        told = () if request.logprobs is None else (token,)
        count = len(request.prompt.ids)
        ticket.generation.emit(Completion(best, ids, "stop", count, told, labels=order))


def ranked(labels: Sequence[str], probabilities: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Pair labels with their log-probabilities, likeliest first."""
    pairs = [
        (label, math.log(max(p, MIN_PROBABILITY)))
        for label, p in zip(labels, probabilities, strict=True)
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))
