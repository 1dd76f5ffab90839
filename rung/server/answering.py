"""From a checked request to the engine and back; chat and plain completions share it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from rung.engine import GenerationRequest
from rung.engine.request import ContextExceeded, derive_seed
from rung.server.errors import ApiError
from rung.server.pipeline import Pipeline
from rung.server.replies import EventStream, Reply
from rung.server.requests import MOST_ANSWERS, Asked
from rung.server.state import Service, account_of, service_of
from rung.server.streaming import GONE, Answers, unless_gone


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
    if len(wanted) * n > MOST_ANSWERS:
        told = f"{len(wanted)} prompts with {n} answers each"
        raise ApiError(f"{told} want more than {MOST_ANSWERS} answers at once", param="n")
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
    course: Pipeline,
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
        reply.trace = lambda found: course.told(texts, ids, wanted[0].constraint, found)
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
        return Response(await reply.replayed(completions), media_type="text/event-stream")
    return JSONResponse(reply.whole(completions))
