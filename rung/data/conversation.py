"""The messages seam: what an adapter does to the words around the model."""

from __future__ import annotations

from collections.abc import Sequence

from rung.types import Message


class Conversation:
    """Rewrites the conversation before it is rendered and reads the answer out of what was generated.

    The default changes nothing. Attributes:
        max_tokens: what an answer may take, where reasoning comes before it; None leaves the default.
        samples: how many answers are drawn and put to the vote; 1 is one answer, drawn greedily.
        temperature: how they are drawn where there are several.
    """

    max_tokens: int | None = None
    samples: int = 1
    temperature: float = 0.0

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """A conversation that ends before the reply -> what the model is to see instead."""
        return list(messages)

    def answer(self, text: str) -> str:
        """The part of a generated text that counts as the answer."""
        return text

    def vote(self, answers: Sequence[str]) -> str:
        """One answer out of several, each as `answer` read it; the first when nothing else is said."""
        return answers[0]
