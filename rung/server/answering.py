"""From a checked request to the engine and back; chat and plain completions share it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from rung.engine import Engine, GenerationRequest
from rung.engine.constraint import Constraint
from rung.engine.request import ContextExceeded, derive_seed
from rung.server.errors import ApiError
from rung.server.pipeline import Pipeline
from rung.server.replies import EventStream, Reply
from rung.server.requests import MOST_ANSWERS, Asked
from rung.server.state import Service, account_of, service_of
from rung.server.streaming import GONE, Answers, unless_gone
from rung.types import Message


@dataclasses.dataclass
class Wanted:
    """What is to be drawn.

    Attributes:
        prompts: each as ids. text: the last user message, for classifiers. messages: the conversation,
            for models behind an API.
        most: tokens of an answer as the client says; usual: where it does not.
        n: answers to each prompt.
        logprobs, prompt_logprobs: as `GenerationRequest`.
    """

    prompts: Sequence[tuple[int, ...]]
    most: int | None
    usual: int
    n: int = 1
    text: str = ""
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    messages: tuple[Message, ...] = ()


def requests_of(service: Service, asked: Asked, wanted: Wanted) -> list[GenerationRequest]:
    """What the engine is to do; the answers to one prompt stand together.

    Raises:
        ApiError: for more answers than one request may want.
        ContextExceeded: when prompt and wanted tokens do not fit, naming both counts.
    """
    engine: Engine = service.engine
    model = engine.model(asked.model)
    if len(wanted.prompts) * wanted.n > MOST_ANSWERS:
        told = f"{len(wanted.prompts)} prompts with {wanted.n} answers each"
        raise ApiError(f"{told} want more than {MOST_ANSWERS} answers at once", param="n")
    for ids in wanted.prompts:
        room = engine.room(model.name, len(ids))
        if wanted.most is not None and ids and wanted.most > room:
            raise ContextExceeded(
                f"the prompt has {len(ids)} tokens and {wanted.most} are to follow, which together "
                f"exceed the context of '{model.name}': {engine.context} tokens, {max(room, 0)} of "
                "them free"
            )
    decoding = asked.decoding(model.decoding, wanted.usual if wanted.most is None else wanted.most)
    seeds = [None if asked.seed is None else asked.seed % 2**63]
    decodings = [dataclasses.replace(decoding, seed=derive_seed(seeds[0], i)) for i in range(wanted.n)]
    return [
        GenerationRequest(
            model.name, ids, drawn, text=wanted.text, messages=wanted.messages,
            logprobs=wanted.logprobs, prompt_logprobs=wanted.prompt_logprobs,
            constraint=wanted.constraint,
            deadline=service.limits.timeout,
        )
        for ids in wanted.prompts
        for drawn in decodings
    ]  # fmt: skip


async def answer(
    request: Request, asked: Asked, wanted: Wanted, reply: Reply, course: Pipeline
) -> Response:
    """Queue what is wanted, and answer whole or as a stream."""
    service = service_of(request)
    account_of(request).model = asked.model
    answers = Answers(service.engine, requests_of(service, asked, wanted))
    if asked.trace:
        decode = service.engine.model(asked.model).template.tokenizer.decode
        texts = [decode(list(ids)) for ids in wanted.prompts]
        reply.trace = lambda found: course.told(texts, wanted.prompts, wanted.constraint, found)
    if asked.stream and not course.judges_answers:
        return EventStream(reply, answers)
    try:
        completions = await unless_gone(request.receive, answers.completions())
    finally:
        answers.cancel()
    if completions is None:
        return Response(status_code=GONE)
    if course.judges_answers:
        completions = await course.judge(completions)
    if asked.stream:
        return Response(reply.replayed(completions), media_type="text/event-stream")
    return JSONResponse(reply.whole(completions))
