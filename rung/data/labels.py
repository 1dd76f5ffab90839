"""Labels of rows: which replies are labels, and which of them are one label spelled differently."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation

from rung.data.keys import several_answers
from rung.data.problem import Problem, counted, places
from rung.types import Example, plain

MAX_LABELS = 1000
MANY_LABELS = 50  # above, most of them must come again, and be no numbers
MAX_LABEL_WORDS = 5  # of a label
MIN_MEAN_REPEATS = 3  # of a label, in the mean
MIN_LABELLED_SHARE = 0.8  # share of labels that decides
MEND = "shuffle the file, or raise --limit"
MIN_SORTED_ROWS = 10  # rows of a file that can look sorted

_NUMBER = re.compile(r"[-+$€£]?[\d.,/]+%?")


def label_set(replies: Sequence[str]) -> tuple[str, ...]:
    """The labels, where few short replies come again and again; else empty."""
    counts = Counter(replies)
    if not 2 <= len(counts) <= MAX_LABELS or len(replies) < MIN_MEAN_REPEATS * len(counts):
        return () if len(counts) != 1 else _single(replies, counts)
    if any(len(label.split()) > MAX_LABEL_WORDS for label in counts):
        return ()
    if len(counts) > MANY_LABELS:
        again = sum(n > 1 for n in counts.values())
        numbers = sum(bool(_NUMBER.fullmatch(label.strip())) for label in counts)
        if again < MIN_LABELLED_SHARE * len(counts) or numbers > len(counts) / 2:
            return ()
    return tuple(sorted(counts))


def _single(replies: Sequence[str], counts: Counter[str]) -> tuple[str, ...]:
    (label,) = counts
    short = len(label.split()) <= MAX_LABEL_WORDS
    return (label,) if short and len(replies) >= MIN_MEAN_REPEATS else ()


def labels_of(examples: Sequence[Example]) -> list[str]:
    """Each row's label: of its column, or its reply where replies are labels; else empty."""
    named = [e.label for e in examples if e.label is not None]
    if named:
        return named
    said = [e.messages[-1]["content"] for e in examples if e.messages and not e.choices]
    return said if len(said) == len(examples) and label_set(said) else []


# Marks that look alike, and what they are taken for.
MARKS = str.maketrans("‘’‚“”„«»‐‑‒–—−", '\'\'\'"""""------')
MARKS_AROUND = " .!:\"'`*"


def alike(labels: Sequence[str]) -> list[str]:
    """Labels that mean the same and are spelled differently, each group in one line."""
    return [
        f"the labels {told} differ only in case or blanks: spell them alike"
        for told in _groups(labels, _seen)
    ]


def doubtful(labels: Sequence[str]) -> list[str]:
    """Labels that may well mean the same: equal but for marks and hyphens, or as numbers."""
    surely = [sorted(g) for g in _grouped(labels, _seen)]
    return [
        f"the labels {told} may mean the same: spell them alike if they do"
        for told in _groups(labels, _bare, surely)
    ]


