"""Answers of a model to the items that it is measured on, and who has them judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rung.engine import ServedModel
    from rung.forward.bank import Bank
    from rung.types import Example, Task

Scores = dict[str, float]
Stopping = Callable[[], bool]
Progress = Callable[[int, int], None]  # items done, of how many

NO_JUDGE = (
    "win_rate needs somebody who judges: say --judge model:NAME, another reward, or an address; "
    "rung tune judge --data {data} --objective reward --method linear_probe makes one"
)


@dataclass(frozen=True)
class Calls:
    """Calls of tools on the way to an answer.

    Attributes:
        text: all of them, as the model wrote them.
        steps: how often tools answered. count: calls that they answered.
    """

    text: str
    steps: int
    count: int


@dataclass(frozen=True)
class Answers:
    """Answers of a model, item by item.

    Attributes:
        texts: (n,) the answers; of a classification, labels where one could be read.
        scores: per item, the log-probability of each label in nats; of a text that was scored,
            `log_likelihood` and `tokens`. None where answers were generated.
        prompt_tokens, completion_tokens, seconds: what it took, all items together.
        calls: (n,) of tools, of a model that has some; None of one that has none.
        unanswered: items that did not fit the context: their text is empty.
    """

    texts: list[str]
    scores: list[Scores] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    calls: list[Calls] | None = None
    unanswered: int = 0


class Contest(Protocol):
    """Holds a model's answers against others, and says what they win."""

    def contest(
        self, bank: Bank, model: ServedModel, examples: list[Example], task: Task,
        stopping: Stopping | None = None, progress: Progress | None = None,
    ) -> Answers:  # fmt: skip
        """Answers whose scores hold `win`, and the lengths that metrics of wins read.

        Raises:
            Interrupted: when `stopping` says so. RungError: where nobody can judge.
        """
        ...
