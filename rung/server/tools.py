"""Tools of a client: told to the model, and calls held back from what is streamed.

A chat template that knows tools shows them its own way; elsewhere a system message does. Calls and
their results in a conversation are written out as in training rows (`rung.data.turns`), and calls are
read as `rung.tools.calls` does. A call that the client forces is held to the schema of the function's
parameters while it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.data.call_format import CallFormat
from rung.data.format_strings import Missing
from rung.data.tool_calls import OPEN
from rung.data.turns import told, turns, with_tools
from rung.server.chat_schema import ChatMessage, Function
from rung.server.errors import ApiError
from rung.types import Message


def conversation(messages: Sequence[ChatMessage], functions: Sequence[Function]) -> list[Message]:
    """Write a client's messages as turns of text, with what may be called beside them.

    Raises:
        ApiError: for a message that cannot be read as text.
    """
    try:
        read = turns([message.model_dump(exclude_none=True) for message in messages])
    except Missing as fault:
        raise ApiError(str(fault.args[0]), param="messages", code="invalid_value") from None
    return with_tools(read, [told(f.model_dump()) for f in functions])


class Holding:
    """Streams the text in front of a call, and holds back whatever may be one.

    `push` returns what is certain to be text; the rest waits for the end of the answer.
    """

    def __init__(self, calls: CallFormat | None = None) -> None:
        self._tags = [OPEN, *([calls.tag] if calls and calls.tag else [])]
        self._keys = [f'"{key}"' for key in calls.first_keys] if calls and not calls.tag else []
        self._blank = True  # whether the line that is being given holds nothing but blanks
        self._held = ""
        self._begun = self._calls = False

    def push(self, text: str) -> str:
        self._held += text
        if not self._begun and self._held.strip():
            self._begun = True
            self._calls = self._held.lstrip().startswith("{")
        if self._calls or not self._begun:
            return ""
        at = min((n for n in map(self._held.find, self._tags) if n >= 0), default=-1)
        if at >= 0:
            self._calls = True
        else:
            at = len(self._held) - max(_overlap(self._held, tag) for tag in self._tags)
        at = min(at, self._bare(at))
        last = self._held[:at].rpartition("\n")
        self._blank = not last[2].strip(" \t") and (self._blank or bool(last[1]))
        given, self._held = self._held[:at], self._held[at:]
        return given

    def _bare(self, end: int) -> int:
        """Where a line begins, in front of `end`, that is a call without a tag or may become one."""
        starts = [0] if self._blank else []
        starts += [n + 1 for n, char in enumerate(self._held[:end]) if char == "\n"]
        for start in starts if self._keys else ():
            line = self._held[start:].lstrip(" \t")
            if not line.startswith("{"):
                continue
            begun = line[1:].lstrip()
            whole = any(begun.startswith(key) for key in self._keys)
            self._calls = self._calls or whole
            if whole or any(key.startswith(begun) for key in self._keys):
                return len(self._held) - len(line)
        return end

    @property
    def rest(self) -> str:
        """What was held back."""
        return self._held


def _overlap(text: str, tag: str) -> int:
    """How much of the end of a text may begin a call."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
