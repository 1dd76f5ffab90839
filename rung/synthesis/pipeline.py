"""Pipeline of a synthesis: plan, drafts in waves, checks, until there are as many rows as asked for.

All that it decides follows from settings and answers, and answers are kept by content, so that the same
command goes on where it was stopped and gives the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.data import DataKnobs, provenance
from rung.data import load as load_data
from rung.data.encoding import clean
from rung.errors import ConfigError, Interrupted
from rung.synthesis import checks, diversity, fitting, terms, topics
from rung.synthesis.duplicates import Duplicates
from rung.synthesis.judge import Judge
from rung.synthesis.kinds.base import MAX_CHARACTERS, Draft, Kind, Stage
from rung.synthesis.knobs import SynthKnobs
from rung.synthesis.sources import examples_of, passages_of, texts_of
from rung.synthesis.teacher import Answer, Question, Teacher, answers_of, seed_of
from rung.synthesis.teachers import open_teacher
from rung.synthesis.turns import Turns
from rung.types import Example

MAX_WAVE, SMALL_WAVE, MIN_WAVE = 64, 32, 8  # drafts that are written together, unseen by each other
WAVES = 4  # at least, of more rows than a small wave has
SPARE = 1.3  # drafts for each row that is missing
MAX_BARREN = 6  # waves in a row that may give no row
MAX_DRAFTS = 12  # drafts for each row that was asked for, at most
SHOWN = 2  # of the user's rows, and of rows of the same topic, that a teacher is shown
FAILED = 0.25  # of a row that a refused draft counts for its topic, so that others get their turn
TOKENS_PER_CHARACTER = 4  # at most: bytes of a character, each a token
TOKENS_PER_WORD = 2  # of a reply at most, in the mean; what is longer is refused as cut

Opener = Callable[[str, SynthKnobs], Teacher]


@dataclass(kw_only=True)
class Watcher:
    """What a caller is told on the way; this one shows nothing."""

    note: Callable[[str], None] = lambda text: None
    planned: Callable[[topics.Plan], None] = lambda plan: None
    progress: Callable[[int, int], None] = lambda done, wanted: None
    stopping: Callable[[], bool] = lambda: False


@dataclass(kw_only=True)
class Made:
    """Data set that was written.

    Attributes:
        rows: as they are to be written, provenance included.
        refused: how many drafts were refused, by reason.
        short: why there are fewer rows than were asked for; None where there are as many.
    """

    rows: list[dict[str, Any]]
    kind: Kind
    plan: topics.Plan
    terms: terms.Terms
    diversity: diversity.Diversity
    refused: Counter[str] = field(default_factory=Counter)
    short: str | None = None
    teachers: Sequence[Teacher] = ()


def synthesise(
    description: str,
    knobs: SynthKnobs,
    watcher: Watcher | None = None,
    base: terms.Part | None = None,
    *,
    plan: topics.Plan | None = None,
    opener: Opener = open_teacher,
) -> Made | None:
    """Write a data set.

    Args:
        base: what is to be trained on it, whose licence counts too.
        plan: what its rows cover; by default the teacher plans it. opener: opens teachers by name.

    Returns:
        what was made; None where a plan was written to be edited, and that is all.

    Raises:
        ConfigError: for settings that do not fit, and for licences that stand against it.
        Interrupted: when `watcher.stopping` says so, with what to do; nothing is lost.
        RungError: where a teacher cannot be asked.
    """
    made = _begun(description, knobs, watcher, base, plan, opener)
    try:
        return made.run()
    finally:
        made.close()


def planned(
    description: str,
    knobs: SynthKnobs,
    watcher: Watcher | None = None,
    base: terms.Part | None = None,
    *,
    opener: Opener = open_teacher,
) -> topics.Plan:
    """Plan a data set and write nothing; the same settings then give rows of this plan.

    Raises:
        As `synthesise`.
    """
    made = _begun(description, knobs, watcher, base, None, opener)
    try:
        return made.planned()
    finally:
        made.close()


def _begun(
    description: str, knobs: SynthKnobs, watcher: Watcher | None, base: terms.Part | None,
    plan: topics.Plan | None, opener: Opener,
) -> _Synthesis:  # fmt: skip
    if not description.strip():
        raise ConfigError("describe what the rows are for, in a sentence or two")
    said = " ".join(description.split())
    return _Synthesis(said, knobs, watcher or Watcher(), base, plan, opener)


def _plain(text: str, one_line: bool) -> str:
    """A teacher's text as it is kept: without lone surrogates, which no file takes."""
    text = clean(text)
    return " ".join(text.split()) if one_line else text.strip()


