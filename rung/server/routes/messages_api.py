"""Messages: Anthropic's `/v1/messages`, answered by the way of chat completions."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from rung.server import errors
from rung.server.errors import ApiError
from rung.server.messages_api_reply import MessageReply, error
from rung.server.messages_api_schema import PARAMS, CountRequest, MessageRequest
from rung.server.responses import answers
from rung.server.routes.chat import continued, prompt_tokens
from rung.server.routing import Routes
from rung.server.state import service_of

routes = Routes("/v1/messages", scope="ask", tags=["messages"])
errors.SHAPES[routes.prefix] = error


class MessageUsage(BaseModel):
    model_config = ConfigDict(extra="forbid")
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(BaseModel):
    """A message in Anthropic's words."""

    model_config = ConfigDict(extra="forbid")
    id: str
    type: str
    role: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(BaseModel):
    model_config = ConfigDict(extra="forbid")
    input_tokens: int


@routes.post("", **answers(AnthropicMessage))
async def create_message(request: Request, asked: MessageRequest) -> Response:
    """Answer a conversation, whole or as a stream."""
    service = service_of(request)
    chat = asked.chat()
    template = service.engine.model(asked.model).template

    def reply(*settings: Any) -> MessageReply:
        return MessageReply(
            *settings, stop_sequences=asked.stop_sequences or (), decode=template.decode
        )

    request.state.param = "messages"
    try:
        return await continued(request, chat, reply)
    except ApiError as fault:
        fault.param = PARAMS.get(fault.param or "", fault.param)
        raise


@routes.post("/count_tokens", **answers(TokenCount))
async def count_tokens(request: Request, asked: CountRequest) -> dict[str, Any]:
    """Count the tokens that a conversation would be read as."""
    return {"input_tokens": await prompt_tokens(request, asked.chat())}
