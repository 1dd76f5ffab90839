"""Requests to the engine, and the handles and events that answer them."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rung.errors import Busy, RungError
from rung.types import Decoding, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from rung.engine.constraint import Constraint
    from rung.forward.mapper import Match

FinishReason = Literal["stop", "length", "cancelled"]


class ContextExceeded(RungError):
    """A prompt that leaves no room in the model's context.

    `places` are those of the rows that do not fit, where many were given at once.
    """

    places: frozenset[int] = frozenset()


class EngineStopped(RungError):
    """A request to an engine that has stopped."""

    exit_code = 1
    http_status = 503


class EngineFault(RungError):
    """A fault of the engine itself, or values that are not finite, while answering."""

    exit_code = 1
    http_status = 500


class DeadlineExceeded(RungError):
    """An answer that was not finished within the request's deadline."""

    http_status = 408


@dataclass(frozen=True)
class GenerationRequest:
    """Request for one answer of a model: generated, chosen among labels, or passed on to an API.

    Attributes:
        model: name of a served model.
        prompt: its ids must not be empty.
        decoding: how to draw; its `stop` texts end the answer and are not part of it.
        stop_ids: tokens that end the answer; None takes the model's own.
        logprobs: how many of the likeliest tokens to return with each drawn one, beside its own
            log-probability; 0 returns its own alone, None nothing.
        as_drawn: told log-probabilities are those of what tokens are drawn from, behind penalties,
            temperature and what is cut off; else those of the model, before all of it.
        prompt_logprobs: the same for the prompt's tokens; with it `max_tokens` may be 0.
        constraint: what the answer must look like, made by `Engine.constraint`.
        deadline: seconds from submission within which the answer must be finished; None: no limit.
        max_wait: seconds from submission within which it must have been taken up; None: no limit.
    """

    model: str
    prompt: Prompt
    decoding: Decoding = field(default_factory=Decoding)
    stop_ids: tuple[int, ...] | None = None
    logprobs: int | None = None
    as_drawn: bool = False
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    deadline: float | None = None
    max_wait: float | None = None


def derive_seed(seed: int | None, i: int) -> int | None:
    """Derive the seed of answer `i` of several to one request; answer 0 keeps the request's own.

    The others are far apart, so that answer 1 to seed 5 is not answer 0 to seed 6.
    """
    if seed is None or i == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}:{i}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


@dataclass(frozen=True)
class EmbeddingRequest:
    """Request for the embedding of one text: the mean of its final hidden states, of length 1.

    Attributes:
        model: name of a served model.
        prompt: its ids must not be empty.
        deadline: seconds from submission within which it must be computed; None: no limit.
        max_wait: seconds from submission within which it must have been taken up; None: no limit.
    """

    model: str
    prompt: Prompt
    deadline: float | None = None
    max_wait: float | None = None


@dataclass(frozen=True)
class ScoreRequest:
    """Request for the reward of one text.

    Attributes:
        model: name of a served reward model.
        prompt: the whole text, with the reply to be judged; its ids must not be empty.
        deadline: seconds from submission within which it must be computed; None: no limit.
        max_wait: seconds from submission within which it must have been taken up; None: no limit.
    """

    model: str
    prompt: Prompt
    deadline: float | None = None
    max_wait: float | None = None


@dataclass(frozen=True)
class MapRequest:
    """Request for the known records that a new one may be.

    Attributes:
        model: name of a served mapper.
        record: the new record's name. description: what else is known of it.
        deadline: seconds from submission within which it must be mapped; None: no limit.
        max_wait: seconds from submission within which it must have been taken up; None: no limit.
    """

    model: str
    record: str
    description: str = ""
    deadline: float | None = None
    max_wait: float | None = None

    @property
    def prompt(self) -> Prompt:
        """What the queue counts; a mapper reads no ids."""
        return Prompt(())


Request = GenerationRequest | EmbeddingRequest | ScoreRequest | MapRequest


