"""Parses the JSON of a request's body, and refuses text that no tokenizer, file or database takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

# What a lone surrogate can come from: an escape of one half, or the half's own bytes.
HALF = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")


class BrokenText(HTTPException):
    """A text of the body holds half of a surrogate pair.

    FastAPI lets an HTTPException pass where it reads a body, and no other.
    """

    code = "invalid_unicode"

    def __init__(self, place: str):
        told = f"'{place}'" if place else "the body"
        super().__init__(400, f"{told} holds half of a surrogate pair, which is no character")
        self.param = place[:200] or None


def parse(content: bytes) -> Any:
    """Parse JSON in UTF-8, refusing halves of characters.

    Raises:
        json.JSONDecodeError: for what is no JSON.
        BrokenText: naming where half of a surrogate pair stands.
        HTTPException: 400 for what is nested too deeply.
    """
    try:
        text = content.decode("utf-8-sig", "surrogatepass")
    except UnicodeDecodeError as fault:
        raise json.JSONDecodeError("the body is not UTF-8", "", fault.start) from None
    try:
        found = json.loads(text)
    except RecursionError:
        raise HTTPException(400, "the body is nested too deeply") from None
    if HALF.search(content) and (place := _lone_surrogate(found)) is not None:
        raise BrokenText(place)
    return found


def _lone_surrogate(value: Any) -> str | None:
    """The place of a text with a lone surrogate, such as `messages.0.content`; None where none is.

    An iteration, not a recursion: a body may be nested deeply.
    """
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        place, one = waiting.pop()
        inner = f"{place}." if place else ""
        if isinstance(one, str):
            if _broken(one):
                return place
        elif isinstance(one, dict):
            if any(_broken(key) for key in one):
                return place
            waiting += [(f"{inner}{key[:40]}", each) for key, each in one.items()]
        elif isinstance(one, list):
            waiting += [(f"{inner}{i}", each) for i, each in enumerate(one)]
    return None


def _broken(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


class ParsedRequest(Request):
    """A request whose JSON is parsed as `parse` does."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


class ParsingRoute(APIRoute):
    """A route whose requests are parsed as `parse` does."""

    def get_route_handler(self) -> Callable:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            return await handle(ParsedRequest(request.scope, request.receive))

        return handled
