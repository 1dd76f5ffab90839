"""Chain of thought: the model writes reasons before its answer (Wei et al., arXiv 2201.11903).

Departs from the paper: no worked examples, but an instruction (Kojima et al., arXiv 2205.11916), the
best of a few on validation rows. With `--samples` several chains are drawn and their answers put to the
vote (Wang et al., arXiv 2203.11171) where a model is measured; a served model writes one chain.

    rung tune NAME --method chain_of_thought --samples 5 --data ...
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rung.config import knob
from rung.data.conversation import Conversation
from rung.errors import MethodMisfit
from rung.evals import kinds
from rung.methods import base, choice
from rung.methods.workload import Shape, Workload, scoring
from rung.types import Example, Message

MIN_NUMBER_SHARE = 0.95  # of the replies are numbers: then so is the answer

# What may stand before an answer: "Answer:", "**Final answer:** ", "The answer is".
MARK = re.compile(r"\banswer\b[\s*_]*(?:is\b[\s*_]*:?|[:：])[\s*_]*", re.IGNORECASE)
INSTRUCTION_TOKENS = 40  # of the sentence behind the question


@dataclass
class Knobs:
    group: ClassVar[str] = "chain_of_thought"
    reasoning_tokens: int = knob(192, "Tokens of reasons and answer at most.", least=8, most=32768)
    samples: int = knob(
        1, "Chains to draw and put to the vote; 1 writes one greedily.", least=1, most=64
    )
    sample_temperature: float = knob(0.7, "How the chains of a vote are drawn.", above=0, most=2)
    choose_rows: int | None = choice.choose_rows()


@dataclass(frozen=True)
class Reasoning(Conversation):
    """An instruction behind the question, and the answer read out of what follows.

    Attributes:
        labels: the answer is one of them, if any. numeric: it is a number.
    """

    instruction: str = ""
    labels: tuple[str, ...] = ()
    numeric: bool = False
    max_tokens: int | None = 192
    samples: int = 1
    temperature: float = 0.7

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        found = list(messages)
        for i in reversed(range(len(found))):
            if found[i]["role"] == "user":
                found[i] = {**found[i], "content": f"{found[i]['content']}\n\n{self.instruction}"}
                return found
        return [*found, {"role": "user", "content": self.instruction}]

    def answer(self, text: str) -> str:
        """What stands behind the last "Answer:"; of labels and numbers, wherever one is found.

        Empty when labels or a number are wanted and the text has none.
        """
        marks = list(MARK.finditer(text))
        tail = text[marks[-1].end() :] if marks else ""
        if self.labels:
            return _label(tail, self.labels, first=True) or _label(text, self.labels, first=False)
        if self.numeric:
            return _number(tail, first=True) or _number(text, first=False)
        lines = tail.strip().splitlines()
        return (lines[0] if lines else text).strip().strip("*_").strip()

    def vote(self, answers: Sequence[str]) -> str:
        """The most frequent answer, case and spaces apart; the first drawn among equals."""
        keys = [" ".join(a.casefold().split()) for a in answers]
        counts = Counter(key for key in keys if key)
        if not counts:
            return answers[0]
        winner = counts.most_common(1)[0][0]
        return answers[keys.index(winner)]

    @classmethod
    def read(cls, settings: dict[str, Any]) -> Reasoning:
        """From `settings.json`; raises KeyError, TypeError or ValueError."""
        return cls(
            str(settings["instruction"]), tuple(map(str, settings["labels"])),
            bool(settings["numeric"]), int(settings["max_tokens"]), int(settings["samples"]),
            float(settings["temperature"]),
        )  # fmt: skip


class Method(choice.PromptMethod):
    summary = "reasons before the answer"
    paper = "arXiv 2201.11903"
    Config = Knobs
    rows = 32  # each costs as many tokens as its reasons take
    speaks = Reasoning

    def unsuited(self, task: Any, config: Knobs) -> str | None:
        if config.samples > 1 and kinds.of(task).free_text:
            return "free texts cannot be put to the vote: leave --samples at 1"
        return super().unsuited(task, config)

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        written = 0.7 * config.reasoning_tokens * config.samples  # many end before the last token
        return scoring(replace(shape, choices=0.0, reply=written), INSTRUCTION_TOKENS)

    def find(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.forward.adapter import Adapter

        rows, train = choice.rows_to_choose_by(study, config.choose_rows or self.rows)
        room = choice.Room.of(study, rows, config.reasoning_tokens)
        numeric = not study.task.labels and numbers(train)
        found = []
        for name, text in INSTRUCTIONS.items():
            wanted = "it with one of: " + ", ".join(study.task.labels) if study.task.labels else ""
            wanted = wanted or ("it as a number" if numeric else "it in as few words as possible")
            asking = Reasoning(
                text.format(wanted=wanted), study.task.labels, numeric,
                config.reasoning_tokens, config.samples, config.sample_temperature,
            )  # fmt: skip
            if room.holds(study, asking, rows):
                found.append(choice.Candidate(name, asking))
        if not found:
            raise MethodMisfit(
                f"the context does not hold the question and {config.reasoning_tokens} tokens of "
                "reasons: lower --reasoning-tokens"
            )
        race = choice.Race(study, rows)
        best = race.best(found)
        study.note(f"chose the instruction {race.told(best)}")
        return base.Fitted(Adapter(conversation=best.conversation), race.metrics(best))


INSTRUCTIONS = {
    "brief": "Reason in one or two short sentences first. Then write a last line that begins with "
    "'Answer:' and give {wanted}.",
    "steps": "Work this out step by step, each step on a line of its own. When you are sure, write "
    "'Answer:' on a new line and give {wanted}.",
}


def numbers(rows: Sequence[Example]) -> bool:
    """Whether the replies are numbers, or reasons that end with '#### number' as in GSM8K."""
    from rung.evals.metrics.parsing import is_number

    replies = [e.messages[-1]["content"].rpartition("####")[2].strip(" .") for e in rows]
    numbers = sum(map(is_number, replies))
    return bool(replies) and numbers >= MIN_NUMBER_SHARE * len(replies)


def _label(text: str, labels: Sequence[str], first: bool) -> str:
    """The label that stands first, or last, in the text as words of its own.

    A label within a longer one, such as "spam" in "no spam", is not found where the longer one stands.
    """
    longest = sorted((label.strip() for label in labels), key=len, reverse=True)
    words = "|".join(re.escape(label) for label in longest if label)
    found = re.findall(rf"(?<!\w)(?:{words})(?!\w)", text, re.IGNORECASE) if words else []
    if not found:
        return ""
    told = found[0 if first else -1]
    alike = [label for label in labels if label.strip().casefold() == told.casefold()]
    return told if told in alike else alike[0]


def _number(text: str, first: bool) -> str:
    """The first number of an answer, behind an equation's last sign, or the last of all the text."""
    from rung.evals.metrics.parsing import numbers_in

    found = numbers_in(text)
    if first and found:
        line = next(line for line in text.splitlines() if numbers_in(line))
        found = numbers_in(line.rpartition("=")[2]) or numbers_in(line)
    return found[0 if first else -1].lstrip("+").replace("$", "") if found else ""
