"""Classification queue: models that answer with a label, many requests in one pass."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from torch import Tensor

from rung.engine.queues.waiting import Ticket, WaitingRoom
from rung.engine.registry import Registry
from rung.engine.request import Completion, EngineFault, Generation, GenerationRequest, Request, Token
from rung.engine.request_state import check_request
from rung.engine.served_model import ServedModel
from rung.forward.bank import Bank

log = logging.getLogger("rung.engine")

MAX_PROMPTS = 32  # maximum number of prompts in one pass
MIN_PROBABILITY = 1e-30  # what rounds to 0 still has a log-probability


class ClassifyQueue(WaitingRoom):
    """Requests to classifiers; see `queues.base.Queue`.

    Args:
        max_waiting: maximum number of requests that wait.
    """

    def __init__(self, registry: Registry, max_waiting: int):
        super().__init__(max_waiting)
        self._registry = registry

    def accepts(self, request: Request, model: ServedModel) -> bool:
        return isinstance(request, GenerationRequest) and model.classifier is not None

    def prepare(self, generation: Generation, model: ServedModel) -> Ticket:
        assert isinstance(generation.request, GenerationRequest)
        check_request(generation.request, model, self._registry)
        return Ticket(generation, model)

    def step(self, bank: Bank) -> bool:
        """Answer some of those who wait for the model that is asked first."""
        self._answer(bank, self.take(lambda waiting: MAX_PROMPTS))
        return bool(len(self))

    def _answer(self, bank: Bank, tickets: Sequence[Ticket]) -> None:
        if not tickets:
            return
        model = tickets[0].model
        assert model.classifier is not None
        prompts = [t.generation.request.prompt for t in tickets]
        try:
            probabilities = model.classifier.probabilities(bank, model.slot, prompts)
        except Exception as fault:
            log.exception("the classifier of '%s' failed", model.name)
            if len(tickets) > 1:  # whoever is at fault fails alone
                for ticket in tickets:
                    self._answer(bank, [ticket])
            else:
                said = f"the classifier of '{model.name}' failed ({fault})"
                tickets[0].generation.emit(EngineFault(said))
            return
        for ticket, row in zip(tickets, probabilities, strict=True):
            _finish(ticket, model.classifier.labels, row)


def _finish(ticket: Ticket, labels: Sequence[str], row: Tensor) -> None:
    """Emit the likeliest label and the probabilities of all."""
    generation, model, numbers = ticket.generation, ticket.model, row.tolist()
    request = generation.request
    assert isinstance(request, GenerationRequest)
    if not all(map(math.isfinite, numbers)):
        generation.emit(EngineFault(f"the model '{model.name}' computed values that are not finite"))
        return
    order = ranked(labels, numbers)
    best, logprob = order[0]
    ids = tuple(model.template.encoder.encode(best)[0])
    token = Token(ids[0] if ids else 0, best, logprob if request.logprobs is not None else None)
    generation.emit(token)
    told = () if request.logprobs is None else (token,)
    count = len(request.prompt.ids)
    generation.emit(Completion(best, ids, "stop", count, told, labels=order))


def ranked(labels: Sequence[str], probabilities: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Pair labels with their log-probabilities, likeliest first."""
    pairs = [
        (label, math.log(max(p, MIN_PROBABILITY)))
        for label, p in zip(labels, probabilities, strict=True)
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))
