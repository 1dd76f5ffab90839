"""Texts as vectors: the mean of the model's last hidden states, of length 1."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import BeforeValidator, Field, WithJsonSchema

from rung.engine.request import ContextExceeded
from rung.server.completion_schema import TEXTS_OR_IDS, TextOrIds, prompts
from rung.server.errors import ApiError
from rung.server.requests import Strict
from rung.server.responses import Embeddings, answers
from rung.server.routes.chat import vocabulary_of
from rung.server.routes.completions import encoded
from rung.server.routing import Routes
from rung.server.state import account_of, service_of

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
    width = service.engine.bank.width
    if asked.dimensions is not None and asked.dimensions > width:
        raise ApiError(f"'dimensions' is {asked.dimensions}, the model has {width}", param="dimensions")
    if any(not p for p in asked.input):
        raise ApiError("an input is empty", param="input")
    ids = await run_sync(lambda: [encoded(model, p) for p in asked.input])
    vocabulary = vocabulary_of(service)
    for one in ids:
        if not one or not 0 <= min(one) <= max(one) < vocabulary:
            told = f"an input is empty or holds a token id outside 0 to {vocabulary - 1}"
            raise ApiError(told, param="input")
        if service.engine.room(asked.model, len(one)) < 0:
            raise ContextExceeded(
                f"an input has {len(one)} tokens, the context of '{asked.model}' is "
                f"{service.engine.context} tokens"
            )
    account = account_of(request)
    account.model, total = asked.model, sum(map(len, ids))
    account.reserve(total)
    vectors = await run_sync(service.engine.embed, asked.model, ids)
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
