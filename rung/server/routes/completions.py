"""Continue texts."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.responses import Response

from rung.engine import GenerationRequest, ServedModel
from rung.server.completion_schema import CompletionRequest, TextOrIds
from rung.server.generation import answer
from rung.server.logprobs import TokenLogprobs
from rung.server.pipeline import begin_pipeline
from rung.server.responses import TextCompletion, answers
from rung.server.routes.chat import vocabulary_of
from rung.server.routing import Routes
from rung.server.state import account_of, service_of
from rung.server.text_reply import TextReply
from rung.types import Prompt

USUAL = 16  # tokens that OpenAI's plain completions draw where nothing is said

routes = Routes("/v1/completions", scope="ask", tags=["completions"])


@routes.post("", **answers(TextCompletion))
async def complete(request: Request, asked: CompletionRequest) -> Response:
    """Continuations of one or several texts, whole or as a stream."""
    service = service_of(request)
    request.state.param = "prompt"
    asked.check(vocabulary_of(service, asked.model))
    model = service.engine.model(asked.model)
    run = begin_pipeline(request, asked.model, bool(asked.trace))
    if run.reads:
        await run.check([shown(model, p, vocabulary_of(service, asked.model)) for p in asked.prompt])
    prompts = await run_sync(lambda: [encoded(model, p) for p in asked.prompt])
    n, best_of = asked.n or 1, asked.best_of or asked.n or 1
    logprobs = asked.logprobs if best_of == n else asked.logprobs or 0
    echoed = asked.logprobs if asked.echo else None
    if asked.max_tokens == 0:
        echoed = asked.logprobs or 0
    wanted = [
        GenerationRequest(asked.model, Prompt(ids), logprobs=logprobs, prompt_logprobs=echoed)
        for ids in prompts
    ]
    lengths = [len(ids) for ids in prompts]
    reply = TextReply(asked.model, lengths, asked.includes_usage, account_of(request).spend)
    reply.n, reply.best_of = n, best_of
    if asked.logprobs is not None:
        reply.pieces, reply.logprobs = TokenLogprobs(model.template), asked.logprobs
    if asked.echo:
        reply.echoes = [shown(model, p, vocabulary_of(service, asked.model)) for p in asked.prompt]
    return await answer(
        request, asked, wanted, reply, run, n=best_of, most=asked.max_tokens, usual=USUAL
    )


def shown(model: ServedModel, prompt: TextOrIds, vocabulary: int) -> str:
    """A prompt as text; empty for ids that the engine is going to refuse."""
    if isinstance(prompt, str):
        return prompt
    known = all(0 <= id < vocabulary for id in prompt)
    return model.template.tokenizer.decode(list(prompt)) if known else ""


def encoded(model: ServedModel, prompt: TextOrIds) -> tuple[int, ...]:
    """A text as ids, with one beginning-of-text token where the tokenizer puts one; ids as they are."""
    return tuple(model.template.encode(prompt)) if isinstance(prompt, str) else prompt
