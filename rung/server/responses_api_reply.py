"""Model responses as OpenAI writes them: the items of an output, whole and as typed events."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from rung.engine import Completion
from rung.errors import RungError
from rung.server.chat_reply import ChatReply
from rung.server.errors import of_fault
from rung.server.generation import sse, usage
from rung.server.responses_api_items import fresh_id
from rung.server.responses_api_schema import ModelResponseRequest, NamedTool
from rung.types import Decoding

# Finish reason of a chat -> why a response is incomplete.
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
Event = dict[str, Any]


class Output:
    """The items of one answer, and the events by which each of them grows."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open = False  # whether the last item is a message that still grows

    def say(self, text: str) -> Iterator[Event]:
        """Add to the message; the first text opens it."""
        if not self._open:
            yield from self._begin()
        part = self.items[-1]["content"][0]
        part["text"] += text
        if text:
            yield self._of_part("response.output_text.delta", delta=text, logprobs=[])

    def call(self, call: Mapping[str, Any]) -> Iterator[Event]:
        """Add a call, as chat completions write it; ends the message."""
        yield from self._end("completed")
        function = call["function"]
        item = {
            "id": fresh_id("function_call"), "type": "function_call", "status": "in_progress",
            "arguments": "", "call_id": call["id"], "name": function["name"],
        }  # fmt: skip
        self.items.append(item)
        yield self._of_item("response.output_item.added")
        place = {"item_id": item["id"], "output_index": len(self.items) - 1}
        arguments = function["arguments"]
        kind = "response.function_call_arguments"
        yield {"type": f"{kind}.delta", **place, "delta": arguments}
        item |= {"arguments": arguments, "status": "completed"}
        yield {"type": f"{kind}.done", **place, "name": item["name"], "arguments": arguments}
        yield self._of_item("response.output_item.done")

    def close(self, status: str) -> Iterator[Event]:
        """End the answer; one that said nothing is an empty message."""
        if not self.items:
            yield from self._begin()
        yield from self._end(status)

    def _begin(self) -> Iterator[Event]:
        self._open = True
        item: dict[str, Any] = {
            "id": fresh_id("message"), "type": "message", "status": "in_progress",
            "role": "assistant", "content": [],
        }  # fmt: skip
        self.items.append(item)
        yield self._of_item("response.output_item.added")
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item["content"].append(part)
        yield self._of_part("response.content_part.added", part=dict(part))

    def _end(self, status: str) -> Iterator[Event]:
        if not self._open:
            return
        self._open = False
        item = self.items[-1]
        part = item["content"][0]
        yield self._of_part("response.output_text.done", text=part["text"], logprobs=[])
        yield self._of_part("response.content_part.done", part=dict(part))
        item["status"] = status
        yield self._of_item("response.output_item.done")

    def _of_item(self, kind: str) -> Event:
        last = self.items[-1]
        shown = {**last, "content": list(last["content"])} if "content" in last else dict(last)
        return {"type": kind, "output_index": len(self.items) - 1, "item": shown}

    def _of_part(self, kind: str, **said: Any) -> Event:
        at = {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}
        return {"type": kind, **at, "content_index": 0, **said}


class ModelResponseReply(ChatReply):
    """A reply of one request for a model response.

    Args:
        settings: of `Reply`. echo: what of the request comes back, by `echo`.
        keep: stores a finished response; it is awaited before a stream ends.

    Attributes:
        finished: the response once it is complete or incomplete; None before, and after a failure.
    """

    def __init__(
        self,
        *settings: Any,
        echo: Mapping[str, Any],
        keep: Callable[[dict[str, Any]], Awaitable[object]],
    ):
        super().__init__(*settings)
        self.id = fresh_id("response")
        self.finished: dict[str, Any] | None = None
        self._echo, self._keep = echo, keep
        self._output, self._events = Output(), 0
        self._ended: str | None = None  # the finish reason of the chat

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        counts = self.counted(completions)
        choice = self.choice(0, completions[0])
        said = choice["message"]
        delta = {"content": said["content"], "tool_calls": said.get("tool_calls", ())}
        self._grow({"delta": delta, "finish_reason": choice["finish_reason"]})
        return self._finish(counts)

    def head(self, count: int, first: int = 0) -> bytes:
        begun = self._response("in_progress")
        return self._sent(
            {"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")
        )

    def written(self, delta: dict[str, Any]) -> bytes:
        return self._sent(self._grow(delta))

    async def tail(self, completions: Sequence[Completion]) -> bytes:
        response = self._finish(usage(completions, self.prompts))
        try:
            await self._keep(response)
        except RungError as fault:  # an id under which nothing can be found again
            return self.failed(fault)
        return self._sent([{"type": f"response.{response['status']}", "response": response}])

    def failed(self, fault: Exception) -> bytes:
        self.finished = None
        status, content = of_fault(fault)
        code = "rate_limit_exceeded" if status == 429 else "server_error"
        events = list(self._output.close("incomplete")) if self._output.items else []
        error = {"code": code, "message": content["error"]["message"]}
        response = self._response("failed", error=error)
        return self._sent([*events, {"type": "response.failed", "response": response}])

    def _grow(self, choice: Mapping[str, Any]) -> list[Event]:
        """Take up a choice's delta as chat completions have it."""
        delta = choice["delta"]
        events: list[Event] = []
        if delta.get("content"):
            events += self._output.say(delta["content"])
        for call in delta.get("tool_calls", ()):
            events += self._output.call(call)
        if choice["finish_reason"] is not None:
            self._ended = choice["finish_reason"]
            events += self._output.close("incomplete" if self._ended in INCOMPLETE else "completed")
        return events

    def _finish(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        reason = INCOMPLETE.get(self._ended or "")
        said: dict[str, Any] = {"usage": _counts(counts)}
        if reason is None:
            said["completed_at"] = int(time.time())
        else:
            said["incomplete_details"] = {"reason": reason}
        self.finished = self._response("incomplete" if reason else "completed", **said)
        return self.finished

    def _response(self, status: str, **said: Any) -> dict[str, Any]:
        return {
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "completed_at": None, "error": None, "incomplete_details": None, "usage": None,
            "model": self.model, "output": list(self._output.items), **self._echo, **said,
        }  # fmt: skip

    def _sent(self, events: Iterator[Event] | Sequence[Event]) -> bytes:
        lines: list[bytes] = []
        for event in events:
            lines.append(sse({**event, "sequence_number": self._events}, event["type"]))
            self._events += 1
        return b"".join(lines)


def echo(asked: ModelResponseRequest, own: Decoding, stored: bool) -> dict[str, Any]:
    """What of a request comes back in its response.

    Args:
        own: how the model draws where the request does not say. stored: whether it will be kept.
    """
    form = asked.text.format if asked.text is not None else None
    shown = {"type": "text"} if form is None else form.model_dump(by_alias=True)
    choice = asked.tool_choice
    return {
        "background": False,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "store": stored,
        "temperature": own.temperature if asked.temperature is None else asked.temperature,
        "text": {"format": shown},
        "tool_choice": choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
        "tools": [tool.model_dump() for tool in asked.tools or ()],
        "top_p": own.top_p if asked.top_p is None else asked.top_p,
        "truncation": "disabled",
        "user": asked.user,
    }


def _counts(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Token counts in the words of this API; reasoning is not counted apart."""
    cached = counts["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts["total_tokens"],
    }
