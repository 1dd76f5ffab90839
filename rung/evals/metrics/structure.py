"""Metrics of structure: named spans, constituents, dependencies. Each item adds up to counts.

Spans are written as lines `label: span`, or as JSON: {"label": ["span", ...]} or a list of objects with
"label" (or "type") and "text" (or "span"); numbers, booleans and null count as texts do. Constituents
are brackets, (S (NP the cat) (VP sat)). Dependencies are lines that begin with a word's number and hold
that of its head, as CoNLL-U's do.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rung.evals.metrics.base import Case, Metric, Statistics
from rung.evals.metrics.overlap import normalise
from rung.evals.metrics.parsing import read_json

_NONE = {"", "none", "no entities", "[]", "{}", "-"}
Value = str | int | float | None
# A text that is a number as JSON writes it, or with commas between thousands. With zeros in front it is
# the name of something, such as a postcode.
_NUMBER = re.compile(
    r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|0|[1-9][0-9]*)?(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
)
_SIGNS = re.compile(r"(?<![\w)\]%.,])[-\u2212](?=\.?\d)|(?<!\w)\.(?=\d)|(?<=\d)\.(?=\d)")
MAX_DIGITS = 300  # of a text that is read as a number


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
            (label.casefold() if labelled else "", _comparable(span))
            for label, span in read_spans(text)
        )

    return lambda case: _counts(case, read)


def _comparable(span: Value) -> str | int | float:
    """What is equal for equal spans: a number also where a text is one, else a normalised text.

    Point and minus of a number inside a text stay, which `normalise` would take for punctuation.
    """
    if span is None or isinstance(span, bool):
        return json.dumps(span)
    if not isinstance(span, str):
        return "nan" if math.isnan(span) else span
    bare = span.strip().replace("\u2212", "-")
    if len(bare) <= MAX_DIGITS and _NUMBER.fullmatch(bare):
        plain = bare.replace(",", "")
        try:
            return float(plain) if set(plain) & set(".eE") else int(plain)
        except ValueError:  # no digit but those of a power
            pass
    spelt = _SIGNS.sub(lambda sign: "point" if sign[0] == "." else "minus", span)
    return normalise(spelt) or span.strip()


def read_spans(text: str) -> list[tuple[str, Value]]:
    """(label, span) pairs of an answer; lines without a label have the empty one."""
    try:
        value = read_json(text)
        return [] if value is None or value == "" else list(_from_json(value, ""))
    except ValueError:
        pass
    found: list[tuple[str, str]] = []
    for line in text.split("\n"):
        line = line.strip().lstrip("-*• ").strip()
        if line.casefold() in _NONE:
            continue
        label, colon, span = line.partition(":")
        if not colon:
            label, span = "", line
        found += [(label.strip(), s.strip()) for s in re.split(r"\s*[;,]\s+", span) if s.strip()]
    return [(label, span) for label, span in found if span.casefold() not in _NONE and normalise(span)]


def _from_json(value: Any, label: str) -> Iterator[tuple[str, Value]]:
    if isinstance(value, dict):
        own = value.get("label") or value.get("type")
        span = value.get("span") if value.get("text") in (None, "") else value["text"]
        if isinstance(own, str) and isinstance(span, str | int | float):
            yield own, span
            return
        for name, below in value.items():
            yield from _from_json(below, str(name))
    elif isinstance(value, list):
        for below in value:
            yield from _from_json(below, label)
    else:
        yield label, value


# --- constituents ---------------------------------------------------------------------------------


@dataclass
class Node:
    """A pair of brackets: words [first, last), `own` of them directly in it; a parent holds others."""

    label: str
    first: int
    last: int = 0
    own: int = 0
    parent: bool = False

    @property
    def tag(self) -> bool:
        """Whether it holds one word and nothing else."""
        return self.own == 1 and not self.parent


def brackets(case: Case) -> np.ndarray:
    """Labelled constituents in common, as PARSEVAL counts.

    Where the reference puts every word into brackets of its own, those are tags, and no constituents.
    """
    rows = []
    for text, reference in zip(case.texts, case.references, strict=True):
        expected = read_brackets(reference)
        tagged = all(node.tag for node in expected if node.own)
        told, right = (
            Counter((n.label, n.first, n.last) for n in nodes if not (tagged and n.tag))
            for nodes in (read_brackets(text), expected)
        )
        rows.append([(told & right).total(), told.total(), right.total()])
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def read_brackets(text: str) -> list[Node]:
    """The closed brackets with a label and a word; others are left out."""
    found: list[Node] = []
    open_: list[Node] = []
    word, fresh = 0, False
    for piece in re.findall(r"[()]|[^\s()]+", text):
        if piece == "(":
            if open_:
                open_[-1].parent = True
            open_.append(Node("", word))
        elif piece == ")" and open_:
            node = open_.pop()
            node.last = word
            if node.label and word > node.first:
                found.append(node)
        elif fresh:
            open_[-1].label = piece
        elif piece != ")":
            word += 1
            if open_:
                open_[-1].own += 1
        fresh = piece == "("
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
    for line in text.split("\n"):
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


metrics = [
    Metric("span_f1", "spans found, whatever their label", spans(labelled=False), f1,
           kinds=("extraction",)),
    Metric("label_f1", "spans found with their label", spans(labelled=True), f1, kinds=("extraction",)),
    Metric("bracket_f1", "labelled constituents found", brackets, f1),
    Metric("attachment_score", "share of words with the right head", attachment(labelled=False), share),
    Metric("labelled_attachment_score", "share of words with the right head and relation",
           attachment(labelled=True), share),
]  # fmt: skip
