"""The messages seam: what an adapter does to the words around the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rung.types import Message


class Conversation:
    """Rewrites the conversation before it is rendered and reads the answer out of what was generated.

    The default changes nothing. Attributes:
        max_tokens: what an answer may take, where reasoning comes before it; None leaves the default.
        samples: how many answers are drawn and put to the vote; 1 is one answer, drawn greedily.
        temperature: how they are drawn where there are several.
        ranks: whether `rank` says which of them is given, also to who chats with a served model; else
            `vote` does where a model is measured, and a served one draws a single answer.
        steps: how often tools may answer between the question and the reply; 0 where none is called.
        functions: what may be called, in OpenAI's words.
        labels: the only answers, where a request does not say what its answer must look like; empty
            where any text is one.
    """

    max_tokens: int | None = None
    samples: int = 1
    temperature: float = 0.0
    ranks: bool = False
    steps: int = 0
    functions: Sequence[Mapping[str, Any]] = ()
    labels: tuple[str, ...] = ()

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """A conversation that ends before the reply -> what the model is to see instead."""
        return list(messages)

    def answer(self, text: str) -> str:
        """The part of a generated text that counts as the answer."""
        return text

    def vote(self, answers: Sequence[str]) -> str:
        """One answer out of several, each as `answer` read it; the first when nothing else is said."""
        return answers[0]

    def rank(self, bank: Any, asked: Sequence[Message], answers: Sequence[str]) -> int:
        """The place of the best of several answers to a conversation; for those that rank.

        Args:
            bank: `Bank` of the base that is served, for what is computed with it between two passes.

        Raises:
            RungError: where the answers cannot be ranked.
        """
        raise NotImplementedError(f"{type(self).__name__} does not rank")

    def grammar(self, messages: Sequence[Message]) -> Mapping[str, Any] | None:
        """What the next reply to these turns must look like, as a constraint of kind `tool_calls`.

        None leaves it free.
        """
        return None

    def follow(self, messages: Sequence[Message], text: str) -> list[Message] | None:
        """The turns behind what was generated: its calls, and what the tools gave; None for a reply.

        Args:
            messages: the conversation so far, as the client would write it.
        """
        return None
