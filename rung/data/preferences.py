"""Preference rows: which of two replies is better, how good a reply is, and how rows say so.

Each form is a test on a row and a reading of it. A pair becomes an `Example` whose `messages` end with
the better reply and whose `rejected` end with the worse one; a rated reply has its `rating`.

    {"prompt": ..., "chosen": ..., "rejected": ...}         texts or messages, the prompt also implicit
    {"input": {...}, "preferred_output": [...], "non_preferred_output": [...]}        OpenAI
    {"prompt": ..., "completion": ..., "label": true}       KTO
    {"instruction": ..., "output": [best, ..., worst]}      ranked; with "scores" in any order
    {"prompt": ..., "response_a": ..., "response_b": ..., "winner": "a"}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rung.data.format_strings import Missing, Nothing, written
from rung.data.one_hot import bit
from rung.data.preference_columns import (
    CONTRASTS,
    LOOSE_SIDES,
    MARGINS,
    PROMPTS,
    RANKS,
    REPLIES,
    SCORES,
    SIDES,
    TIES,
    TWINS,
    WANTED,
    WINNERS,
    WORSE,
)
from rung.data.turns import SYSTEM_COLUMNS, functions, listed, system_of, turns, unread, with_tools
from rung.types import Example, Message

Row = Mapping[str, Any]

_SPEAKERS = re.compile(r"(?:^|\n\n)(Human|Assistant|User): ?")


def sides(row: Row) -> tuple[str, str] | None:
    """The columns of the better and the worse reply."""
    for better, worse in SIDES:
        if better in row and worse in row:
            return better, worse
    for better, worse in LOOSE_SIDES:
        if better in row and worse in row and prompt_column(row, better, worse) is not None:
            return better, worse
    for better, worse in CONTRASTS:
        if set(row) == {better, worse} and all(isinstance(v, str) for v in row.values()):
            return better, worse
    return None


def is_worse(column: str) -> bool:
    """Whether a column is named as replies are that nobody should learn."""
    return WORSE.search(column) is not None


def rating_column(row: Row) -> str | None:
    """The column that says whether a reply is wanted."""
    return next((c for c in WANTED if c in row), None)


def is_rated(row: Row) -> bool:
    """KTO's rows: a prompt, one reply, and whether it is wanted."""
    column = rating_column(row)
    if column is None:
        return False
    value = row[column]
    if bit(value) is None:
        return False
    if _turns_column(row) is not None and reply_column(row) is None:
        # Numbers are classes elsewhere: ratings only beside what is named a prompt and its reply.
        return written(value).strip().casefold() in ("true", "false")
    reply = reply_column(row)
    return reply is not None and prompt_column(row, reply) is not None


def is_ranked(row: Row) -> bool:
    """Several replies in one column: from the best to the worst, or with a column of scores."""
    column = reply_column(row)
    if column is None or prompt_column(row, column) is None:
        return False
    value = row[column]
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        return False
    if any(isinstance(row.get(c), (list, tuple)) for c in WANTED + ("labels",)):
        return False  # a mark for each: steps of one answer, not answers
    if all(isinstance(v, str) for v in value):
        # Several answers without an order are all of them right.
        return column != "answers" or _scores(row, value)[0] is not None
    return all(isinstance(v, Mapping) and _reply_in(v) for v in value) and (
        _scores(row, value)[0] is not None
    )


def is_compared(row: Row) -> bool:
    """Two replies and a column that says which won."""
    return _twins(row) is not None and any(w in row for w in WINNERS)


def used(row: Row) -> set[str]:
    """The columns that some reading of preferences takes up."""
    found = {"tools", *SYSTEM_COLUMNS, *(sides(row) or ()), *(_twins(row) or ())}
    reply = reply_column(row)
    prompt = prompt_column(row, *(sides(row) or ()), *(_twins(row) or ()), reply)
    found |= {c for c in (prompt, reply, rating_column(row) if is_rated(row) else None) if c}
    if prompt == "instruction":
        found |= {"input", "context"}
    if sides(row):
        names = [f"{s}_{side}" for s in SCORES for side in ("chosen", "rejected")]
        found |= {*MARGINS, *names, *("_".join(reversed(n.rsplit("_", 1))) for n in names)}
    elif is_compared(row):
        found |= set(WINNERS)
    elif is_ranked(row):
        found |= {*SCORES, *(f"{s}s" for s in SCORES), *RANKS}
    return found


def unread_fields(row: Row) -> set[str]:
    """What stands beside, in the row and in its messages."""
    found = {c for c in row if c not in used(row)}
    given = row.get("input")
    columns = [row.get(c) for c in (*PROMPTS, *(sides(row) or ()), *(_twins(row) or ()))]
    if isinstance(given, Mapping):
        columns.append(given.get("messages"))
        found |= {f"input.{k}" for k in given if k not in ("messages", "tools", "parallel_tool_calls")}
    return found | {f"{name} of messages" for value in columns for name in unread(value)}


