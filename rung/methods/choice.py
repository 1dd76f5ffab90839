"""Choosing among ways to ask, on validation rows: what the methods without weights have in common.

All candidates see a first part of the rows; those that are clearly worse by then are dropped, and the
others see the rest. A candidate takes the lead only by a better figure, so that among equals the first,
which is the cheapest, stays.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.data.conversation import Conversation
from rung.data.problem import counted
from rung.errors import ArtefactError, DataError, MethodMisfit
from rung.evals import kinds
from rung.methods import base
from rung.methods.workload import Shape, Workload
from rung.types import Example, Message, last_question

if TYPE_CHECKING:
    from torch import Tensor

    from rung.evals.answers import Answers
    from rung.evals.measure import Measured
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

FIRST = 32  # rows that every candidate sees before any is dropped
STAYING = 0.75  # of the candidates that are not the best: those that so few rows seldom tell from it
CLEARLY = 2.0  # standard errors of the paired difference
KEPT = "answers.jsonl"  # in the run's folder
MAX_DRAWN_TOKENS = 128  # of an answer that is drawn to see what a reward makes of it
CAUTION = 0.8  # of the characters that the context seems to hold, as scripts differ in tokens


def choose_rows() -> Any:
    """The knob that says how many rows to choose by."""
    return knob(
        None,
        "Validation rows to choose by, at most; 128 by default, 32 where reasons are written.",
        least=1,
    )


@dataclass(frozen=True, eq=False)
class Candidate:
    """A way to ask, by a name for people."""

    name: str
    conversation: Conversation


class PromptMethod(base.Method):
    """A method whose adapter is a conversation alone, kept as `settings.json`."""

    trained = False
    weightless = True
    speaks: ClassVar[type[Any]]  # a dataclass of Conversation
    rows: ClassVar[int] = 128  # to choose by, where the user does not say how many

    def unsuited(self, task: Any, config: Any) -> str | None:
        if not kinds.of(task).replies:
            return "plain text has no question to ask in other words: give --user and --assistant"
        return None

    def fit(self, study: base.Study, config: Any) -> base.Fitted:
        refused = self.unsuited(study.task, config)
        if refused:
            raise MethodMisfit(f"{self.name} does not suit this data: {refused}")
        fitted = self.find(study, config)
        talk = fitted.adapter.conversation
        fitted.adapter.conversation = _answering_with(talk, study.task.labels)
        return fitted

    def reads(self, config: Any, train: int, validation: int) -> tuple[int, int]:
        return 0, min(validation or train // 5, config.choose_rows or self.rows)

    def making(self, config: Any, shape: Shape, schedule: base.Schedule) -> Workload:
        _, rows = self.reads(config, shape.rows, shape.held)
        return self.answering(config, shape) * (rows * self.candidates(config, shape, rows))

    def candidates(self, config: Any, shape: Shape, rows: int) -> float:
        """How many ways to ask are tried on all the `rows` to choose by, in the mean."""
        return 3.0

    @abstractmethod
    def find(self, study: base.Study, config: Any) -> base.Fitted:
        """The conversation that is best on validation, for a task that suits the method."""

    def to_files(self, adapter: Adapter, bank: Bank, config: Any):
        return asdict(adapter.conversation), {}  # type: ignore[call-overload]

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter

        try:
            labels = tuple(settings.get("labels") or ())
            if isinstance(settings.get("labels"), str) or not all(isinstance(x, str) for x in labels):
                raise TypeError("labels")
            return Adapter(conversation=_answering_with(self.speaks.read(settings), labels))
        except (KeyError, TypeError, ValueError) as fault:
            raise ArtefactError(
                f"settings.json does not hold what {self.name} wrote: {fault!r}"
            ) from None

    def merged(self, adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
        raise MethodMisfit(
            f"{self.name} is a prompt and has no weights to merge: serve it with rung serve"
        )


def _answering_with(talk: Any, labels: tuple[str, ...]) -> Any:
    """The conversation with a task's labels as its answers, where it is one that has labels.

    Such a model is measured by which label it holds likeliest: asked, it answers with one, too. One
    that reasons before it answers is measured by what it writes.
    """
    has_labels = any(field.name == "labels" for field in fields(talk))
    return replace(talk, labels=labels) if has_labels else talk


class Race:
    """Candidates side by side on the same rows; nobody is asked the same twice.

    What was answered is kept in the run's folder, so that a run that goes on does not ask again.
    """

    def __init__(self, study: base.Study, rows: Sequence[Example]):
        self.study, self.rows = study, rows
        self.scores: dict[str, Measured] = {}
        self._answers: dict[str, Answers] = {}
        self._kept = study.folder / KEPT

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """The best of the candidates by the task's metric.

        Raises:
            Interrupted: when the user asks to stop.
        """
        left = list(candidates)
        halved = len(left) > 1 and len(self.rows) >= 2 * FIRST
        for until in (FIRST, len(self.rows)) if halved else (len(self.rows),):
            for candidate in left:
                self._ask(candidate, until)
            left = self._still_in(left, until)
        best = left[0]  # the first among equals
        for candidate in left[1:]:
            if self.scores[candidate.name].better(self.scores[best.name]):
                best = candidate
        return best

    def metrics(self, best: Candidate) -> dict[str, Any]:
        """For the model's record: the choice, and a figure with its interval for each candidate."""
        found: dict[str, Any] = {"choice": best.name}
        for name, score in self.scores.items():
            figure = {"value": score.value, "low": score.low, "high": score.high, "n": score.n}
            found[f"choice_{score.metric} of {name}"] = figure
        return found

    def calls(self, best: Candidate) -> float:
        """Calls of tools for each answer of a candidate, in the mean."""
        answers = self._answers[best.name]
        return sum(one.count for one in answers.calls or ()) / len(answers.texts)

    def told(self, best: Candidate) -> str:
        """The choice in one line."""
        score, count = self.scores[best.name], len(self.scores)
        others = f", the best of {count}" if count > 1 else ""
        return f"{best.name}: {score.metric} {score.value:.3f} on {counted(score.n, 'row')}{others}"

    def _ask(self, candidate: Candidate, until: int) -> None:
        """Have the candidate answer the rows up to `until` that it has not answered yet."""
        from rung.evals.measure import measure

        study, before = self.study, self._answers.get(candidate.name)
        rows = self.rows[len(before.texts) if before else 0 : until]
        if not rows:
            return
        key = self._key(candidate.conversation, rows)
        found = self._read(key)
        if found is None:
            found = self._predict(candidate, rows)
            self._keep(key, found)
        answers = _together(before, found) if before else found
        self._answers[candidate.name] = answers
        self.scores[candidate.name] = measure(answers, self.rows[: len(answers.texts)], study.task)

    def _predict(self, candidate: Candidate, rows: Sequence[Example]) -> Answers:
        from rung.engine.served_model import ServedModel
        from rung.evals.predict_fitting import predict_fitting
        from rung.forward.adapter import Adapter

        study = self.study
        adapter = Adapter(conversation=candidate.conversation)
        model = ServedModel.of(candidate.name, -1, study.template, adapter)
        return predict_fitting(study.bank, model, rows, study.task, stopping=study.stopping)

    def _key(self, asking: Conversation, rows: Sequence[Example]) -> str:
        """SHA-256 of what answers follow from: the prompts in the end, and how answers are drawn."""
        held = [asking.steps, asking.grammar(())]
        drawn = [type(asking).__name__, asking.max_tokens, asking.samples, asking.temperature, held]
        seen = [[asking.messages(asked(e)), e.messages[-1]["content"]] for e in rows]
        content = json.dumps([drawn, list(self.study.task.labels), seen])
        return hashlib.sha256(content.encode()).hexdigest()

    def _read(self, key: str) -> Answers | None:
        from rung.evals.answers import Answers

        lines = self._kept.read_text("utf-8").splitlines() if self._kept.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                if entry["key"] == key:
                    return Answers(**entry["answers"])
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a crash: asked again
        return None

    def _keep(self, key: str, answers: Answers) -> None:
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        with self._kept.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps({"key": key, "answers": asdict(answers)}))

    def _still_in(self, candidates: list[Candidate], until: int) -> list[Candidate]:
        """The candidates that are not clearly worse than the best on the rows that all have seen."""
        sign = -1 if self.scores[candidates[0].name].lower else 1
        items = {
            c.name: [sign * float(i) for i in self.scores[c.name].items[:until]] for c in candidates
        }
        best = max(items.values(), key=math.fsum)
        return [c for c in candidates if not clearly_worse(items[c.name], best)]


