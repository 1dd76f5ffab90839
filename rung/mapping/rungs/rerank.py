"""A language model chooses among the best candidates, shown some known pairs (few-shot).

The candidates are those of the best cheaper rung. Each one's name is scored as the reply to a question
that lists them, all on one trie; how much that counts beside the cheaper score is chosen on validation,
nothing at all among the choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rung.mapping.problem import Chooser, Problem
from rung.mapping.records import Record
from rung.mapping.rungs import base, registry
from rung.types import Message

MAX_RECORDS = 2000  # left records of a problem: each is a prompt to a language model
MAX_CHARACTERS = 160  # characters of a record in a question
AT_ONCE = 64  # questions that are asked together
SHARES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # weights of the model's choice that are tried
ASKING = "Which of these is the counterpart of '{name}'?\n{listed}\nAnswer with its name alone."


class Rung(base.Rung):
    summary = "a language model chooses among the best candidates"
    place = 50
    learns = True
    asks = True

    def refusal(self, problem: Problem) -> str | None:
        if len(problem.left) > MAX_RECORDS:
            return f"it asks a language model for each record: {MAX_RECORDS:,} left ones at most"
        return super().refusal(problem)

    def fit(self, problem: Problem, cheaper: Mapping[str, base.Scorer]) -> base.Scorer:
        assert problem.parts is not None and problem.chooser is not None
        name, inner = best_of(problem, cheaper)
        asking = Asking(problem.knobs.reranked, shots(problem, inner))
        scorer = Scorer(name, inner, asking, problem.chooser)
        scorer.fit(problem)
        problem.note(f"reranks candidates of {name}; the model's choice counts {scorer.share:g}")
        return scorer

    def restore(self, right: Sequence[Record], state: base.State, tools: base.Tools) -> base.Scorer:
        said = state.settings
        name = str(said["inner"])
        inner = registry.get(name).restore(right, state.inside(name), tools)
        turns: list[Message] = [
            {"role": str(m["role"]), "content": str(m["content"])} for m in said["shots"]
        ]
        scorer = Scorer(name, inner, Asking(int(said["count"]), tuple(turns)), tools.chooser)
        scorer.share, scorer.spread = float(said["share"]), float(said["spread"])
        return scorer


def best_of(problem: Problem, cheaper: Mapping[str, base.Scorer]) -> tuple[str, base.Scorer]:
    """The cheaper rung whose first candidates are right most often on validation."""
    if not cheaper:
        from rung.mapping.rungs import encoder

        return "encoder", encoder.scorer_of(problem)
    assert problem.parts is not None
    rows = problem.parts.validation
    left, gold = [problem.left[i] for i in rows], problem.gold(rows)

    def hits(name: str) -> int:
        first = cheaper[name].top(left, 1).places[:, 0]
        return sum(int(a) in g for a, g in zip(first, gold, strict=True))

    name = max(cheaper, key=hits)
    return name, cheaper[name]


@dataclass(frozen=True)
class Asking:
    """How the model is asked.

    Attributes:
        count: candidates that it chooses among. shots: turns in front of every question.
    """

    count: int
    shots: tuple[Message, ...] = ()

    def messages(self, record: Record, candidates: Sequence[Record]) -> list[Message]:
        """The question for one left record."""
        return [*self.shots, {"role": "user", "content": question(record, candidates)}]


def question(record: Record, candidates: Sequence[Record]) -> str:
    """Ask which candidate a left record is."""
    named = zip(replies(candidates), candidates, strict=True)
    listed = "\n".join(f"- {_shown(name, one)}" for name, one in named)
    return ASKING.format(name=_shown(record.name, record), listed=listed)


def replies(candidates: Sequence[Record]) -> list[str]:
    """The names of candidates, with the id where two are called alike."""
    names = [c.name for c in candidates]
    return [
        n if names.count(n) == 1 else f"{n} ({c.id})" for n, c in zip(names, candidates, strict=True)
    ]


def _shown(name: str, record: Record) -> str:
    return f"{name}: {record.text}"[:MAX_CHARACTERS] if record.text else name


def shots(problem: Problem, inner: base.Scorer) -> tuple[Message, ...]:
    """Known pairs of the training part as turns."""
    assert problem.parts is not None
    found: list[Message] = []
    for asked, answer in questions(problem, inner, problem.parts.train)[: problem.knobs.shots]:
        found += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return tuple(found)


def questions(problem: Problem, inner: base.Scorer, rows: np.ndarray) -> list[tuple[str, str]]:
    """Questions with their answers, of known left records whose right one is among the candidates.

    The candidates are listed by their names, so that their order does not give the answer away.
    """
    left, gold = [problem.left[i] for i in rows], problem.gold(rows)
    places = inner.top(left, problem.knobs.reranked).places
    found = []
    for record, row, right in zip(left, places, gold, strict=True):
        listed = sorted((problem.right[int(p)] for p in row), key=lambda r: (r.name, r.id))
        names = replies(listed)
        true = [n for n, r in zip(names, listed, strict=True) if r.id in problem.known[record.id]]
        if right and true:
            found.append((question(record, listed), true[0]))
    return found


class Scorer(base.Scorer):
    """The cheaper score of a candidate, with the log-probability of its name among the first ones.

    Attributes:
        share: weight of the model's choice. spread: standard deviation of the cheaper scores.
    """

    asks = True

    def __init__(self, name: str, inner: base.Scorer, asking: Asking, chooser: Chooser | None):
        super().__init__(inner.right)
        self.name, self.inner, self.asking, self.chooser = name, inner, asking, chooser
        self.share, self.spread = 0.0, 1.0

    def fit(self, problem: Problem) -> None:
        """Choose the weight by which the first candidates are right most often on validation."""
        assert problem.parts is not None
        rows = problem.parts.validation
        left, gold = [problem.left[i] for i in rows], problem.gold(rows)
        found = self.inner.top(left, problem.knobs.candidates)
        self.spread = max(float(found.scores[:, : self.asking.count].std()), 1e-6)
        chosen = self._choices(left, found.places)

        def hits(share: float) -> int:
            order = self._mixed(found, chosen, share).places[:, 0]
            return sum(int(a) in g for a, g in zip(order, gold, strict=True))

        self.share = max(SHARES, key=lambda s: (hits(s), -s))

    def top(self, left: Sequence[Record], count: int) -> base.Candidates:
        found = self.inner.top(left, max(count, self.asking.count))
        if self.share:
            found = self._mixed(found, self._choices(left, found.places), self.share)
        return base.Candidates(found.places[:, :count], found.scores[:, :count])

    def _choices(self, left: Sequence[Record], places: np.ndarray) -> np.ndarray:
        """(n, c) log-probabilities of the first c candidates among each other."""
        assert self.chooser is not None
        first = places[:, : self.asking.count]
        found = np.zeros(first.shape)
        for low in range(0, len(left), AT_ONCE):
            asked, offered, orders = [], [], []
            for record, row in zip(left[low : low + AT_ONCE], first[low : low + AT_ONCE], strict=True):
                order = sorted(range(len(row)), key=lambda j: _by_name(self.right[int(row[j])]))
                listed = [self.right[int(row[j])] for j in order]
                asked.append(self.asking.messages(record, listed))
                offered.append(replies(listed))
                orders.append(order)
            for i, (values, order) in enumerate(zip(self.chooser(asked, offered), orders, strict=True)):
                found[low + i, order] = np.array(values) - np.logaddexp.reduce(values)
        return found

    def _mixed(self, found: base.Candidates, chosen: np.ndarray, share: float) -> base.Candidates:
        """Candidates in the order of both; those that were not asked about rank as the last of them."""
        extra = np.repeat(chosen.min(1, keepdims=True), found.scores.shape[1], axis=1)
        extra[:, : chosen.shape[1]] = chosen
        scores = (found.scores / self.spread + share * extra).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")
        return base.Candidates(
            np.take_along_axis(found.places, order, axis=1), np.take_along_axis(scores, order, axis=1)
        )

    def state(self) -> base.State:
        settings = {
            "inner": self.name, "count": self.asking.count, "shots": list(self.asking.shots),
            "share": self.share, "spread": self.spread,
        }  # fmt: skip
        found = base.State(settings)
        found.put(self.name, self.inner.state())
        return found


def _by_name(record: Record) -> tuple[str, str]:
    return record.name, record.id
