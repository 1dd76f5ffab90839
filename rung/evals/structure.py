"""Metrics of structure: named spans, constituents, dependencies. Each item adds up to counts.

Spans are written as lines `label: span`, or as JSON: {"label": ["span", ...]} or a list of objects with
"label" (or "type") and "text" (or "span"). Constituents are brackets, (S (NP the cat) (VP sat)).
Dependencies are lines that begin with a word's number and hold that of its head, as CoNLL-U's do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rung.evals.metric import Case, Statistics
from rung.evals.overlap import normalise
from rung.evals.reading import read_json

_NONE = {"", "none", "no entities", "[]", "{}", "-"}


def f1(sums: np.ndarray) -> np.ndarray:
    """Sums (..., 3) of found and right, found, right -> F1; 1 where there was nothing to find."""
    hit, told, right = np.moveaxis(sums, -1, 0)
    both = told + right
    return np.where(both > 0, 2 * hit / np.maximum(both, 1e-12), 1.0)


def share(sums: np.ndarray) -> np.ndarray:
    """Sums (..., 2) -> their quotient; 1 where there was nothing to find."""
    return np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1e-12), 1.0)


def _counts(case: Case, read: Callable[[str], Counter]) -> np.ndarray:
    rows = []
    for text, reference in zip(case.texts, case.references, strict=True):
        told, right = read(text), read(reference)
        rows.append([(told & right).total(), told.total(), right.total()])
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


# --- spans ----------------------------------------------------------------------------------------


def spans(*, labelled: bool) -> Statistics:
    """Statistics of spans in common, with or without their labels."""

    def read(text: str) -> Counter:
        return Counter(
            (label.casefold() if labelled else "", normalise(span))
            for label, span in read_spans(text)
            if normalise(span)
        )

    return lambda case: _counts(case, read)


def read_spans(text: str) -> list[tuple[str, str]]:
    """(label, span) pairs of an answer; lines without a label have the empty one."""
    try:
        return list(_from_json(read_json(text), ""))
    except ValueError:
        pass
    found = []
    for line in text.splitlines():
        line = line.strip().lstrip("-*• ").strip()
        if line.casefold() in _NONE:
            continue
        label, colon, span = line.partition(":")
        if not colon:
            label, span = "", line
        found += [(label.strip(), s.strip()) for s in re.split(r"\s*[;,]\s+", span) if s.strip()]
    return [(label, span) for label, span in found if span.casefold() not in _NONE]


def _from_json(value: Any, label: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        own = value.get("label") or value.get("type")
        span = value.get("text") or value.get("span")
        if isinstance(own, str) and isinstance(span, str):
            yield own, span
            return
        for name, below in value.items():
            yield from _from_json(below, str(name))
    elif isinstance(value, list):
        for below in value:
            yield from _from_json(below, label)
    elif isinstance(value, str):
        yield label, value


# --- constituents ---------------------------------------------------------------------------------


def brackets(case: Case) -> np.ndarray:
    """Labelled constituents in common, as PARSEVAL counts: tags of single words are none."""
    return _counts(case, read_brackets)


def read_brackets(text: str) -> Counter:
    """(label, first word, last word) of each constituent; what is not closed or opened is left out."""
    found: Counter = Counter()
    open_: list[tuple[str, int, bool]] = []  # label, first word, holds constituents
    word, fresh = 0, False
    for piece in re.findall(r"[()]|[^\s()]+", text):
        if piece == "(":
            if open_:
                open_[-1] = (*open_[-1][:2], True)
            open_.append(("", word, False))
            fresh = True
        elif piece == ")":
            fresh = False
            if not open_:
                continue
            label, first, parent = open_.pop()
            tag = not parent and word - first == 1
            if label and word > first and not tag:
                found[label, first, word] += 1
        elif fresh:
            open_[-1] = (piece, *open_[-1][1:])
            fresh = False
        else:
            word += 1
    return found


# --- dependencies ---------------------------------------------------------------------------------


def attachment(*, labelled: bool) -> Statistics:
    """Statistics (n, 2): words with the right head (and relation), and words."""

    def statistics(case: Case) -> np.ndarray:
        rows = []
        for text, reference in zip(case.texts, case.references, strict=True):
            told, right = read_heads(text), read_heads(reference)
            good = sum(_same(told.get(n), head, labelled) for n, head in right.items())
            rows.append([good, len(right)])
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    return statistics


def _same(told: tuple[int, str] | None, right: tuple[int, str], labelled: bool) -> bool:
    return told is not None and told[: 1 + labelled] == right[: 1 + labelled]


def read_heads(text: str) -> dict[int, tuple[int, str]]:
    """Number of a word -> that of its head (0 the root) and the relation, "" where none is written."""
    found = {}
    for line in text.splitlines():
        fields = line.replace("|", " ").split()
        if len(fields) < 2 or not fields[0].rstrip(".").isdigit():
            continue
        heads = [i for i, field in enumerate(fields) if i and field.isdigit()]
        if heads:
            # CoNLL-U has the head in its seventh column; in shorter lines it is the last number.
            at = 6 if len(fields) >= 8 and fields[6].isdigit() else heads[-1]
            relation = fields[at + 1] if at + 1 < len(fields) else ""
            found[int(fields[0].rstrip("."))] = (int(fields[at]), relation.casefold())
    return found