@dataclass(frozen=True)
class Token:
    """Drawn token and the text that became certain with it, which may be empty.

    Attributes:
        logprob: of the token under the model's own distribution, before temperature, penalties and
            constraints; None where it was not asked for, and for a prompt's first token.
        top: (id, log-probability) of the likeliest tokens, likeliest first.
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    """Finished answer to a request.

    Attributes:
        text: without stop tokens and stop texts; the texts of all tokens joined.
        ids: everything drawn, the stop token included.
        finish_reason: `stop` (a stop token or text), `length`, or `cancelled`.
        tokens: what was drawn with its log-probabilities, where they were asked for.
        prompt: the prompt's tokens with theirs, where they were asked for; their texts are empty.
        labels: (label, log-probability), likeliest first, where a classifier answered; `text` is
            the first, and `ids` are its tokens.
        embedding: (d,) float32 on the CPU, of length 1, where an embedding was asked for.
        reward: of the text, where it was asked for.
        beside: tokens of other answers that were drawn to the same request and are not given.
        matches: known records that the new one may be, likeliest first, where a mapper answered.
        cached_tokens: tokens of the prompt that had been computed for an earlier request.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    tokens: tuple[Token, ...] = ()
    prompt: tuple[Token, ...] = ()
    labels: tuple[tuple[str, float], ...] = ()
    cached_tokens: int = field(default=0, compare=False)
    embedding: Tensor | None = field(default=None, compare=False)
    reward: float | None = None
    beside: int = 0
    matches: tuple[Match, ...] = ()

    @property
    def completion_tokens(self) -> int:
        """Tokens that were drawn, those of answers that are not given among them."""
        return len(self.ids) + self.beside


Event = Token | Completion | Exception
Listener = Callable[["Generation", Event], None]


class Generation:
    """Handle of a submitted request. Iterate it for Token events, or wait for `result`.

    Args:
        request: what was asked.
        listener: called with every event on the engine's thread, in place of iteration; it must
            return at once.
        throughput: nobody waits for single tokens, so prompts may be prefilled in large chunks
            between them.
    """

    def __init__(self, request: Request, listener: Listener | None = None, throughput: bool = False):
        self.request, self.throughput = request, throughput
        self.expires = None if request.deadline is None else time.monotonic() + request.deadline
        self.begins_by = None if request.max_wait is None else time.monotonic() + request.max_wait
        self.cancelled = False
        self._listener = listener
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._done = threading.Event()
        self._outcome: Completion | Exception | None = None

    @property
    def done(self) -> bool:
        """Whether the last event has come."""
        return self._done.is_set()

    @property
    def overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self.expires is not None and time.monotonic() > self.expires

    @property
    def late(self) -> bool:
        """Whether it should have been taken up by now."""
        return self.begins_by is not None and time.monotonic() > self.begins_by

    def waited_too_long(self) -> Busy:
        """Return the fault of a request that was not taken up in time."""
        wait = self.request.max_wait
        return Busy(f"the request was not taken up within {wait:g} s: try again later")

    def cancel(self) -> None:
        """Stop within one step; harmless when it is already over."""
        self.cancelled = True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the last event, at most `timeout` seconds -> whether it has come."""
        return self._done.wait(timeout)

    def __iter__(self) -> Iterator[Token]:
        """Yield tokens as they come, once.

        Raises:
            RungError: when the answer failed.
        """
        while isinstance(event := self._events.get(), Token):
            yield event
        self._events.put(event)  # for whoever iterates again
        if isinstance(event, Exception):
            raise event

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the finished answer.

        Args:
            timeout: maximum number of seconds to wait.

        Raises:
            RungError: when the answer failed.
            TimeoutError: when it is not there in time.
        """
        if not self._done.wait(timeout):
            raise TimeoutError("the answer is not finished")
        if isinstance(self._outcome, Completion):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome

    def emit(self, event: Event) -> None:
        """Hand an event to the client, on the engine's side; anything but a Token is the last one."""
        if not isinstance(event, Token):
            self._outcome = event
            self._done.set()
        if self._listener is not None:
            self._listener(self, event)
        else:
            self._events.put(event)