def read_pair(row: Row, origin: str) -> list[Example]:
    """A row with a better and a worse reply."""
    found = sides(row)
    if found is None:
        raise Missing("no chosen and rejected reply")
    better, worse = found
    given = row.get("input")
    if isinstance(given, Mapping) and "messages" in given:
        prompt: list[Message] = turns(given["messages"])
        tools = functions(given.get("tools") or row.get("tools"))
    else:
        prompt = _prompt(row, better, worse)
        tools = functions(row.get("tools"))
    margin = next((_number(row[m]) for m in MARGINS if m in row), None)
    if margin is None:
        a, b = (_side_score(row, name) for name in ("chosen", "rejected"))
        margin = None if a is None or b is None else a - b
    if prompt:
        whole = [_whole(prompt, row[better]), _whole(prompt, row[worse])]
    else:
        whole = _implicit(row[better], row[worse])
    return [_example(whole[0], whole[1], margin, origin, tools)]


def read_rated(row: Row, origin: str) -> list[Example]:
    """A reply and whether it is wanted, as a rating of 1 or 0."""
    column = rating_column(row)
    value = row.get(column or "")
    rating = bit(value)
    if rating is None:
        raise Missing(f"'{column}' says {written(value)[:40]!r}, neither true nor false")
    reply = reply_column(row)
    messages = _prompt(row) if reply is None else _whole(_prompt(row, reply), row[reply])
    _ends_with_reply(messages)
    messages = with_tools(messages, functions(row.get("tools")))
    return [Example(tuple(messages), origin=origin, rating=float(rating))]


def read_ranked(row: Row, origin: str) -> list[Example]:
    """Several replies, each pair of two that differ in rank or in score."""
    column = reply_column(row)
    if column is None:
        raise Missing("no column of replies")
    values, prompt = row[column], _prompt(row, column)
    if not isinstance(values, (list, tuple)) or len(values) < 2:
        raise Missing(f"'{column}' holds no two replies to compare")
    scores, measured = _scores(row, values)
    replies = [v[_reply_in(v) or ""] if isinstance(v, Mapping) else v for v in values]
    ordered = list(enumerate(replies))
    if scores is not None:
        ordered.sort(key=lambda item: -scores[item[0]])
    tools = functions(row.get("tools"))
    found = []
    for (i, better), (j, worse) in combinations(ordered, 2):
        gap = None if scores is None else scores[i] - scores[j]
        if (gap is None or gap > 0) and better != worse:
            whole = _whole(prompt, better), _whole(prompt, worse)
            found.append(_example(*whole, gap if measured else None, origin, tools))
    if not found:
        raise Nothing("replies of one score, and none is better")
    return found


def read_compared(row: Row, origin: str) -> list[Example]:
    """Two replies, and which of them won; a tie says nothing (raises Nothing)."""
    twins = _twins(row)
    column = next((w for w in WINNERS if w in row), None)
    if twins is None or column is None:
        raise Missing("no two replies and a winner")
    said = written(row[column]).strip().lower()
    if said in TIES:
        raise Nothing("a tie")
    first, second = (name.lower() for name in twins)
    marks = [
        {first, end := first.rpartition("_")[2], f"model_{end}", f"assistant_{end}"},
        {second, end := second.rpartition("_")[2], f"model_{end}", f"assistant_{end}"},
    ]
    # SHP's labels: 1 says that the first of human_ref_A and human_ref_B is preferred.
    if twins[0] == "human_ref_A":
        marks = [{"1", "a"}, {"0", "b"}]
    if said not in marks[0] | marks[1]:
        raise Missing(f"'{column}' says '{said[:40]}', which is neither {twins[0]} nor {twins[1]}")
    better, worse = twins if said in marks[0] else (twins[1], twins[0])
    prompt = _prompt(row, *twins)
    whole = [_whole(prompt, row[name]) for name in (better, worse)]
    return [_example(whole[0], whole[1], None, origin, functions(row.get("tools")))]


# -- reading parts of a row ----------------------------------------------------------------------


def _example(
    better: list[Message], worse: list[Message], margin: float | None, origin: str, tools: Any
) -> Example:
    _ends_with_reply(better)
    _ends_with_reply(worse)
    if better[0] != worse[0]:
        raise Missing("the better and the worse reply have no prompt in common")
    return Example(
        tuple(with_tools(better, tools)), origin=origin, margin=margin,
        rejected=tuple(with_tools(worse, tools)),
    )  # fmt: skip


def _ends_with_reply(messages: list[Message]) -> None:
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise Missing("the conversation has no prompt and a reply at its end")


