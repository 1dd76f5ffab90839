"""Whether texts are harmful."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from rung.server import moderation
from rung.server.requests import Strict
from rung.server.responses import Moderation, answers
from rung.server.routing import Routes
from rung.server.state import service_of

routes = Routes("/v1/moderations", scope="ask", tags=["moderations"])

Text = Annotated[str, Field(min_length=1)]


class TextInput(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]
    text: Text


class ModerationRequest(Strict):
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=256)]
        | Annotated[list[TextInput], Field(min_length=1, max_length=256)]
    )
    model: str | None = None


@routes.post("", **answers(Moderation))
async def moderate(request: Request, asked: ModerationRequest) -> dict[str, Any]:
    """A verdict on each text."""
    request.state.param = "input"
    moderator = service_of(request).moderator
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    texts = [one if isinstance(one, str) else one.text for one in given]
    verdicts = await moderator.judge(texts)
    return {
        "id": moderation.fresh_id(),
        "model": moderator.name,
        "results": [v.shown() for v in verdicts],
    }
