"""What a reward must say: a figure for each answer, or None where it cannot be scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from rung.errors import ConfigError
from rung.types import Message, last_question

# Score what a model says of whole conversations: each with its answer -> one figure each, or None.
Scorer = Callable[[Sequence[tuple[Message, ...]]], "list[float | None]"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of a model to a prompt, with what the data says of it.

    Attributes:
        prompt: the turns in front of the answer.
        gold: the answer that the data gives; None where it gives none.
        columns: the row's other columns.
        tokens: how many were drawn; 0 where nobody counted.
        truncated: whether it was cut off at the limit of tokens.
    """

    prompt: tuple[Message, ...]
    text: str
    gold: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0
    truncated: bool = False

    @property
    def question(self) -> str:
        """The user's last message."""
        return last_question(self.prompt)

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The prompt and the answer to it."""
        return (*self.prompt, {"role": "assistant", "content": self.text})


@dataclass(kw_only=True)
class Context:
    """What rewards may use of the run that asks for them.

    Attributes:
        model: the scorer of a stored model by its name; None where no model can be loaded.
        ask: lets a model of that name answer conversations; None where none can be asked.
        note: told once of what the user should know, in one line.
    """

    model: Callable[[str], Scorer] | None = None
    ask: Callable[[str, Sequence[Any], Mapping[str, Any]], list[str]] | None = None
    note: Callable[[str], None] = lambda text: None


class Reward(ABC):
    """One way to score answers. An instance is made for each spec, with what stands behind the colon.

    Attributes:
        summary: one line for help and tables.
        argument_help: what the argument means; empty where it takes none.
        needs_argument: whether there must be one.
        needs_gold: whether it compares with the answer that the data gives.
    """

    summary: ClassVar[str]
    argument_help: ClassVar[str] = ""
    needs_argument: ClassVar[bool] = False
    needs_gold: ClassVar[bool] = False

    def __init__(self, name: str):
        self.name, self.argument = name, ""
        self.context = Context()

    def configured(self, argument: str, context: Context) -> Self:
        """The same reward with an argument, checked.

        Raises:
            ConfigError: when the argument is missing, unwanted or malformed.
        """
        self.check_argument(argument)
        made = copy(self)
        made.argument, made.context = argument, context
        made.prepare()
        return made

    def check_argument(self, argument: str) -> None:
        """Refuse an argument that is missing or unwanted. Raises ConfigError."""
        if argument and not self.argument_help:
            raise ConfigError(f"{self.name} takes nothing behind a colon: leave '{argument}' out")
        if self.needs_argument and not argument:
            raise ConfigError(f"{self.name} needs {self.argument_help}: write {self.name}:...")

    def prepare(self) -> None:  # noqa: B027  (most have nothing to prepare)
        """Read the argument, once. Raises ConfigError."""

    @abstractmethod
    def score(self, answers: Sequence[Answer]) -> list[float | None]:
        """Score answers; None means 'not scored', and such an answer teaches nothing.

        Raises:
            DataError: when the data lacks what the reward compares with.
        """

    def close(self) -> None:  # noqa: B027  (most hold nothing)
        """Give back what it holds, such as a process."""


class EachReward(Reward):
    """A reward that looks at one answer at a time."""

    @abstractmethod
    def score_one(self, answer: Answer) -> float | None:
        """Score one answer; None means 'not scored'."""

    def score(self, answers: Sequence[Answer]) -> list[float | None]:
        return [self.score_one(answer) for answer in answers]
