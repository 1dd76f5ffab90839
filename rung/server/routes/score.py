"""Rewards of texts by a reward model, in the shape of vLLM's `/v1/score`."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from rung.data.turns import turns
from rung.server.chat_schema import ChatMessage
from rung.server.errors import ApiError
from rung.server.requests import Strict
from rung.server.responses import Scores, answers
from rung.server.routing import Routes
from rung.server.state import account_of, service_of
from rung.types import Message

MAX_TEXTS = 256  # of one request

routes = Routes("/v1/score", scope="ask", tags=["score"])

TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]}


def listed(value: Any) -> Any:
    """One text as a list of one."""
    return [value] if isinstance(value, str) else value


Texts = Annotated[
    list[str],
    Field(min_length=1, max_length=MAX_TEXTS),
    BeforeValidator(listed),
    WithJsonSchema(TEXTS),
]


class AskedForScores(Strict):
    """Prompts `text_1` with their answers `text_2`, or whole texts, or one conversation.

    One prompt goes with every answer.
    """

    model: str
    text_1: Texts | None = None
    text_2: Texts | None = None
    input: Texts | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=MAX_TEXTS)
    user: str | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> AskedForScores:
        if (self.text_1 is None) != (self.text_2 is None):
            raise ApiError(
                "'text_1' holds prompts and 'text_2' their answers: give both", param="text_2"
            )
        given = [p for p in (self.text_1, self.input, self.messages) if p is not None]
        if len(given) != 1:
            told = "give 'text_1' and 'text_2', or 'input', or 'messages', and one of them alone"
            raise ApiError(told, param="input")
        if self.text_1 and self.text_2 and len(self.text_1) not in (1, len(self.text_2)):
            told = f"'text_1' holds {len(self.text_1)} prompts and 'text_2' {len(self.text_2)} answers"
            raise ApiError(told, param="text_1")
        return self

    @property
    def texts(self) -> list[str | list[Message]]:
        """What is to be scored: plain texts, or conversations that end with a reply."""
        if self.input is not None:
            return list(self.input)
        if self.messages is not None:
            return [turns([m.model_dump(exclude_none=True) for m in self.messages])]
        answers = self.text_2 or []
        prompts = self.text_1 or []
        prompts = prompts * len(answers) if len(prompts) == 1 else prompts
        return [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


@routes.post("", **answers(Scores))
async def score(request: Request, asked: AskedForScores) -> dict[str, Any]:
    """Give each text its reward: higher is better, and only differences mean anything."""
    service = service_of(request)
    request.state.param = "input"
    model = service.engine.model(asked.model)
    try:
        texts = asked.texts
    except LookupError as fault:
        raise ApiError(str(fault.args[0]), param="messages") from None
    judged = await run_sync(lambda: [model.judged(text) for text in texts])
    total = sum(len(text.ids) for text in judged)
    account = account_of(request)
    account.model = asked.model
    account.reserve(total)
    scores = await run_sync(service.engine.score, asked.model, judged)
    account.spend(total, 0)
    return {
        "id": f"score-{secrets.token_hex(16)}",
        "object": "list",
        "created": int(time.time()),
        "model": asked.model,
        "data": [{"index": i, "object": "score", "score": s} for i, s in enumerate(scores)],
        "usage": {"prompt_tokens": total, "total_tokens": total},
    }
