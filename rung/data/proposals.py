"""What to tell the user about rows that cannot be learnt as they are: flags that were tried on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rung.data import one_hot, preferences
from rung.data.format_strings import Format, Missing, written
from rung.data.one_hot import bit
from rung.errors import ConfigError
from rung.types import RowKind

Row = Mapping[str, Any]

# What data frames call the numbers of their rows.
INDEX = re.compile(
    r"Unnamed: \d+(\.\d+)*|__index_level_\d+__|level_\d+|column 1|index|idx|id", re.IGNORECASE
)
REPLIES = {
    "label",
    "class",
    "category",
    "answer",
    "output",
    "target",
    "response",
    "reply",
    "completion",
}
MAX_NAME_SHOWN = 40  # characters of a column's name
SAMPLE = 200  # rows that tell what a column holds
REPEATS = 3  # of a value, in the mean, where a column holds labels


def index_columns(rows: Sequence[Row]) -> set[str]:
    """Columns that only number the rows: whole numbers, each once, under a name that says so."""
    found = {c for row in rows[:SAMPLE] for c in row if INDEX.fullmatch(str(c))}
    return {c for c in found if _numbers([row.get(c) for row in rows])}


def _numbers(values: Sequence[Any]) -> bool:
    texts = [written(v) if isinstance(v, (str, int, float)) else "" for v in values]
    return all(re.fullmatch(r"\d+(\.0+)?", t) for t in texts) and len(set(texts)) == len(texts)


def undetected(rows: Sequence[Row], source: str) -> str:
    """One line for rows in no known format: their columns, and flags that read them."""
    columns = list(dict.fromkeys(str(c) for row in rows[:SAMPLE] for c in row))
    if not columns:
        return f"{source} has no columns to read"
    shown = ", ".join(
        c if len(c) <= MAX_NAME_SHOWN else f"{c[:MAX_NAME_SHOWN]}..." for c in columns[:20]
    )
    told = f"{source} is in no format that Rung knows; its columns are {shown}. "
    if (found := _bits(rows, columns)) is not None:
        said, flags = found
        return f"{told}{said}: rung data {shlex.quote(source)} {written_out(flags)}"
    for flags in _candidates(rows, columns):
        if filled(flags, rows):
            command = f"rung data {shlex.quote(source)} {written_out(flags)}"
            return f"{told}Say how to read it (every verb takes these flags), for example: {command}"
    return f"{told}Say how to read it with --user and --assistant, or --text"


def _bits(rows: Sequence[Row], columns: Sequence[str]) -> tuple[str, dict[str, str]] | None:
    """What to say of columns of 0 and 1 that are, or look like, one-hot labels, and flags to try.

    None where another column is named or looks like the reply, or none holds text.
    """
    beside = index_columns(rows)
    bits = one_hot.bit_columns(rows, [c for c in columns if c not in beside])
    if not bits or any(c.casefold() in REPLIES for c in columns if c not in bits):
        return None
    sizes = {c: _size(rows, c) or 0.0 for c in columns if c not in beside and c not in bits}
    texts = [c for c in sizes if sizes[c] and _has_letters(rows, c)]
    if not texts:
        return None
    flags = {"text": f"{{{max(texts, key=lambda c: sizes[c])}}}"}
    if not filled(flags, rows):
        return None
    if one_hot.is_one_hot(rows, bits):
        said = f"Exactly one of {', '.join(bits)} is 1 in each row; if that is its class"
        return said, {**flags, "label-columns": ",".join(bits)}
    told = one_hot.told(rows, bits)
    if not told or _reply(rows, [c for c in columns if c in sizes or c in bits]) not in bits:
        return None
    named = next((c for c in bits if c.casefold() in REPLIES), bits[0])
    return f"{told}; learn one of them", {**flags, "label": f"{{{named}}}"}


def _has_letters(rows: Sequence[Row], column: str) -> bool:
    """Whether most cells of a column that holds something are more than numbers."""
    sample = rows[:SAMPLE]
    return (
        sum(bool(re.search(r"[^\W\d_]", written(row.get(column)))) for row in sample) > len(sample) / 2
    )


def written_out(flags: Mapping[str, str]) -> str:
    """Flags as a shell takes them."""
    return " ".join(f"--{name} {shlex.quote(text)}" for name, text in flags.items())


def filled(flags: Mapping[str, str], rows: Sequence[Row]) -> bool:
    """Whether every flag is a format string that gives each row a text."""
    try:
        forms = [Format.parse(text) for text in flags.values()]
        return all(form.fill(row).strip() for form in forms for row in rows[:SAMPLE])
    except (ConfigError, Missing):
        return False


def _candidates(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Flags to try: a question and a reply where two columns hold something, else a text."""
    beside = index_columns(rows)
    sizes = {c: _size(rows, c) for c in columns if c not in beside}
    plain = [c for c, n in sizes.items() if n is not None and not preferences.is_worse(c)]
    yield from _first_of_several(rows)
    reply = _reply(rows, plain)
    others = sorted((c for c in plain if c != reply), key=lambda c: -(sizes[c] or 0.0))
    if reply is not None and others:
        first = others[0] if _repeats(rows, reply) else next(c for c in plain if c != reply)
        for user in dict.fromkeys([first, *others]):
            yield {"user": f"{{{user}}}", "assistant": f"{{{reply}}}"}
    for column in plain:
        yield {"text": f"{{{column}}}"}


