"""Whether a climb on this data can say anything, before it costs time."""

from __future__ import annotations

from rung.data import Splits
from rung.errors import DataError, one_line
from rung.evals import tasks
from rung.types import Task

LEAST_TRAIN = 8
LEAST_HELD = 5  # rows of validation and of test


def check(task: Task, splits: Splits) -> None:
    """Refuse data on which no rung could be told from another.

    Raises:
        DataError: saying everything that is wrong, on one line.
    """
    every = [*splits.train, *splits.validation, *splits.test]
    faults = [*tasks.faults(every, task), *_rows(splits)]
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
