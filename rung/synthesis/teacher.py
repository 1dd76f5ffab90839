"""Teacher: the contract of a model that writes data, and what it is asked and answers."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rung.remote.openai import RemoteFault
from rung.types import LicenceClass, Message


@dataclass(frozen=True, kw_only=True)
class Question:
    """Request to a teacher.

    Attributes:
        schema: JSON schema that the answer follows; None: plain text, ended by the end of turn.
        max_tokens: maximum number of tokens of the answer.
    """

    messages: tuple[Message, ...]
    seed: int
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 256
    temperature: float = 0.8
    top_p: float = 0.95

    def digest(self, teacher: str) -> str:
        """Compute the SHA-256 of all that the answer of a teacher depends on."""
        content = json.dumps([teacher, asdict(self)], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """Answer of a teacher. `finish_reason` is `stop`, or `length` where it was cut."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def value(self) -> dict[str, Any] | None:
        """Parse the answer as a JSON object; None where it is none."""
        begin, end = self.text.find("{"), self.text.rfind("}")
        try:
            found = json.loads(self.text[begin : end + 1])
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


@dataclass(kw_only=True)
class Usage:
    """Tokens that a teacher has read and written for this data set, answers kept from before apart."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    kept: int = 0  # answers that were taken from the cache
    money: float = 0.0


class Teacher(ABC):
    """A model that writes data.

    Attributes:
        name: as the user wrote it. digest: identifies what answers, across machines.
        licence, licence_class: under which it is used.
    """

    name: str
    digest: str
    licence: str
    licence_class: LicenceClass

    def __init__(self) -> None:
        self.usage = Usage()

    @abstractmethod
    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer all of these, in their order; the same ones are answered alike at any time.

        Raises:
            RungError: in one line, where there is no answer to be had.
        """

    def close(self) -> None:
        """Give memory back."""
        return


def answers_of(teacher: Teacher, questions: Sequence[Question], kept: str) -> list[Answer]:
    """Ask a teacher; where it cannot be reached any more, say besides what is `kept`.

    Raises:
        RungError: as the teacher does.
    """
    try:
        return teacher.ask(questions) if questions else []
    except RemoteFault as fault:
        raise RemoteFault(f"{fault}; {kept}: run the same command again to go on") from None


def seed_of(seed: int, index: int, stage: int) -> int:
    """Derive the seed of one question, 31 bits, so that any reader of JSON keeps it."""
    digest = hashlib.blake2b(f"{seed}:{index}:{stage}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
