"""The seam of models whose forward pass happens somewhere else: what is asked is passed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rung.types import Decoding, Message

RemoteAnswerHandler = Callable[[str], bool]  # told of each piece of text; False ends the answer


@dataclass(frozen=True)
class RemoteAnswer:
    """An answer.

    Attributes:
        prompt_tokens, completion_tokens: as counted by whoever answered; 0 where it does not say.
        first: log-probability of the likeliest first tokens by their text, where they are told.
    """

    text: str
    finish_reason: Literal["stop", "length"] = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first: Mapping[str, float] = field(default_factory=dict)


class RemoteModel:
    """A model that answers conversations, from any thread.

    Attributes:
        at_once: requests that may be on their way together.
    """

    at_once: int = 1

    def ask(
        self,
        messages: Sequence[Message],
        decoding: Decoding,
        *,
        heard: RemoteAnswerHandler | None = None,
        first: bool = False,
        schema: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> RemoteAnswer:
        """The reply to a conversation.

        Args:
            heard: gets the text as it comes. first: ask for the likeliest first tokens.
            schema: JSON schema that the reply is to follow, where the server takes one.
            timeout: seconds within which to answer.

        Raises:
            RungError: in one line, when there is no answer to be had.
        """
        raise NotImplementedError

    def money(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost, in the user's currency."""
        return 0.0
