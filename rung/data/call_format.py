"""The call format of a base: how its chat template writes calls of tools and their results.

The format is found by rendering calls of known names and values and reading what the template wrote;
no model is known by name. In Rung, turns hold calls in one form (`rung.data.tool_calls`). Only where a
template renders turns, and where generated text is read or held to a grammar, are they translated:

    {"name": "tide", "parameters": {}}                              # Llama 3.1 writes
    [TOOL_CALLS] [{"name": "tide", "arguments": {}, "id": "call00000"}]   # Mistral writes
    <tool_call>{"name": "tide", "arguments": {}}</tool_call>        # what turns hold
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.data.tool_calls import CLOSE, OPEN, written_call
from rung.types import Message

NAME, ARGUMENTS, ID = "name", "arguments", "id"
ARGUMENT_KEYS = ("arguments", "parameters")  # what models call them, whatever their template does
RESULT = re.compile(
    r"The result(?: of (?P<name>.*?))?:\n<tool_response>(?P<said>.*)</tool_response>\Z", re.DOTALL
)
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, kw_only=True)
class CallFormat:
    """How one chat template writes calls.

    Attributes:
        open, close: text in front of the first call of a turn and behind the last.
        between: text between two calls of a turn; None where the template takes one call alone.
        keys: of a call's JSON object, in order: (key, one of NAME, ARGUMENTS, ID).
        by_content: a message whose content is the calls, written out, renders as the calls do.
        keeps_text: whether text beside the calls of a turn is rendered.
        results: whether the template renders the role `tool`.
        text_arguments: whether the template takes arguments as JSON text.
        specials: ids of the special tokens in `open`, `between` and `close`, by their texts.
    """

    open: str
    close: str
    between: str | None
    keys: tuple[tuple[str, str], ...]
    by_content: bool = False
    keeps_text: bool = True
    results: bool = False
    text_arguments: bool = False
    specials: Mapping[str, int] = field(default_factory=dict)

    # -- from turns to the template --------------------------------------------------------------

    def structured(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Turns with their calls as `tool_calls` and, where the template knows the role, their results
        as messages of the role `tool`.

        Calls are numbered through the conversation, in nine characters, which some templates demand.
        """
        found: list[dict[str, Any]] = []
        made, waiting = 0, []
        for message in messages:
            turn: dict[str, Any] = dict(message)
            if message["role"] == "assistant" and (parted := part(message["content"])):
                said, calls = parted
                waiting = [{ID: call_id(made + i), **call} for i, call in enumerate(calls)]
                made += len(calls)
                turn |= {"content": said, "tool_calls": list(waiting)}
            elif message.get("result") and self.results and (heard := RESULT.match(message["content"])):
                turn |= {"role": "tool", "content": self._broken(heard["said"])}
                answered = next((c for c in waiting if c[NAME] == heard["name"]), None)
                answered = answered or (waiting[0] if waiting else None)
                if answered is not None and len(waiting) > 1:
                    waiting.remove(answered)
                turn["tool_call_id"] = answered[ID] if answered else call_id(max(0, made - 1))
                turn["name"] = heard["name"] or (answered[NAME] if answered else "tool")
            found.append(turn)
        return found

    def message(self, turn: Mapping[str, Any]) -> dict[str, Any]:
        """A turn of `structured` as the template takes it."""
        calls = turn.get("tool_calls")
        if not calls:
            return dict(turn)
        if self.by_content:
            text = "\n".join(t for t in (turn["content"], self.written(calls)) if t)
            return {**{k: v for k, v in turn.items() if k != "tool_calls"}, "content": text}
        return {**turn, "tool_calls": [openai_call(call, self.text_arguments) for call in calls]}

    def said(self, message: Mapping[str, Any]) -> str:
        """What the template writes last of a reply: its calls, or its text where it has none."""
        functions = [{ID: call[ID], **call["function"]} for call in message.get("tool_calls", ())]
        if not functions:
            return message["content"]
        if self.text_arguments:
            functions = [{**f, ARGUMENTS: json.loads(f[ARGUMENTS])} for f in functions]
        return self.written(functions)

    def leaves_out(self, messages: Sequence[Message]) -> bool:
        """Whether the template leaves out text of these turns, beside calls."""
        replies = [m["content"] for m in messages if m["role"] == "assistant"]
        return not self.keeps_text and any((p := part(text)) and p[0] for text in replies)

    def written(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Calls as the template writes them, without header and end of turn."""
        between = "\n" if self.between is None else self.between
        objects = (json.dumps({k: c[what] for k, what in self.keys}, ensure_ascii=False) for c in calls)
        return f"{self.open}{between.join(objects)}{self.close}"

    def _broken(self, said: str) -> str:
        """A result in which nothing opens or closes a call; special tokens are disguised elsewhere."""
        for tag in (self.open.strip(), self.close.strip()):
            if len(tag) > 3:
                said = said.replace(tag, f"{tag[0]} {tag[1:]}")
        return said

    # -- from what was generated to turns --------------------------------------------------------

    @property
    def tag(self) -> str:
        """The text that tells a call from other text; "" where calls are bare objects."""
        begun = self.open.lstrip()
        special = next((text for text in self.specials if begun.startswith(text)), None)
        return special or next(iter(begun.split()), "")

    def canonical(self, text: str, names: Sequence[str] | None = None) -> str:
        """A generated text with its calls in the form that turns have.

        Args:
            names: functions that there are, None for any; a call of another one stays text.
        """
        parts, at = [], 0
        opening = _flexible(self.open, "") if self.open.strip() else self._bare()
        while found := opening.search(text, at):
            read = self._calls_at(text, found.end(), names)
            if read is None:
                parts.append(text[at : found.start() + 1])
                at = found.start() + 1
                continue
            calls, end = read
            parts += [text[at : found.start()], "\n".join(map(written_call, calls))]
            at = end
        return "".join([*parts, text[at:]])

    def _bare(self) -> re.Pattern[str]:
        keys = "|".join(re.escape(k) for k in self.first_keys)
        return re.compile(rf'^[ \t]*(?=\{{\s*"(?:{keys})")', re.MULTILINE)

    @property
    def first_keys(self) -> tuple[str, ...]:
        """What an object that is a call may begin with."""
        return tuple(dict.fromkeys([*(k for k, _ in self.keys), *ARGUMENT_KEYS]))

    def _calls_at(
        self, text: str, at: int, names: Sequence[str] | None
    ) -> tuple[list[dict[str, Any]], int] | None:
        """The calls that begin at an offset and where what closes them ends; None where none do."""
        bare = not self.open.strip()
        apart = re.compile(r"[\s;,]*") if self.between is None else _flexible(self.between)
        calls: list[dict[str, Any]] = []
        end = at
        while True:
            try:
                value, stop = _DECODER.raw_decode(text, _blank(text, end))
            except (ValueError, RecursionError):
                break
            call = self._call(value, names)
            if call is None:
                break
            calls.append(call)
            at = stop
            if not (more := apart.match(text, stop)):
                break
            end = more.end()
        if not calls:
            return None
        if bare:
            at = re.compile(r"[\s;]*").match(text, at).end()  # type: ignore[union-attr]
            return (calls, at) if at == len(text) else None
        closed = _flexible(self.close).match(text, at)
        return calls, closed.end() if closed else at

    def _call(self, value: Any, names: Sequence[str] | None) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            return None
        key = {what: k for k, what in self.keys}
        name = value.get(key[NAME])
        given = next((k for k in (key[ARGUMENTS], *ARGUMENT_KEYS) if k in value), None)
        if not isinstance(name, str) or given is None or (names is not None and name not in names):
            return None
        return {NAME: name, ARGUMENTS: value[given]}

    # -- to a grammar ----------------------------------------------------------------------------

    def grammar(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """A constraint of kind `tool_calls` on Rung's own form, on this one instead.

        Args:
            value: as `Conversation.grammar` gives it; `made` calls stand in the conversation already.
        """
        most = value["most"] if self.between is not None else 1
        numbered = ID in dict(map(reversed, self.keys))  # type: ignore[arg-type]
        made = value.get("made", 0)
        count = most if numbered else 1
        shapes = value["schema"].get("anyOf") or [value["schema"]]
        return {
            "bodies": [
                [self._body(shape["properties"], call_id(made + i)) for shape in shapes]
                for i in range(count)
            ],
            "open": self.open, "close": self.close, "between": self.between or "\n", "tag": self.tag,
            "first_keys": self.first_keys, "specials": dict(self.specials), "most": most,
            "mode": value["mode"], "form": value.get("form"), "led": self.keeps_text and bool(self.tag),
        }  # fmt: skip

    def _body(self, shape: Mapping[str, Any], number: str) -> tuple[str, Any, str]:
        """A call of one function: the text in front of its arguments, their schema, the text behind."""
        stand_in = "\0"
        values = {NAME: shape[NAME]["const"], ARGUMENTS: stand_in, ID: number}
        text = json.dumps({k: values[what] for k, what in self.keys}, ensure_ascii=False)
        before, _, behind = text.partition(json.dumps(stand_in))
        return before, shape[ARGUMENTS], behind


def call_id(number: int) -> str:
    """The id of the n-th call of a conversation: nine letters and digits."""
    return f"call{number:05d}"


def part(content: str) -> tuple[str, list[dict[str, Any]]] | None:
    """The text and the calls of a turn that ends with calls in Rung's form; None for any other turn.

    A turn that would not be written the same way again is another one.
    """
    at = content.find(OPEN)
    if at < 0 or (at and content[at - 1] != "\n"):
        return None
    calls, begun = [], at
    while content.startswith(OPEN, at):
        try:
            value, end = _DECODER.raw_decode(content, at + len(OPEN))
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or set(value) != {NAME, ARGUMENTS}:
            return None
        if not isinstance(value[NAME], str) or not isinstance(value[ARGUMENTS], dict):
            return None
        calls.append(value)
        if not content.startswith(CLOSE, end):
            return None
        at = end + len(CLOSE)
        at += content.startswith(f"\n{OPEN}", at)
    said = content[: max(0, begun - 1)]
    again = "\n".join(t for t in (said, *map(written_call, calls)) if t)
    return (said, calls) if again == content else None


def made_in(messages: Sequence[Message]) -> int:
    """How many calls stand in a conversation."""
    return sum(len(p[1]) for m in messages if m["role"] == "assistant" and (p := part(m["content"])))


def openai_call(call: Mapping[str, Any], as_text: bool) -> dict[str, Any]:
    given = call[ARGUMENTS]
    arguments = json.dumps(given, ensure_ascii=False) if as_text else given
    return {ID: call[ID], "type": "function", "function": {NAME: call[NAME], ARGUMENTS: arguments}}


def _flexible(text: str, lead: str = r"\s*") -> re.Pattern[str]:
    """A pattern for a text, with any blanks where it has some and at its ends."""
    words = text.split()
    return re.compile(lead + r"\s*".join(map(re.escape, words)) + r"\s*" if words else r"\s*")


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
