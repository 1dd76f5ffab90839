"""Served model: a slot of the bank with its template and decoding defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rung.data.conversation import Conversation
from rung.data.template import Template
from rung.forward.adapter import Adapter
from rung.forward.classifier import Classifier
from rung.forward.mapper import Mapper
from rung.forward.reward_head import RewardHead
from rung.forward.sight import Sight
from rung.forward.towers import Towers
from rung.remote.model import RemoteModel
from rung.types import Decoding, Example, Message, Prompt


@dataclass(frozen=True)
class ServedModel:
    """Model that clients ask for by name.

    Attributes:
        name: what clients ask for.
        slot: its adapter in the bank, -1 for the bare base.
        template: renders prompts and decodes answers.
        stop_ids: tokens that end an answer; the template's unless given.
        decoding: what applies where a request says nothing.
        conversation: what its adapter does to the messages; None leaves them as they are.
        classifier: answers with a label in place of generating; None for models that generate.
        remote: answers behind an API, in place of the bank.
        reward: scores texts in place of writing them.
        mapper: maps records in place of writing them.
        sight: turns pictures into tokens; None for models that see none, or nothing else.
        towers: gives vectors of pictures and texts in place of the base's.
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
    reward: RewardHead | None = None
    mapper: Mapper | None = None
    sight: Sight | None = None
    towers: Towers | None = None
    root: str | None = None
    parent: str | None = None
    created: int = 0
    owned_by: str = "rung"

    def __post_init__(self) -> None:
        if not self.stop_ids:
            object.__setattr__(self, "stop_ids", tuple(self.template.stop_ids))

    @classmethod
    def of(
        cls, name: str, slot: int, template: Template, adapter: Adapter | None = None, **about: Any
    ) -> ServedModel:
        """Describe what an adapter in a slot makes of its base; without one, the bare base.

        Args:
            about: further attributes, such as `decoding` and `parent`.
        """
        if adapter is not None:
            about |= {
                "conversation": adapter.conversation,
                "classifier": adapter.classifier,
                "remote": adapter.remote,
                "reward": adapter.reward,
                "mapper": adapter.mapper,
                "sight": adapter.sight,
                "towers": adapter.towers,
            }
            if adapter.sight is not None:
                template = replace(template, picture_tokens=adapter.sight.count)
        return cls(name, slot, template, **about)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that it answers with; empty where it generates text."""
        return () if self.classifier is None else tuple(self.classifier.labels)

    @property
    def takes_context(self) -> bool:
        """Whether a system message or passages may be put around the question.

        A classifier reads the question itself.
        """
        return self.classifier is None

    def messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Rewrite a conversation as this model is to see it."""
        return tuple(messages if self.conversation is None else self.conversation.messages(messages))

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """Render a conversation as this model is to see it, up to its reply.

        Raises:
            DataError: when the template refuses it.
        """
        seen = self.messages(messages)
        return Prompt(tuple(self.template.prompt(seen)), seen)

    def canonical(self, text: str) -> str:
        """A generated text with its calls in the form that turns have.

        Where the model has tools of its own, calls of others stay text.
        """
        talk = self.conversation
        own = talk.functions if talk is not None else ()
        names = [str(f["function"]["name"]) for f in own] or None
        return self.template.canonical(text, names)

    def judged(self, text: str | Sequence[Message]) -> Prompt:
        """Render a text, or a conversation that ends with the reply to be judged, for its reward.

        Raises:
            DataError: when the conversation does not end with a reply, or the template refuses it.
        """
        if isinstance(text, str):
            return Prompt(tuple(self.template.encode(text)))
        seen = tuple(text)
        return Prompt(self.template.render(Example(messages=seen)).ids, seen)
