"""Answers in OpenAI's words: whole, and as server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from starlette.responses import StreamingResponse

from rung.engine import Completion, Token
from rung.server.answers import Answers
from rung.server.errors import of_fault

QUIET = 15.0  # seconds without a token after which a comment keeps the connection open


class Reply:
    """How one kind of completion is written; the subclasses differ in a choice's shape only."""

    kind: str
    chunk_kind: str
    prefix: str

    def __init__(self, model: str, includes_usage: bool = False):
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.model, self.includes_usage = model, includes_usage
        self.created = int(time.time())

    def whole(self, completions: Sequence[Completion], prompts: Iterable[int]) -> dict[str, Any]:
        """The response; `prompts` are the lengths of the distinct prompts in tokens."""
        choices = [self.choice(i, c) for i, c in enumerate(completions)]
        return {**self._head(self.kind), "choices": choices, "usage": usage(completions, prompts)}

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        """A finished answer."""
        raise NotImplementedError

    def delta(self, index: int, text: str | None, reason: str | None = None) -> dict[str, Any]:
        """A piece of an answer; None for the text that opens it."""
        raise NotImplementedError

    opens = False  # whether a choice begins with a delta of its own

    async def stream(self, answers: Answers, prompts: Sequence[int]) -> AsyncIterator[bytes]:
        """Server-sent events to the end of all answers."""
        done: dict[int, Completion] = {}
        if self.opens:
            for i in range(len(answers.generations)):
                yield self._chunk([self.delta(i, None)])
        async for gathered in answers.events(QUIET):
            if not gathered:
                yield b": still working\n\n"
            texts: dict[int, str] = {}
            for i, event in gathered:
                if isinstance(event, Token):
                    texts[i] = texts.get(i, "") + event.text
                elif isinstance(event, Completion):
                    done[i] = event
                else:
                    yield _event(of_fault(event)[1])
                    return
            for i, text in texts.items():
                if text:
                    yield self._chunk([self.delta(i, text)])
            for i, event in gathered:
                if isinstance(event, Completion):
                    yield self._chunk([self.delta(i, "", event.finish_reason)])
        if self.includes_usage:
            yield self._chunk([], usage(done.values(), prompts))
        yield b"data: [DONE]\n\n"

    def _chunk(self, choices: list[dict[str, Any]], counts: dict[str, int] | None = None) -> bytes:
        content = {**self._head(self.chunk_kind), "choices": choices}
        return _event({**content, "usage": counts} if self.includes_usage else content)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class ChatReply(Reply):
    kind, chunk_kind, prefix, opens = "chat.completion", "chat.completion.chunk", "chatcmpl", True

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        reason = completion.finish_reason
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def delta(self, index: int, text: str | None, reason: str | None = None) -> dict[str, Any]:
        delta = {"content": text} if text else {}
        if text is None:
            delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


class TextReply(Reply):
    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        return self.delta(index, completion.text, completion.finish_reason)

    def delta(self, index: int, text: str | None, reason: str | None = None) -> dict[str, Any]:
        return {"text": text or "", "index": index, "logprobs": None, "finish_reason": reason}


class EventStream(StreamingResponse):
    """A stream whose end, however it comes, ends the generations too."""

    def __init__(self, reply: Reply, answers: Answers, prompts: Sequence[int]):
        self._answers = answers
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        content = reply.stream(answers, prompts)
        super().__init__(content, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()


def usage(completions: Iterable[Completion], prompts: Iterable[int]) -> dict[str, int]:
    """Token counts; a prompt that several choices answer counts once."""
    asked, drawn = sum(prompts), sum(c.completion_tokens for c in completions)
    return {"prompt_tokens": asked, "completion_tokens": drawn, "total_tokens": asked + drawn}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
