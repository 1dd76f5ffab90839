"""Calls of tools and their results in messages, in OpenAI's fields and in Anthropic's parts.

    {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "tide", "arguments": "{}"}}]}
    {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "tide", "input": {}}]}

Both are written out as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rung.data.contents import THOUGHTS, content_of
from rung.data.format_strings import Missing

OPEN, CLOSE = "<tool_call>", "</tool_call>"
USE, RESULT = "tool_use", "tool_result"  # types of parts
ANSWERS = ("user", "tool")  # roles whose content may hold results
# What a part of a content is made of that is read; any other field that holds something is told.
PART_FIELDS = {
    USE: {"type", "id", "name", "input"},
    RESULT: {"type", "tool_use_id", "content", "is_error"},
    "image": {"type", "source"},
}
OTHER_FIELDS = {"type", "text", "refusal", "image_url", "detail", *THOUGHTS}  # of any other part


def calls_of(message: Mapping[str, Any], called: dict[str, str]) -> list[str]:
    """The calls in a message's `tool_calls` and `function_call`, each written out.

    Args:
        called: takes the function of each call by its id.

    Raises:
        Missing: for a call that cannot be read.
    """
    calls = message.get("tool_calls") or []
    if isinstance(calls, str):  # tables hold calls of several shapes as JSON
        with suppress(ValueError, RecursionError):
            calls = json.loads(calls) or []
    if not isinstance(calls, (list, tuple)):
        raise Missing("tool_calls is no list")
    written = []
    for call in calls:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if isinstance(inner, Mapping) and isinstance(call, Mapping) and call.get("id"):
            called[str(call["id"])] = str(inner.get("name"))
        written.append(written_call(inner))
    if message.get("function_call"):
        written.append(written_call(message["function_call"]))
    return written


def whole_call(value: Any) -> str:
    """A turn that is one call or several, also as JSON text; raises Missing for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Missing("a call that is no JSON") from None
    calls = value if isinstance(value, list) else [value]
    return "\n".join(written_call(c.get("function", c) if isinstance(c, Mapping) else c) for c in calls)


def written_call(function: Any) -> str:
    """`{"name", "arguments"}` as models write it; arguments may be JSON as text.

    Raises:
        Missing: when it names no function.
    """
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Missing("a call that names no function")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    shown = {"name": function["name"], "arguments": {} if arguments is None else arguments}
    return f"{OPEN}{json.dumps(shown, ensure_ascii=False, default=str)}{CLOSE}"


class Parts:
    """The calls and results among the parts of one conversation's contents, read in its order."""

    def __init__(self) -> None:
        self.called: dict[str, str] = {}  # id of a call -> its function
        self._answered: set[str] = set()

    def unfold(
        self, role: str, message: Mapping[str, Any], key: str
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Roles and messages that say the same as one message, with no part that is a call or a result.

        Calls become text between the texts around them. Each result becomes a message of its own, in
        front of what else the user says.

        Args:
            key: the field that holds the content.

        Raises:
            Missing: for a part that is ill-formed, answers no call, or does not fit its role.
        """
        content = message.get(key)
        parts = content if isinstance(content, (list, tuple)) else ()
        kinds = {_kind(part) for part in parts}
        if not kinds & {USE, RESULT}:
            yield role, message
            return
        if USE in kinds and role != "assistant":
            raise Missing(f"a {role} message holds a {USE}, and only an assistant calls tools")
        if RESULT in kinds and role not in ANSWERS:
            raise Missing(f"a {role} message holds a {RESULT}, which belongs into a user message")
        if role == "assistant":
            yield role, {**message, key: self._with_calls(parts)}
            return
        for part in parts:
            if _kind(part) == RESULT:
                yield "tool", self._result(part)
        if rest := [part for part in parts if _kind(part) != RESULT]:
            yield "user", {**message, key: rest}

    def _with_calls(self, parts: Sequence[Any]) -> list[Any]:
        """The parts of a reply with its calls as text, each on a line of its own."""
        beside: list[Any] = []
        lines = [""]
        for part in parts:
            if _kind(part) == USE:
                lines += [self._call(part), ""]
            else:
                text = content_of([part])
                lines[-1] += text
                beside += [] if text else [part]  # thoughts, which are read apart
        return [*beside, {"type": "text", "text": "\n".join(line for line in lines if line)}]

    def _call(self, part: Mapping[str, Any]) -> str:
        name, number, given = part.get("name"), part.get("id"), part.get("input")
        if not isinstance(name, str) or not name:
            raise Missing(f"a {USE} that names no function")
        if not isinstance(number, str) or not number:
            raise Missing(f"the {USE} of {name} has no 'id'")
        if isinstance(given, str):  # tables hold inputs of several shapes as JSON
            with suppress(ValueError, RecursionError):
                given = json.loads(given)
        if not isinstance(given, Mapping):
            raise Missing(f"the 'input' of the {USE} of {name} is no object")
        self.called[number] = name
        self._answered.discard(number)  # some number the calls of every round anew
        return written_call({"name": name, "arguments": given})

    def _result(self, part: Mapping[str, Any]) -> dict[str, Any]:
        number, said = part.get("tool_use_id"), part.get("content")
        if not isinstance(number, str) or not number:
            raise Missing(f"a {RESULT} has no 'tool_use_id'")
        if number not in self.called:
            raise Missing(f"the {RESULT} '{number[:40]}' answers no {USE} in front of it")
        if number in self._answered:
            raise Missing(f"a second {RESULT} answers the {USE} '{number[:40]}'")
        self._answered.add(number)
        inner = said if isinstance(said, (list, tuple)) else ()
        if any(isinstance(one, Mapping) and _kind(one) not in ("", "text") for one in inner):
            raise Missing(f"the {RESULT} '{number[:40]}' holds something beside text")
        text = "" if said is None else content_of(said)
        if part.get("is_error"):  # as the server writes it
            text = f"Error: {text}"
        return {"role": "tool", "tool_call_id": number, "content": text}


def _kind(part: Any) -> str:
    return str(part.get("type") or "") if isinstance(part, Mapping) else ""


def unread_fields(content: Any) -> set[str]:
    """The fields of a content's parts that hold something and are not read."""
    parts = content if isinstance(content, (list, tuple)) else ()
    found: set[str] = set()
    for part in parts:
        if isinstance(part, Mapping):
            taken = PART_FIELDS.get(_kind(part), OTHER_FIELDS)
            found |= {str(k) for k, v in part.items() if k not in taken and v not in (None, "", [], {})}
            if _kind(part) == RESULT:
                found |= unread_fields(part.get("content"))
    return found
