"""Referee: who says which of two answers to a row is better, and against what answers are held.

A reward (a reward model, a function, any of `rung.rewards`) scores both answers, and the higher score
wins. A judge behind an API sees each pair in both orders, and only a verdict that survives the swap
counts. Equal texts, equal scores, answers that cannot be scored and unsure verdicts are ties, which
count half. A second judge looks at the same pairs: what the first alone likes is no better answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rung import rewards
from rung.engine import ServedModel
from rung.errors import ConfigError, Interrupted
from rung.evals.answers import Answers, Progress, Stopping
from rung.evals.judge import Judge
from rung.evals.metrics.wins import OTHER_REPEATS, REPEATS
from rung.evals.predict import generated, passed_on
from rung.evals.tasks import question, reply
from rung.evals.words import repeated
from rung.types import Example, Task

if TYPE_CHECKING:
    from rung.data import Template
    from rung.forward.bank import Bank

AGAINST = ("base", "chosen", "rejected")
CLOSE = 1e-9  # scores that differ by less are equal
MAX_JUDGED = 64  # rows that are judged between two looks at `stopping`


@dataclass(kw_only=True)
class Referee:
    """Judges answers of models to the same rows.

    Attributes:
        judge: a spec of a reward, or an address that begins with http. model: the judge's name there.
        against: the base's own answers, or the data's chosen or rejected replies.
        like: rows whose replies say how long an answer may get.
        second: another judge's spec or address, whose wins stand beside the first one's.
    """

    judge: str
    model: str = "judge"
    key: str | None = None
    against: str = "base"
    like: Sequence[Example] = ()
    second: str | None = None
    _bank: Bank | None = None
    _template: Template | None = None
    _reward: rewards.Reward | None = None
    _asked: dict[int, tuple[Example, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._remote = None
        if self.judge.startswith(("http://", "https://")):
            self._remote = Judge.at(self.judge, self.model, self.key)
        else:
            try:
                rewards.check([self.judge])
            except ConfigError as fault:
                raise ConfigError(str(fault).replace("--reward", "--judge")) from None
        self._other = None
        if self.second is not None:
            self._other = Referee(judge=self.second, model=self.model, key=self.key)

    def seat(self, bank: Bank, template: Template) -> None:
        """Give the base whose answers others are held against, and beside which reward models load."""
        if self._bank is None:
            self._bank, self._template = bank, template
        if self._other is not None:
            self._other.seat(bank, template)

    def contest(
        self, bank: Bank, model: ServedModel, examples: list[Example], task: Task,
        stopping: Stopping | None = None, progress: Progress | None = None,
    ) -> Answers:  # fmt: skip
        """Answer each row by a model, and hold that against another answer.

        Returns:
            answers with scores: `win`, characters of the answer (`length`) and of the other one
            (`against`), how much each repeats itself, and `second`, the win by a second judge.
        """
        answers = self._drawn(bank, model, examples, task, stopping, progress)

        def ask(left: list[Example]) -> list[str]:
            own, template = self.seated
            return self._drawn(own, ServedModel("base", -1, template), left, task, stopping).texts

        others = self.opponents(examples, ask)
        won = self.wins(examples, answers.texts, others, stopping)
        scores = [
            {"win": w, "length": float(len(a.strip())), "against": float(len(b.strip())),
             REPEATS: repeated(a), OTHER_REPEATS: repeated(b)}
            for w, a, b in zip(won, answers.texts, others, strict=True)
        ]  # fmt: skip
        if self._other is not None:
            seen = self._other.wins(examples, answers.texts, others, stopping)
            scores = [{**noted, "second": w} for noted, w in zip(scores, seen, strict=True)]
        return replace(answers, scores=scores)

    def _drawn(
        self, bank: Bank, model: ServedModel, examples: list[Example], task: Task,
        stopping: Stopping | None, progress: Progress | None = None,
    ) -> Answers:  # fmt: skip
        """Answers that are to be judged, those of all models at most as long."""
        if model.remote is not None:
            return passed_on(bank, model, examples, task, stopping, progress)
        like = self.like or examples
        return generated(bank, model, examples, task, stopping, progress, like)

    @property
    def seated(self) -> tuple[Bank, Template]:
        """The base that it was given. Raises ValueError where it was given none."""
        if self._bank is None or self._template is None:
            raise ValueError("the referee has no base to hold answers against: seat it first")
        return self._bank, self._template

    def opponents(
        self, examples: Sequence[Example], ask: Callable[[list[Example]], list[str]]
    ) -> list[str]:
        """The answers that others are held against.

        Args:
            ask: gives the base's own answers to rows; called once for each row.
        """
        if self.against == "chosen":
            return [reply(e) or "" for e in examples]
        if self.against == "rejected":
            return [e.rejected[-1]["content"] for e in examples]
        left = [e for e in examples if id(e) not in self._asked]
        if left:
            self._asked |= {id(e): (e, text) for e, text in zip(left, ask(left), strict=True)}
        return [self._asked[id(e)][1] for e in examples]

    def wins(
        self,
        examples: Sequence[Example],
        texts: Sequence[str],
        others: Sequence[str],
        stopping: Callable[[], bool] | None = None,
    ) -> list[float]:
        """Per row 1 where the text is better than the other one, 0 where it is worse, a half for a tie.

        Raises:
            Interrupted: when `stopping` says so. JudgeFault: when an API's judge cannot be asked.
            RungError: when the reward cannot be computed.
        """
        found = [0.5] * len(examples)
        unlike = [
            i for i, (a, b) in enumerate(zip(texts, others, strict=True)) if a.strip() != b.strip()
        ]
        for low in range(0, len(unlike), MAX_JUDGED):
            if stopping is not None and stopping():
                raise Interrupted
            places = unlike[low : low + MAX_JUDGED]
            rows, own, other = ([x[i] for i in places] for x in (examples, texts, others))
            for i, won in zip(places, self._judged(rows, own, other), strict=True):
                found[i] = won
        return found

    def _judged(
        self, examples: Sequence[Any], texts: Sequence[Any], others: Sequence[Any]
    ) -> list[float]:
        asked = [question(e) for e in examples]
        if self._remote is not None:
            return self._remote.compare(asked, texts, others)
        sides = [
            rewards.Answer(prompt=tuple(prompt), text=text, gold=reply(e))
            for said in (texts, others) for prompt, text, e in zip(asked, said, examples, strict=True)
        ]  # fmt: skip
        scores = rewards.scored(self._scorer(), sides)
        pairs = zip(scores[: len(texts)], scores[len(texts) :], strict=True)
        return [_won(a, b) for a, b in pairs]

    def _scorer(self) -> rewards.Reward:
        if self._reward is None:
            from rung.rewards.scorers import Scorers

            device = "cpu" if self._bank is None else str(self._bank.device)
            load = Scorers(self._bank, device)
            self._reward = rewards.make([self.judge], rewards.Context(model=load, ask=load.ask))
        return self._reward


def _won(own: float | None, other: float | None) -> float:
    if own is None or other is None or abs(own - other) <= CLOSE:
        return 0.5
    return float(own > other)
