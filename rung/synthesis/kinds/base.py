"""The contract of a kind of rows: the stages in which a teacher writes one, and the row it becomes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rung.types import Message

MAX_CHARACTERS = 240  # of a text that is written as JSON


@dataclass(kw_only=True)
class Draft:
    """A row that is being written.

    Attributes:
        index: counts all drafts of a data set. topic, angle: what it is to be about.
        examples: rows of the user's that show what is wanted.
        written: what rows of the same topic say, from which it must differ.
        passage: text of a document, with its name in `document`; the passage's own name in `gold`.
        earlier: drafts that were begun of the same passage before.
        fields: what has been written so far. asked: what the teacher was told at each stage.
    """

    index: int
    topic: str
    angle: str = ""
    label: str | None = None
    examples: Sequence[str] = ()
    written: Sequence[str] = ()
    document: str | None = None
    passage: str = ""
    gold: str = ""
    earlier: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """One question to the teacher about a draft.

    Attributes:
        names: the fields that it fills; a JSON object of these names, or, of one name and not `json`,
            plain text.
        compared: the field that must differ from that of all other rows; None: none.
        choices: values that the one field may have; None: any text.
    """

    names: tuple[str, ...]
    json: bool = True
    compared: str | None = None
    choices: tuple[str, ...] | None = None

    def schema(self) -> Mapping[str, Any] | None:
        """JSON schema of the answer; None for plain text."""
        if not self.json:
            return None
        text: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
        if self.choices is not None:
            text = {"enum": list(self.choices)}
        return {
            "type": "object", "properties": dict.fromkeys(self.names, text),
            "required": list(self.names), "additionalProperties": False,
        }  # fmt: skip


class Kind(ABC):
    """One kind of rows. Instances hold no state.

    Attributes:
        summary: one line for help. stages: in their order.
        labelled: whether rows have labels, of which there are to be equally many.
        from_documents: whether each is written from a passage.
    """

    summary: ClassVar[str]
    stages: ClassVar[tuple[Stage, ...]]
    labelled: ClassVar[bool] = False
    from_documents: ClassVar[bool] = False

    def __init__(self, name: str):
        self.name = name

    @abstractmethod
    def messages(self, stage: int, description: str, draft: Draft) -> tuple[Message, ...]:
        """Word the question of a stage."""

    @abstractmethod
    def row(self, draft: Draft) -> dict[str, Any]:
        """Build the row, without its provenance."""

    def kept(self, draft: Draft, name: str, text: str) -> str:
        """Choose what is kept of the text that a teacher wrote for a field."""
        return text

    def refused(self, draft: Draft) -> str | None:
        """Say why what was written makes no row of this kind; None where it does."""
        return None


def user(content: str) -> tuple[Message, ...]:
    """One message of the user's."""
    return ({"role": "user", "content": content},)


def shown(asked: str, answered: Mapping[str, str]) -> tuple[Message, ...]:
    """A question with its answer as JSON, in front of the real one, for small teachers."""
    text = json.dumps(dict(answered), ensure_ascii=False)
    return ({"role": "user", "content": asked}, {"role": "assistant", "content": text})


def asking(description: str, topic: str) -> str:
    """Word the question for what people write to an assistant."""
    return f"Somebody who does this is asked: {description} Topic: {topic}. What does the person write?"


SHOWN = (
    *shown(
        asking("Helps people who bake.", "bread"),
        {"prompt": "My bread never rises, although I follow the recipe. What am I doing wrong?"},
    ),
    *shown(
        asking("Repairs bicycles.", "brakes"),
        {"prompt": "I have an old city bike whose front brake squeals when it rains. Can I fix that?"},
    ),
)


def request_prompt(description: str, draft: Draft) -> tuple[Message, ...]:
    """Word the question for a prompt about a topic, unlike what was written about it before."""
    return (*SHOWN, *user(with_context(asking(description, draft.topic), draft)))


def with_context(asked: str, draft: Draft) -> str:
    """A question with the angle, the user's own rows, and what must not be written again."""
    parts = [f"{asked} {draft.angle}"]
    if draft.examples:
        parts.append("In the manner of these:" + _listed(draft.examples))
    if draft.written:
        parts.append("Something else than these:" + _listed(draft.written))
    return "\n\n".join(part.strip() for part in parts)


def _listed(texts: Sequence[str]) -> str:
    return "".join(f"\n- {text}" for text in texts)