def _together(one: Answers, other: Answers) -> Answers:
    """Answers to two parts of the same rows as one."""
    scores = None if one.scores is None or other.scores is None else [*one.scores, *other.scores]
    return replace(
        one,
        texts=[*one.texts, *other.texts],
        scores=scores,
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        seconds=one.seconds + other.seconds,
        calls=None if one.calls is None or other.calls is None else [*one.calls, *other.calls],
        unanswered=one.unanswered + other.unanswered,
    )


def raced(count: int, rows: int) -> float:
    """How many of so many candidates answer all the rows, those that are dropped counted in part."""
    first = min(1.0, FIRST / max(rows, 1)) if rows >= 2 * FIRST else 1.0
    return count * first + (1 + STAYING * (count - 1)) * (1 - first)


def clearly_worse(items: Sequence[float], than: Sequence[float]) -> bool:
    """Whether paired figures lie below others by more than chance explains."""
    apart = [b - a for a, b in zip(items, than, strict=True)]
    mean = math.fsum(apart) / len(apart)
    variance = math.fsum((d - mean) ** 2 for d in apart) / max(len(apart) - 1, 1)
    return mean > 0 and mean > CLEARLY * math.sqrt(variance / len(apart))


def rows_to_choose_by(study: base.Study, most: int) -> tuple[list[Example], list[Example]]:
    """(rows to choose by, training rows that are left for examples), both in an order by seed.

    The rows are those of validation; where there are none, up to a fifth of the training rows are set
    aside.

    Raises:
        MethodMisfit: when there are too few rows for either.
    """
    generator = random.Random(study.seed)
    chosen, train = conversations(study.validation), conversations(study.train)
    generator.shuffle(chosen)
    generator.shuffle(train)
    if not chosen:
        count = len(train) // 5
        chosen, train = train[:count], train[count:]
        if chosen:
            study.note(
                f"no validation rows: {min(most, count)} training rows are set aside to choose by"
            )
    chosen = list(islice((e for e in chosen if _fits(study, e)), most))
    if not chosen or not train:
        raise MethodMisfit("too few rows to choose by: give at least 5, or --validation 0.2")
    return chosen, train


