"""Requests to models behind an API: passed on by threads, which wait there in place of the engine."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from rung.data.turns import plain
from rung.engine.request import (
    Completion,
    DeadlineExceeded,
    EngineFault,
    EngineStopped,
    Generation,
    GenerationRequest,
    Token,
)
from rung.engine.served_model import ServedModel
from rung.errors import Busy, ConfigError, RungError

log = logging.getLogger("rung.engine")

NO_ID = 0  # what an API writes has no ids here


class RemoteQueue:
    """The requests that are on their way to an API.

    Args:
        most: of them at most.
    """

    def __init__(self, most: int):
        self.most = most
        self._lock = Lock()
        self._there = 0
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def __len__(self) -> int:
        return self._there

    def add(self, asked: list[tuple[Generation, ServedModel]], patient: bool = False) -> None:
        """Pass on all or none.

        Raises:
            Busy: where they do not fit. ConfigError: for what an API cannot be asked.
        """
        for generation, model in asked:
            _check(generation.request, model)
        with self._lock:
            if not patient and self._there + len(asked) > self.most:
                raise Busy(f"{self._there} requests are waiting: try again later")
            self._there += len(asked)
            for generation, model in asked:
                at_once = max(1, model.remote.at_once) if model.remote else 1
                if at_once not in self._pools:
                    self._pools[at_once] = ThreadPoolExecutor(at_once, "rung-passing")
                self._pools[at_once].submit(self._pass, generation, model, time.monotonic())

    def fail_all(self) -> None:
        """The engine stops: who still waits for a thread is told so, the others are cut short."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        self._stopped = True
        for pool in pools:
            pool.shutdown(wait=False)

    _stopped = False

    def _pass(self, generation: Generation, model: ServedModel, since: float) -> None:
        try:
            generation.emit(self._answer(generation, model, since))
        except RungError as fault:
            generation.emit(fault)
        except Exception as fault:
            log.exception("passing a request on to '%s' failed", model.name)
            generation.emit(EngineFault(f"asking '{model.name}' failed ({fault})"))
        finally:
            with self._lock:
                self._there -= 1

    def _answer(self, generation: Generation, model: ServedModel, since: float) -> Completion:
        request, there = generation.request, model.remote
        assert there is not None
        left = None if request.deadline is None else request.deadline - (time.monotonic() - since)
        if self._stopped:
            raise EngineStopped("the engine has stopped")
        if left is not None and left <= 0:
            raise DeadlineExceeded(f"the answer was not finished within {request.deadline:g} s")
        if generation.cancelled:
            return Completion("", (), "cancelled", len(request.prompt.ids))

        def heard(text: str) -> bool:
            generation.emit(Token(NO_ID, text))
            return not (generation.cancelled or self._stopped)

        said = there.ask(plain(request.prompt.messages), request.decoding, heard=heard, timeout=left)
        ids = (NO_ID,) * (said.completion_tokens or len(model.template.encoder.encode(said.text)[0]))
        ended = "cancelled" if generation.cancelled else said.finish_reason
        return Completion(said.text, ids, ended, said.prompt_tokens or len(request.prompt.ids))


def _check(request: GenerationRequest, model: ServedModel) -> None:
    if not request.prompt.messages:
        raise ConfigError(f"'{model.name}' is behind an API and answers conversations only")
    if request.logprobs is not None or request.prompt_logprobs is not None:
        raise ConfigError(f"'{model.name}' is behind an API: log-probabilities are not passed on")
    if request.constraint is not None:
        raise ConfigError(f"'{model.name}' is behind an API: a form of answers is not passed on")
