"""What kind of task a data set is, found from its rows, and whether it can be measured at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rung.data.labels import alike, short
from rung.data.problem import Problem, counted, places
from rung.errors import ConfigError, DataError, nearest, one_line
from rung.evals import kinds
from rung.evals.kinds import Sample
from rung.types import Example, Message, RowKind, Task

if TYPE_CHECKING:
    from rung.data import DataKnobs, Splits

FIRST_ROWS = 50  # that tell what the rows of a data set hold
RIGHT = ("exact_match", "number_match")  # metrics that are the share of right answers without labels
MIN_TRAIN_ROWS, MIN_HELD_ROWS = 8, 5  # that models are chosen by, held: of validation and of test


def detect(examples: Iterable[Example]) -> Task:
    """The task of examples, by the first kind of `rung.evals.kinds` that finds itself in them."""
    rows = tuple(examples)
    sample = _sample(rows)
    return _shown(kinds.detect(sample), sample, rows)


def _shown(task: Task, sample: Sample, rows: Sequence[Example]) -> Task:
    """The task, with the tools of its rows and whether they ask with pictures."""
    pictures = any(m.get("pictures") for e in sample.examples for m in e.messages)
    return replace(task, tools=rows[0].tools if rows else (), pictures=pictures)


def _sample(examples: Iterable[Example]) -> Sample:
    rows = tuple(examples)
    replies = tuple(said for e in rows if (said := reply(e)) is not None)
    return Sample(examples=rows, replies=replies, asked=tuple(_asked(e) for e in rows))


def wanted(knobs: DataKnobs, kind: str | None) -> RowKind:
    """What the rows of some data are to be read as: what the kind that the user names wants, else pairs
    where the first rows hold preferences."""
    if kind is not None:
        return kinds.get(kind).wants if kind in kinds.names() else "replies"
    from rung.data import load

    try:
        first = load(replace(knobs, limit=FIRST_ROWS), wants=None)
    except DataError:  # told when all rows are read
        return "replies"
    return "replies" if first.kind == "replies" else "pairs"


def measurable(task: Task, examples: Sequence[Example]) -> tuple[list[Example], list[Problem]]:
    """What of some rows a task's metric can be measured on, and what is to be said of the others."""
    from rung.evals import metrics

    if metrics.by_wins(task):  # answers are compared, which every prompt has
        return list(examples), []
    return kinds.get(task.kind).items(examples)


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
    known = kinds.names()
    if kind not in known:
        raise ConfigError(f"--task is '{kind}'{nearest(kind, known)}")
    sample = _sample(examples)
    return _shown(kinds.get(kind).of(sample), sample, examples)


def _fitting_metric(name: str, task: Task, flag: str) -> str:
    from rung.evals import metrics

    kind = kinds.of(task)
    fitting = [m for m in metrics.names() if kind.measured_by(metrics.get(m))]
    if name in fitting:
        return name
    if name not in metrics.names():
        raise ConfigError(f"{flag}: there is no {name}{nearest(name, fitting)}")
    what = f"a task of {task.kind.replace('_', ' ')} is not measured by {name}"
    labelled = [k for k in metrics.get(name).kinds if k in kinds.names() and kinds.get(k).labelled]
    if not kind.replies:
        hint = f": plain texts have no replies to compare with, use {kind.metric}"
    elif labelled:
        hint = f", which needs labels: use {_matches(fitting)}, or set --task {labelled[0]}"
    else:
        hint = nearest(name, fitting)
    raise ConfigError(f"{flag}: {what}{hint}")


def _matches(fitting: Sequence[str]) -> str:
    """Those of a kind's metrics that count right answers, which is what accuracy is asked for."""
    return " or ".join(m for m in fitting if m in RIGHT) or fitting[0]


def reason(task: Task, examples: Sequence[Example]) -> str:
    """Why rows were taken for such a task, in a few words."""
    return kinds.of(task).reason(_sample(examples), task)


def faults(examples: Sequence[Example], task: Task) -> list[str]:
    """What makes the answers useless to learn from or to judge by, each in one line."""
    found: list[str] = []
    if kinds.of(task).compares:
        return found
    empty = [e.origin for e in examples if (said := reply(e)) is not None and not said.strip()]
    if empty:
        found.append(
            f"{counted(empty, 'row has', 'rows have')} no answer or label ({places(empty)}): "
            "fill them in, or leave "
            "them out with --where"
        )
    counts = Counter(said for e in examples if (said := reply(e)) is not None and said.strip())
    if len(counts) == 1:
        only = next(iter(counts))
        found.append(
            f"every row has the same answer {short(only)!r}: there is nothing to tell apart; add "
            "rows with other answers"
        )
    if kinds.of(task).labelled:
        found += alike(list(counts.elements()))
    return found


def check(task: Task, splits: Splits) -> None:
    """Refuse data on which no model could be told from another.

    Raises:
        DataError: saying everything that is wrong, on one line.
    """
    every = [*splits.train, *splits.validation, *splits.test]
    leaks = [p.message for p in splits.problems if p.severity == "error"]
    found = [*faults(every, task), *leaks, *_too_few(splits)]
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
        return example.asked
    return ({"role": "user", "content": example.text or ""},)


def reply(example: Example) -> str | None:
    """The text to be learned: the last message or the label; None of a plain text."""
    if example.messages:
        return example.messages[-1]["content"]
    return example.label


def calls_of(example: Example) -> str:
    """The calls of tools that a row makes between its question and its reply."""
    between = example.messages[len(example.before_calls) : -1] if example.messages else ()
    return "\n".join(m["content"] for m in between if not m.get("result"))


def _asked(example: Example) -> str:
    return "\n".join(m["content"] for m in question(example) if m["role"] != "assistant")
