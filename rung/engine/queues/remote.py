"""Remote queue: requests to models behind an API, passed on by threads that wait for the answers."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from threading import Lock

from rung.data.turns import plain
from rung.engine.queues.batched import Ticket
from rung.engine.request import (
    Completion,
    DeadlineExceeded,
    EngineFault,
    EngineStopped,
    Generation,
    GenerationRequest,
    Request,
    Token,
)
from rung.engine.served_model import ServedModel
from rung.errors import Busy, ConfigError, RungError
from rung.forward.bank import Bank
from rung.types import Decoding

log = logging.getLogger("rung.engine")

NO_ID = 0  # of a token; what an API writes has no ids here
PASSED = (
    "max_tokens", "temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty",
)  # fmt: skip


class RemoteQueue:
    """Requests that are on their way to an API; see `queues.base.Queue`.

    Args:
        max_waiting: maximum number of requests on their way.
    """

    def __init__(self, max_waiting: int):
        self.max_waiting = max_waiting
        self._lock = Lock()
        self._count = 0
        self._stopped = False
        self._pools: dict[int, ThreadPoolExecutor] = {}  # by requests at once

    def __len__(self) -> int:
        return self._count

    def accepts(self, request: Request, model: ServedModel) -> bool:
        return isinstance(request, GenerationRequest) and model.remote is not None

    def prepare(self, generation: Generation, model: ServedModel) -> Ticket:
        assert isinstance(generation.request, GenerationRequest)
        _check(generation.request, model)
        return Ticket(generation, model)

    def add(self, batch: list[Ticket], patient: bool = False) -> None:
        """Pass on all or none; raises Busy where they do not fit and are not patient."""
        with self._lock:
            if not patient and self._count + len(batch) > self.max_waiting:
                raise Busy(f"{self._count} requests are waiting: try again later")
            self._stopped = False
            self._count += len(batch)
            for ticket in batch:
                remote = ticket.model.remote
                at_once = max(1, remote.at_once) if remote else 1
                if at_once not in self._pools:
                    self._pools[at_once] = ThreadPoolExecutor(at_once, "rung-remote")
                self._pools[at_once].submit(self._pass, ticket.generation, ticket.model)

    def step(self, bank: Bank) -> bool:
        """Compute nothing: threads of its own wait for the API."""
        return False

    def slots(self) -> set[int]:
        """Return nothing: no adapter of the bank is needed."""
        return set()

    def fail_all(self, fault: RungError) -> None:
        """Fail what still waits for a thread, and cut short what is being answered."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
            self._stopped = True
        for pool in pools:
            pool.shutdown(wait=False)

    def _pass(self, generation: Generation, model: ServedModel) -> None:
        try:
            generation.emit(self._answer(generation, model))
        except RungError as fault:
            generation.emit(fault)
        except Exception as fault:
            log.exception("passing a request on to '%s' failed", model.name)
            generation.emit(EngineFault(f"asking '{model.name}' failed ({fault})"))
        finally:
            with self._lock:
                self._count -= 1

    def _answer(self, generation: Generation, model: ServedModel) -> Completion:
        request, remote = generation.request, model.remote
        assert isinstance(request, GenerationRequest) and remote is not None
        left = None if generation.expires is None else generation.expires - time.monotonic()
        if self._stopped:
            raise EngineStopped("the engine has stopped")
        late = DeadlineExceeded(f"the answer was not finished within {request.deadline or 0:g} s")
        if generation.overdue:
            raise late
        if generation.cancelled:
            return Completion("", (), "cancelled", len(request.prompt.ids))

        def heard(text: str) -> bool:
            generation.emit(Token(NO_ID, text))
            return not (generation.cancelled or self._stopped or generation.overdue)

        messages = plain(request.prompt.messages)
        try:
            said = remote.ask(messages, request.decoding, heard=heard, timeout=left)
        except RungError as fault:
            raise (late if generation.overdue else fault) from None
        if generation.overdue:
            raise late
        ids = (NO_ID,) * (said.completion_tokens or len(model.template.encoder.encode(said.text)[0]))
        ended = "cancelled" if generation.cancelled else said.finish_reason
        return Completion(said.text, ids, ended, said.prompt_tokens or len(request.prompt.ids))


def _check(request: GenerationRequest, model: ServedModel) -> None:
    """Refuse what an API cannot be asked; raises ConfigError."""
    if not request.prompt.messages:
        raise ConfigError(f"'{model.name}' is behind an API and answers conversations only")
    if request.logprobs is not None or request.prompt_logprobs is not None:
        raise ConfigError(f"'{model.name}' is behind an API: log-probabilities are not passed on")
    for option in fields(request.decoding):
        value, *usual = (
            getattr(d, option.name) for d in (request.decoding, Decoding(), model.decoding)
        )
        if option.name not in PASSED and value not in usual:
            raise ConfigError(f"'{model.name}' is behind an API: {option.name} is not passed on")
    if request.constraint is not None:
        raise ConfigError(f"'{model.name}' is behind an API: a form of answers is not passed on")
