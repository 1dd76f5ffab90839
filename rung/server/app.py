"""The routes. Validation, errors and formats are next door; here is what each address does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from rung import __version__
from rung.data.encoding import clean
from rung.engine import Engine, GenerationRequest, ServedModel
from rung.engine.request import ContextExceeded, EngineStopped
from rung.server.answers import GONE, Answers, unless_gone
from rung.server.errors import ApiError, install
from rung.server.gate import Gate, Traffic
from rung.server.replies import ChatReply, EventStream, Reply, TextReply
from rung.server.schema import MOST_ANSWERS, Asked, ChatRequest, CompletionRequest, Prompt
from rung.types import Decoding, Message

COMPLETION_TOKENS = 16  # what OpenAI's plain completions draw where nothing is said

routes = APIRouter()


def create_app(engine: Engine, *, api_keys: Sequence[str] = (), max_body: int = 8 << 20) -> FastAPI:
    """An application over an engine, which it starts and stops.

    Args:
        api_keys: any of them is accepted as a bearer token; none lets everybody in.
        max_body: bytes of a request.

    Returns:
        the application; `app.state.traffic` tells and sets whether it still serves.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await run_sync(engine.stop)

    app = FastAPI(title="Rung", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    install(app)
    app.include_router(routes)
    app.state.engine, app.state.traffic = engine, Traffic()
    app.add_middleware(Gate, traffic=app.state.traffic, keys=api_keys, max_body=max_body)
    return app


@routes.get("/health")
def health(request: Request) -> dict[str, str]:
    """Whether process and engine live."""
    if not request.app.state.engine.alive:
        raise EngineStopped("the engine does not run")
    return {"status": "ok"}


@routes.get("/ready")
def ready(request: Request) -> dict[str, str]:
    """Whether requests are taken."""
    return health(request)


@routes.get("/v1/models")
def list_models(request: Request) -> dict[str, Any]:
    """Who can be asked."""
    models = request.app.state.engine.models.values()
    return {"object": "list", "data": [described(m) for m in models]}


@routes.get("/v1/models/{name:path}")
def get_model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    return described(request.app.state.engine.model(name))


def described(model: ServedModel) -> dict[str, Any]:
    """A model in OpenAI's words; an adapter also tells its base and its parent."""
    shown: dict[str, Any] = {"id": model.name, "object": "model"}
    shown |= {"created": model.created, "owned_by": model.owned_by}
    return shown if model.root is None else {**shown, "root": model.root, "parent": model.parent}


@routes.post("/v1/chat/completions")
async def chat(request: Request, asked: ChatRequest) -> Response:
    """Continue a conversation."""
    request.state.param = "messages"
    asked.check()
    model = request.app.state.engine.model(asked.model)
    messages = [Message(role=m.role, content=m.text) for m in asked.messages]
    ids = await run_sync(model.prompt, messages)
    most = asked.max_completion_tokens or asked.max_tokens
    reply = ChatReply(model.name, asked.includes_usage)
    return await answer(request, asked, [ids], most, model.decoding.max_tokens, reply)


@routes.post("/v1/completions")
async def complete(request: Request, asked: CompletionRequest) -> Response:
    """Continue texts."""
    request.state.param = "prompt"
    asked.check()
    model = request.app.state.engine.model(asked.model)
    prompts = await run_sync(lambda: [encoded(model, p) for p in asked.prompt])
    reply = TextReply(model.name, asked.includes_usage)
    return await answer(request, asked, prompts, asked.max_tokens, COMPLETION_TOKENS, reply)


def encoded(model: ServedModel, prompt: Prompt) -> tuple[int, ...]:
    """A text as ids, with one beginning-of-text token where the tokenizer puts one; ids as they are."""
    if not isinstance(prompt, str):
        return prompt
    template = model.template
    ids, _ = template.encoder.encode(clean(prompt))
    bos = template.tokenizer.bos_token_id
    if template.adds_bos and ids[:1] != [bos]:
        ids = [bos, *ids]
    return tuple(ids)


async def answer(
    request: Request,
    asked: Asked,
    prompts: list[tuple[int, ...]],
    most: int | None,
    usual: int,
    reply: Reply,
) -> Response:
    """Queue the prompts, `n` times each, and answer whole or as a stream.

    Args:
        most: tokens to draw as the client says; usual: where it does not.
    """
    engine: Engine = request.app.state.engine
    requests = prepared(engine, asked, prompts, most, usual)
    answers = Answers(engine, requests)
    lengths = [len(ids) for ids in prompts]
    if asked.stream:
        return EventStream(reply, answers, lengths)
    try:
        completions = await unless_gone(request.receive, answers.completions())
    finally:
        answers.cancel()
    if completions is None:
        return Response(status_code=GONE)
    return JSONResponse(reply.whole(completions, lengths))


def prepared(
    engine: Engine, asked: Asked, prompts: list[tuple[int, ...]], most: int | None, usual: int
) -> list[GenerationRequest]:
    """What the engine is to do; the answers to one prompt stand together.

    Raises:
        ApiError: for more answers than one request may want.
        ContextExceeded: when prompt and wanted tokens do not fit, naming both counts.
    """
    model, n = engine.model(asked.model), asked.n or 1
    if len(prompts) * n > MOST_ANSWERS:
        wanted = f"{len(prompts)} prompts with n = {n}"
        raise ApiError(f"{wanted} want more than {MOST_ANSWERS} answers at once", param="n")
    for ids in prompts:
        room = engine.room(model.name, len(ids))
        if most is not None and ids and most > room:
            raise ContextExceeded(
                f"the prompt has {len(ids)} tokens and {most} are to follow, which together exceed "
                f"the context of '{model.name}': {engine.context} tokens, {max(room, 0)} of them free"
            )
    own = model.decoding
    decodings = [
        Decoding(
            max_tokens=usual if most is None else most,
            temperature=own.temperature if asked.temperature is None else asked.temperature,
            top_p=own.top_p if asked.top_p is None else asked.top_p,
            seed=None if asked.seed is None else (asked.seed + i) % 2**63,
            stop=own.stop if asked.stop is None else asked.stop,
        )
        for i in range(n)
    ]
    return [GenerationRequest(model.name, ids, decoding) for ids in prompts for decoding in decodings]
