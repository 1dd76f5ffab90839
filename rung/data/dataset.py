"""A data set: examples with their origin, digest, licence and what is odd about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import isfinite
from typing import Any

from rung.data import (
    choices,
    formats,
    labels,
    part_cells,
    picture_duplicates,
    prompts,
    proposals,
    provenance,
    sources,
)
from rung.data.format_strings import Condition, Format, Missing, Nothing
from rung.data.knobs import DataKnobs
from rung.data.pairs import paired
from rung.data.problem import Problem, counted, places
from rung.errors import ConfigError, DataError, one_line
from rung.types import Example, RowKind

FEW_ROWS = 20


@dataclass(frozen=True)
class Duplicates:
    """Rows whose content another row has already: how many, and the first groups of origins."""

    count: int = 0
    groups: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Dataset:
    """What a source holds.

    `validation` and `test` are None unless they have sources of their own. `digest` is equal for
    equal content read in the same way, in whatever order.
    """

    name: str
    source: str
    format: str
    how: str
    examples: tuple[Example, ...]
    digest: str
    licence: str = "unknown"
    problems: tuple[Problem, ...] = ()
    duplicates: Duplicates = field(default_factory=Duplicates)
    validation: tuple[Example, ...] | None = None
    test: tuple[Example, ...] | None = None
    kind: RowKind = "replies"

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set, sorted; empty when no row has a label."""
        return tuple(sorted({e.label for e in self.examples if e.label is not None}))


def load(knobs: DataKnobs, wants: RowKind | None = "replies") -> Dataset:
    """Read the source and turn its rows into examples.

    Args:
        wants: what the rows must hold; None takes whatever they do. Pairs are also made of ratings, and
            ratings of pairs (`rung.data.pairs`).

    Raises:
        ConfigError: when the mapping or a condition is malformed.
        DataError: naming every bad row at once, or when nothing is left to use.
    """
    main = _read(knobs, knobs.data, wants)
    validation = _read(knobs, knobs.validation_data, wants) if knobs.validation_data else None
    test = _read(knobs, knobs.test_data, wants) if knobs.test_data else None
    return replace(
        main,
        validation=validation.examples if validation else None,
        test=test.examples if test else None,
    )


def _read(knobs: DataKnobs, source: str, wants: RowKind | None) -> Dataset:
    conditions = _conditions(knobs.where)
    if knobs.text or (knobs.user and knobs.assistant):  # pictures need neither, or one
        formats.mapping(knobs)  # a malformed mapping is told before a long download
    named = {
        "gold": knobs.gold, "choices": knobs.choices, "group": knobs.group_by, "rating": knobs.score,
    }  # fmt: skip
    forms = {name: Format.parse(text, f"--{name}") for name, text in named.items() if text is not None}
    found = sources.read(source, None if conditions else knobs.limit)
    # Faults of the conditions go where those of the source go, so that all are told at once.
    passing = _passing(found, conditions)
    rows = list(islice(passing, knobs.limit))
    cut = knobs.limit is not None and next(passing, None) is not None
    if not rows and not found.faults:
        what = f"no row of {source} passes --where" if conditions else f"{source} holds no rows"
        raise DataError(what)
    kept = _Kept()
    if rows:
        plain, told = part_cells.read([row for _, row in rows])
        found.notes.extend(told)
        rows = [(origin, row) for (origin, _), row in zip(rows, plain, strict=True)]
        detect = prompts.form_of if wants == "prompts" else formats.detect
        form = detect(plain, replace(knobs, data=source))
        if knobs.score is not None:
            form = replace(form, kind="ratings", how=f"{form.how}, rated by {knobs.score}")
        if wants == "replies" and form.kind != wants:
            raise DataError(proposals.refusal(form.kind, form.how, plain, source))
        for origin, row in rows:
            kept.take(form, origin, row, forms)
        if knobs.choices:
            kept.settle(knobs.answers_are)
        if wants == "pairs" and form.kind != "replies":
            form = replace(form, kind=kept.pair(knobs.least_gap))
    faults = [*found.faults, *_grouped(kept.faults)]
    if not kept.examples and not faults:
        faults = [f"{source} holds nothing to learn: {'; '.join(kept.nothing)}"]
    if faults:
        raise DataError(one_line(faults))
    found.licence = provenance.licence_of((row for _, row in rows), found.licence)
    if knobs.tools:
        kept.examples = [replace(e, tools=tuple(knobs.tools)) for e in kept.examples]
    # Who names conditions chose the rows that are left.
    return _dataset(found, source, form, kept, knobs.limit if cut and not conditions else None)


