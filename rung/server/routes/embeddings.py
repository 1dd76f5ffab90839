"""Texts as vectors: the mean of the model's last hidden states, of length 1; of towers pictures too."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import BeforeValidator, Field, WithJsonSchema

from rung.data.format_strings import Missing
from rung.engine.request import ContextExceeded
from rung.forward.towers import message_of
from rung.server.completion_schema import TEXTS_OR_IDS, TextOrIds, prompts
from rung.server.errors import ApiError
from rung.server.requests import Strict
from rung.server.responses import Embeddings, answers
from rung.server.routes.completions import encoded
from rung.server.routing import Routes
from rung.server.state import account_of, service_of
from rung.types import Prompt

MAX_INPUTS = 2048

routes = Routes("/v1/embeddings", scope="ask", tags=["embeddings"])

Inputs = Annotated[
    tuple[TextOrIds, ...],
    BeforeValidator(lambda value: prompts(value, MAX_INPUTS)),
    WithJsonSchema(TEXTS_OR_IDS),
]


class EmbeddingRequest(Strict):
    model: str
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


@routes.post("", **answers(Embeddings))
async def embed(request: Request, asked: EmbeddingRequest) -> dict[str, Any]:
    """A vector for each input; with `dimensions` its first numbers, again of length 1."""
    service = service_of(request)
    request.state.param = "input"
    model = service.engine.model(asked.model)
    width = service.engine.bank.width if model.towers is None else model.towers.width
    if asked.dimensions is not None and asked.dimensions > width:
        raise ApiError(f"'dimensions' is {asked.dimensions}, the model has {width}", param="dimensions")
    if any(not p for p in asked.input):
        raise ApiError("an input is empty", param="input")
    if model.towers is not None:
        return await joined(request, asked)
    ids = await run_sync(lambda: [encoded(model, p) for p in asked.input])
    for one in ids:
        service.engine.registry.check_ids(one, "an input", model)
        if service.engine.room(asked.model, len(one)) < 0:
            raise ContextExceeded(
                f"an input has {len(one)} tokens, the context of '{asked.model}' is "
                f"{service.engine.context} tokens"
            )
    return await answered(request, asked, [Prompt(one) for one in ids])


async def joined(request: Request, asked: EmbeddingRequest) -> dict[str, Any]:
    """The vectors that towers give of texts and of pictures, which are `data:` URLs.

    Raises:
        ApiError: for ids, or a picture that cannot be read.
    """
    texts = [one for one in asked.input if isinstance(one, str)]
    if len(texts) < len(asked.input):
        told = f"'{asked.model}' takes texts and pictures as data: URLs, no token ids"
        raise ApiError(told, param="input")
    try:
        messages = await run_sync(lambda: [message_of(text) for text in texts])
    except Missing as fault:
        raise ApiError(str(fault.args[0]), param="input", code="invalid_value") from None
    return await answered(request, asked, [Prompt((0,), (message,)) for message in messages])


async def answered(
    request: Request, asked: EmbeddingRequest, prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """The answer to a request, in the order of its inputs."""
    account = account_of(request)
    account.model, total = asked.model, sum(len(prompt.ids) for prompt in prompts)
    account.reserve(total)
    vectors = await run_sync(service_of(request).engine.embed, asked.model, prompts)
    account.spend(total, 0)
    return {
        "object": "list",
        "model": asked.model,
        "data": [
            {"object": "embedding", "index": i, "embedding": shown(v, asked)}
            for i, v in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": total, "total_tokens": total},
    }


def shown(vector: Any, asked: EmbeddingRequest) -> list[float] | str:
    """(d,) as the client wants it: numbers, or the base64 of little-endian float32."""
    import numpy as np

    found = np.asarray(vector, dtype="<f4")
    if asked.dimensions is not None:
        found = found[: asked.dimensions]
    found = found / max(float(np.linalg.norm(found)), 1e-12)
    if asked.encoding_format == "base64":
        return base64.b64encode(found.astype("<f4").tobytes()).decode()
    return found.tolist()
