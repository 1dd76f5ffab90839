"""Whether texts and pictures are harmful."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from rung.data.format_strings import Missing
from rung.data.turns import turns
from rung.server import moderation
from rung.server.chat_schema import PictureUrl
from rung.server.errors import ApiError
from rung.server.requests import Strict
from rung.server.responses import Moderation, answers
from rung.server.routing import Routes
from rung.server.state import service_of
from rung.types import Message

routes = Routes("/v1/moderations", scope="ask", tags=["moderations"])

Text = Annotated[str, Field(min_length=1)]


class TextInput(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]
    text: Text


class PictureInput(BaseModel):
    """A picture as a data: URL."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["image_url"]
    image_url: PictureUrl

    @property
    def message(self) -> dict[str, Any]:
        return {"role": "user", "content": [self.model_dump(exclude_none=True)]}


class ModerationRequest(Strict):
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=256)]
        | Annotated[list[TextInput | PictureInput], Field(min_length=1, max_length=256)]
    )
    model: str | None = None


@routes.post("", **answers(Moderation))
async def moderate(request: Request, asked: ModerationRequest) -> dict[str, Any]:
    """A verdict on each text or picture."""
    request.state.param = "input"
    moderator = service_of(request).moderator
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    verdicts = await moderator.judge(await run_sync(lambda: [asked_of(one) for one in given]))
    return {
        "id": moderation.fresh_id(),
        "model": moderator.name,
        "results": [v.shown() for v in verdicts],
    }


def asked_of(one: str | TextInput | PictureInput) -> Message:
    """An input as the question to the judge. Raises ApiError for a picture that cannot be read."""
    if isinstance(one, PictureInput):
        try:
            return turns([one.message])[0]
        except Missing as fault:
            raise ApiError(str(fault.args[0]), param="input", code="invalid_value") from None
    return {"role": "user", "content": one if isinstance(one, str) else one.text}
