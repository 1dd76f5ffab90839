"""Chat completions as OpenAI writes them, tool calls and log-probabilities among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rung.data.call_format import CallFormat
from rung.data.conversation import Conversation
from rung.engine import Completion, Token
from rung.server.generation import Reply, finish_reason
from rung.server.logprobs import TokenLogprobs
from rung.server.tools import Holding
from rung.tools.calls import Call, parse


class ChatReply(Reply):
    """A reply of one chat request.

    Set before it is used:
        pieces: where log-probabilities were asked for.
        functions: names of what may be called. forced: the answer is nothing but a call.
        legacy: the client asked in the older words, `functions` and `function_call`.
        one_call: only the first call counts.
        calls: the call format of the base's chat template; None: Rung's own.
        conversation: reads the answer out of what was generated.
        stops: ids that end an answer; they carry no log-probability.
    """

    kind, chunk_kind, prefix, opens = "chat.completion", "chat.completion.chunk", "chatcmpl", True
    pieces: TokenLogprobs | None = None
    functions: tuple[str, ...] = ()
    forced = legacy = one_call = False
    calls: CallFormat | None = None
    conversation: Conversation | None = None
    stops: frozenset[int] = frozenset()

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        text, calls = self._read(completion)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message["content"] = text or None
            if self.legacy:
                shown = calls[0].shown()["function"]
                message["function_call"] = shown
            else:
                message["tool_calls"] = [c.shown() for c in calls]
        reason = self._reason(completion, calls)
        told = self._told(self._counted(completion))
        return {"index": index, "message": message, "logprobs": told, "finish_reason": reason}

    def _head(self, kind: str) -> dict[str, Any]:
        return {**super()._head(kind), "service_tier": "default"}

    def opening(self, index: int) -> dict[str, Any]:
        return self._delta(index, {"role": "assistant", "content": "", "refusal": None})

    def delta(self, index: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        text = "".join(t.text for t in tokens)
        if self._whole_only:
            text = ""
        elif self.functions:
            text = self._holding(index).push(text)
        told = self._told([t for t in tokens if t.id not in self.stops])
        if not text and not (told and told["content"]):
            return None
        return self._delta(index, {"content": text}, told)

    def closing(self, index: int, completion: Completion) -> Iterable[dict[str, Any]]:
        calls: list[Call] = []
        if self._whole_only:
            text, calls = self._read(completion)
        elif self.functions:
            rest = self._holding(index).rest
            text, calls = self._parsed(rest)
        else:
            text = ""
        if text:
            yield self._delta(index, {"content": text})
        if calls and self.legacy:
            yield self._delta(index, {"function_call": calls[0].shown()["function"]})
        elif calls:
            yield self._delta(index, {"tool_calls": [c.shown(i) for i, c in enumerate(calls)]})
        yield self._delta(index, {}, None, self._reason(completion, calls))

    @property
    def _whole_only(self) -> bool:
        """Whether the answer can only be read once it is finished."""
        return self.forced or (self.conversation is not None and self._reasons)

    @property
    def _reasons(self) -> bool:
        return self.conversation is not None and self.conversation.max_tokens is not None

    def _read(self, completion: Completion) -> tuple[str, list[Call]]:
        text, calls = self._parsed(completion.text)
        if self.conversation is not None and not calls:
            said = completion.text
            if self.calls is not None and self.conversation.steps:
                said = self.calls.canonical(said, self._own)
            text, calls = self._parsed(self.conversation.answer(said))
        return text, calls

    def _parsed(self, text: str) -> tuple[str, list[Call]]:
        if not self.functions:
            return text, []
        if self.calls is not None:
            text = self.calls.canonical(text, self.functions)
        text, calls = parse(text, self.functions)
        return text, calls[:1] if self.one_call or self.legacy else calls

    @property
    def _own(self) -> list[str]:
        """The tools of the conversation itself."""
        own = self.conversation.functions if self.conversation is not None else ()
        return [str(f["function"]["name"]) for f in own]

    def _reason(self, completion: Completion, calls: list[Call]) -> str:
        if calls and completion.finish_reason == "stop":
            return "function_call" if self.legacy else "tool_calls"
        return finish_reason(completion)

    def _counted(self, completion: Completion) -> list[Token]:
        return [t for t in completion.tokens if t.id not in self.stops]

    def _told(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        return None if self.pieces is None else self.pieces.chat(tokens)

    def _holding(self, index: int) -> Holding:
        held: dict[int, Holding] = self.__dict__.setdefault("_held", {})
        return held.setdefault(index, Holding(self.calls))

    @staticmethod
    def _delta(
        index: int,
        delta: dict[str, Any],
        told: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
