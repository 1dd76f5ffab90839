"""A mapping problem: two tables in one order, and known pairs in three parts that share nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rung.errors import DataError
from rung.mapping.knobs import MapKnobs
from rung.mapping.records import Record, Table, read_pairs, read_table
from rung.mapping.vectors import Vectors

FOLDS = 5  # of a cross-validation
MIN_PAIRS = 6  # known left records, for a part each of training, validation and test
Chooser = Callable[[Sequence[list], Sequence[Sequence[str]]], list[list[float]]]
Known = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Parts:
    """Known left records by their places in `Problem.left`, each (n,) in ascending order."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(kw_only=True)
class Problem:
    """What is to be mapped.

    Attributes:
        left, right: records in the order of their ids, so that the order of rows changes nothing.
        tables: as they were read.
        known: by left id, the ids of right records that are right.
        parts: of the known ones; None where there are none.
        vectors: makes and keeps embeddings.
        chooser: (messages, replies) -> log-probabilities of each reply, where a reranker is given.
        note: tells the user something in one line. stopping: whether to give up.
    """

    left: tuple[Record, ...]
    right: tuple[Record, ...]
    tables: tuple[Table, Table]
    knobs: MapKnobs
    known: Known = field(default_factory=dict)
    parts: Parts | None = None
    vectors: Vectors
    chooser: Chooser | None = None
    note: Callable[[str], None] = lambda text: None
    stopping: Callable[[], bool] = lambda: False

    def gold(self, rows: np.ndarray) -> list[frozenset[int]]:
        """The places of right records that are right, for left records by place."""
        place = {r.id: i for i, r in enumerate(self.right)}
        return [frozenset(place[key] for key in self.known[self.left[i].id]) for i in rows]


def problem_of(
    left: Table, right: Table, known: Known, knobs: MapKnobs, fold: int | None = None
) -> Problem:
    """Put two tables and what is known of them into one problem.

    Args:
        fold: take this of `FOLDS` parts of the groups for the test, for cross-validation.

    Raises:
        DataError: when so few pairs are known that nothing could be measured.
    """
    ours, theirs = (tuple(sorted(t.records, key=lambda r: r.id)) for t in (left, right))
    parts = split(ours, known, left.groups, knobs, fold) if known else None
    return Problem(
        left=ours, right=theirs, tables=(left, right), knobs=knobs, known=known, parts=parts,
        vectors=Vectors(knobs.encoder),
    )  # fmt: skip


def read(left: str, right: str, knobs: MapKnobs) -> Problem:
    """Read a problem from tables. Raises DataError as `read_table`, `read_pairs` and `problem_of`."""
    ours = read_table(left, knobs.left_id, knobs.left_name, knobs.group_by)
    theirs = read_table(right, knobs.right_id, knobs.right_name, None)
    return problem_of(ours, theirs, read_pairs(knobs.pairs, ours, theirs), knobs)


def split(
    left: Sequence[Record],
    known: Known,
    groups: Mapping[str, str],
    knobs: MapKnobs,
    fold: int | None = None,
) -> Parts:
    """Part the known left records so that no part knows another's answers.

    Left records that share a right one, words of their names or a group stay together. Groups are taken
    in a random order, each by the part that lacks most of its share.

    Raises:
        DataError: when a part would be empty.
    """
    places = [i for i, r in enumerate(left) if r.id in known]
    if len(places) < MIN_PAIRS:
        raise DataError(
            f"{len(places)} left records have known pairs: give {MIN_PAIRS} at least, or none at all"
        )
    together = _components([_keys(left[i], known, groups) for i in places])
    order = np.random.default_rng(knobs.seed).permutation(len(together))
    shares = {
        "test": knobs.test, "validation": knobs.validation,
        "train": 1 - knobs.test - knobs.validation,
    }  # fmt: skip
    found: dict[str, list[int]] = {name: [] for name in shares}
    for position, at in enumerate(order):
        members = [places[i] for i in together[at]]
        if fold is not None:
            chosen = ["test"] if position % FOLDS == fold else ["validation", "train"]
        else:
            chosen = list(shares)
        lacking = {name: shares[name] * len(places) - len(found[name]) for name in chosen}
        found[max(lacking, key=lambda name: lacking[name])] += members
    if empty := [name for name, rows in found.items() if not rows]:
        raise DataError(
            f"the known pairs are too few groups for a {' and a '.join(empty)} part: give more pairs, "
            "or other shares (--validation, --test)"
        )
    return Parts(**{name: np.array(sorted(rows)) for name, rows in found.items()})


def _keys(record: Record, known: Known, groups: Mapping[str, str]) -> list[str]:
    """Whatever a left record shares with another that must not be in another part."""
    keys = [f"right {key}" for key in known[record.id]] + [f"words {record.words}"]
    return keys + ([f"group {groups[record.id]}"] if groups.get(record.id) else [])


def _components(keys: Sequence[Sequence[str]]) -> list[list[int]]:
    """Items joined by keys that they share, directly or by others, in the order of their first."""
    root = list(range(len(keys)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    first: dict[str, int] = {}
    for i, own in enumerate(keys):
        for key in own:
            a, b = find(i), find(first.setdefault(key, i))
            root[max(a, b)] = min(a, b)
    found: dict[int, list[int]] = {}
    for i in range(len(keys)):
        found.setdefault(find(i), []).append(i)
    return list(found.values())
