"""What there is to say about data before training: plain values, for a screen or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rung.data.check import check
from rung.data.dataset import Dataset
from rung.data.pairs import pairs, too_long
from rung.data.problem import Problem
from rung.data.split import Splits
from rung.data.template import Template
from rung.errors import DataError
from rung.types import Example, Rendered


@dataclass(frozen=True)
class Lengths:
    """Lengths over rows; `unit` is tokens, or characters when no base was named."""

    unit: str
    least: int
    median: int
    p95: int
    most: int
    total: int


@dataclass(frozen=True)
class Span:
    """A stretch of a rendered row, as the model sees it: special tokens included."""

    text: str
    supervised: bool


@dataclass(frozen=True)
class Shown:
    """One rendered row."""

    origin: str
    spans: tuple[Span, ...]
    tokens: int
    supervised: int

    def marked(self, left: str = "⟦", right: str = "⟧") -> str:
        """The text with brackets around what is learnt, for where there is no colour."""
        return "".join(left + s.text + right if s.supervised else s.text for s in self.spans)


@dataclass(frozen=True)
class Report:
    """Everything `rung data` shows."""

    name: str
    source: str
    format: str
    how: str
    rows: int
    splits: dict[str, int]
    labels: dict[str, int]
    lengths: Lengths
    supervised: int | None
    licence: str
    duplicates: int
    digest: str
    shown: tuple[Shown, ...]
    problems: tuple[Problem, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; each shown row also as marked text."""
        content = asdict(self)
        for row, shown in zip(content["shown"], self.shown, strict=True):
            row["marked"] = shown.marked()
        return content


def report(
    dataset: Dataset,
    splits: Splits,
    template: Template | None = None,
    *,
    max_length: int | None = None,
    vocabulary: int | None = None,
    show: int = 2,
) -> Report:
    """Look at everything once.

    Args:
        template: without one, lengths are in characters and no row is rendered.
        max_length: rows above it are reported.
        vocabulary: how many rows the base's embeddings have, where that is known.
        show: how many rows to render in full.
    """
    examples = [example for _, rows in splits for example in rows]
    problems = [*dataset.problems]
    if dataset.kind != "replies":
        wanted = "dpo" if dataset.kind == "pairs" else "kto"
        told = f"the rows hold {dataset.kind}: train with --objective {wanted}; others refuse them"
        problems.append(Problem("warning", told))
        problems += _compared(dataset, template, max_length)
    shown: list[Shown] = []
    supervised = None
    if template is None:
        problems += splits.problems
        sizes, unit = [_characters(e) for e in examples], "characters"
    else:
        rows, faults = template.render_all(splits.train, max_length)
        whole, _ = template.render_all(examples)
        problems += [*faults, *check(rows, splits, template, vocabulary=vocabulary, found=faults)]
        sizes, unit = [len(r.ids) for r in whole], "tokens"
        supervised = sum(sum(r.supervised) for r in rows)
        shown = [show_row(r, template) for r in rows[:show]]
        if dataset.kind == "pairs":
            shown = [s for e in splits.train[:show] for s in _both(e, template)]
    return Report(
        name=dataset.name,
        source=dataset.source,
        format=dataset.format,
        how=dataset.how,
        rows=len(dataset),
        splits={name: len(rows) for name, rows in splits},
        labels=_labels(dataset.examples),
        lengths=_lengths(sizes, unit),
        supervised=supervised,
        licence=dataset.licence,
        duplicates=dataset.duplicates.count,
        digest=dataset.digest,
        shown=tuple(shown),
        problems=tuple(dict.fromkeys(problems)),
    )


def _compared(dataset: Dataset, template: Template | None, limit: int | None) -> list[Problem]:
    """How many pairs the rows make, their margins, and which sides or prompts are too long."""
    try:
        found, problems = pairs(dataset.examples)
    except DataError as fault:
        if dataset.kind == "ratings":  # which are learnt one by one
            wanted = sum((e.rating or 0) > 0 for e in dataset.examples)
            told = f"{len(dataset)} rated replies, of which {wanted} are wanted"
            return [Problem("warning", told)]
        return [Problem("warning", str(fault))]
    margins = sorted(p.margin for p in found if p.margin is not None)
    told = f"{len(found)} pairs of a better and a worse reply"
    if margins:
        middle = margins[len(margins) // 2]
        told += (
            f"; {len(margins)} say by how much: {margins[0]:g} to {margins[-1]:g}, median {middle:g}"
        )
    problems.append(Problem("warning", told))
    if template is not None and limit is not None:
        problems += too_long(found, template, limit)
    return problems


def _both(pair: Example, template: Template) -> list[Shown]:
    """The better and the worse conversation of a pair, as far as they can be rendered."""
    sides = {"better": pair.messages, "worse": pair.rejected}
    examples = [Example(turns, origin=f"{pair.origin} ({name})") for name, turns in sides.items()]
    rows, _ = template.render_all(examples)
    return [show_row(row, template) for row in rows]


def show_row(row: Rendered, template: Template) -> Shown:
    """A rendered row decoded again, in stretches of equal supervision."""
    spans: list[Span] = []
    start = 0
    for i in range(1, len(row.ids) + 1):
        if i == len(row.ids) or row.supervised[i] != row.supervised[start]:
            text = template.tokenizer.decode(
                list(row.ids[start:i]),
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
            spans.append(Span(text, row.supervised[start]))
            start = i
    return Shown(row.origin, tuple(spans), len(row.ids), sum(row.supervised))


def _characters(example: Example) -> int:
    if example.text is not None:
        return len(example.text)
    return sum(len(m["content"]) for m in example.messages)


def _labels(examples: Sequence[Example]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for example in examples:
        if example.label is not None:
            counts[example.label] = counts.get(example.label, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _lengths(sizes: Sequence[int], unit: str) -> Lengths:
    ordered = sorted(sizes) or [0]
    last = len(ordered) - 1
    return Lengths(
        unit,
        ordered[0],
        ordered[last // 2],
        ordered[round(last * 0.95)],
        ordered[last],
        sum(ordered),
    )
