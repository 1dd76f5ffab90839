"""Answers to a request that was checked: requests to the engine, and replies whole or as events.

Chat and plain completions share it; their own kinds of `Reply` are chat_reply.py and text_reply.py.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.responses import StreamingResponse

from rung.engine import Completion, GenerationRequest, Token
from rung.engine.request import ContextExceeded, derive_seed
from rung.server.errors import ApiError, of_fault
from rung.server.pipeline import PipelineRun
from rung.server.requests import MAX_ANSWERS, Asked
from rung.server.state import Service, account_of, service_of
from rung.server.streaming import GONE, Answers, unless_gone

QUIET = 15.0  # seconds without a token after which a comment keeps the connection open
REASONS = {"cancelled": "stop"}  # what OpenAI has no word for


def requests_of(
    service: Service,
    asked: Asked,
    wanted: Sequence[GenerationRequest],
    *,
    n: int,
    most: int | None,
    usual: int,
) -> list[GenerationRequest]:
    """Expand one request per prompt into what the engine is to draw; answers to one prompt adjoin.

    Args:
        wanted: prompts, log-probabilities and constraint; decoding and deadline are set here.
        n: answers to each prompt.
        most: tokens of an answer as the client says; None: `usual`.

    Raises:
        ApiError: for more answers than one request may want.
        ContextExceeded: when prompt and wanted tokens do not fit, naming both counts.
    """
    engine = service.engine
    model = engine.model(asked.model)
    if len(wanted) * n > MAX_ANSWERS:
        told = f"{len(wanted)} prompts with {n} answers each"
        raise ApiError(f"{told} want more than {MAX_ANSWERS} answers at once", param="n")
    for length in (len(w.prompt.ids) for w in wanted):
        room = engine.room(model.name, length)
        if most is not None and length and most > room:
            raise ContextExceeded(
                f"the prompt has {length} tokens and {most} are to follow, which together "
                f"exceed the context of '{model.name}': {engine.context} tokens, {max(room, 0)} of "
                "them free"
            )
    decoding = asked.decoding(model.decoding, usual if most is None else most)
    seed = None if asked.seed is None else asked.seed % 2**63
    decodings = [dataclasses.replace(decoding, seed=derive_seed(seed, i)) for i in range(n)]
    limits = service.limits
    return [
        dataclasses.replace(one, decoding=drawn, deadline=limits.timeout, max_wait=limits.max_wait)
        for one in wanted
        for drawn in decodings
    ]


async def answer(
    request: Request,
    asked: Asked,
    wanted: Sequence[GenerationRequest],
    reply: Reply,
    run: PipelineRun,
    *,
    n: int,
    most: int | None,
    usual: int,
) -> Response:
    """Queue `n` answers to each prompt, and reply whole or as a stream; see `requests_of`."""
    service, account = service_of(request), account_of(request)
    account.model = asked.model
    prompts, count = sum(len(w.prompt.ids) for w in wanted), len(wanted) * n
    if most is None and (allowed := account.allowance()) is not None:
        usual = max(1, min(usual, (allowed - prompts) // count))
    requests = requests_of(service, asked, wanted, n=n, most=most, usual=usual)
    account.reserve(prompts + sum(one.decoding.max_tokens for one in requests))
    reply.fingerprint = service.fingerprint
    answers = Answers(service.engine, requests)
    if asked.trace:
        decode = service.engine.model(asked.model).template.tokenizer.decode
        texts = [decode(list(w.prompt.ids)) for w in wanted]
        ids = [w.prompt.ids for w in wanted]
        reply.trace = lambda found: run.told(texts, ids, wanted[0].constraint, found)
    if asked.stream and not run.judges_answers:
        return EventStream(reply, answers)
    completions = None
    try:
        completions = await unless_gone(request.receive, answers.completions())
    finally:
        answers.cancel()
        if completions is None:  # who went away has used what was drawn, as in a stream
            account.spend(prompts, answers.drawn)
    if completions is None:
        return Response(status_code=GONE)
    if run.judges_answers:
        completions = await run.judge(completions)
    if asked.stream:
        return Response(await reply.replayed(completions), media_type="text/event-stream")
    return JSONResponse(reply.whole(completions))


class Reply:
    """How one kind of completion is written; the subclasses differ in a choice's shape only.

    Args:
        model: as it was asked for.
        prompts: lengths of the distinct prompts in tokens.
        includes_usage: whether a stream ends with the counts.
        spend: told the tokens asked and answered, once they are known.
    """

    kind: str
    chunk_kind: str
    prefix: str
    fingerprint: str | None = None  # of what answers depend on beside the request
    opens = False  # whether a choice begins with a delta of its own
    # What happened to the request, where the client asked for it.
    trace: Callable[[Sequence[Completion]], dict[str, Any]] | None = None

    def __init__(
        self,
        model: str,
        prompts: Sequence[int],
        includes_usage: bool = False,
        spend: Callable[[int, int], object] = lambda asked, drawn: None,
    ):
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.model, self.prompts, self.includes_usage = model, list(prompts), includes_usage
        self.created, self.spend = int(time.time()), spend

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The response."""
        choices = [self.choice(i, c) for i, c in enumerate(self.chosen(completions))]
        counts = self.counted(completions)
        told = {"trace": self.trace(completions)} if self.trace else {}
        return {**self._head(self.kind), "choices": choices, "usage": counts, **told}

    def chosen(self, completions: Sequence[Completion]) -> Sequence[Completion]:
        """Those of the answers that the client gets."""
        return completions

    def counted(self, completions: Iterable[Completion]) -> dict[str, Any]:
        """Token counts, which are also put on the client's account."""
        counts = usage(completions, self.prompts)
        self.spend(counts["prompt_tokens"], counts["completion_tokens"])
        return counts

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        """A finished answer."""
        raise NotImplementedError

    def delta(self, index: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """A piece of an answer; None where nothing can be said yet."""
        raise NotImplementedError

    def opening(self, index: int) -> dict[str, Any]:
        """The delta that opens a choice."""
        raise NotImplementedError

    def closing(self, index: int, completion: Completion) -> Iterable[dict[str, Any]]:
        """The last deltas of an answer, with its finish reason."""
        raise NotImplementedError

    async def stream(self, answers: Answers) -> AsyncIterator[bytes]:
        """Server-sent events to the end of all answers."""
        done: dict[int, Completion] = {}
        try:
            if opened := self.head(len(answers.generations)):
                yield opened
            async for gathered in answers.events(QUIET):
                if not gathered:
                    yield b": still working\n\n"
                tokens: dict[int, list[Token]] = {}
                for i, event in gathered:
                    if isinstance(event, Token):
                        tokens.setdefault(i, []).append(event)
                    elif isinstance(event, Completion):
                        done[i] = event
                    else:
                        yield self.failed(event)
                        return
                for i, some in tokens.items():
                    if (delta := self.delta(i, some)) is not None:
                        yield self.written(delta)
                for i, event in gathered:
                    if isinstance(event, Completion):
                        for delta in self.closing(i, event):
                            yield self.written(delta)
            yield await self.tail(list(done.values()))
        finally:  # a client that went away has used what was drawn for it
            self.spend(sum(self.prompts), answers.drawn)

    async def replayed(self, completions: Sequence[Completion]) -> bytes:
        """Finished answers as the events that a stream would have had."""
        events: list[bytes] = []
        for i, completion in enumerate(completions):
            events.append(self.head(1, first=i))
            first, *rest = completion.tokens or (Token(completion.ids[0] if completion.ids else 0, ""),)
            # The text was judged, and may be another than that of the tokens.
            drawn = [dataclasses.replace(first, text=completion.text)]
            drawn += [dataclasses.replace(token, text="") for token in rest]
            if (delta := self.delta(i, drawn)) is not None:
                events.append(self.written(delta))
            events += [self.written(delta) for delta in self.closing(i, completion)]
        self.counted(completions)
        return b"".join([*events, await self.tail(completions)])

    def head(self, count: int, first: int = 0) -> bytes:
        """The events that open `count` choices, of which the first has the index `first`."""
        if not self.opens:
            return b""
        return b"".join(self.written(self.opening(i)) for i in range(first, first + count))

    def written(self, delta: dict[str, Any]) -> bytes:
        """The events of one delta."""
        return self._chunk([delta])

    def failed(self, fault: Exception) -> bytes:
        """The events that end a stream whose answer failed."""
        return sse(of_fault(fault)[1])

    async def tail(self, completions: Sequence[Completion]) -> bytes:
        """The events that end a stream when every answer is finished."""
        events: list[bytes] = []
        if self.includes_usage:
            events.append(self._chunk([], usage(completions, self.prompts)))
        if self.trace:
            events.append(self._traced(completions))
        return b"".join([*events, b"data: [DONE]\n\n"])

    def _traced(self, completions: Sequence[Completion]) -> bytes:
        """A chunk without choices, which carries the trace alone."""
        assert self.trace is not None
        told = self.trace(completions)
        return sse({**self._head(self.chunk_kind), "choices": [], "trace": told})

    def _chunk(self, choices: list[dict[str, Any]], counts: dict[str, Any] | None = None) -> bytes:
        content = {**self._head(self.chunk_kind), "choices": choices}
        return sse({**content, "usage": counts} if self.includes_usage else content)

    def _head(self, kind: str) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": self.fingerprint}


class EventStream(StreamingResponse):
    """A stream whose end, however it comes, ends the generations too."""

    def __init__(self, reply: Reply, answers: Answers):
        self._answers = answers
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(reply.stream(answers), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()
            await self.body_iterator.aclose()  # type: ignore[attr-defined]


def finish_reason(completion: Completion) -> str:
    """Why an answer ended, in OpenAI's words."""
    return REASONS.get(completion.finish_reason, completion.finish_reason)


def usage(completions: Iterable[Completion], prompts: Iterable[int]) -> dict[str, Any]:
    """Token counts; a prompt that several choices answer counts once."""
    completions = list(completions)
    asked, drawn = sum(prompts), sum(c.completion_tokens for c in completions)
    cached = min(asked, sum(c.cached_tokens for c in completions))
    counts: dict[str, Any] = {"prompt_tokens": asked, "completion_tokens": drawn}
    return {
        **counts,
        "total_tokens": asked + drawn,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def sse(content: dict[str, Any], name: str | None = None) -> bytes:
    """Write one server-sent event; `name` becomes its `event` field."""
    data = b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
    return data if name is None else f"event: {name}\n".encode() + data
