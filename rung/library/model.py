"""A model in memory: ask it, or read its answer as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rung.config import resolve
from rung.engine import Completion, Engine, GenerationRequest, ServedModel
from rung.engine.labels import labels_only
from rung.engine.tool_loop import Trajectory, has_tools, summed, take_steps
from rung.errors import ConfigError
from rung.library.knobs import DecodingKnobs
from rung.types import Decoding, Message

Asked = str | Sequence[Message]


class Model:
    """One model of an engine.

    Every method that asks takes the settings of `rung chat` by name: `system`, `temperature`, `top_p`,
    `seed`, `max_tokens`. What is not set is the model's own.

    Attributes:
        engine: serves this model, others of its base, and the base itself.
    """

    def __init__(self, engine: Engine, name: str):
        self.engine, self.name = engine.start(), name

    def ask(self, asked: Asked, **settings: Any) -> str:
        """Return the answer's text.

        Args:
            asked: a user's message, or the messages of a conversation.

        Raises:
            ConfigError: for an unknown setting, or nothing to ask.
        """
        return self.complete(asked, **settings).text

    def complete(self, asked: Asked, **settings: Any) -> Completion:
        """Return the answer with its counts of tokens and why it ended. Raises as `ask`."""
        if has_tools(self.engine.model(self.name)):
            return summed(self.trajectory(asked, **settings))
        return self.engine.submit(self._request(asked, settings)).result()

    def trajectory(self, asked: Asked, **settings: Any) -> Trajectory:
        """Return every step of a model with tools: its calls, what they gave, and the reply.

        Raises:
            ConfigError: as `ask`, and for tools that nobody has named on this machine.
        """
        knobs = resolve([DecodingKnobs], settings)[0]
        model, turns = self.engine.model(self.name), turns_of(asked, knobs)
        return take_steps(self.engine, model, [turns], step_decoding(model, knobs))[0]

    def stream(self, asked: Asked, **settings: Any) -> Iterator[str]:
        """Yield the answer's text in pieces, as they are drawn. Raises as `ask`.

        That of a model with tools comes whole, once they have been called.
        """
        if has_tools(self.engine.model(self.name)):
            yield self.complete(asked, **settings).text
            return
        generation = self.engine.submit(self._request(asked, settings))
        try:
            for token in generation:
                yield token.text
        finally:
            generation.cancel()  # frees its lane when the caller stops reading

    def score(self, texts: Sequence[Asked]) -> list[float]:
        """Give each text its reward, where this is a reward model: higher is better.

        Args:
            texts: plain texts, or conversations that end with the reply to be judged.

        Raises:
            ConfigError: when it is no reward model. DataError: for a conversation without a reply.
        """
        model = self.engine.model(self.name)
        return self.engine.score(self.name, [model.judged(text) for text in texts])

    def _request(self, asked: Asked, settings: dict[str, Any]) -> GenerationRequest:
        return request(self.engine, self.name, asked, resolve([DecodingKnobs], settings)[0])

    def close(self) -> None:
        """Stop the engine, and with it every model that it serves."""
        self.engine.stop()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(engine: Engine, name: str, asked: Asked, knobs: DecodingKnobs) -> GenerationRequest:
    """Build the request for an answer to a text or to a conversation.

    Raises:
        ConfigError: when there is nothing to ask.
        ModelNotFound: naming the nearest.
    """
    model = engine.model(name)
    prompt, decoding = model.prompt(turns_of(asked, knobs)), knobs.over(model.decoding)
    return GenerationRequest(name, prompt, decoding, constraint=labels_only(engine, name))


def turns_of(asked: Asked, knobs: DecodingKnobs) -> list[Message]:
    """The conversation to answer. Raises ConfigError when there is nothing to ask."""
    turns: list[Message] = [{"role": "user", "content": asked}] if isinstance(asked, str) else [*asked]
    if not turns or not turns[-1]["content"].strip():
        raise ConfigError("there is nothing to ask: the message is empty")
    if knobs.system:
        turns = [{"role": "system", "content": knobs.system}, *turns]
    return turns


def step_decoding(model: ServedModel, knobs: DecodingKnobs) -> Decoding:
    """How a step of a model with tools is drawn: as long as its adapter says, unless the user does."""
    own = model.conversation.max_tokens if model.conversation is not None else None
    usual = replace(model.decoding, max_tokens=own) if own else model.decoding
    return knobs.over(usual)
