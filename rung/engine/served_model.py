"""A model that can be asked: a slot of the bank with its template and decoding defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.data.conversation import Conversation
from rung.data.template import Template
from rung.forward.classifier import Classifier
from rung.remote.model import RemoteModel
from rung.types import Decoding, Message, Prompt


@dataclass(frozen=True)
class ServedModel:
    """What a name stands for.

    Attributes:
        name: what clients ask for.
        slot: its adapter in the bank, -1 for the bare base.
        template: renders prompts and decodes answers.
        stop_ids: tokens that end an answer; the template's unless given.
        decoding: what applies where a request says nothing.
        conversation: what its adapter does to the messages; None leaves them as they are.
        classifier: answers with a label in place of generating; None for models that generate.
        remote: answers behind an API, in place of the bank.
        root: the base an adapter stands on; None for a base.
        parent: the model it was tuned from; None for a base.
        created: seconds since 1970. owned_by: the organisation behind it.
    """

    name: str
    slot: int
    template: Template
    stop_ids: tuple[int, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)
    conversation: Conversation | None = None
    classifier: Classifier | None = None
    remote: RemoteModel | None = None
    root: str | None = None
    parent: str | None = None
    created: int = 0
    owned_by: str = "rung"

    def __post_init__(self) -> None:
        if not self.stop_ids:
            object.__setattr__(self, "stop_ids", tuple(self.template.stop_ids))

    def messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Rewrite a conversation as this model is to see it."""
        return tuple(messages if self.conversation is None else self.conversation.messages(messages))

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Prompt:
        """Render a conversation as this model is to see it, up to its reply.

        Args:
            tools: functions in OpenAI's words, for templates that show them.

        Raises:
            DataError: when the template refuses it.
        """
        seen = self.messages(messages)
        return Prompt(tuple(self.template.prompt(seen, tools)), seen)
