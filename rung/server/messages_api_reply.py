"""Messages as Anthropic writes them: blocks of content, whole and as typed events, and errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rung.engine import Completion
from rung.server.chat_reply import ChatReply
from rung.server.errors import of_fault
from rung.server.generation import sse, usage

# Finish reason of a chat -> why a message ended.
REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
# Status of an answer -> the type of its error.
ERRORS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error",
    503: "overloaded_error",
}  # fmt: skip
Event = dict[str, Any]


def error(status: int, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write an error, given in OpenAI's shape, in Anthropic's."""
    usual = "api_error" if status >= 500 else "invalid_request_error"
    said = {"type": ERRORS.get(status, usual), "message": content["error"]["message"]}
    return {"type": "error", "error": said, "request_id": None}


class MessageReply(ChatReply):
    """A reply of one request for a message.

    Args:
        settings: of `Reply`. stop_sequences: texts that end the answer, as the client gave them.
        decode: ids -> text, to find out which of them did.
    """

    prefix = "msg"

    def __init__(
        self, *settings: Any, stop_sequences: Sequence[str], decode: Callable[[Sequence[int]], str]
    ):
        super().__init__(*settings)
        self._stop_sequences, self._decode = stop_sequences, decode
        self._blocks: list[dict[str, Any]] = []
        self._open = False  # whether the last block is a text that still grows
        self._ended = "end_turn"
        self._stopped_by: str | None = None

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        counts = self.counted(completions)
        choice = self.choice(0, completions[0])
        self._stopped_by = self._stop_text(completions[0])
        said = choice["message"]
        delta = {"content": said["content"], "tool_calls": said.get("tool_calls", ())}
        for _ in self._grow({"delta": delta, "finish_reason": choice["finish_reason"]}):
            pass
        ended = {"stop_reason": self._reason_told(), "stop_sequence": self._stopped_by}
        return {**self._message(counts), **ended, "content": self._blocks}

    def head(self, count: int, first: int = 0) -> bytes:
        counts = {"prompt_tokens": sum(self.prompts), "completion_tokens": 0}
        return _sent([{"type": "message_start", "message": self._message(counts)}])

    def written(self, delta: dict[str, Any]) -> bytes:
        return _sent(self._grow(delta))

    def closing(self, index: int, completion: Completion) -> Iterable[dict[str, Any]]:
        self._stopped_by = self._stop_text(completion)
        return super().closing(index, completion)

    async def tail(self, completions: Sequence[Completion]) -> bytes:
        ended = {"stop_reason": self._reason_told(), "stop_sequence": self._stopped_by}
        counts = _counts(usage(completions, self.prompts))
        return _sent(
            [{"type": "message_delta", "delta": ended, "usage": counts}, {"type": "message_stop"}]
        )

    def failed(self, fault: Exception) -> bytes:
        return _sent([error(*of_fault(fault))])

    def _grow(self, choice: Mapping[str, Any]) -> Iterator[Event]:
        """Take up a choice's delta as chat completions have it."""
        delta = choice["delta"]
        if delta.get("content"):
            if not self._open:
                self._open = True
                yield self._begun({"type": "text", "text": ""})
            self._blocks[-1]["text"] += delta["content"]
            yield self._more({"type": "text_delta", "text": delta["content"]})
        for call in delta.get("tool_calls", ()):
            yield from self._end()
            function = call["function"]
            yield self._begun(
                {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
            )
            yield self._more({"type": "input_json_delta", "partial_json": function["arguments"]})
            self._blocks[-1]["input"] = _object(function["arguments"])
            yield self._stopped()
        if choice["finish_reason"] is not None:
            self._ended = REASONS.get(choice["finish_reason"], "end_turn")
            yield from self._end()

    def _end(self) -> Iterator[Event]:
        if self._open:
            self._open = False
            yield self._stopped()

    def _begun(self, block: dict[str, Any]) -> Event:
        self._blocks.append(block)
        return {**self._at("content_block_start"), "content_block": dict(block)}

    def _more(self, delta: Event) -> Event:
        return {**self._at("content_block_delta"), "delta": delta}

    def _stopped(self) -> Event:
        return self._at("content_block_stop")

    def _at(self, kind: str) -> Event:
        return {"type": kind, "index": len(self._blocks) - 1}

    def _message(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": _counts(counts),
        }  # fmt: skip

    def _reason_told(self) -> str:
        return "stop_sequence" if self._stopped_by is not None else self._ended

    def _stop_text(self, completion: Completion) -> str | None:
        """The text of the client's that ended an answer; None where something else did."""
        ids = completion.ids
        if completion.finish_reason != "stop" or (ids and ids[-1] in self.stops):
            return None
        drawn = self._decode(list(ids))
        places = {text: drawn.find(text) for text in self._stop_sequences}
        return min((t for t in places if places[t] >= 0), key=places.__getitem__, default=None)


def _object(arguments: str) -> Any:
    """The input of a call; a model may write what is no JSON, which is handed on as it is."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {"arguments": arguments}


def _counts(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Token counts in the words of this API, in which tokens read from a cache are counted apart."""
    cached = counts.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return {
        "input_tokens": counts["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": counts["completion_tokens"],
    }


def _sent(events: Iterable[Event]) -> bytes:
    return b"".join(sse(event, event["type"]) for event in events)