def _dataset(
    found: sources.Rows, source: str, form: formats.DataFormat, kept: _Kept, limit: int | None
) -> Dataset:
    doubles = duplicates(kept.examples)
    replies = form.kind == "replies"
    if replies and limit is not None and (told := labels.cut_to_one(kept.examples, limit)):
        raise DataError(told)
    return Dataset(
        name=found.name,
        source=source,
        format=form.name,
        how=form.how,
        examples=tuple(kept.examples),
        digest=digest(kept.examples, form.how),
        licence=found.licence,
        problems=(
            *(Problem("warning", note) for note in (*found.notes, *_some(form.notes))),
            *_problems(kept.examples, doubles),
            *picture_duplicates.problems(kept.examples),
            *(labels.problems(kept.examples, limit) if form.kind == "replies" else ()),
            *kept.problems(),
        ),
        duplicates=doubles,
        kind=form.kind,
    )


@dataclass
class _Kept:
    """What rows became: examples, and the rows by what was wrong with them or left out of them."""

    examples: list[Example] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    beside: dict[str, list[str]] = field(default_factory=dict)
    nothing: dict[str, list[str]] = field(default_factory=dict)
    told: list[Problem] = field(default_factory=list)

    def take(self, form: formats.DataFormat, origin: str, row: Any, forms: dict[str, Format]) -> None:
        """Read one row; `forms` fill further fields of its examples."""
        unread = form.unread(row) - {provenance.COLUMN}
        columns = {n: row[n] for n in unread if n in row} if form.kind == "prompts" else {}
        for name in unread - columns.keys():
            if row.get(name, True) not in (None, "", [], {}):
                self.beside.setdefault(name, []).append(origin)
        try:
            for example in form.read(row, origin):
                fields: dict[str, Any] = {name: text.fill(row) for name, text in forms.items()}
                if "choices" in fields:
                    fields["choices"] = choices.offered(fields["choices"])
                if "rating" in fields:
                    fields["rating"] = _rating(fields["rating"])
                self.examples.append(replace(example, columns=columns, **fields))
        except Nothing as why:
            self.nothing.setdefault(_words(why), []).append(origin)
        except Missing as fault:
            self.faults.setdefault(_words(fault), []).append(origin)

    def settle(self, way: str | None) -> None:
        """Make every reply the text of one of its choices."""
        if self.examples:
            self.examples, wrong, told = choices.settle(self.examples, way)
            self.faults |= wrong
            self.told += told

    def pair(self, least_gap: float) -> RowKind:
        """Make pairs of rated replies, and leave out those that differ too little."""
        self.examples, told = paired(self.examples, least_gap)
        self.told += told
        if not self.examples:
            why = "; ".join(p.message for p in told) or "no row has two replies"
            self.nothing.setdefault(f"no pair can be made: {why}", []).append("the data")
        return "pairs"

    def problems(self) -> list[Problem]:
        """What was left out, by name: nothing of a row is dropped in silence."""
        found = list(self.told)
        for why, rows in self.nothing.items():
            told = (
                f"{counted(rows, 'row holds', 'rows hold')} nothing to learn, left out: {why} "
                f"({places(rows)})"
            )
            found.append(Problem("warning", told, tuple(rows)))
        if self.beside:
            names = ", ".join(
                f"{name} ({counted(rows, 'row')})" for name, rows in sorted(self.beside.items())
            )
            told = f"not read, neither as question nor as reply: {names}"
            found.append(Problem("warning", told))
        return found