def _seen(label: str) -> str:
    """A label as it is seen: without case, extra blanks, what has no width, and ways of encoding it."""
    text = unicodedata.normalize("NFKC", label)
    kept = "".join(c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return plain(unicodedata.normalize("NFC", kept).translate(MARKS))


def _bare(label: str) -> str:
    """A label without marks around it and with blanks for hyphens; numbers by their value."""
    seen = _seen(label)
    if _NUMBER.fullmatch(seen):
        with suppress(InvalidOperation):
            return f"{Decimal(seen.replace(',', '.')).normalize():f}"
    return plain(re.sub(r"[-_]", " ", seen.strip(MARKS_AROUND))) or seen


def _grouped(labels: Sequence[str], key: Callable[[str], str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        groups.setdefault(key(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _groups(
    labels: Sequence[str], key: Callable[[str], str], told: Sequence[list[str]] = ()
) -> list[str]:
    """Labels of one key, in words, those left out that are told already."""
    counts = Counter(labels)
    return [
        " and ".join(f"{short(g)!a} ({counted(counts[g], 'row')})" if _hidden(g) else
                     f"{short(g)!r} ({counted(counts[g], 'row')})" for g in sorted(group))
        for group in _grouped(labels, key)
        if sorted(group) not in told
    ]  # fmt: skip


def _hidden(label: str) -> bool:
    """Whether a label holds what is not seen, so that only its code tells it apart."""
    return any(unicodedata.category(c) in ("Cf", "Mn", "Zs") and c != " " for c in label)


def short(text: str) -> str:
    """The beginning of a label, for messages."""
    return text if len(text) <= 40 else text[:37] + "..."


def listed(labels: Sequence[str], most: int = 6) -> str:
    """The first labels on one line, those with lines or blanks around them in quotes."""
    plainly = (s if s.isprintable() and s == s.strip() else repr(s) for s in map(short, labels[:most]))
    return ", ".join(plainly) + (", ..." if len(labels) > most else "")


def problems(examples: Sequence[Example], limit: int | None) -> list[Problem]:
    """What is odd about the labels of a data set.

    Args:
        limit: of rows, where it left some out.
    """
    labels = labels_of(examples)
    found = [Problem("error", told) for told in alike(labels)]
    found += [Problem("warning", told) for told in doubtful(labels)]
    if limit is not None and len(labels) >= MIN_SORTED_ROWS and _sorted(labels):
        told = f"--limit {limit} read {len(set(labels))} labels only, and the rows are sorted by label"
        found.append(Problem("warning", f"{told}: {MEND}"))
    counts = Counter(labels)
    lone = [e.origin for e, label in zip(examples, labels, strict=False) if counts[label] == 1]
    if lone and len(counts) > 1 and len(labels) > len(counts):
        told = (
            f"{counted(lone, 'label has', 'labels have')} a single row ({places(lone)}): "
            "it is learnt or measured, not both"
        )
        found.append(Problem("warning", told, tuple(lone)))
    return found


def cut_to_one(examples: Sequence[Example], limit: int) -> str | None:
    """What to say of a limit that left rows of one label, where there is nothing to tell apart."""
    labels = labels_of(examples)
    if len(labels) < MIN_SORTED_ROWS or len(set(labels)) > 1:
        return None
    told = f"--limit {limit} read the label {short(labels[0])!r} alone, and there are more rows"
    return f"{told}; if they are sorted by label: {MEND}"


def disputed(examples: Sequence[Example]) -> list[Problem]:
    """Rows that ask the same and answer differently: they are kept in one part, and told."""
    groups = several_answers(examples)
    if not groups:
        return []
    shown = places([" = ".join(_said(e) for e in group[:3]) for group in groups], 3)
    if labels_of(examples):
        told = (
            f"{counted(groups, 'text has', 'texts have')} several labels ({shown}): no "
            "model can be right of them all"
        )
    else:
        told = f"{counted(groups, 'question has', 'questions have')} several answers ({shown})"
    rows = tuple(e.origin for group in groups for e in group)
    return [Problem("warning", f"{told}; rows that ask the same stay in one part", rows)]


def unlearnt(train: Sequence[Example], held: Mapping[str, Sequence[Example]]) -> list[Problem]:
    """Held-out rows that do not measure the labels of training: of others, or all of one."""
    known = set(labels_of(train))
    if len(known) < 2:
        return []
    found = []
    for part, examples in held.items():
        labels = [_label(e) for e in examples]
        lost = [e for e, label in zip(examples, labels, strict=True) if label not in known]
        if lost:
            told = (
                f"{counted(lost, f'{part} row has a label', f'{part} rows have labels')} "
                "that no training row has "
                f"({places([_said(e) for e in lost], 3)}): no model can learn them from these rows"
            )
            found.append(Problem("warning", told, tuple(e.origin for e in lost)))
        elif len(labels) >= MIN_SORTED_ROWS and len(set(labels)) == 1:
            told = (
                f"all {len(labels)} {part} rows have the label {short(labels[0])!r}: they say nothing "
                f"of the others; give {part} rows of every label"
            )
            found.append(Problem("warning", told, tuple(e.origin for e in examples)))
    return found


def _label(example: Example) -> str:
    """A row's label, or its reply."""
    if example.label is not None or not example.messages:
        return example.label or ""
    return example.messages[-1]["content"]


def _said(example: Example) -> str:
    return f"{example.origin} {short(_label(example))!r}"


def _sorted(labels: Sequence[str]) -> bool:
    """Whether the rows of each label stand together."""
    runs = 1 + sum(a != b for a, b in zip(labels, labels[1:], strict=False))
    return runs == len(set(labels))
