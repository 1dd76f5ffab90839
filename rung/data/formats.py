"""Formats of data sets, found by their columns, and how each becomes examples.

A format is a name, a test on a row and a reading of a row. The first whose test the first rows pass
is taken; `FORMATS` is in that order. The user's own mapping (`--user`, `--assistant`, `--text`)
comes before all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rung.data import picture_rows, preferences, proposals
from rung.data.contents import content_of
from rung.data.format_strings import Format, Missing, Nothing, written
from rung.data.knobs import DataKnobs
from rung.data.one_hot import OneHot, one_class
from rung.data.part_cells import TEXTS, is_part
from rung.data.turns import (
    ROLES,
    SYSTEM_COLUMNS,
    functions,
    listed,
    system_of,
    turns,
    unread,
    with_tools,
)
from rung.errors import ConfigError, DataError, one_line
from rung.types import Example, Message, RowKind

Row = Mapping[str, Any]
Read = Callable[[Row, str], list[Example]]


@dataclass(frozen=True)
class DataFormat:
    """How rows become examples.

    Attributes:
        how: where each part comes from, in words.
        read: a row's examples; usually one. Raises Missing for a row that cannot be read.
        unread: the columns, and the fields of messages, that this reading leaves out.
        kind: what the examples are good for; replies can be learnt as they are.
        notes: on how rows were read, filled by `read`.
    """

    name: str
    how: str
    fits: Callable[[Row], bool]
    read: Read
    unread: Callable[[Row], set[str]]
    kind: RowKind = "replies"
    notes: list[str] = field(default_factory=list)


def detect(rows: Sequence[Row], knobs: DataKnobs) -> DataFormat:
    """Rows with a picture, the user's mapping, or the first format that the rows pass.

    Raises:
        ConfigError: when the mapping is malformed or incomplete.
        DataError: listing the columns and a command to try, when no format fits.
    """
    if shown := picture_rows.detect(rows, knobs):
        return DataFormat(
            "pictures", shown.how, lambda row: True, shown.read,
            lambda row: picture_rows.unread(shown, row), notes=shown.notes,
        )  # fmt: skip
    own = mapping(knobs)
    if own:
        return own
    beside = proposals.index_columns(rows)
    sample = [{c: v for c, v in row.items() if c not in beside} for row in rows[:20]]
    for candidate in FORMATS:
        if sample and sum(candidate.fits(row) for row in sample) > len(sample) / 2:
            return candidate
    plain = [_lowered(row) for row in sample]
    for candidate in FORMATS:
        if sample and sum(candidate.fits(row) for row in plain) > len(plain) / 2:
            return _in_any_case(candidate)
    raise DataError(proposals.undetected(rows, knobs.data))


def _lowered(row: Row) -> dict[str, Any]:
    """A row with the names of its columns in small letters, where that keeps them apart."""
    found = {str(c).strip().casefold().replace(" ", "_"): v for c, v in row.items()}
    return found if len(found) == len(row) else dict(row)


def _in_any_case(form: DataFormat) -> DataFormat:
    """A format of rows whose columns are spelled with capitals or blanks."""

    def unread_of(row: Row) -> set[str]:
        spelled = dict(zip(_lowered(row), row, strict=True))
        return {spelled.get(name, name) for name in form.unread(_lowered(row))}

    return replace(
        form, fits=lambda row: form.fits(_lowered(row)),
        read=lambda row, origin: form.read(_lowered(row), origin), unread=unread_of,
    )  # fmt: skip


def mapping(knobs: DataKnobs) -> DataFormat | None:
    """The format that `--system --user --assistant --text --label --label-columns` describe."""
    given = {
        name: value
        for name in ("system", "user", "assistant", "text", "label")
        if (value := getattr(knobs, name)) is not None
    }
    if not given and not knobs.label_columns:
        return None
    problems = []
    formats: dict[str, Format | OneHot] = {}
    if knobs.label_columns:
        if "label" in given:
            problems.append("--label and --label-columns exclude each other")
        formats["label"] = OneHot(knobs.label_columns)
        given["label"] = formats["label"].text
    for name, value in given.items():
        try:
            if name in formats:
                continue
            formats[name] = Format.parse(value, f"--{name}")
        except ConfigError as fault:
            problems.append(str(fault))
    if "text" in given and "user" in given:
        problems.append("--text and --user exclude each other")
    elif "text" in given and "assistant" in given:
        problems.append("--text takes no --assistant: name the question with --user")
    elif "text" in given and "system" in given and "label" not in given:
        problems.append("--text takes no --system: name the question with --user")
    elif "text" not in given and "user" not in given:
        problems.append(_unasked(knobs))
    elif "user" in given and not {"assistant", "label"} & set(given):
        problems.append("--user needs --assistant (or --label), the reply to learn")
    if problems:
        raise ConfigError(one_line(problems))
    how = ", ".join(f"{name} from '{value}'" for name, value in given.items())

    def read(row: Row, origin: str) -> list[Example]:
        values = {name: form.fill(row) for name, form in formats.items()}
        if "label" in formats:
            one_class(formats["label"], row)
        if "text" in values and "label" not in values:
            return [Example(text=values["text"], origin=origin)]
        # A text that has a label is a question: the label answers it.
        reply = values.get("assistant", values.get("label", ""))
        messages = conversation(values.get("system"), values.get("user", values.get("text", "")), reply)
        return [Example(messages=messages, label=values.get("label"), origin=origin)]

    # Who names columns leaves the others out on purpose.
    return DataFormat("mapped", how, lambda row: True, read, lambda row: set())


def _unasked(knobs: DataKnobs) -> str:
    """What to add to a mapping that says what a row answers, and not to which text."""
    flag = "--label-columns" if knobs.label_columns else "--label" if knobs.label is not None else None
    if flag is None:
        return "give --user and --assistant, or --text"
    return f"{flag} needs the text that a row's class is of: add --text '{{COLUMN}}'"


def conversation(system: str | None, user: str, assistant: str) -> tuple[Message, ...]:
    """One question and its reply."""
    messages: list[Message] = [
        {"role": "user", "content": user},
        {"role": "assistant", "content": assistant},
    ]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return tuple(messages)


# -- reading turns -------------------------------------------------------------------------------


def _learnt(messages: Sequence[Message], row: Row, origin: str) -> list[Example]:
    """The conversation up to its last reply that is to be learnt, with the row's system and tools.

    Raises:
        Missing: when it ends with no reply. Nothing: when every reply has the weight 0.
    """
    found = list(messages)
    system = system_of(row)
    if system and found[0]["role"] != "system":
        found.insert(0, {"role": "system", "content": system})
    if found[-1]["role"] != "assistant":
        raise Missing(f"the conversation ends with a {found[-1]['role']} message, not a reply")
    if all(m["role"] != "assistant" or m.get("weight") == 0 for m in found):
        raise Nothing("every reply has the weight 0")
    # What follows the last reply that is learnt changes nothing.
    while found[-1]["role"] != "assistant" or found[-1].get("weight") == 0:
        found.pop()
    tools = functions(row.get("tools") or row.get("functions"))
    return [Example(messages=tuple(with_tools(found, tools)), origin=origin)]


def _is_turns(value: Any, role_key: str) -> bool:
    value = listed(value)
    return isinstance(value, (list, tuple)) and bool(value) and all(
        isinstance(m, Mapping) and role_key in m for m in value
    )  # fmt: skip


def _turns_or(value: Any, role: str) -> list[Message]:
    """A list of messages as it is, or a plain value as the content of one turn."""
    value = listed(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(m, Mapping) for m in value):
        return turns([{"role": role, "content": value}] if all(map(is_part, value)) else value)
    return [{"role": role, "content": written(value)}]


def _text(row: Row, name: str) -> str:
    if row.get(name) is None:
        raise Missing(f"no {name}; fill it in, or leave such rows out with --where '{name}!='")
    value = row[name]
    if isinstance(value, (list, tuple)) and value and all(map(is_part, value)):
        kinds = sorted({part["type"] for part in value} - set(TEXTS))
        if kinds:
            raise Missing(f"{name} holds {', '.join(kinds)} beside text: give such rows as messages")
        return content_of(value)
    return written(value)


# -- the formats ---------------------------------------------------------------------------------


def _messages(row: Row, origin: str) -> list[Example]:
    return _learnt(turns(row.get("messages")), row, origin)


def _sharegpt(row: Row, origin: str) -> list[Example]:
    messages = _in_either_words(row.get("conversations"))
    while messages[-1]["role"] != "assistant" and len(messages) > 1:
        messages.pop()  # ShareGPT logs often end with a question nobody answered
    return _learnt(messages, row, origin)


def _in_either_words(value: Any) -> list[Message]:
    return turns(value) if _is_turns(value, "role") else turns(value, "from", "value")


def _column_of_turns(row: Row) -> str | None:
    """The one column, whatever its name, that holds a conversation."""
    found = [c for c in row if c not in SYSTEM_COLUMNS and _holds_turns(c, "role", "from")(row)]
    if len(found) != 1:
        return None
    said = {ROLES.get(str(m.get("role", m.get("from"))).lower()) for m in listed(row[found[0]])}
    return found[0] if "assistant" in said else None


def _other_turns(row: Row, origin: str) -> list[Example]:
    return _learnt(_in_either_words(row.get(_column_of_turns(row) or "messages")), row, origin)


def _evals(row: Row, origin: str) -> list[Example]:
    ideal = row.get("ideal")
    if isinstance(ideal, list):
        ideal = ideal[0] if ideal else None
    if ideal is None:
        raise Missing("no ideal")
    reply: Message = {"role": "assistant", "content": written(ideal)}
    return _learnt([*_turns_or(row.get("input"), "user"), reply], row, origin)


def _instruction(row: Row, origin: str) -> list[Example]:
    name = "output" if "output" in row else "response"
    user = _text(row, "instruction")
    extra = next((row[k] for k in ("input", "context") if row.get(k)), None)
    if extra is not None and written(extra).strip():
        user = f"{user}\n\n{written(extra)}"
    before: list[Message] = []
    for asked, said in row.get("history") or ():  # earlier rounds, as LLaMA-Factory has them
        before += conversation(None, written(asked), written(said))
    return _learnt([*before, *conversation(None, user, _reply(row, name))], row, origin)


def _pair(question: str, answer: str) -> Read:
    def read(row: Row, origin: str) -> list[Example]:
        # TRL's conversational prompt/completion holds lists of messages.
        before = _turns_or(row[question], "user") if row.get(question) else [
            {"role": "user", "content": _text(row, question)}
        ]  # fmt: skip
        if _is_turns(row.get(answer), "role"):
            return _learnt([*before, *turns(row[answer])], row, origin)
        reply: Message = {"role": "assistant", "content": _reply(row, answer)}
        return _learnt([*before, reply], row, origin)

    return read


NO_LABEL = "no label; fill it in, or leave such rows out with --where 'label!='"


def _labelled(row: Row, origin: str) -> list[Example]:
    one_class(Format.parse("{label}"), row)
    label = _text(row, "label")
    if not label.strip():
        raise Missing(NO_LABEL)
    messages = conversation(None, _text(row, "text"), label)
    return [Example(messages=messages, label=label, origin=origin)]


def _reply(row: Row, name: str) -> str:
    """A reply as text. A list of texts is no reply: which of them is meant?"""
    value = row.get(name)
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        raise Missing(
            f"{name} holds a list of replies; name the one to learn: --assistant '{{{name}[0]}}'"
        )
    return _text(row, name)


def _plain(row: Row, origin: str) -> list[Example]:
    return [Example(text=_text(row, "text"), origin=origin)]


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


def _holds_turns(column: str, *role_keys: str) -> Callable[[Row], bool]:
    return lambda row: any(_is_turns(row.get(column), key) for key in role_keys)


def _beside(*columns: str) -> Callable[[Row], set[str]]:
    """What a reading of these columns leaves out."""
    read = {*columns, *SYSTEM_COLUMNS, "tools", "functions"}

    def unread_of(row: Row) -> set[str]:
        found = {c for c in row if c not in read}
        if row.get("parallel_tool_calls") is True:  # as it is anyway
            found.discard("parallel_tool_calls")
        fields = {f for c in columns for f in unread(row.get(c))}
        return found | {f"{field} of messages" for field in fields}

    return unread_of


def _instruction_beside(reply: str) -> Callable[[Row], set[str]]:
    def unread_of(row: Row) -> set[str]:
        extra = next((k for k in ("input", "context") if row.get(k)), "input")
        return _beside("instruction", extra, "history", reply)(row)

    return unread_of


_PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("prompt", "answer"), ("question", "answer"),
    ("question", "response"), ("query", "response"), ("query", "answer"), ("input", "output"),
)  # fmt: skip

FORMATS: tuple[DataFormat, ...] = (
    # Before all others, whose columns preference rows have too.
    DataFormat("preference-pairs", "the better and the worse reply",
               lambda row: preferences.sides(row) is not None, preferences.read_pair,
               preferences.unread_fields, "pairs"),
    DataFormat("compared-replies", "two replies and the one that won", preferences.is_compared,
               preferences.read_compared, preferences.unread_fields, "pairs"),
    DataFormat("ranked-replies", "several replies, from the best to the worst", preferences.is_ranked,
               preferences.read_ranked, preferences.unread_fields, "pairs"),
    DataFormat("rated-replies", "a reply and whether it is wanted", preferences.is_rated,
               preferences.read_rated, preferences.unread_fields, "ratings"),
    DataFormat("messages", "the messages column", _holds_turns("messages", "role"), _messages,
               _beside("messages")),
    DataFormat("sharegpt", "the conversations column", _holds_turns("conversations", "from", "role"),
               _sharegpt, _beside("conversations")),
    DataFormat("openai-evals", "input and the first ideal", _has("input", "ideal"), _evals,
               _beside("input", "ideal")),
    DataFormat("instruction", "instruction, input and output", _has("instruction", "output"),
               _instruction, _instruction_beside("output")),
    DataFormat("instruction", "instruction, context and response", _has("instruction", "response"),
               _instruction, _instruction_beside("response")),
    *(DataFormat(f"{q}/{a}", f"{q} and {a}", _has(q, a), _pair(q, a), _beside(q, a))
      for q, a in _PAIRS),
    DataFormat("text/label", "text, answered by its label", _has("text", "label"), _labelled,
               _beside("text", "label")),
    DataFormat("messages", "the column of messages", lambda row: _column_of_turns(row) is not None,
               _other_turns, lambda row: _beside(_column_of_turns(row) or "messages")(row)),
    # Only where text is all there is: other columns beside it may hold the reply.
    DataFormat("text", "the text column", lambda r: "text" in r and len(r) == 1, _plain,
               _beside("text")),
)  # fmt: skip