def _first_of_several(rows: Sequence[Row]) -> Iterator[dict[str, str]]:
    """A question and the first of its answers, also as SQuAD holds them."""
    reply = preferences.reply_column(rows[0])
    prompt = preferences.prompt_column(rows[0], reply)
    held = rows[0].get(reply or "")
    if reply is None or prompt is None or not held:
        return
    if isinstance(held, Mapping) and isinstance(held.get("text"), (list, tuple)):
        yield {"user": f"{{{prompt}}}", "assistant": f"{{{reply}[text][0]}}"}
    elif isinstance(held, (list, tuple)) and isinstance(held[0], str):
        yield {"user": f"{{{prompt}}}", "assistant": f"{{{reply}[0]}}"}


def _reply(rows: Sequence[Row], columns: Sequence[str]) -> str | None:
    """The column that looks like a reply: by its name, by what it repeats, else the last one."""
    if len(columns) < 2:
        return None
    named = [c for c in columns if c.casefold() in REPLIES]
    labels = [c for c in columns if _repeats(rows, c)]
    return next(iter([*named, *reversed(labels), columns[-1]]))


def _repeats(rows: Sequence[Row], column: str) -> bool:
    """Whether a few values come again and again, as labels do."""
    values = [written(row.get(column)) for row in rows[:SAMPLE]]
    return 2 <= len(set(values)) <= len(values) / REPEATS


def _size(rows: Sequence[Row], column: str) -> float | None:
    """The mean length of a column's texts; None where it holds lists, maps or nothing."""
    values = [row.get(column) for row in rows[:SAMPLE]]
    if any(isinstance(v, (list, tuple, Mapping)) for v in values):
        return None
    try:
        lengths = [len(written(v)) for v in values]
    except Missing:
        return None
    return sum(lengths) / len(lengths) or None


def refusal(kind: RowKind, how: str, rows: Sequence[Row], source: str) -> str:
    """One line for who wants replies and has preferences: the objective, or the reply to learn."""
    row = rows[0]
    if kind == "ratings":
        column = preferences.rating_column(row) or ""
        told = (
            f"{source} holds replies that are rated by '{column}', also unwanted ones: learn them with "
        )
        reply = preferences.reply_column(row)
        flags = {"user": f"{{{preferences.prompt_column(row, reply)}}}", "assistant": f"{{{reply}}}"}
        if not filled(flags, rows):
            return f"{told}--objective kto"
        wanted = next((written(r[column]).strip() for r in rows if bit(r.get(column))), "true")
        return (
            f"{told}--objective kto, or the wanted ones alone with --where {column}={wanted} "
            f"{written_out(flags)}"
        )
    told = f"{source} holds better and worse replies ({how}): learn them with --objective dpo"
    flags = _better(row)
    if flags and filled(flags, rows) and all(_is_text(flags, r) for r in rows[:SAMPLE]):
        return f"{told}, or the better ones alone with {written_out(flags)}"
    return told


def _is_text(flags: Mapping[str, str], row: Row) -> bool:
    pieces = [piece for text in flags.values() for piece in Format.parse(text).pieces]
    return all(isinstance(p, str) or isinstance(p.of(row), str) for p in pieces)


def _better(row: Row) -> dict[str, str]:
    """The flags that learn the better replies alone, if a row's form has any."""
    found = preferences.sides(row)
    if found:
        prompt = preferences.prompt_column(row, *found)
        if prompt is None:
            if not isinstance(row[found[0]], (list, tuple)) or len(row[found[0]]) != 2:
                return {}
            return {"user": f"{{{found[0]}[0][content]}}", "assistant": f"{{{found[0]}[1][content]}}"}
        return {"user": f"{{{prompt}}}", "assistant": f"{{{found[0]}}}"}
    column = preferences.reply_column(row)
    if column and isinstance(row[column], (list, tuple)):
        prompt = preferences.prompt_column(row, column)
        return {"user": f"{{{prompt}}}", "assistant": f"{{{column}[0]}}"}
    return {}
