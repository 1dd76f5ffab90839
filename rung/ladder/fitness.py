"""Whether a climb on this data can say anything, before it costs time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rung.data import Splits
from rung.data.problem import places
from rung.errors import DataError, one_line
from rung.evals.tasks import reply
from rung.types import Example, Task

LEAST_TRAIN = 8
LEAST_HELD = 5  # rows of validation and of test


def check(task: Task, splits: Splits) -> None:
    """Refuse data on which no rung could be told from another.

    Raises:
        DataError: saying everything that is wrong, on one line.
    """
    every = [*splits.train, *splits.validation, *splits.test]
    faults = [*_replies(every, task), *_rows(splits)]
    if faults:
        raise DataError(one_line(faults))


def _rows(splits: Splits) -> list[str]:
    counts = {name: len(rows) for name, rows in splits}
    least = {"train": LEAST_TRAIN, "validation": LEAST_HELD, "test": LEAST_HELD}
    if all(counts[name] >= n for name, n in least.items()):
        return []
    shown = ", ".join(f"{n} {name}" for name, n in counts.items())
    total = sum(counts.values())
    return [
        f"{total} rows ({shown}) are too few to choose and to judge by: a climb needs at least "
        f"{LEAST_TRAIN} for training and {LEAST_HELD} each for validation and test, better "
        "hundreds; give more rows, larger --validation and --test, or use rung tune"
    ]


def _replies(examples: Sequence[Example], task: Task) -> list[str]:
    """What is wrong with the answers that are to be learned."""
    faults = []
    empty = [e.origin for e in examples if (said := reply(e)) is not None and not said.strip()]
    if empty:
        faults.append(
            f"{len(empty)} rows have no answer or label ({places(empty)}): fill them in, or leave "
            "them out with --where"
        )
    counts = Counter(said for e in examples if (said := reply(e)) is not None and said.strip())
    if len(counts) == 1:
        only = next(iter(counts))
        faults.append(
            f"every row has the same answer '{_short(only)}': there is nothing to tell apart; add "
            "rows with other answers"
        )
    if task.kind == "classification":
        faults += _alike(counts)
    return faults


def _alike(counts: Counter[str]) -> list[str]:
    """Labels that mean the same and are spelled differently."""
    groups: dict[str, list[str]] = {}
    for label in counts:
        groups.setdefault(" ".join(label.casefold().split()), []).append(label)
    faults = []
    for group in groups.values():
        if len(group) > 1:
            shown = " and ".join(f"'{_short(g)}' ({counts[g]} rows)" for g in sorted(group))
            faults.append(f"the labels {shown} differ only in case or blanks: spell them alike")
    return faults


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:37] + "..."