def conversations(rows: Sequence[Example]) -> list[Example]:
    """The rows that have a reply, as conversations; of a labelled text, the text is the question."""
    found = []
    for row in rows:
        if not row.messages and row.label is not None:
            turns: tuple[Message, ...] = (
                {"role": "user", "content": row.text or ""},
                {"role": "assistant", "content": row.label},
            )
            row = replace(row, messages=turns, text=None)
        if row.messages:
            found.append(row)
    return found


def _fits(study: base.Study, example: Example) -> bool:
    """Whether the base could answer the row at all; preparing the rows has told of those it cannot."""
    try:
        return len(study.template.render(example).ids) <= study.bank.context
    except DataError:
        return False


def question(messages: Sequence[Message]) -> str:
    """What is asked: the last message of the user."""
    return last_question(messages)


def asked(example: Example) -> Sequence[Message]:
    """The conversation up to the reply."""
    return example.asked


@dataclass(frozen=True)
class Room:
    """What the context holds.

    Attributes:
        tokens: of a prompt at most.
        characters: of a prompt that likely fit, for a conversation that must not count tokens; 0: any.
    """

    tokens: int
    characters: int

    @classmethod
    def of(cls, study: base.Study, rows: Sequence[Example], reply: int | None = None) -> Room:
        """The room that is left by replies: twice the longest of the rows, or `reply` tokens."""
        encode = study.template.tokenizer.encode
        replies = [e.messages[-1]["content"] for e in rows]
        longest = reply or max(16, 2 * max(len(encode(r, add_special_tokens=False)) for r in replies))
        tokens = study.bank.context - longest
        prompts = [asked(e) for e in rows[:64]]
        letters = sum(len(m["content"]) for p in prompts for m in p)
        counted = sum(len(study.template.prompt(p)) for p in prompts)
        return cls(tokens, max(1, int(tokens * letters / max(counted, 1) * CAUTION)))

    def holds(self, study: base.Study, conversation: Conversation, rows: Sequence[Example]) -> bool:
        """Whether every row's prompt fits as the conversation rewrites it."""
        prompts = (study.template.prompt(conversation.messages(asked(e))) for e in rows)
        return all(len(ids) <= self.tokens for ids in prompts)
