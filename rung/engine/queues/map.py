"""Mapping queue: records as the known records that they may be, by models that have a mapper."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from rung.engine.queues.batched import BatchedQueue, Ticket
from rung.engine.request import Completion, EngineFault, Generation, MapRequest, Request
from rung.engine.served_model import ServedModel
from rung.errors import ConfigError, RungError
from rung.forward.bank import Bank
from rung.types import Prompt

log = logging.getLogger("rung.engine")

MAX_RECORDS = 64  # maximum number of records in one pass


class MapQueue(BatchedQueue):
    """Requests to map records, and whatever else mappers are asked, which is refused."""

    work = "mapping"

    def accepts(self, request: Request, model: ServedModel) -> bool:
        return isinstance(request, MapRequest) or model.mapper is not None

    def prepare(self, generation: Generation, model: ServedModel) -> Ticket:
        if model.mapper is None:
            raise ConfigError(f"'{model.name}' is no mapper: make one with rung map --name NAME")
        if not isinstance(generation.request, MapRequest):
            raise ConfigError(f"'{model.name}' is a mapper: it maps records (/v1/map) and writes none")
        return Ticket(generation, model)

    def fits(self, prompts: Sequence[Prompt]) -> int:
        return MAX_RECORDS

    def compute(self, bank: Bank, model: ServedModel, prompts: Sequence[Prompt]) -> Tensor:
        raise NotImplementedError("records are answered by _answer")

    def finish(self, ticket: Ticket, row: Tensor) -> None:
        raise NotImplementedError("records are answered by _answer")

    def _answer(self, bank: Bank, tickets: Sequence[Ticket]) -> None:
        """Map in one pass, and each again alone where that went wrong."""
        model = tickets[0].model
        assert model.mapper is not None
        asked = [t.generation.request for t in tickets]
        records = [(r.record, r.description) for r in asked if isinstance(r, MapRequest)]
        try:
            found = model.mapper.matches(bank, model, records)
        except RungError as fault:
            for ticket in tickets:
                ticket.generation.emit(fault)
            return
        except Exception as fault:
            log.exception("mapping with '%s' failed", model.name)
            self._fail(bank, tickets, len(tickets), f"mapping with '{model.name}' failed ({fault})")
            return
        for ticket, matches in zip(tickets, found, strict=True):
            if all(0 <= match.confidence <= 1 for match in matches):
                ticket.generation.emit(Completion("", (), "stop", 0, matches=matches))
            else:
                ticket.generation.emit(
                    EngineFault(f"'{model.name}' computed values that are not finite")
                )
