"""The loop of a served agent: its tools run here, between two steps, and the client gets the reply.

A client that names tools itself runs the loop, and gets calls to make; see `rung.server.tools`. Tools
that run here are those that the server's owner named (`rung.tools.allowed`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from rung.engine import Completion, ServedModel
from rung.engine.tool_loop import Trajectory, follow, step_request, summed
from rung.server.chat_reply import ChatReply
from rung.server.chat_schema import ChatRequest
from rung.server.generation import requests_of
from rung.server.pipeline import PipelineRun
from rung.server.state import account_of, service_of
from rung.server.streaming import GONE, Answers, unless_gone
from rung.types import Decoding, Message


async def looped(
    request: Request,
    asked: ChatRequest,
    model: ServedModel,
    turns: Sequence[Message],
    reply: ChatReply,
    run: PipelineRun,
) -> Response:
    """Answer a conversation by a model with tools, whole or as the events of a stream.

    Raises:
        RungError: as `rung.server.generation.answer`, and for tools that cannot be run.
    """
    account_of(request).model = asked.model
    found = [Trajectory(tuple(turns)) for _ in range(asked.n or 1)]
    with run.stage("tools") as note:
        if not await unless_gone(request.receive, _all_steps(request, asked, model, found)):
            return Response(status_code=GONE)
        note["steps"] = [[dict(turn) for turn in one.turns] for one in found] if run.traced else None
        note["calls"] = [len(one.results) for one in found]
    completions = [summed(one) for one in found]
    service = service_of(request)
    reply.prompts = [sum(one.prompt_tokens for one in found)]
    reply.fingerprint = service.fingerprint
    if asked.trace:
        ids = [await run_sync(model.prompt, one.now) for one in found]
        texts = [model.template.tokenizer.decode(list(prompt.ids)) for prompt in ids]
        told = run.told
        reply.trace = lambda done: told(texts, [prompt.ids for prompt in ids], None, done)
    if run.judges_answers:
        completions = await run.judge(completions)
    if asked.stream:
        return Response(await reply.replayed(completions), media_type="text/event-stream")
    return JSONResponse(reply.whole(completions))


async def _all_steps(
    request: Request, asked: ChatRequest, model: ServedModel, found: Sequence[Trajectory]
) -> bool:
    """Take steps, those of all answers side by side, until each has its reply."""
    left = list(enumerate(found))
    while left:
        done = await _step(request, asked, model, left)
        for (_, one), completion in zip(left, done, strict=True):
            one.completions.append(completion)
        left = [(i, one) for i, one in left if await run_sync(follow, model, one)]
    return True


async def _step(
    request: Request,
    asked: ChatRequest,
    model: ServedModel,
    left: Sequence[tuple[int, Trajectory]],
) -> list[Completion]:
    """One step of each conversation that goes on; the n-th answer keeps the n-th seed."""
    service = service_of(request)
    talk: Any = model.conversation
    most = asked.max_completion_tokens or asked.max_tokens
    wanted = []
    for i, one in left:
        step = await run_sync(step_request, service.engine, model, one.now, Decoding())
        usual = talk.max_tokens or model.decoding.max_tokens
        usual = max(1, min(usual, service.engine.room(asked.model, len(step.prompt.ids))))
        drawn = requests_of(service, asked, [step], n=asked.n or 1, most=most, usual=usual)[i]
        wanted.append(dataclasses.replace(drawn, constraint=step.constraint))
    count = sum(len(one.prompt.ids) + one.decoding.max_tokens for one in wanted)
    account = account_of(request)
    account.reserve(count)
    answers, asked_before, drawn_before = Answers(service.engine, wanted), account.asked, account.drawn
    try:
        return await answers.completions()
    finally:  # also of a client that goes away between two steps
        answers.cancel()
        read = sum(len(one.prompt.ids) for one in wanted)
        account.spend(asked_before + read, drawn_before + answers.drawn)