def _some(notes: Sequence[str], most: int = 10) -> list[str]:
    """Notes on single rows: the first of them, and how many more there are."""
    rest = len(notes) - most
    return [*notes[:most], *([f"{rest} more rows have such notes"] if rest > 0 else [])]


def _conditions(where: Sequence[str]) -> list[Condition]:
    conditions, problems = [], []
    for text in where:
        try:
            conditions.append(Condition.parse(text))
        except ConfigError as fault:
            problems.append(str(fault))
    if problems:
        raise ConfigError(one_line(problems))
    return conditions


def _passing(found: sources.Rows, conditions: list[Condition]):
    unjudged: dict[str, list[str]] = {}
    for origin, row in found.rows:
        try:
            keep = all(condition.holds(row) for condition in conditions)
        except Missing as fault:
            unjudged.setdefault(f"--where: {_words(fault)}", []).append(origin)
            continue
        if keep:
            yield origin, row
    found.faults += _grouped(unjudged)


def _grouped(faults: dict[str, list[str]]) -> list[str]:
    """A wrong column is wrong in every row: rows with the same fault are told together."""
    return [f"{places(origins)}: {words}" for words, origins in faults.items()]


def _rating(text: str) -> float:
    """The mean of the numbers of a text. Raises Missing for anything else."""
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise Missing(f"--score gives {text[:40]!r}, which is no number") from None
    if not found or not all(map(isfinite, found)):
        raise Missing("--score gives no number")
    return sum(found) / len(found)


def _words(fault: LookupError) -> str:
    return str(fault.args[0])


def digest(examples: Sequence[Example], how: str) -> str:
    """SHA-256 over the sorted digests of the examples and how they were read."""
    total = hashlib.sha256(how.encode())
    for one in sorted(example.digest for example in examples):
        total.update(one.encode())
    return total.hexdigest()


def duplicates(examples: Sequence[Example], most: int = 10) -> Duplicates:
    """Exact duplicates. They stay: how often a row occurs is part of the data."""
    groups: dict[str, list[str]] = {}
    for example in examples:
        groups.setdefault(example.digest, []).append(example.origin)
    doubles = [tuple(g) for g in groups.values() if len(g) > 1]
    return Duplicates(sum(len(g) - 1 for g in doubles), tuple(doubles[:most]))


def _problems(examples: Sequence[Example], doubles: Duplicates) -> list[Problem]:
    problems = []
    if doubles.count:
        first = " = ".join(doubles.groups[0][:4])
        rows = tuple(origin for group in doubles.groups for origin in group[1:])
        many = counted(doubles.count, "row repeats", "rows repeat")
        told = f"{many} another row ({first}); repeated rows stay, and fall into the same split"
        problems.append(Problem("warning", told, rows))
    empty = [e.origin for e in examples if _is_empty(e)]
    if empty:
        severity: str = "error" if len(empty) == len(examples) else "warning"
        problems.append(
            Problem(
                severity,  # type: ignore[arg-type]
                f"{counted(empty, 'row has', 'rows have')} an empty reply ({places(empty)}): "
                "they teach the model to say nothing; fill them in or leave them out with --where",
                tuple(empty),
            )
        )
    mute = [e.origin for e in examples if _asks_nothing(e) and not _is_empty(e)]
    if mute and len(mute) < len(examples):  # where all are empty, the replies alone are meant
        problems.append(
            Problem(
                "warning",
                f"{counted(mute, 'row asks', 'rows ask')} nothing ({places(mute)}): their question is "
                "empty; fill it in or leave them out with --where",
                tuple(mute),
            )
        )
    if len(examples) < FEW_ROWS:
        problems.append(
            Problem(
                "warning", f"only {counted(examples, 'row')}: quality will be hard to tell from luck"
            )
        )
    return problems


def _asks_nothing(example: Example) -> bool:
    asked = [m["content"] for m in example.messages[:-1] if m["role"] == "user"]
    return bool(asked) and not any(text.strip() for text in asked)


def _is_empty(example: Example) -> bool:
    if example.text is not None:
        return not example.text.strip()
    return not example.messages or not example.messages[-1]["content"].strip()