class _Synthesis:
    """One synthesis under way."""

    def __init__(
        self, description: str, knobs: SynthKnobs, watcher: Watcher, base: terms.Part | None,
        plan: topics.Plan | None, opener: Opener,
    ):  # fmt: skip
        self.description, self.knobs, self.watcher = description, knobs, watcher
        self.kind, self.given = fitting.kind_of(knobs), plan
        self.seeds = load_data(DataKnobs(data=knobs.seeds), None) if knobs.seeds else None
        self.teachers = [opener(name, knobs) for name in knobs.teacher]
        self.judge = Judge(opener(knobs.judge, knobs)) if knobs.judge else None
        self.terms = fitting.terms_of(self.teachers, knobs, self.seeds, base, watcher.note)
        self.shares = knobs.share or [1.0] * len(self.teachers)
        self.examples = examples_of(self.seeds.examples if self.seeds else ())
        self.script = checks.script_of(description) if knobs.language == "as-described" else None
        self.passages = passages_of(knobs.documents, watcher.note) if knobs.documents else None
        self.leaks = self._leaks()
        self.accepted: list[tuple[Draft, Teacher]] = []
        self.seen: dict[str, Duplicates] = defaultdict(lambda: Duplicates(knobs.similarity))
        self.refused: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()  # drafts by topic that were refused
        self.of_topic: dict[str, list[Draft]] = defaultdict(list)
        self.of_label: Counter[str] = Counter()
        self.drafts = 0

    def _leaks(self) -> Duplicates:
        """What no row may repeat: the user's own rows, and those of a test part."""
        found = Duplicates(self.knobs.similarity)
        rows: list[Example] = list(self.seeds.examples) if self.seeds else []
        if self.knobs.against:
            rows += load_data(DataKnobs(data=self.knobs.against), None).examples
        for text in texts_of(rows):
            found.add(text)
        return found

    def close(self) -> None:
        for teacher in self._everybody():
            teacher.close()

    # --- the run --------------------------------------------------------------------------------

    def planned(self) -> topics.Plan:
        """What the rows cover, of which the watcher is told."""
        self.plan = self._planned()
        self.turns = Turns(self.plan.labels if self.kind.labelled else (), self.shares)
        self.watcher.planned(self.plan)
        return self.plan

    def run(self) -> Made | None:
        self.planned()
        if self.knobs.plan and not Path(self.knobs.plan).exists():
            Path(self.knobs.plan).write_text(topics.text_of(self.plan), encoding="utf-8")
            return None
        short = self._write()
        rows = [self._row(draft, teacher) for draft, teacher in self.accepted]
        first = self.kind.stages[0].names[0]
        found = diversity.measure(
            [draft.fields[first] for draft, _ in self.accepted],
            [draft.topic for draft, _ in self.accepted],
            len(self.plan.topics),
        )
        return Made(
            rows=rows, kind=self.kind, plan=self.plan, terms=self.terms, diversity=found,
            refused=self.refused, short=short, teachers=self.teachers,
        )  # fmt: skip

    def _planned(self) -> topics.Plan:
        knobs = self.knobs
        if self.given is not None:
            return topics.labelled(self.given, self.teachers[0], self.description, knobs.labels,
                                   self.kind.labelled, knobs.seed, self.watcher.note)  # fmt: skip
        if knobs.plan and Path(knobs.plan).exists():
            plan = topics.read(Path(knobs.plan))
            if self.kind.labelled and not (plan.labels or knobs.labels):
                raise ConfigError(f"--plan {knobs.plan} names no labels")
            return topics.Plan(plan.topics, plan.labels or tuple(knobs.labels))
        if self.passages is not None:
            return topics.Plan(self.passages.documents)
        count = knobs.topics or topics.by_rows(knobs.examples)
        return topics.planned(
            self.teachers[0], self.description, count, knobs.labels, self.kind.labelled, knobs.seed,
            self.watcher.note,
        )  # fmt: skip

    def _write(self) -> str | None:
        """Write drafts until there are rows enough -> why there are not."""
        wanted, barren = self.knobs.examples, 0
        while len(self.accepted) < wanted:
            if barren >= MAX_BARREN or self.drafts >= MAX_DRAFTS * wanted + MAX_WAVE:
                return f"{self.drafts} drafts gave {len(self.accepted)} rows; refused: {self.reasons()}"
            if self.knobs.max_money is not None and self._money() >= self.knobs.max_money:
                return f"--max-money {self.knobs.max_money:g} is spent"
            missing = wanted - len(self.accepted)
            most = min(MAX_WAVE, max(SMALL_WAVE, wanted // WAVES), math.ceil(SPARE * missing))
            before = len(self.accepted)
            self._wave([self._draft() for _ in range(max(MIN_WAVE, most))])
            barren = 0 if len(self.accepted) > before else barren + 1
            self.watcher.progress(len(self.accepted), wanted)
        return None

    def reasons(self) -> str:
        """The reasons for which drafts were refused, the most frequent first."""
        return ", ".join(f"{why} {count}" for why, count in self.refused.most_common()) or "none"

    def _money(self) -> float:
        return sum(teacher.usage.money for teacher in self._everybody())

    def _everybody(self) -> list[Teacher]:
        return [*self.teachers, *([self.judge.teacher] if self.judge else [])]

    def _draft(self) -> tuple[Draft, int]:
        """Begin a draft of the topic that has been asked too little for."""
        index, self.drafts = self.drafts, self.drafts + 1
        place, topic = min(
            enumerate(self.plan.topics),
            key=lambda t: len(self.of_topic[t[1]]) + FAILED * self.tried[t[1]],
        )  # the first of equals
        self.tried[topic] += 1
        turn = self.turns.next(place)
        draft = Draft(
            index=index, topic=topic, label=turn.label, angle=turn.angle,
            examples=self._shown(turn.earlier), written=self._written(topic),
        )  # fmt: skip
        if self.passages is not None:
            self.passages.give(draft)
        return draft, turn.teacher

    def _shown(self, earlier: int) -> tuple[str, ...]:
        count = len(self.examples)
        places = {(earlier * SHOWN + i) % count for i in range(min(SHOWN, count))}
        return tuple(self.examples[i] for i in sorted(places))

    def _written(self, topic: str) -> tuple[str, ...]:
        first = self.kind.stages[0].names[0]
        return tuple(draft.fields[first] for draft in self.of_topic[topic][-SHOWN:])

    # --- a wave ---------------------------------------------------------------------------------

    def _wave(self, drafts: Sequence[tuple[Draft, int]]) -> None:
        left = list(drafts)
        fresh: dict[str, Duplicates] = defaultdict(lambda: Duplicates(self.knobs.similarity))
        for number, stage in enumerate(self.kind.stages):
            answers = self._ask(left, number)
            kept = []
            for (draft, teacher), answer in zip(left, answers, strict=True):
                why = self._take(draft, stage, answer, fresh)
                if why is None and number == len(self.kind.stages) - 1:
                    why = self.kind.refused(draft) or self._unfound(draft)
                if why is None:
                    kept.append((draft, teacher))
                else:
                    self.refused[why] += 1
            left = kept
        for draft, teacher in self._judged(left):
            if len(self.accepted) < self.knobs.examples and self._has_room(draft.label):
                self._accept(draft, self.teachers[teacher])

    def _ask(self, drafts: Sequence[tuple[Draft, int]], number: int) -> list[Answer]:
        """Each draft's teacher is asked about it; a teacher gets all of its questions at once."""
        answers: dict[int, Answer] = {}
        stage = self.kind.stages[number]
        for i, teacher in enumerate(self.teachers):
            kept = f"{len(self.accepted)} of {self.knobs.examples} rows are kept"
            if self.watcher.stopping():
                raise Interrupted(kept)
            own = [draft for draft, chosen in drafts if chosen == i]
            questions = [self._question(draft, number, stage) for draft in own]
            for draft, answer in zip(own, answers_of(teacher, questions, kept), strict=True):
                answers[draft.index] = answer
        return [answers[draft.index] for draft, _ in drafts]

    def _question(self, draft: Draft, number: int, stage: Stage) -> Question:
        messages = self.kind.messages(number, self.description, draft)
        draft.asked.append("\n\n".join(m["content"] for m in messages))
        most = (
            TOKENS_PER_CHARACTER * MAX_CHARACTERS * len(stage.names)
            if stage.json
            else TOKENS_PER_WORD * self.knobs.max_words
        )
        return Question(
            messages=messages, seed=seed_of(self.knobs.seed, draft.index, number),
            schema=stage.schema(), max_tokens=most, temperature=self.knobs.temperature,
            top_p=self.knobs.top_p,
        )  # fmt: skip

    def _unfound(self, draft: Draft) -> str | None:
        text = draft.fields[self.kind.stages[0].names[0]]
        return None if self.passages is None else self.passages.unfound(draft, text)

    def _take(
        self, draft: Draft, stage: Stage, answer: Answer, fresh: dict[str, Duplicates]
    ) -> str | None:
        """Fill the fields of a stage from an answer -> why the draft is refused."""
        if answer.finish_reason == "length":
            return "cut"
        value = answer.value() if stage.json else {stage.names[0]: answer.text}
        if value is None or not all(isinstance(value.get(name), str) for name in stage.names):
            return "not in the form asked for"
        for name in stage.names:
            draft.fields[name] = self.kind.kept(draft, name, _plain(value[name], stage.json))
            if why := self._checked(draft.fields[name], stage, name):
                return why
        if stage.compared:
            text = draft.fields[stage.compared]
            if self.seen[stage.compared].holds(text) or fresh[stage.compared].holds(text):
                return "duplicate"
            if self.leaks.holds(text):
                return "leak"
            fresh[stage.compared].add(text)
        return None

    def _checked(self, text: str, stage: Stage, name: str) -> str | None:
        knobs = self.knobs
        least = knobs.min_words if name == stage.compared else 1
        return (
            checks.wrong_length(text, least, knobs.max_words)
            or (checks.unfinished(text, MAX_CHARACTERS) if stage.json else None)
            or checks.loops(text)
            or checks.wrong_script(text, self.script)
        )

    def _judged(self, drafts: list[tuple[Draft, int]]) -> list[tuple[Draft, int]]:
        """The drafts whose rating suffices; all of them without a judge."""
        if self.judge is None or not drafts:
            return drafts
        ratings = self.judge.rate(self.description, [draft for draft, _ in drafts], self.knobs.seed)
        kept = [
            one for one, rating in zip(drafts, ratings, strict=True) if rating >= self.knobs.min_score
        ]
        self.refused["rated too low"] += len(drafts) - len(kept)
        return kept

    def _has_room(self, label: str | None) -> bool:
        """Whether a label has not had its share of the rows yet."""
        if label is None:
            return True
        most = math.ceil(self.knobs.examples / len(self.plan.labels))
        return self.of_label[label] < most

    def _accept(self, draft: Draft, teacher: Teacher) -> None:
        self.accepted.append((draft, teacher))
        self.tried[draft.topic] -= 1
        self.of_topic[draft.topic].append(draft)
        if draft.label is not None:
            self.of_label[draft.label] += 1
        for stage in self.kind.stages:
            if stage.compared:
                self.seen[stage.compared].add(draft.fields[stage.compared])

    def _row(self, draft: Draft, teacher: Teacher) -> dict[str, Any]:
        about: dict[str, Any] = {
            "teacher": teacher.name, "licence": self.terms.licence,
            "licence_class": self.terms.licence_class, "topic": draft.topic,
            "seed": seed_of(self.knobs.seed, draft.index, 0), "asked": draft.asked,
        }  # fmt: skip
        if draft.document is not None:
            about |= {"document": draft.document, "passage": draft.passage, "gold": draft.gold}
        return {**self.kind.row(draft), provenance.COLUMN: about}