def _prompt(row: Row, *besides: str) -> list[Message]:
    """The turns in front of the replies; empty when no column holds any."""
    column = prompt_column(row, *besides)
    if column is None:
        return []
    value = listed(row[column])
    if isinstance(value, (list, tuple)):
        messages = _turns(value)
    else:
        text = written(value)
        extra = row.get("input", row.get("context")) if column == "instruction" else None
        if isinstance(extra, str) and extra.strip():
            text = f"{text}\n\n{extra}"
        messages = _transcript(text) or [{"role": "user", "content": text}]
    system = system_of(row)
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _turns(value: Any) -> list[Message]:
    """Messages in OpenAI's or ShareGPT's words."""
    first = value[0] if value else None
    if isinstance(first, Mapping) and "from" in first and "role" not in first:
        return turns(value, "from", "value")
    return turns(value)


def _whole(prompt: list[Message], side: Any) -> list[Message]:
    """Prompt and one side, which may repeat the prompt."""
    side = listed(side)
    if isinstance(side, str):
        said: list[Message] = [{"role": "assistant", "content": side}]
    elif isinstance(side, Mapping):
        said = _turns([side])
    elif isinstance(side, (list, tuple)):
        said = _turns(side)
    else:
        raise Missing("a reply that is neither a text nor messages")
    if said[0]["role"] in ("system", "user"):
        return said
    return [*prompt, *said]


def _implicit(better: Any, worse: Any) -> list[list[Message]]:
    """Two whole conversations, or two texts whose common beginning is the prompt."""
    better, worse = listed(better), listed(worse)
    if not (isinstance(better, str) and isinstance(worse, str)):
        return [_whole([], better), _whole([], worse)]
    told = [_transcript(better), _transcript(worse)]
    if told[0] and told[1]:
        return told
    cut = next((i for i, (a, b) in enumerate(zip(better, worse, strict=False)) if a != b),
               min(len(better), len(worse)))  # fmt: skip
    at = max((m.end() for m in re.finditer(r"\s+", better[:cut])), default=0)
    # Where the texts part behind a bracket or a quotation mark, that belongs to the replies.
    prompt = better[:at].strip()
    if not prompt:
        raise Missing("no prompt: the two replies have no beginning in common; name a prompt column")
    return [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": text[at:]}]
        for text in (better, worse)
    ]


def _transcript(text: str) -> list[Message]:
    """`Human: ... Assistant: ...` as turns; empty when the text is none."""
    marks = list(_SPEAKERS.finditer(text))
    if len(marks) < 2 or text[: marks[0].start()].strip():
        return []
    ends = [*(m.start() for m in marks[1:]), len(text)]
    found: list[Message] = [
        {"role": "assistant" if m[1] == "Assistant" else "user", "content": text[m.end() : end].strip()}
        for m, end in zip(marks, ends, strict=True)
    ]
    if found[-1]["role"] == "assistant" and not found[-1]["content"]:
        found.pop()  # a prompt that ends with "Assistant:"
    return found


def prompt_column(row: Row, *besides: str | None) -> str | None:
    """The first column that holds what stands in front of the replies."""
    return next(
        (c for c in PROMPTS if c in row and c not in besides and row[c] not in (None, "")), None
    )


def _turns_column(row: Row) -> str | None:
    found = ("messages", "conversations", "conversation")
    return next((c for c in found if isinstance(row.get(c), (list, tuple))), None)


def reply_column(row: Row) -> str | None:
    """The first column that is named as replies are."""
    return next((c for c in REPLIES if c in row), None)


def _twins(row: Row) -> tuple[str, str] | None:
    return next(((a, b) for a, b in TWINS if a in row and b in row), None)


def _scores(row: Row, values: Sequence[Any]) -> tuple[list[float] | None, bool]:
    """What orders the replies, from a column beside or in them; and whether it measures a gap."""
    if all(isinstance(v, Mapping) for v in values):
        scores = _numbers([next((v[s] for s in SCORES if s in v), None) for v in values], len(values))
        if scores is not None:
            return scores, True
        ranks = _numbers([next((v[r] for r in RANKS if r in v), None) for v in values], len(values))
        return (None if ranks is None else [-r for r in ranks]), False
    for column in (c for name in SCORES for c in (name, f"{name}s")):
        if (found := _numbers(row.get(column), len(values))) is not None:
            return found, True
    ranks = _numbers(next((row[c] for c in RANKS if c in row), None), len(values))
    return (None if ranks is None else [-r for r in ranks]), False


def _numbers(listed: Any, count: int) -> list[float] | None:
    """So many numbers, or None."""
    if not isinstance(listed, (list, tuple)) or len(listed) != count:
        return None
    found = [n for v in listed if (n := _number(v)) is not None]
    return found if len(found) == count else None


def _reply_in(value: Row) -> str | None:
    """What holds the reply in one of several that are listed."""
    return reply_column(value) or next((c for c in ("text", "content") if c in value), None)


def _side_score(row: Row, side: str) -> float | None:
    names = [n for s in SCORES for n in (f"{s}_{side}", f"{side}_{s}")]
    return next((_number(row[n]) for n in names if n in row), None)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
