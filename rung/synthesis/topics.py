"""Plan of a data set: the topics that cover a description, and the labels of its rows.

A plan is YAML, so that it can be edited:

    topics:
    - exams at school
    labels: []
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.errors import ConfigError
from rung.synthesis.teacher import Question, Teacher, seed_of
from rung.types import Message

MAX_TOPIC = 60  # characters of a topic at most
PER_QUESTION = 6  # topics that are asked for at once; small teachers repeat themselves in long lists
MAX_LABELS = 4  # labels that are planned where none are given
MAX_TRIES = 3  # rounds of questions for topics at most
SPARE = 2  # times as many are asked for as are missing, since teachers repeat themselves
MAX_TOKENS = 400  # of an answer that lists topics
# What a topic is approached from; taken in turn, so that one topic gives different rows.
ANGLES = (
    "", "Be brief.", "Include one concrete detail.", "Write as a beginner would.",
    "Write two or three sentences.", "Write about an unusual case.", "Write in plain everyday words.",
    "Ask it as a question.",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Topics in the order they are covered, and labels; no labels where rows have none."""

    topics: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """What is asked of a description, with the answer for a description that is shown first."""

    wanted: str
    answer: tuple[str, ...]

    def wording(self, description: str) -> str:
        return f"Somebody does this: {description}\nList {self.wanted}."

    def shown(self) -> tuple[Message, ...]:
        return (
            {"role": "user", "content": self.wording("Helps people who bake.")},
            {"role": "assistant", "content": json.dumps({"list": self.answer})},
        )


TOPICS = _Asked(
    "six topics that people bring up, a few words each",
    ("bread that does not rise", "a cake for many guests", "ovens", "baking without eggs",
     "old flour", "decorations"),
)  # fmt: skip
LABELS = _Asked(
    "the labels that it gives, a word each",
    ("success", "failure", "question", "thanks", "complaint", "other"),
)


def by_rows(rows: int) -> int:
    """How many topics suit so many rows: about five rows for each, 40 topics at most."""
    return max(4, min(40, rows // 5))


def planned(
    teacher: Teacher, description: str, count: int, labels: Sequence[str], wants_labels: bool,
    seed: int, note: Callable[[str], None],
) -> Plan:  # fmt: skip
    """Ask a teacher for topics, and for labels where rows have them and none are given.

    Raises:
        ConfigError: when no labels come back.
    """
    topics = _list(teacher, seed, count, description, TOPICS)
    if len(topics) < count:
        note(f"{teacher.name} named {len(topics)} different topics of {count}")
    plan = Plan(tuple(topics) or (description[:MAX_TOPIC],))
    return labelled(plan, teacher, description, labels, wants_labels, seed, note)


def labelled(
    plan: Plan, teacher: Teacher, description: str, labels: Sequence[str], wants_labels: bool,
    seed: int, note: Callable[[str], None],
) -> Plan:  # fmt: skip
    """Give a plan the labels of its rows: those given, else its own, else what a teacher names.

    Raises:
        ConfigError: when no labels come back.
    """
    found = tuple(labels) or plan.labels
    if wants_labels and not found:
        found = tuple(_list(teacher, seed + 1, MAX_LABELS, description, LABELS))
        if len(found) < 2:
            raise ConfigError("the teacher named no labels: give them with --labels")
        note(f"labels: {', '.join(found)}")
    return Plan(plan.topics, found)


def _list(teacher: Teacher, seed: int, count: int, description: str, asked: _Asked) -> list[str]:
    """Collect different short texts: the same question several times at once, with other seeds."""
    found: dict[str, str] = {}
    shown = {one.casefold() for one in asked.answer}
    for attempt in range(MAX_TRIES):
        if len(found) >= count:
            break
        but = "".join(f"\n- {one}" for one in found.values())
        words = asked.wording(description) + (f"\nOther ones than these:{but}" if but else "")
        questions = [
            Question(
                messages=(*asked.shown(), {"role": "user", "content": words}),
                seed=seed_of(seed, attempt, i), schema=_schema(PER_QUESTION), max_tokens=MAX_TOKENS,
            )
            for i in range(math.ceil(SPARE * (count - len(found)) / PER_QUESTION))
        ]  # fmt: skip
        for answer in teacher.ask(questions):
            listed = (answer.value() or {}).get("list")
            for one in listed if isinstance(listed, list) else []:
                text = " ".join(str(one).split()).strip(" .,-")
                # What fills the limit was cut, and what was shown is about something else.
                if text and len(text) < MAX_TOPIC - 1 and text.casefold() not in shown:
                    found.setdefault(text.casefold(), text)
    return list(found.values())[:count]


def _schema(count: int) -> dict[str, Any]:
    item = {"type": "string", "minLength": 1, "maxLength": MAX_TOPIC}
    return {
        "type": "object", "required": ["list"], "additionalProperties": False,
        "properties": {"list": {"type": "array", "items": item, "minItems": count, "maxItems": count}},
    }  # fmt: skip


def read(path: Path) -> Plan:
    """Read a plan that was written and perhaps edited.

    Raises:
        ConfigError: when it is no plan.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(f"--plan {path} cannot be read: {fault}") from None
    if not isinstance(content, dict) or set(content) - {"topics", "labels"}:
        raise ConfigError(f"--plan {path} must hold 'topics' and 'labels', two lists of texts")
    topics, labels = (_texts(content.get(name), name, path) for name in ("topics", "labels"))
    if not topics:
        raise ConfigError(f"--plan {path} names no topics")
    return Plan(topics, labels)


def _texts(value: Any, name: str, path: Path) -> tuple[str, ...]:
    if not isinstance(value or [], list):
        raise ConfigError(f"--plan {path}: '{name}' must be a list of texts")
    return tuple(dict.fromkeys(str(one).strip() for one in value or [] if str(one).strip()))


def text_of(plan: Plan) -> str:
    """Write a plan as YAML."""
    import yaml

    content = {"topics": list(plan.topics), "labels": list(plan.labels)}
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
