"""One request inside the engine: its ids so far, its randomness, and the text it has given out."""

from __future__ import annotations

import time

from rung.engine.ngram_speculation import NgramSpeculation
from rung.engine.request import Completion, DeadlineExceeded, FinishReason, Generation, Token
from rung.engine.sampler import Draw, Told
from rung.engine.served_model import ServedModel
from rung.engine.stop_strings import StopStrings


class RequestState:
    """A request from its submission to its last event.

    Args:
        generation: what the client holds.
        model: who answers.
        front: entries that the model's adapter puts in front of the prompt.
        max_tokens: tokens to draw at most, already bounded by the context.

    Attributes:
        lane: where its keys and values are; -1 while it waits.
        read: ids whose keys and values are in the lane.
        cached: ids of the prompt that came from the prefix store.
    """

    def __init__(self, generation: Generation, model: ServedModel, front: int, max_tokens: int):
        request = generation.request
        self.generation, self.model, self.front = generation, model, front
        self.name, self.slot = model.name, model.slot
        self.lane, self.read, self.cached = -1, 0, 0
        self.ids = list(request.prompt.ids)  # the prompt and what was drawn
        self.prompt = len(self.ids)
        self.end = self.prompt + max_tokens
        self.draw = Draw(request.decoding, request.prompt.ids, request.constraint, request.logprobs)
        self.stop_ids = frozenset(model.stop_ids if request.stop_ids is None else request.stop_ids)
        self.expires = None if request.deadline is None else time.monotonic() + request.deadline
        self.lookup = NgramSpeculation()
        self.told: list[Told | None] = []  # of the prompt's tokens from the second on
        self._decoder = model.template.decoder()
        self._stops = StopStrings(request.decoding.stop)
        self._text: list[str] = []
        self._tokens: list[Token] = []

    @property
    def entries(self) -> int:
        """Cache entries needed to read all ids."""
        return self.front + len(self.ids)

    @property
    def unread(self) -> int:
        """Ids that are not in the lane yet."""
        return len(self.ids) - self.read

    @property
    def wants_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are still to be told."""
        asked = self.generation.request.prompt_logprobs is not None
        return asked and len(self.told) < self.prompt - 1

    @property
    def overdue(self) -> bool:
        return self.expires is not None and time.monotonic() > self.expires

    def start_again(self) -> None:
        """Its lane is lost: everything is to be read again."""
        self.lane, self.read = -1, 0
        if self.wants_prompt:
            self.told.clear()

    def accept(self, token: int, told: Told | None = None) -> bool:
        """Take a drawn token and tell the client; True when it was the last.

        Raises:
            ConstraintError: when the request's constraint cannot be followed any further.
        """
        self.draw.take(token)
        self.ids.append(token)
        reason: FinishReason | None = None
        if token in self.stop_ids:
            text, reason = self._flush(), "stop"
        else:
            text = self._stops.push(self._decoder.push(token))
            if not self._stops.hit and self.draw.fulfilled:
                text, reason = text + self._flush(), "stop"
            elif not self._stops.hit and len(self.ids) >= self.end:
                text, reason = text + self._flush(), "length"
        if self._stops.hit:
            reason = "stop"
        self._give(token, text, told)
        if reason:
            self.finish(reason)
        return reason is not None

    def _give(self, token: int, text: str, told: Told | None) -> None:
        self._text.append(text)
        event = Token(token, text) if told is None else Token(token, text, *told)
        if told is not None:
            self._tokens.append(event)
        self.generation.emit(event)

    def _flush(self) -> str:
        text = self._stops.push(self._decoder.flush())
        return text if self._stops.hit else text + self._stops.flush()

    def finish(self, reason: FinishReason) -> None:
        """The last event: the whole answer."""
        drawn = tuple(self.ids[self.prompt :])
        whole = Completion(
            "".join(self._text), drawn, reason, self.prompt, tuple(self._tokens), self._prompt_tokens(),
            cached_tokens=self.cached,
        )  # fmt: skip
        self.generation.emit(whole)

    def _prompt_tokens(self) -> tuple[Token, ...]:
        if self.generation.request.prompt_logprobs is None:
            return ()
        told = [None, *self.told][: self.prompt]
        return tuple(
            Token(i, "") if t is None else Token(i, "", *t)
            for i, t in zip(self.ids, told, strict=False)
        )

    def fail(self, fault: Exception) -> None:
        """The last event: what went wrong."""
        self.generation.emit(fault)

    def expire(self) -> None:
        """The last event: time is up."""
        drawn = len(self.ids) - self.prompt
        self.fail(
            DeadlineExceeded(
                f"the answer was not finished in {self.generation.request.deadline:g} s "
                f"({drawn} tokens drawn): ask for fewer tokens or allow more time"
            )
        )
