"""Ranking queue: draws several answers to a request and gives the one that the model ranks first."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from rung.engine.queues.generate import GenerateQueue
from rung.engine.registry import Registry
from rung.engine.request import (
    Completion,
    EngineFault,
    Event,
    Generation,
    GenerationRequest,
    Request,
    Token,
    derive_seed,
)
from rung.engine.request_state import RequestState
from rung.engine.served_model import ServedModel
from rung.errors import RungError
from rung.forward.bank import Bank
from rung.types import Message

log = logging.getLogger("rung.engine")


@dataclass(eq=False)
class Draws:
    """The answers that are drawn to one request.

    Attributes:
        drawn: one generation for each answer, with its state in the generation queue.
        tokens: of each answer, as they came.
    """

    generation: Generation
    model: ServedModel
    drawn: list[Generation] = field(default_factory=list)
    states: list[RequestState] = field(default_factory=list)
    tokens: dict[Generation, list[Token]] = field(default_factory=dict)

    def hear(self, generation: Generation, event: Event) -> None:
        """Keep a token of one of the answers."""
        if isinstance(event, Token):
            self.tokens[generation].append(event)


class RankQueue:
    """Requests to models that rank what they draw; see `queues.base.Queue`.

    The answers are requests of the generation queue, in one batch with all others; what they share, the
    prompt, is read once. The first token is given when all answers have ended and are ranked.

    Args:
        generate: where answers are drawn.
    """

    def __init__(self, registry: Registry, generate: GenerateQueue):
        self.registry, self.generate = registry, generate
        self._lock = threading.Lock()
        self._waiting: list[Draws] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def accepts(self, request: Request, model: ServedModel) -> bool:
        talk = model.conversation
        ranks = talk is not None and talk.ranks and talk.samples > 1 and model.remote is None
        return ranks and isinstance(request, GenerationRequest) and request.prompt_logprobs is None

    def prepare(self, generation: Generation, model: ServedModel) -> Draws:
        request, talk = generation.request, model.conversation
        assert isinstance(request, GenerationRequest) and talk is not None
        found = Draws(generation, model)
        decoding = request.decoding
        heat = decoding.temperature or talk.temperature
        for i in range(talk.samples):
            own = dataclasses.replace(
                decoding, temperature=heat, seed=derive_seed(decoding.seed, i)
            )  # fmt: skip
            one = Generation(
                dataclasses.replace(request, decoding=own), found.hear, generation.throughput
            )
            found.tokens[one] = []
            found.drawn.append(one)
            found.states.append(self.generate.prepare(one, model))
        return found

    def add(self, batch: list[Draws], patient: bool = False) -> None:
        """Queue all answers of all requests or none; raises Busy where they do not fit."""
        self.generate.add([state for draws in batch for state in draws.states], patient)
        with self._lock:
            self._waiting += batch

    def slots(self) -> set[int]:
        return {draws.model.slot for draws in self._waiting}

    def fail_all(self, fault: RungError) -> None:
        with self._lock:
            failed, self._waiting = self._waiting, []
        for draws in failed:
            draws.generation.emit(fault)

    def step(self, bank: Bank) -> bool:
        """Rank the answers of one request whose answers have all ended."""
        for draws in list(self._waiting):
            if draws.generation.cancelled:
                for one in draws.drawn:
                    one.cancel()
        ready = next((d for d in self._waiting if all(one.done for one in d.drawn)), None)
        if ready is not None:
            with self._lock:
                self._waiting.remove(ready)
            self._give(bank, ready)
        return bool(self._waiting)

    def _give(self, bank: Bank, draws: Draws) -> None:
        """Emit the answer that is ranked first, its tokens in front; or what went wrong."""
        try:
            found = [one.result(0) for one in draws.drawn]
            ended = [i for i, one in enumerate(found) if one.finish_reason != "cancelled"]
            if len(ended) < len(found):  # who asked has gone
                draws.generation.emit(found[0])
                return
            best = self._best(bank, draws, found)
        except RungError as fault:
            draws.generation.emit(fault)
            return
        except Exception as fault:
            log.exception("ranking answers of '%s' failed", draws.model.name)
            name = draws.model.name
            draws.generation.emit(EngineFault(f"ranking the answers of '{name}' failed ({fault})"))
            return
        for token in draws.tokens[draws.drawn[best]]:
            draws.generation.emit(token)
        beside = sum(len(one.ids) for i, one in enumerate(found) if i != best)
        draws.generation.emit(dataclasses.replace(found[best], beside=beside))

    def _best(self, bank: Bank, draws: Draws, found: Sequence[Completion]) -> int:
        prompt, talk = draws.generation.request.prompt, draws.model.conversation
        assert talk is not None
        asked: tuple[Message, ...] = prompt.messages
        if not asked:  # plain text to be continued
            text = draws.model.template.decode(list(prompt.ids))
            asked = ({"role": "user", "content": text},)
        return talk.rank(bank, asked, [one.text for one in found])
