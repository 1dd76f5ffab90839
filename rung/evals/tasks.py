"""What kind of task a data set is, found from its rows, and whether it can be measured at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from rung.data.labels import MOST_LABELS, alike, label_set, short
from rung.data.problem import places
from rung.errors import ConfigError, DataError, nearest, one_line
from rung.evals.words import words
from rung.types import Example, Message, Task, TaskKind

if TYPE_CHECKING:
    from rung.data import Splits

MIN_TRAIN_ROWS, MIN_HELD_ROWS = 8, 5  # that models are chosen by, held: of validation and of test
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


def settle_task(
    found: Task,
    examples: Sequence[Example],
    kind: str | None,
    metric: str | None,
    flag: str = "--metric",
) -> Task:
    """The task as it was found, with what the user says of it.

    Args:
        kind, metric: as the user wrote them; None leaves what was found.
        flag: that names the metric, for messages.

    Raises:
        ConfigError: for a kind or metric that there is not, or that do not go together.
    """
    task = found if kind is None or kind == found.kind else _of_kind(kind, examples)
    if metric is None:
        return task
    name = metric.replace("-", "_")
    return replace(task, metric=_fitting_metric(name, task, flag))


def _of_kind(kind: str, examples: Sequence[Example]) -> Task:
    """A task of the kind that the user wants, on these rows."""
    kinds = get_args(TaskKind)
    if kind not in kinds:
        raise ConfigError(f"--task is '{kind}'{nearest(kind, kinds)}; there are {', '.join(kinds)}")
    labels: tuple[str, ...] = ()
    if kind == "classification":
        counts = Counter(said for e in examples if (said := reply(e)) is not None)
        if not counts:
            raise ConfigError("--task classification needs rows with a label or a reply")
        if len(counts) > MOST_LABELS or 2 * len(counts) > sum(counts.values()):
            raise ConfigError(
                f"--task classification: {len(counts):,} different replies in {sum(counts.values()):,} "
                f"rows are no labels; give rows whose replies come again, at most {MOST_LABELS:,}"
            )
        labels = tuple(sorted(counts))
    if kind == "multiple_choice" and not all(e.choices for e in examples):
        raise ConfigError("--task multiple_choice needs --choices, the answers that a row offers")
    return Task(kind, METRICS[kind], labels)  # type: ignore[arg-type]


def _fitting_metric(name: str, task: Task, flag: str) -> str:
    from rung.evals import metrics

    fitting = [m for m in metrics.names() if _measures(m, task)]
    if name in fitting:
        return name
    if name not in metrics.names():
        raise ConfigError(f"{flag}: there is no {name}{nearest(name, fitting)}")
    what = f"a task of {task.kind.replace('_', ' ')} is not measured by {name}"
    if task.kind == "language_modelling":
        hint = ": plain texts have no replies to compare with, use perplexity"
    elif "classification" in metrics.get(name).kinds:
        hint = ", which needs labels: set --task classification"
    else:
        hint = nearest(name, fitting)
    raise ConfigError(f"{flag}: {what}{hint}")


def _measures(name: str, task: Task) -> bool:
    """Whether a metric can be had of a task's answers."""
    from rung.evals import metrics

    metric = metrics.get(name)
    if task.kind == "language_modelling":
        return metric.reads == "likelihood"
    if metric.reads == "likelihood":
        return task.kind != "classification"
    kinds = metric.kinds
    return task.kind in kinds or (not kinds and task.kind != "classification")


def reason(task: Task, examples: Sequence[Example]) -> str:
    """Why rows were taken for such a task, in a few words."""
    counts = Counter(said for e in examples if (said := reply(e)) is not None)
    if task.labels:
        known = [counts[label] for label in task.labels if counts[label]]
        return f"{len(task.labels)} short replies come again, each {min(known)} to {max(known)} times"
    told = {
        "language_modelling": "rows hold text without a reply",
        "multiple_choice": "every row offers its own answers",
        "extraction": "the replies are structures",
        "question_answering": "questions with short replies",
        "translation": "the rows ask for a translation",
        "generation": f"{len(counts):,} different replies in {sum(counts.values()):,} rows",
        "classification": "the replies are labels",
    }
    return told[task.kind]


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


def check(task: Task, splits: Splits) -> None:
    """Refuse data on which no model could be told from another.

    Raises:
        DataError: saying everything that is wrong, on one line.
    """
    every = [*splits.train, *splits.validation, *splits.test]
    found = [*faults(every, task), *_too_few(splits)]
    if found:
        raise DataError(one_line(found))


def _too_few(splits: Splits) -> list[str]:
    counts = {name: len(rows) for name, rows in splits}
    least = {"train": MIN_TRAIN_ROWS, "validation": MIN_HELD_ROWS, "test": MIN_HELD_ROWS}
    if all(counts[name] >= n for name, n in least.items()):
        return []
    shown = ", ".join(f"{n} {name}" for name, n in counts.items())
    total = sum(counts.values())
    return [
        f"{total} rows ({shown}) are too few to choose and to judge by: a climb needs at least "
        f"{MIN_TRAIN_ROWS} for training and {MIN_HELD_ROWS} each for validation and test, better "
        "hundreds; give more rows, larger --validation and --test, or use rung tune"
    ]


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
