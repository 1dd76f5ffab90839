"""State of one request inside the engine: its ids, its randomness, and the text it has given out."""

from __future__ import annotations

from rung.engine.ngram_speculation import NgramSpeculation
from rung.engine.registry import Registry
from rung.engine.request import (
    Completion,
    ContextExceeded,
    DeadlineExceeded,
    FinishReason,
    Generation,
    GenerationRequest,
    Token,
)
from rung.engine.sampler import Draw, Told
from rung.engine.served_model import ServedModel
from rung.engine.stop_strings import StopStrings
from rung.errors import ConfigError
from rung.pictures import tokens


def check_request(request: GenerationRequest, model: ServedModel, registry: Registry) -> int:
    """Check a request to a model of the bank -> tokens that it may draw, bounded by the context.

    Raises:
        ConfigError, ContextExceeded: as `Engine.submit`.
    """
    prompt, decoding = request.prompt.ids, request.decoding
    vocabulary = registry.vocabulary_of(model.slot)
    shown = tokens.of_messages(request.prompt.messages, model.template.picture_tokens)
    words = [i for i in prompt if i not in shown] if shown else prompt
    registry.check_ids(words, "the prompt", model)
    if not all(0 <= i < vocabulary for i in decoding.logit_bias):
        raise ConfigError(f"logit_bias holds a token id outside 0 to {vocabulary - 1}")
    if decoding.seed is not None and not -(2**63) <= decoding.seed < 2**64:
        raise ConfigError("the seed must fit 64 bits")
    front = registry.hold(model.slot)
    echoes = request.prompt_logprobs is not None
    room = registry.context - front - len(prompt)
    if room < (0 if echoes and decoding.max_tokens == 0 else 1):
        taken = f", {front} of them taken by its adapter" if front else ""
        raise ContextExceeded(
            f"the prompt has {len(prompt)} tokens, which leaves no room for an answer: the "
            f"context of '{model.name}' is {registry.context} tokens{taken}"
        )
    max_tokens = min(decoding.max_tokens, room)
    if max_tokens < (0 if echoes else 1):
        raise ConfigError(f"max_tokens is {max_tokens}, must be at least 1")
    return max_tokens


class RequestState:
    """State of a request from its submission to its last event.

    Args:
        generation: what the client holds.
        model: who answers.
        front: positions that the model's adapter takes in front of the prompt.
        max_tokens: maximum number of tokens to draw, already bounded by the context.
        begins: token at which the model's adapter begins to act; None: it acts everywhere.
        vocabulary: number of token ids that the model reads and draws.

    Attributes:
        lane: the KV cache's lane that it owns; -1 while it waits.
        admitted: number of its admission: the smaller, the longer ago; 0 until then.
        read: ids whose keys and values are in the lane.
        cached: ids of the prompt that came from the prefix cache.
        told: log-probabilities of the prompt's tokens from the second on.
    """

    def __init__(
        self,
        generation: Generation,
        model: ServedModel,
        front: int,
        max_tokens: int,
        begins: int | None = None,
        vocabulary: int | None = None,
    ):
        request = generation.request
        assert isinstance(request, GenerationRequest)
        self.generation, self.model, self.front = generation, model, front
        self.name, self.slot, self.begins = model.name, model.slot, begins
        self.lane, self.admitted, self.read, self.cached = -1, 0, 0, 0
        self.ids = list(request.prompt.ids)  # the prompt and what was drawn
        self.prompt = len(self.ids)
        self.end = self.prompt + max_tokens
        if begins is not None and begins >= self.prompt:
            self.begins = self.end  # what is drawn calls no adapter
        self.draw = Draw(
            request.decoding,
            tokens.words(request.prompt.ids),
            request.constraint,
            request.logprobs,
            request.as_drawn,
            vocabulary,
        )  # fmt: skip
        self.prompt_logprobs = request.prompt_logprobs
        self.stop_ids = frozenset(model.stop_ids if request.stop_ids is None else request.stop_ids)
        self.speculation = NgramSpeculation()
        self.told: list[Told | None] = []
        self._decoder = model.template.decoder()
        self._stops = StopStrings(request.decoding.stop)
        self._text: list[str] = []
        self._tokens: list[Token] = []

    @classmethod
    def of(cls, generation: Generation, model: ServedModel, registry: Registry) -> RequestState:
        """Check a request and make its state.

        Raises:
            ConfigError, ContextExceeded: as `Engine.submit`.
        """
        assert isinstance(generation.request, GenerationRequest)
        max_tokens = check_request(generation.request, model, registry)
        begins = registry.begins(model.slot, generation.request.prompt.ids)
        vocabulary = registry.vocabulary_of(model.slot)
        return cls(generation, model, registry.hold(model.slot), max_tokens, begins, vocabulary)

    @property
    def decodes_as(self) -> int:
        """The slot of what it draws: the base's where the prompt does not call the adapter."""
        return -1 if self.begins is not None and self.begins >= self.end else self.slot

    @property
    def positions(self) -> int:
        """Positions of the KV cache needed to read all ids."""
        return self.front + len(self.ids)

    @property
    def unread(self) -> int:
        """Number of ids that are not in the lane yet."""
        return len(self.ids) - self.read

    @property
    def wants_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are still to be computed."""
        return self.prompt_logprobs is not None and len(self.told) < self.prompt - 1

    @property
    def ended(self) -> bool:
        """Whether it was cancelled, is overdue or has waited too long."""
        return self.generation.cancelled or self.generation.overdue or self._late

    @property
    def _late(self) -> bool:
        return self.generation.late and not self.admitted

    def restart(self) -> None:
        """Forget what was read, since its lane is lost; what was drawn stays."""
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
        """Emit the last event: the whole answer."""
        drawn = tuple(self.ids[self.prompt :])
        whole = Completion(
            "".join(self._text), drawn, reason, self.prompt, tuple(self._tokens), self._prompt_tokens(),
            cached_tokens=self.cached,
        )  # fmt: skip
        self.generation.emit(whole)

    def _prompt_tokens(self) -> tuple[Token, ...]:
        if self.prompt_logprobs is None:
            return ()
        told = [None, *self.told][: self.prompt]
        return tuple(
            Token(i, "") if t is None else Token(i, "", *t)
            for i, t in zip(self.ids, told, strict=False)
        )

    def fail(self, fault: Exception) -> None:
        """Emit the last event: what went wrong."""
        self.generation.emit(fault)

    def end_early(self) -> None:
        """Emit the last event of what `ended`: what was drawn if cancelled, else DeadlineExceeded."""
        if self.generation.cancelled:
            self.finish("cancelled")
            return
        if self._late and not self.generation.overdue:
            self.fail(self.generation.waited_too_long())
            return
        drawn = len(self.ids) - self.prompt
        self.fail(
            DeadlineExceeded(
                f"the answer was not finished in {self.generation.request.deadline:g} s "
                f"({drawn} tokens drawn): ask for fewer tokens or allow more time"
            )
        )
