"""What kind of task a data set is, found from its rows, and whether it can be measured at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import get_args

from rung.data.labels import alike, label_set, short
from rung.data.problem import places
from rung.errors import ConfigError, nearest
from rung.evals.words import words
from rung.types import Example, Message, Task, TaskKind

SHORT_ANSWER = 12  # words, of half the replies to questions
ASKS = ("?", "?\nAnswer:", "\uff1f", "\u061f", "\u037e")  # in any script
MOST = 0.8  # share of rows that decides

METRICS: dict[str, str] = {
    "classification": "accuracy",
    "multiple_choice": "accuracy",
    "extraction": "label_f1",
    "question_answering": "token_f1",
    "translation": "chrf",
    "generation": "rouge_l",
    "language_modelling": "perplexity",
}
_TREE = re.compile(r"\(\s*[A-Z][\w$.-]*\s+[\s\S]*\)")
_NUMBER = re.compile(r"[\s\S]*####\s*\S+|\s*[$€£]?-?[\d,.]+%?\s*")


def detect(examples: Iterable[Example]) -> Task:
    """The task of examples.

    Plain texts are language modelling. Rows that offer answers are multiple choice. Few short replies
    that come again and again are a label set. What is asked in a translation's words, replies that are
    JSON or trees, and short replies to questions say the rest; all else is open generation.
    """
    rows = list(examples)
    replies = [said for e in rows if (said := reply(e)) is not None]
    if len(replies) < len(rows) or not rows:
        return Task("language_modelling", "perplexity")
    if all(e.choices for e in rows):
        return Task("multiple_choice", "accuracy")
    # In a column of its own a label is one with fewer rows, too.
    own = tuple(sorted(set(replies))) if [e.label for e in rows] == replies else ()
    labels = label_set(replies) or (own if 2 * len(own) <= len(rows) else ())
    if labels:
        return Task("classification", "accuracy", labels)
    if _mostly("translat" in _asked(e).casefold() for e in rows):
        return Task("translation", "chrf")
    if _mostly(bool(_TREE.fullmatch(said.strip())) for said in replies):
        return Task("extraction", "bracket_f1")
    if _mostly(_holds(said) for said in replies):
        return Task("extraction", "label_f1")
    if _mostly(_asked(e).rstrip().endswith(ASKS) for e in rows):
        if _mostly(bool(_NUMBER.fullmatch(said)) for said in replies):
            return Task("question_answering", "number_match")
        sizes = sorted(len(words(said)) for said in replies)
        if sizes[len(sizes) // 2] <= SHORT_ANSWER:
            return Task("question_answering", "token_f1")
    return Task("generation", "rouge_l")


def choose(task: Task, examples: Iterable[Example], kind: str | None, metric: str | None) -> Task:
    """The task with what the user set of it.

    Raises:
        ConfigError: for a kind or metric that there is not, or that do not go together.
    """
    from rung.evals import metrics

    kinds = get_args(TaskKind)
    if kind is not None and kind not in kinds:
        raise ConfigError(f"no task '{kind}'{nearest(kind, kinds)}; there are {', '.join(kinds)}")
    if kind is not None and kind != task.kind:
        labels: tuple[str, ...] = ()
        if kind == "classification":
            labels = tuple(sorted({said for e in examples if (said := reply(e)) is not None}))
            if not labels:
                raise ConfigError("--task classification needs rows with a label or a reply")
        if kind == "multiple_choice" and not all(e.choices for e in examples):
            raise ConfigError("--task multiple_choice needs --choices, the answers that a row offers")
        task = Task(kind, METRICS[kind], labels)  # type: ignore[arg-type]
    if metric is None:
        return task
    name = metric.replace("-", "_")
    wanted = metrics.get(name)
    if "classification" in wanted.kinds and task.kind not in wanted.kinds:
        raise ConfigError(
            f"{name} needs labels, and the task is {task.kind}: set --task classification"
        )
    if task.kind == "language_modelling" and name != "perplexity":
        raise ConfigError(f"{name} needs replies to compare with, and the data holds plain texts")
    return replace(task, metric=name)


def faults(examples: Sequence[Example], task: Task) -> list[str]:
    """What makes the answers useless to learn from or to judge by, each in one line."""
    found = []
    empty = [e.origin for e in examples if (said := reply(e)) is not None and not said.strip()]
    if empty:
        found.append(
            f"{len(empty)} rows have no answer or label ({places(empty)}): fill them in, or leave "
            "them out with --where"
        )
    counts = Counter(said for e in examples if (said := reply(e)) is not None and said.strip())
    if len(counts) == 1:
        only = next(iter(counts))
        found.append(
            f"every row has the same answer '{short(only)}': there is nothing to tell apart; add "
            "rows with other answers"
        )
    if task.kind == "classification":
        found += alike(list(counts.elements()))
    return found


def question(example: Example) -> tuple[Message, ...]:
    """The conversation up to the reply; of a labelled text, the text as the user's message."""
    if example.messages:
        return example.messages[:-1]
    return ({"role": "user", "content": example.text or ""},)


def reply(example: Example) -> str | None:
    """The text to be learned: the last message or the label; None of a plain text."""
    if example.messages:
        return example.messages[-1]["content"]
    return example.label


def _mostly(found: Iterable[bool]) -> bool:
    rows = list(found)
    return bool(rows) and sum(rows) >= MOST * len(rows)


def _asked(example: Example) -> str:
    return "\n".join(m["content"] for m in question(example) if m["role"] != "assistant")


def _holds(text: str) -> bool:
    """Whether it is a JSON object or list."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
