"""Small mapping problems, made here, and an encoder of random weights."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rung.mapping.knobs import MapKnobs
from rung.mapping.problem import Problem, problem_of
from rung.mapping.records import Record, Table

THINGS = ("customer", "order", "invoice", "price", "city", "street", "phone", "user", "region", "queue")
TRAITS = ("name", "total", "status", "count", "date", "id")
SPOKEN = {"customer": "client", "order": "purchase", "invoice": "bill", "phone": "tel"}


def names() -> list[tuple[str, str]]:
    """Our names and theirs: `customer_total` is `TotalOfClient`."""
    return [
        (f"{thing}_{trait}", f"{trait.title()}Of{SPOKEN.get(thing, thing).title()}")
        for thing in THINGS
        for trait in TRAITS
    ]


def tables(count: int = 60) -> tuple[Table, Table]:
    left = tuple(Record(f"l{i:02}", ours) for i, (ours, _) in enumerate(names()[:count]))
    right = tuple(Record(f"r{i:02}", theirs) for i, (_, theirs) in enumerate(names()[:count]))
    return Table("ours.csv", left), Table("theirs.csv", right)


def known(every: int = 1, count: int = 60, none: Sequence[int] = ()) -> dict[str, frozenset[str]]:
    """Pairs of every so many records, some of which have no partner."""
    return {
        f"l{i:02}": frozenset() if i in none else frozenset({f"r{i:02}"})
        for i in range(0, count, every)
    }


def problem(pairs: Mapping[str, frozenset[str]] | None = None, **settings) -> Problem:
    settings = {"only": ["edit_distance", "tfidf"], **settings}
    left, right = tables()
    found = problem_of(left, right, known() if pairs is None else pairs, MapKnobs(**settings))
    found.vectors.of = hashed  # type: ignore[method-assign]
    return found


def hashed(texts: Sequence[str], **_) -> np.ndarray:
    """Embeddings that need no encoder: words as random directions, (n, 64) of length 1."""
    found = np.zeros((len(texts), 64), dtype=np.float32)
    for i, text in enumerate(texts):
        for word in text.split():
            seed = int.from_bytes(word.encode()[:8].ljust(8), "little") % 2**32
            found[i] += np.random.default_rng(seed).standard_normal(64).astype(np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(path)


def files(folder: Path, every: int = 2) -> tuple[str, str, str]:
    """ours.csv, theirs.csv and known.csv."""
    pairs = [(left, next(iter(right), "")) for left, right in known(every).items()]
    return (
        write(
            folder / "ours.csv", ("id", "name"), [(f"l{i:02}", a) for i, (a, _) in enumerate(names())]
        ),
        write(
            folder / "theirs.csv", ("id", "name"), [(f"r{i:02}", b) for i, (_, b) in enumerate(names())]
        ),
        write(folder / "known.csv", ("left", "right"), pairs),
    )
