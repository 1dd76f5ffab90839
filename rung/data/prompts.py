"""Prompts: questions to be answered by the model itself, with or without a gold answer.

Any rows will do. Replies become the gold answer; texts and questions without a reply are prompts alone;
of preference pairs the prompt is taken. Columns that are not read stand beside, for rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rung.data import formats
from rung.data.format_strings import Format
from rung.data.knobs import DataKnobs
from rung.data.turns import turns
from rung.errors import ConfigError
from rung.types import Example, Message

ALONE = ("prompt", "question", "instruction", "query")  # columns that hold a prompt


def form_of(rows: Sequence[formats.Row], knobs: DataKnobs) -> formats.DataFormat:
    """How rows become prompts.

    Raises:
        ConfigError, DataError: as `formats.detect`.
    """
    labelled = knobs.label is not None or knobs.label_columns
    if knobs.user is not None and knobs.assistant is None and not labelled:
        return _mapped(knobs)
    found = None if formats.mapping(knobs) else _alone(rows[:20])
    found = found or formats.detect(rows, knobs)
    return replace(found, kind="prompts", read=_prompts(found.read))


def _prompts(read: formats.Read) -> formats.Read:
    def read_prompts(row: formats.Row, origin: str) -> list[Example]:
        return [as_prompt(example) for example in read(row, origin)]

    return read_prompts


def as_prompt(example: Example) -> Example:
    """An example as a prompt, its reply as the gold answer at the end of its messages."""
    if example.text is not None:
        user: Message = {"role": "user", "content": example.text}
        return replace(example, text=None, messages=(user,))
    if not example.rejected:
        return example
    shared = 0
    for a, b in zip(example.messages[:-1], example.rejected[:-1], strict=False):
        if a != b:
            break
        shared += 1
    return replace(example, messages=example.messages[:shared], rejected=(), margin=None)


def parts(example: Example) -> tuple[tuple[Message, ...], str | None]:
    """The turns of a prompt, and the gold answer; None where the data gives none."""
    messages = example.messages
    if messages and messages[-1]["role"] == "assistant":
        return example.asked, messages[-1]["content"]
    return messages, None


def _mapped(knobs: DataKnobs) -> formats.DataFormat:
    """Of `--user`, with `--system` where it is given."""
    if knobs.text is not None:
        raise ConfigError("--text and --user exclude each other")
    forms = {
        role: Format.parse(text, f"--{role}")
        for role in ("system", "user")
        if (text := getattr(knobs, role)) is not None
    }
    how = ", ".join(f"{role} from '{getattr(knobs, role)}'" for role in forms)

    def read(row: formats.Row, origin: str) -> list[Example]:
        messages: list[Message] = [
            {"role": role, "content": form.fill(row)} for role, form in forms.items()
        ]
        return [Example(messages=tuple(messages), origin=origin)]

    return formats.DataFormat("mapped", how, lambda row: True, read, _others(), "prompts")


def _alone(rows: Sequence[formats.Row]) -> formats.DataFormat | None:
    """The form of rows that hold prompts and nothing to learn: messages, or a column of `ALONE`."""
    if rows and all(_is_messages(row.get("messages")) for row in rows):
        return formats.DataFormat(
            "messages", "the messages column", lambda row: True, _messages, _others("messages")
        )
    answered = {"completion", "response", "answer", "output", "ideal", "chosen", "label"}
    for name in ALONE:
        if rows and all(row.get(name) is not None and not answered & set(row) for row in rows):
            return formats.DataFormat(
                name, f"{name}, without a reply", lambda row: True, _column(name), _others(name)
            )
    return None


def _is_messages(value: Any) -> bool:
    is_list = isinstance(value, list) and bool(value)
    return is_list and all(isinstance(m, Mapping) and "role" in m for m in value)


def _messages(row: formats.Row, origin: str) -> list[Example]:
    return [Example(messages=tuple(turns(row["messages"])), origin=origin)]


def _column(name: str) -> formats.Read:
    def read(row: formats.Row, origin: str) -> list[Example]:
        value = row[name]
        if _is_messages(value):
            return [Example(messages=tuple(turns(value)), origin=origin)]
        message: Message = {"role": "user", "content": formats.written(value)}
        return [Example(messages=(message,), origin=origin)]

    return read


def _others(*read: str) -> Callable[[formats.Row], set[str]]:
    return lambda row: set(row) - {*read, "tools"}
