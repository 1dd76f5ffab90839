"""Model responses: OpenAI's `/v1/responses`, answered by the way of chat completions."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import Query, Request
from fastapi.responses import Response

from rung.server.errors import ApiError, not_supported
from rung.server.lists import paged
from rung.server.responses import answers
from rung.server.responses_api_items import chat_request, kept, read, renamed
from rung.server.responses_api_reply import ModelResponseReply, echo
from rung.server.responses_api_schema import ModelResponseRequest
from rung.server.responses_api_shapes import (
    InputItems,
    InputTokens,
    ModelResponse,
    ModelResponseDeleted,
)
from rung.server.routes.chat import continued, prompt_tokens
from rung.server.routing import Routes
from rung.server.state import Service, owner_of, service_of
from rung.store.pages import UnknownCursor
from rung.store.responses import ResponseNotFound

routes = Routes("/v1/responses", scope="ask", tags=["responses"])


@routes.post("", **answers(ModelResponse))
async def create(request: Request, asked: ModelResponseRequest) -> Response:
    """Answer an input, whole or as a stream, and store the response."""
    service, owner = service_of(request), owner_of(request)
    request.state.param = "input"
    asked.check()
    stored = stores(service, asked)
    before = await run_sync(previous, service, asked.previous_response_id, owner)
    items = kept(asked.input, before)
    chat = chat_request(asked, [*read(before), *asked.input])

    async def keep(response: dict[str, Any]) -> None:
        if stored:
            put = partial(service.store.responses.put, most=service.limits.max_responses, owner=owner)
            await run_sync(put, response, items)

    made: list[ModelResponseReply] = []

    def reply(*settings: Any) -> ModelResponseReply:
        told = echo(asked, service.engine.model(asked.model).decoding, stored)
        made.append(ModelResponseReply(*settings, echo=told, keep=keep))
        return made[0]

    try:
        answered = await continued(request, chat, reply)
    except ApiError as fault:
        fault.param = renamed(fault.param)
        raise
    if not asked.stream and made[0].finished is not None:
        await keep(made[0].finished)
    return answered


@routes.post("/input_tokens", **answers(InputTokens))
async def input_tokens(request: Request, asked: ModelResponseRequest) -> dict[str, Any]:
    """Count the tokens that an input would be read as, behind the response that it continues."""
    service = service_of(request)
    request.state.param = "input"
    asked.check()
    before = await run_sync(previous, service, asked.previous_response_id, owner_of(request))
    chat = chat_request(asked, [*read(before), *asked.input])
    return {"object": "response.input_tokens", "input_tokens": await prompt_tokens(request, chat)}


@routes.get("/{response_id}", **answers(ModelResponse))
def retrieve(request: Request, response_id: str) -> dict[str, Any]:
    """A stored response."""
    refuse_queries(request)
    return service_of(request).store.responses.get(response_id, owner_of(request)).response


@routes.delete("/{response_id}", **answers(ModelResponseDeleted))
def delete(request: Request, response_id: str) -> dict[str, Any]:
    """Delete a stored response; what was continued from it stays whole."""
    service_of(request).store.responses.remove(response_id, owner_of(request))
    return {"id": response_id, "object": "response", "deleted": True}


@routes.get("/{response_id}/input_items", **answers(InputItems))
def input_items(
    request: Request,
    response_id: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """What went in, with the items of the responses that it continues."""
    refuse_queries(request, ("limit", "after", "order"))
    found = service_of(request).store.responses.get(response_id, owner_of(request)).input
    items = list(found) if order == "asc" else list(reversed(found))
    if after is not None:
        places = [i for i, item in enumerate(items) if item["id"] == after]
        if not places:
            raise UnknownCursor(f"'after' is '{after[:80]}', which is not in the list")
        items = items[places[0] + 1 :]
    page = items[:limit]
    return paged(page, len(items) > limit)


def stores(service: Service, asked: ModelResponseRequest) -> bool:
    """Whether a response is to be stored, which it is unless the request or the server says no.

    Raises:
        ApiError: where the request insists, and the server keeps none.
    """
    if service.limits.max_responses == 0:
        if asked.store:
            raise ApiError("this server stores no responses", param="store", code="not_supported")
        return False
    return asked.store is not False


def previous(service: Service, id: str | None, owner: str | None) -> list[dict[str, Any]]:
    """The items of the conversation that a response ended: its input and its output.

    Raises:
        ApiError: where there is no such response, or it is another key's.
    """
    if id is None:
        return []
    try:
        found = service.store.responses.get(id, owner)
    except ResponseNotFound as fault:
        param, code = "previous_response_id", "previous_response_not_found"
        raise ApiError(str(fault), param=param, code=code) from None
    return [*found.input, *found.response["output"]]


def refuse_queries(request: Request, known: tuple[str, ...] = ()) -> None:
    """Refuse a parameter of the address that would not be heeded, unless it asks for nothing."""
    for name, value in request.query_params.items():
        if name not in known and value not in ("false", ""):
            raise not_supported(name.removesuffix("[]")[:80], "an answer here does not depend on it")
