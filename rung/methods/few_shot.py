"""Few-shot: training rows as earlier turns of the conversation (Brown et al., arXiv 2005.14165).

Departs from the paper: how many examples and how they are picked is chosen on validation rows. Picked
by `nearest`, every request gets the training rows that share its words, ranked by BM25, the most alike
last (Liu et al., arXiv 2101.06804, who rank by vectors).

    rung tune NAME --method few_shot --shots 1 --shots 4 --pick nearest --data ...
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.data.conversation import Conversation
from rung.data.turns import read_turn
from rung.errors import MethodMisfit
from rung.methods import base, choice
from rung.methods.workload import Shape, Workload, scoring
from rung.types import Example, Message, Modality

if TYPE_CHECKING:
    from rung.data.retrieval import Lexical

SYSTEM = ("system", "developer")


@dataclass
class Knobs:
    group: ClassVar[str] = "few_shot"
    shots: list[int] = knob([1, 2, 4, 8], "Numbers of examples to choose from.", least=1, most=256)
    pick: str = knob(
        "auto",
        "How examples are picked: random, balanced over the labels, nearest to each request, "
        "or whichever is best on validation (auto).",
        choices=("auto", "random", "balanced", "nearest"),
    )
    pool: int = knob(1000, "Training rows that nearest may pick from; the model keeps them.", least=1)
    choose_rows: int | None = choice.choose_rows()


Turns = tuple[Message, ...]


@dataclass(frozen=True)
class Shots(Conversation):
    """Examples in front of the conversation's first question.

    Attributes:
        examples: conversations without system messages, in the order in which they stand; with
            `nearest` all that may be picked from.
        count: how many a request gets. characters: of a prompt at most, 0 for any; examples that
            would not fit are left out, the farthest first.
    """

    examples: tuple[Turns, ...] = ()
    count: int = 0
    nearest: bool = False
    characters: int = 0
    labels: tuple[str, ...] = ()

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        start = next((i for i, m in enumerate(messages) if m["role"] not in SYSTEM), len(messages))
        picked = self._nearest(choice.question(messages)) if self.nearest else self.examples
        room = self.characters - sum(len(m["content"]) for m in messages)
        kept: list[Turns] = []
        for turns in reversed(picked[-self.count :] if self.count else ()):
            room -= sum(len(m["content"]) for m in turns)
            if self.characters and room < 0:
                break
            kept.insert(0, turns)
        return [*messages[:start], *(m for turns in kept for m in turns), *messages[start:]]

    def _nearest(self, text: str) -> list[Turns]:
        """The most alike last; where too few share a word, the first of the pool come before them."""
        found = [i for i, _ in self._index.search(text, self.count)] if self._index else []
        taken = set(found)
        rest = (i for i in range(len(self.examples)) if i not in taken)
        while len(found) < min(self.count, len(self.examples)):
            found.append(next(rest))
        return [self.examples[i] for i in reversed(found)]

    @cached_property
    def _index(self) -> Lexical | None:
        from rung.data.retrieval import Lexical

        try:
            return Lexical([choice.question(turns[:-1]) for turns in self.examples])
        except ValueError:  # no words at all: any example is as near as another
            return None

    @classmethod
    def read(cls, settings: dict[str, Any]) -> Shots:
        """From `settings.json`; raises KeyError or TypeError."""
        examples = tuple(tuple(map(read_turn, turns)) for turns in settings["examples"])
        count, characters = settings["count"], settings["characters"]
        if not isinstance(count, int) or not isinstance(characters, int) or not all(examples):
            raise TypeError("examples, count and characters")
        return cls(examples, count, bool(settings["nearest"]), characters)


class Method(choice.PromptMethod):
    summary = "examples of the data as earlier turns"
    paper = "arXiv 2005.14165"
    Config = Knobs
    speaks = Shots

    def on(self, reads: Modality) -> base.Method:
        if reads == self.modality:
            return self
        from rung.methods.pictures.few_shot import PicturePrototypes

        return PicturePrototypes(self.name, self.Config)

    def unsuited(self, task: Any, config: Knobs) -> str | None:
        if config.pick == "balanced" and not task.labels:
            return "--pick balanced needs labels, and these replies are none: use random or nearest"
        return super().unsuited(task, config)

    def candidates(self, config: Knobs, shape: Shape, rows: int) -> float:
        return len(set(config.shots)) + (1.0 if config.pick == "auto" else 0.0)

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        # Examples that are picked for each request are read anew with each.
        own = config.pick in ("auto", "nearest")
        shots = sum(config.shots) / len(config.shots)
        return scoring(shape, shots * (shape.prompt + shape.reply) * (0.5 if own else 0.0))

    def find(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.forward.adapter import Adapter

        rows, train = choice.rows_to_choose_by(study, config.choose_rows or self.rows)
        found = _Candidates(study, rows, train, config.pool)
        shots = sorted(set(config.shots))
        picks = [config.pick]
        if config.pick == "auto":
            picks = ["balanced" if study.task.labels else "random", "nearest"]
        race = choice.Race(study, rows)
        # One dimension after the other: how to pick at a middling number, then the number.
        middle = shots[(len(shots) - 1) // 2]
        pick = picks[0]
        if len(picks) > 1 and (ways := found.of([(p, middle) for p in picks])):
            pick = ways[race.best(list(ways))]
        ways = found.of([(pick, count) for count in shots])
        found.tell()
        if not ways:
            raise MethodMisfit("not even one example fits the context beside the question")
        best = race.best(list(ways))
        study.note(f"chose {race.told(best)}")
        return base.Fitted(Adapter(conversation=best.conversation), race.metrics(best))


class _Candidates:
    """The candidates by (pick, number), without those that the context does not hold."""

    def __init__(self, study: base.Study, rows: list[Example], train: list[Example], pool: int):
        self.study, self.rows, self.train, self.pool = study, rows, train, pool
        self.room = choice.Room.of(study, rows)
        self.left_out: dict[str, None] = {}

    def of(self, wanted: list[tuple[str, int]]) -> dict[choice.Candidate, str]:
        """Each candidate that fits, with how it picks."""
        found = {}
        for pick, count in wanted:
            shots = self._shots(pick, count)
            if shots is None or not self.room.holds(self.study, shots, self.rows):
                self.left_out[f"{count} {pick}"] = None
                continue
            shots = replace(shots, characters=self.room.characters)
            found[choice.Candidate(f"{count} {pick}", shots)] = pick
        return found

    def tell(self) -> None:
        """Say what was not tried."""
        if self.left_out:
            names = ", ".join(self.left_out)
            self.study.note(f"not tried, as rows or context are too short for it: {names}")

    def _shots(self, pick: str, count: int) -> Shots | None:
        """Without a bound on characters, so that its length can be seen."""
        share = self.room.characters // (count + 1)
        short = [e for e in self.train if not share or _letters(e) <= share]
        if len(short) < count:
            return None
        if pick == "nearest":
            return Shots(tuple(map(_turns, short[: self.pool])), count, nearest=True)
        picked = balanced(short, count) if pick == "balanced" else short[:count]
        return Shots(tuple(map(_turns, picked)), count)


def balanced(rows: Sequence[Example], count: int) -> list[Example]:
    """`count` rows, of each reply as many as of any other if there are so many."""
    by_reply: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        by_reply[row.messages[-1]["content"]].append(row)
    queues = [list(reversed(group)) for _, group in sorted(by_reply.items())]
    picked: list[Example] = []
    while len(picked) < count and any(queues):
        for queue in queues:
            if queue and len(picked) < count:
                picked.append(queue.pop())
    return picked


def _turns(example: Example) -> Turns:
    return tuple(m for m in example.messages if m["role"] not in SYSTEM)


def _letters(example: Example) -> int:
    return sum(len(m["content"]) for m in _turns(example))
