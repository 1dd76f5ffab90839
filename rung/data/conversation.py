"""The messages seam: what an adapter does to the words around the model."""

from __future__ import annotations

from collections.abc import Sequence

from rung.types import Message


class Conversation:
    """Rewrites the conversation before it is rendered and reads the answer out of what was generated.

    The default changes nothing. Attributes:
        max_tokens: what an answer may take, where reasoning comes before it; None leaves the default.
    """

    max_tokens: int | None = None

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """A conversation that ends before the reply -> what the model is to see instead."""
        return list(messages)

    def answer(self, text: str) -> str:
        """The part of a generated text that counts as the answer."""
        return text
