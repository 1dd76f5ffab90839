"""The loop of an agent, batched: every open conversation takes a step, then its tools answer.

A step of all conversations is one batch of the engine; a conversation leaves when its model writes a
reply in place of a call, or may call no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.engine.engine import Engine
from rung.engine.request import Completion, GenerationRequest
from rung.engine.served_model import ServedModel
from rung.types import Decoding, Message


@dataclass
class Trajectory:
    """What came of one conversation.

    Attributes:
        asked: the conversation up to the reply. turns: the calls and results behind it.
        completions: what was generated, step by step; the last one is the reply.
    """

    asked: tuple[Message, ...]
    turns: list[Message] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)

    @property
    def now(self) -> list[Message]:
        """The conversation with all that has been called."""
        return [*self.asked, *self.turns]

    @property
    def results(self) -> list[str]:
        """What the tools gave, in the words of their turns."""
        return [m["content"] for m in self.turns if m.get("result")]

    @property
    def text(self) -> str:
        """The text of the last step."""
        return self.completions[-1].text if self.completions else ""

    @property
    def prompt_tokens(self) -> int:
        """Tokens read, those of every step."""
        return sum(c.prompt_tokens for c in self.completions)

    @property
    def completion_tokens(self) -> int:
        """Tokens written, those of every step."""
        return sum(c.completion_tokens for c in self.completions)


def step_request(
    engine: Engine, model: ServedModel, turns: Sequence[Message], decoding: Decoding, **more: Any
) -> GenerationRequest:
    """Request the next step of a conversation, held to what its tools take.

    Raises:
        DataError: when the template refuses the conversation.
    """
    talk = model.conversation
    grammar = None if talk is None else talk.grammar(turns)
    held = None if grammar is None else engine.constraint(model.name, "tool_calls", grammar)
    return GenerationRequest(model.name, model.prompt(turns), decoding, constraint=held, **more)


def take_steps(
    engine: Engine,
    model: ServedModel,
    conversations: Sequence[Sequence[Message]],
    decoding: Decoding,
    *,
    stopping: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Trajectory]:
    """Have a model with tools answer conversations; the tools run between two steps, on this thread.

    A conversation whose results have filled the context ends with what it has.

    Args:
        stopping: asked between steps of the engine. progress: told how many more have ended.

    Raises:
        Interrupted: when `stopping` says so. ContextExceeded: for a question that does not fit.
        ConfigError: for tools that nobody has named on this machine.
    """
    found = [Trajectory(tuple(messages)) for messages in conversations]
    left = list(found)
    while left:
        asked = [step_request(engine, model, one.now, decoding) for one in left]
        roomy = [
            (one, request)
            for one, request in zip(left, asked, strict=True)
            if not one.turns or engine.room(model.name, len(request.prompt.ids)) > 0
        ]
        done = engine.generate([request for _, request in roomy], stopping=stopping, remember=True)
        still = []
        for (one, _), completion in zip(roomy, done, strict=True):
            one.completions.append(completion)
            if follow(model, one):
                still.append(one)
        if progress is not None and len(still) < len(left):
            progress(len(left) - len(still))
        left = still
    return found


def has_tools(model: ServedModel) -> bool:
    """Whether a model calls tools of its own between question and reply."""
    return model.conversation is not None and model.conversation.steps > 0


def follow(model: ServedModel, trajectory: Trajectory) -> bool:
    """Make the calls of the last step -> whether another step is to come."""
    assert model.conversation is not None
    turns = model.conversation.follow(trajectory.now, model.canonical(trajectory.text))
    if turns is None:
        return False
    trajectory.turns += turns
    return True


def summed(trajectory: Trajectory) -> Completion:
    """A trajectory as one completion: the text of its last step, with the tokens of all of them."""
    last = trajectory.completions[-1]
    return dataclasses.replace(
        last, prompt_tokens=trajectory.prompt_tokens,
        ids=tuple(i for c in trajectory.completions for i in c.ids),
        cached_tokens=sum(c.cached_tokens for c in trajectory.completions),
    )  # fmt: skip
