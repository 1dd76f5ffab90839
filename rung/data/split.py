"""Training, validation and test, by a hash of the question.

A row's place depends on what it asks and the seed alone: rows that ask the same always fall into the
same set, whatever their answers, and adding rows never moves others. Letter case and blanks do not
count, so trivial variants stay together too; pictures that look alike do as well, all in the place of
one of them. Where one question is asked in a large share of all rows it is how they all begin: those
rows are placed by their whole content. `--group-by` names other groups.

One exception, for small data only: a held-out set that was asked for and would be empty takes the
training row whose hash is nearest, as long as training keeps one; and training is never empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from rung.data import labels, picture_duplicates
from rung.data.dataset import Dataset
from rung.data.keys import grouping
from rung.data.knobs import DataKnobs
from rung.data.problem import Problem, places
from rung.errors import ConfigError
from rung.types import Example

__all__ = ["Splits", "leakage", "place", "split"]


@dataclass(frozen=True)
class Splits:
    """The three sets, each in the order of the source."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    problems: tuple[Problem, ...] = field(default=())

    def __iter__(self):
        yield from (("train", self.train), ("validation", self.validation), ("test", self.test))


def place(example: Example, seed: int = 0) -> float:
    """Where the content falls in [0, 1), evenly."""
    return _place(example.content_key, seed)


def _place(key: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split(dataset: Dataset, knobs: DataKnobs) -> Splits:
    """Divide a data set; sets with a source of their own are taken as they are.

    Raises:
        ConfigError: when the shares leave nothing to train on.
    """
    test = 0.0 if dataset.test is not None else knobs.test
    validation = 0.0 if dataset.validation is not None else knobs.validation
    if test + validation >= 1:
        raise ConfigError(f"--validation {validation:g} and --test {test:g} leave nothing to train on")
    sets = _divide(dataset.examples, validation, test, knobs.split_seed)
    train = sets["train"]
    held: dict[str, Sequence[Example]] = {
        "validation": dataset.validation if dataset.validation is not None else sets["validation"],
        "test": dataset.test if dataset.test is not None else sets["test"],
    }
    problems = [
        Problem(
            "warning",
            f"too few rows for a {name} set: give more rows or --{name}-data",
        )
        for name, share in (("validation", validation), ("test", test))
        if share > 0 and not held[name]
    ]
    problems += leakage(train, held, allowed=knobs.allow_leakage)
    if dataset.kind == "replies":
        problems += labels.disputed(dataset.examples)
        problems += labels.unlearnt(train, held)
    return Splits(tuple(train), tuple(held["validation"]), tuple(held["test"]), tuple(problems))


def _divide(
    examples: Sequence[Example], validation: float, test: float, seed: int
) -> dict[str, list[Example]]:
    key = picture_duplicates.together(examples, grouping(examples))
    placed = [(_place(key(e), seed), e) for e in examples]
    bounds = {"test": (0.0, test), "validation": (test, test + validation)}
    names: dict[float, str] = {}
    for at, _ in placed:
        names[at] = next((n for n, (a, b) in bounds.items() if a <= at < b), "train")
    for name, (low, high) in bounds.items():
        training = [at for at in names if names[at] == "train"]
        if high > low and name not in names.values() and len(training) > 1:
            names[min(training)] = name
    if names and "train" not in names.values():
        names[max(names)] = "train"
    sets: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    for at, example in placed:
        sets[names[at]].append(example)
    return sets


def leakage(
    train: Sequence[Example], held: dict[str, Sequence[Example]], *, allowed: bool = False
) -> list[Problem]:
    """The same text or question in training and in a held-out set: an error unless it is allowed."""
    key = grouping([*train, *(e for rows in held.values() for e in rows)])
    contents = {e.content_key: e.origin for e in reversed(train)}
    asked = {key(e): e.origin for e in reversed(train)}
    problems = []
    for name, examples in held.items():
        same = [(e.origin, contents[k]) for e in examples if (k := e.content_key) in contents]
        told = {origin for origin, _ in same}
        other = [
            (e.origin, asked[k]) for e in examples if (k := key(e)) in asked and e.origin not in told
        ]
        for pairs, what in ((same, "are also in training"), (other, "ask what training asks")):
            if pairs:
                shown = places([f"{a} = {b}" for a, b in pairs])
                mend = "" if allowed else ": remove them, or say --allow-leakage"
                message = f"{len(pairs)} of {len(examples)} {name} rows {what} ({shown}){mend}"
                rows = tuple(a for a, _ in pairs)
                problems.append(Problem("warning" if allowed else "error", message, rows))
        told = {row for problem in problems for row in problem.rows}
        problems += picture_duplicates.across(
            train, name, [e for e in examples if e.origin not in told]
        )
    return problems
